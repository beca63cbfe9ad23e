use std::io::Write as _;
use std::time::{Duration, Instant};

use super::bias;
use super::world::World;
use crate::weakness::Weakness;

/// What a history came to.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    allocations: u64,
    doubles: u64,
}

struct Violation {
    text: String,
    trace: Vec<String>,
}

fn run(seed: u64, weakness: Option<Weakness>, trace: bool) -> Result<Counts, Violation> {
    let mut world = World::new(seed, weakness, trace);
    world.schedule_faults();
    while world.violation.is_none() && world.now < world.last_fault {
        world.run_until(world.last_fault);
    }
    let settles = world.doubles > 0 || world.random.percent(10);
    if world.violation.is_none() && settles {
        world.settle();
    }
    match world.violation {
        Some(text) => Err(Violation { text, trace: world.trace.unwrap_or_default() }),
        None => Ok(Counts { allocations: world.allocations, doubles: world.doubles }),
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// How many histories a run has, and for how long one in continuous integration goes on, if `HISTORIES` does not say how many.
const HISTORIES: u64 = 6_000;
const IN_CI: Duration = Duration::from_secs(60);

#[test]
fn no_address_has_two_holders() {
    let (from, count) = (number("FROM", 0), number("HISTORIES", HISTORIES));
    let is_set = |name| std::env::var_os(name).is_some();
    let is_timed = is_set("CI") && !is_set("HISTORIES");
    let start = Instant::now();
    let (mut sum, mut done) = (Counts::default(), 0);
    while if is_timed { start.elapsed() < IN_CI } else { done < count } {
        let seed = from + done;
        match run(seed, None, false) {
            Ok(counts) => {
                sum.allocations += counts.allocations;
                sum.doubles += counts.doubles;
            }
            Err(violation) => panic!(
                "{} (SEED={seed}; SEED={seed} cargo test -p pool-blocks replay -- --nocapture)",
                violation.text
            ),
        }
        done += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = done as f64 / seconds;
    let text = format!("pool-blocks: {done} histories in {seconds:.1} s, {rate:.0} a second: {sum:?}\n");
    // Not by a macro, whose output is shown only where a test fails.
    std::io::stderr().write_all(text.as_bytes()).expect("stderr");
    assert!(sum.allocations > done, "hardly anything was allocated");
}

/// One history with all that happens in it. `WEAKNESS` is a protection that is missing.
#[test]
fn replay() {
    let Ok(seed) = std::env::var("SEED") else { return };
    let weakness = std::env::var("WEAKNESS").ok().map(|name| {
        *Weakness::ALL.iter().find(|weakness| format!("{weakness:?}") == name).expect("a weakness")
    });
    match run(seed.parse().expect("a number"), weakness, true) {
        Ok(counts) => println!("{counts:?}"),
        Err(violation) => panic!("{}\n{}", violation.trace.join("\n"), violation.text),
    }
}

/// Protections, and a history that has two holders, or something that leads to them, without it.
const FOUND_BY: &[(Weakness, u64)] = &[
    (Weakness::UsesBeforeSync, 6),
    (Weakness::DeletesBeforeSync, 0),
    (Weakness::ReleasesBeforeSync, 182),
    (Weakness::DropsHeldAddresses, 8),
    (Weakness::AdoptsWithoutUpdate, 6),
    (Weakness::ClaimsWithoutReading, 2),
    (Weakness::FloatsWithoutReading, 807),
    (Weakness::DoesNotCount, 2),
    (Weakness::FreesAtOnce, 212),
    (Weakness::DoesNotContest, 39),
    (Weakness::DeletesAnyVersion, 349),
    (Weakness::ReusesWithoutUpdate, 25),
    (Weakness::FreesAnyVersion, 120),
    (Weakness::GoesByWallTime, 359),
    (Weakness::ForgetsWhatIsGone, 432),
    (Weakness::FreesUnfenced, 4),
    (Weakness::CountsFromTheAnswer, 14_675),
    (Weakness::NamesHoldersAlone, 23_656),
    (Weakness::UsesTheWholeHorizon, 30_469),
    (Weakness::KnowsFencesByTerm, 99_435),
    (Weakness::GivesWhatFloats, 713_365),
    (Weakness::IgnoresFences, bias::FIRST + 891),
    (Weakness::ReadsBeforeWriting, bias::FIRST + 1_990),
    (Weakness::DoesNotCheckAgain, bias::FIRST + 1_871),
];

#[test]
fn every_protection_is_needed() {
    for (weakness, seed) in FOUND_BY {
        assert!(run(*seed, Some(*weakness), false).is_err(), "{weakness:?}: history {seed} does not notice");
        assert!(run(*seed, None, false).is_ok(), "history {seed}");
    }
}

/// Histories that failed once, and why. Their numbers are of this simulation: every change of it makes other histories of them. What
/// earlier ones found, and could be given a name, is a [`Weakness`].
const FAILED_ONCE: &[u64] = &[
    // A node's delete from before a backup was restored fitted the object that the backup brought back.
    437_603,
];

#[test]
fn what_failed_once_does_not_fail_again() {
    for seed in FAILED_ONCE {
        if let Err(violation) = run(*seed, None, false) {
            panic!("history {seed}: {}", violation.text);
        }
    }
}

/// Searches for the first history that notices what `WEAKNESS` names, of `LIMIT` from `FROM` on.
#[test]
fn search() {
    let Ok(name) = std::env::var("WEAKNESS") else { return };
    let weakness = Weakness::ALL.iter().find(|weakness| format!("{weakness:?}") == name).expect("a weakness");
    let (from, limit) = (number("FROM", 0), number("LIMIT", 100_000));
    let found = (from..from + limit).find_map(|seed| {
        let violation = run(seed, Some(*weakness), false).err()?;
        run(seed, None, false).is_ok().then_some((seed, violation))
    });
    let (seed, violation) = found.unwrap_or_else(|| panic!("{name}: no history of {limit} notices"));
    println!("{name}: found by history {seed}: {}", violation.text);
}
