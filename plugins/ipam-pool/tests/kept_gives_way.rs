//! What sticky owners keep of a network's own ranges gives way when no other address is free, the one longest away first.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use ipam_pool::store::MemoryStore;
use ipam_pool::{
    Addr, AllocError, Allocator, Attachment, LeaseHolder, LeaseRequest, Millis, Owner, RangeSet, RangeSpec,
    Restrictions, Rules, Store, verify,
};
use proptest::prelude::*;

const COOLDOWN: u64 = 50;

fn sets() -> Vec<RangeSet> {
    // Six addresses: one is the gateway, one is reserved, four can be given to anybody.
    let subnet = RangeSpec { subnet: "10.0.0.0/29".to_owned(), ..RangeSpec::default() };
    let mut sets = vec![RangeSet::new(0, vec![subnet.parse().unwrap()]).unwrap()];
    let reservations = vec![("ns/pod-0".to_owned(), vec!["10.0.0.6".to_owned()])];
    RangeSet::restrict(&mut sets, &Restrictions { exclude: Vec::new(), reservations }).unwrap();
    sets
}

#[derive(Debug)]
struct Kept {
    running: bool,
    sticky: bool,
    /// Since when it is away, or rests.
    since: u64,
}

fn lease_request(pod: u8, sticky: bool, now: u64) -> LeaseRequest {
    let attachment =
        Attachment { container: format!("c{pod}"), interface: "net1".to_owned(), network: "lan".to_owned() };
    let holder =
        LeaseHolder { attachment, pod: None, uid: None, netns: None, launcher: None, since: Millis(now) };
    let owner = Some(Owner::pod("ns", &format!("pod-{pod}"), "lan"));
    LeaseRequest {
        holder,
        owner,
        floating: None,
        further: None,
        sticky,
        migrating: false,
        beside_source: false,
    }
}

/// Each step: which pod starts, or stops if it runs; whether it keeps its address; how much later the next one is.
fn run(steps: &[(u8, bool, u64)], kept_gives_way: bool) {
    let (sets, rules) = (sets(), Rules { cooldown: COOLDOWN, kept_gives_way, ..Rules::default() });
    let mut store = MemoryStore::default();
    // Of the four addresses for anybody: whose each is or was.
    let mut leases: BTreeMap<Addr, (u8, Kept)> = BTreeMap::new();
    let mut now = 1;
    for &(pod, sticky, later) in steps {
        let lease_request = lease_request(pod, sticky, now);
        let running = leases.values_mut().find(|(of, kept)| *of == pod && kept.running);
        if let Some((_, kept)) = running {
            let attachment = &lease_request.holder.attachment;
            store.change(|txn| Allocator::new(txn, &sets, rules, Millis(now)).release(attachment)).unwrap();
            (kept.running, kept.since) = (false, now);
        } else {
            let answer = store.change(|txn| {
                Allocator::new(txn, &sets, rules, Millis(now)).allocate(&lease_request, &[None])
            });
            let rested = |kept: &Kept| !kept.running && kept.since + COOLDOWN <= now;
            match answer {
                Ok(grants) => {
                    let got = grants[0].address;
                    match leases.get(&got) {
                        None => {}
                        Some((of, kept)) if *of == pod && kept.sticky && sticky => {}
                        Some((_, kept)) if !kept.sticky => assert!(rested(kept), "{got} is in use: {kept:?}"),
                        Some((of, kept)) => {
                            assert!(
                                kept_gives_way && rested(kept),
                                "{got} was taken from pod-{of}: {kept:?}"
                            );
                            assert_eq!(leases.len(), 4, "another address was never used");
                            let away = leases.iter().filter(|(_, (_, kept))| rested(kept));
                            assert!(
                                away.clone().all(|(_, (_, kept))| kept.sticky),
                                "another address was free"
                            );
                            let longest = away.map(|(at, (_, kept))| (kept.since, *at)).min();
                            assert_eq!(longest.map(|(_, at)| at), Some(got), "not the one longest away");
                        }
                    }
                    leases.insert(got, (pod, Kept { running: true, sticky, since: now }));
                }
                Err(AllocError::Exhausted { .. }) => {
                    assert_eq!(leases.len(), 4, "an address was never used");
                    let free = |kept: &Kept| rested(kept) && (kept_gives_way || !kept.sticky);
                    assert!(!leases.values().any(|(_, kept)| free(kept)), "full, with {leases:?}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        let problems = store.change(|txn| verify(txn)).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        now += later;
    }
}

#[test]
fn the_longest_away_goes_first() {
    let (sets, rules) = (sets(), Rules { kept_gives_way: true, ..Rules::default() });
    let mut store = MemoryStore::default();
    let mut now = 0;
    let mut step = |pod: u8, sticky: bool, start: bool, rules: Rules| {
        now += 1;
        let lease_request = lease_request(pod, sticky, now);
        store.change(|txn| {
            let mut allocator = Allocator::new(txn, &sets, rules, Millis(now));
            if start {
                allocator.allocate(&lease_request, &[None]).map(|grants| grants[0].address.to_string())
            } else {
                allocator.release(&lease_request.holder.attachment).map(|_| String::new())
            }
        })
    };
    for pod in 1..=4 {
        step(pod, true, true, rules).unwrap();
    }
    // The second left first, then the fourth; what is reserved for pod-0 is kept beside them.
    step(0, true, true, rules).unwrap();
    for pod in [0, 2, 4] {
        step(pod, true, false, rules).unwrap();
    }
    let strict = Rules::default();
    assert!(matches!(step(5, false, true, strict), Err(AllocError::Exhausted { .. })), "a named pool keeps");
    assert_eq!(step(5, false, true, rules).unwrap(), "10.0.0.3");
    assert_eq!(step(6, true, true, rules).unwrap(), "10.0.0.5");
    let full = step(7, false, true, rules).unwrap_err();
    assert!(matches!(full, AllocError::Exhausted { .. }), "running pods and reservations stay: {full}");
    // Who comes back gets another one, or what is left of it.
    step(6, true, false, rules).unwrap();
    assert_eq!(step(6, true, true, rules).unwrap(), "10.0.0.5");
    assert_eq!(step(0, true, true, rules).unwrap(), "10.0.0.6");
}

proptest! {
    #[test]
    fn nothing_is_taken_that_runs_or_is_needed_less_than_another(
        steps in proptest::collection::vec((1u8..8, any::<bool>(), 0u64..40), 0..60),
        kept_gives_way: bool,
    ) {
        run(&steps, kept_gives_way);
    }
}
