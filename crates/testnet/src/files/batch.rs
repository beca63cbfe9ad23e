//! The process that runs a few trials for the one that called it, and what it says to that one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::report::{self, BATCH};
use crate::run::Kernel;
use crate::{Outcome, Stop, Trial, isolated, vlan_kernel};

/// What a process says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// How a trial ended.
    Ended { number: usize, outcome: Outcome, time: Duration },
    /// That something is wrong with the process itself: a leak, or how it ended.
    Broken(String),
}

/// The trials for this process, if a caller said so.
pub(super) fn of_this_process() -> Option<Vec<usize>> {
    let text = std::env::var(BATCH).ok()?;
    Some(text.split(',').filter_map(|number| number.parse().ok()).collect())
}

/// Runs these trials, isolated, one after the other. They report for themselves: the code says only whether something is
/// wrong with the process.
pub(super) fn run(trials: Vec<Trial>, numbers: &[usize]) -> ExitCode {
    // With the caller all of it ends: what is isolated in here ends with this process.
    #[expect(unsafe_code, reason = "no safe wrapper for it in the features of nix used here")]
    // SAFETY: prctl with these arguments touches no memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    let trials: Vec<_> = trials.into_iter().enumerate().filter(|(n, _)| numbers.contains(n)).collect();
    let on_vlan = trials.iter().any(|(_, trial)| trial.kernel() == Kernel::Vlan);
    let run_all = || {
        isolated(|| {
            for (number, trial) in trials {
                let start = Instant::now();
                // The thread is the trial's own, as are its name in a panic's message and the namespace that it enters.
                let thread = std::thread::Builder::new().name(trial.name().to_owned());
                let ended = thread.spawn(|| trial.run()).map(std::thread::JoinHandle::join);
                let outcome = match ended {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(_)) => Err(Stop::Failed("its thread panicked".to_owned())),
                    Err(error) => Err(error.into()),
                };
                say(&Said::Ended { number, outcome, time: start.elapsed() });
            }
            ExitCode::SUCCESS
        })
    };
    if on_vlan { vlan_kernel::run(run_all) } else { run_all() }
}

fn say(said: &Said) {
    println!("{}", written(said));
}

fn written(said: &Said) -> String {
    let value = match said {
        Said::Broken(what) => json!({"broken": what}),
        Said::Ended { number, outcome, time } => {
            let (end, text) = match outcome {
                Ok(()) => ("passed", ""),
                Err(Stop::Skipped(text)) => ("skipped", text.as_str()),
                Err(Stop::Failed(text)) => ("failed", text.as_str()),
            };
            json!({"number": number, "end": end, "text": text, "seconds": time.as_secs_f64()})
        }
    };
    report::written(&value)
}

/// What a line of a process says, and what a program wrote before it; a line that is not for the caller is all the
/// program's.
pub(super) fn read(line: &str) -> (&str, Option<Said>) {
    let Some((before, value)) = report::read(line) else { return (line, None) };
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    if let Some(what) = text("broken") {
        return (before, Some(Said::Broken(what)));
    }
    let outcome = match (value["end"].as_str(), text("text").unwrap_or_default()) {
        (Some("passed"), _) => Ok(()),
        (Some("skipped"), text) => Err(Stop::Skipped(text)),
        (_, text) => Err(Stop::Failed(text)),
    };
    let number = value["number"].as_u64().and_then(|number| usize::try_from(number).ok());
    let time = Duration::try_from_secs_f64(value["seconds"].as_f64().unwrap_or_default()).unwrap_or_default();
    (before, number.map(|number| Said::Ended { number, outcome, time }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let ended = |outcome| Said::Ended { number: 7, outcome, time: Duration::from_millis(1500) };
        for said in [
            ended(Ok(())),
            ended(Err(Stop::Skipped("needs root".to_owned()))),
            ended(Err(Stop::Failed("two\nlines, \"quoted\"".to_owned()))),
            Said::Broken("left behind: link br0".to_owned()),
        ] {
            let line = written(&said);
            assert!(!line.contains('\n'));
            assert_eq!(read(&line), ("", Some(said)));
        }
    }

    #[test]
    fn a_programs_words_stay_its_own() {
        let said = Said::Broken("x".to_owned());
        assert_eq!(read(&format!("no end of line{}", written(&said))), ("no end of line", Some(said)));
        for line in ["100 LANs in 3.3 s", "k8slan-batch:{", ""] {
            assert_eq!(read(line), (line, None));
        }
    }
}
