//! The allocator against a plain model: maps and linear scans, no index. In memory many times, and on LMDB files
//! fewer times.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use ipam_pool::store::{HostStore, KvTxn, MemoryStore, PoolKey, StoreDirs, StoreError};
use ipam_pool::{
    Addr, AddressState, AllocError, Allocator, Attachment, ConflictOutcome, LeaseHolder, LeaseRequest,
    Millis, Order, Owner, RangeSet, RangeSpec, Restrictions, Rules, StickyLease, Store, list_addresses,
    restore_address, verify,
};
use proptest::prelude::*;

/// What the model knows of an address.
#[derive(Clone, Debug, PartialEq)]
enum State {
    Leased { owner: Option<Owner>, sticky: bool, holders: Vec<Attachment>, since: u64 },
    Resting { since: u64 },
    Quarantined { since: u64, until: u64 },
}

#[derive(Clone, Debug)]
enum Step {
    Add { container: u8, interface: u8, pod: u8, sticky: bool, asked: Option<u8> },
    Del { container: u8, interface: u8 },
    Gc { valid: u8 },
    Wait { millis: u16 },
    Release { address: u8 },
    Conflict { container: u8, interface: u8 },
    Reboot,
    Copy,
    Redefine { definition: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0u8..10, 0u8..2, 0u8..6, any::<bool>(), proptest::option::weighted(0.15, 0u8..20))
            .prop_map(|(container, interface, pod, sticky, asked)| Step::Add { container, interface, pod, sticky, asked }),
        8 => (0u8..10, 0u8..2).prop_map(|(container, interface)| Step::Del { container, interface }),
        1 => any::<u8>().prop_map(|valid| Step::Gc { valid }),
        3 => (0u16..400).prop_map(|millis| Step::Wait { millis }),
        1 => (0u8..20).prop_map(|address| Step::Release { address }),
        2 => (0u8..10, 0u8..2).prop_map(|(container, interface)| Step::Conflict { container, interface }),
        1 => Just(Step::Reboot),
        1 => Just(Step::Copy),
    ]
}

fn redefining() -> impl Strategy<Value = Step> {
    prop_oneof![9 => step(), 1 => (0u8..4).prop_map(|definition| Step::Redefine { definition })]
}

const COOLDOWN: u64 = 100;
const QUARANTINE: u64 = 300;

fn sets(definition: u8) -> Vec<RangeSet> {
    let (v4_end, exclude): (&str, &[&str]) = match definition {
        0 => ("10.0.0.14", &["10.0.0.4", "fd00::5-fd00::6"]),
        1 => ("10.0.0.6", &[]),
        2 => ("10.0.0.14", &["10.0.0.8/30"]),
        _ => ("10.0.0.14", &["10.0.0.2", "10.0.0.12", "fd00::9"]),
    };
    let range = |subnet: &str, end: &str| {
        let range_end = Some(end.to_owned());
        RangeSpec { subnet: subnet.to_owned(), range_end, ..RangeSpec::default() }.parse().unwrap()
    };
    let mut sets = vec![
        RangeSet::new(0, vec![range("10.0.0.0/28", v4_end)]).unwrap(),
        RangeSet::new(1, vec![range("fd00::/64", "fd00::a")]).unwrap(),
    ];
    let restrictions = Restrictions {
        exclude: exclude.iter().map(|text| (*text).to_owned()).collect(),
        reservations: vec![("ns/pod-0".to_owned(), vec!["10.0.0.3".to_owned(), "fd00::3".to_owned()])],
    };
    RangeSet::restrict(&mut sets, &restrictions).unwrap();
    sets
}

fn attachment(container: u8, interface: u8) -> Attachment {
    Attachment {
        container: format!("c{container}"),
        interface: format!("net{interface}"),
        network: "lan".to_owned(),
    }
}

fn asked_address(n: u8) -> Addr {
    format!("10.0.0.{n}").parse::<std::net::IpAddr>().unwrap().into()
}

#[derive(Default)]
struct Model {
    states: BTreeMap<Addr, State>,
    now: u64,
    /// When an attachment came to an address.
    joined: BTreeMap<(Attachment, Addr), u64>,
    /// Since a redefinition, addresses that rest may have been forgotten.
    redefined: bool,
}

impl Model {
    fn held(&self, attachment: &Attachment) -> BTreeSet<Addr> {
        let holds =
            |state: &State| matches!(state, State::Leased { holders, .. } if holders.contains(attachment));
        self.states.iter().filter(|(_, state)| holds(state)).map(|(address, _)| *address).collect()
    }

    fn free(&self, set: &RangeSet) -> Vec<Addr> {
        let open = set.allocatable().iter().flat_map(|span| {
            let mut next = Some(span.first());
            std::iter::from_fn(move || {
                let address = next.filter(|address| span.contains(*address))?;
                next = address.next();
                Some(address)
            })
        });
        open.filter(|address| match self.states.get(address) {
            None => true,
            Some(State::Resting { since }) => since + COOLDOWN <= self.now,
            Some(_) => false,
        })
        .collect()
    }

    /// Quarantines end when somebody asks.
    fn end_quarantines(&mut self) {
        for state in self.states.values_mut() {
            if let State::Quarantined { since, until } = *state
                && until <= self.now
            {
                *state = State::Resting { since };
            }
        }
    }

    /// Whether `got` is what the rules give to somebody without a claim.
    fn is_next(&self, set: &RangeSet, got: Addr, order: Order) {
        let free = self.free(set);
        assert!(free.contains(&got), "{got} is not free: {:?}", self.states.get(&got));
        let rests = |address: &Addr| match self.states.get(address) {
            Some(State::Resting { since }) => Some(*since),
            _ => None,
        };
        match order {
            Order::Lowest => assert_eq!(Some(&got), free.first(), "not the lowest of {free:?}"),
            Order::Oldest if self.redefined => {}
            Order::Oldest => match rests(&got) {
                None => assert_eq!(Some(got), free.iter().copied().find(|a| rests(a).is_none())),
                Some(_) => {
                    let longest_resting = free.iter().min_by_key(|address| (rests(address), **address));
                    assert_eq!(Some(&got), longest_resting, "not the longest resting of {free:?}");
                }
            },
        }
    }

    fn detach(&mut self, attachment: &Attachment) {
        let now = self.now;
        for state in self.states.values_mut() {
            if let State::Leased { holders, sticky, .. } = state {
                let before = holders.len();
                holders.retain(|holder| holder != attachment);
                if holders.len() < before && holders.is_empty() && !*sticky {
                    *state = State::Resting { since: now };
                }
            }
        }
    }
}

/// A store that can be booted.
trait Machine: Store {
    fn new() -> Self;
    fn kept(&self) -> BTreeMap<Addr, StickyLease>;
    fn reboot(&mut self);
    /// Every file is replaced by a copy.
    fn copy(&mut self);
    /// Reads everything.
    fn problems(&mut self) -> Vec<String>;
}

impl Machine for MemoryStore {
    fn new() -> Self {
        Self::default()
    }

    fn kept(&self) -> BTreeMap<Addr, StickyLease> {
        Self::kept(self).unwrap()
    }

    fn reboot(&mut self) {
        let kept = Self::kept(self).unwrap();
        *self = Self::default();
        self.change(|txn| {
            kept.iter().try_for_each(|(address, kept)| restore_address(txn, *address, &kept.state()))
        })
        .unwrap();
    }

    fn copy(&mut self) {}

    fn problems(&mut self) -> Vec<String> {
        self.change(|txn| verify(txn)).unwrap()
    }
}

/// The store of a host.
struct Disk {
    store: Option<HostStore>,
    dirs: StoreDirs,
    _folder: tempfile::TempDir,
}

const POOL: &str = "p";

impl Disk {
    fn open(&mut self) -> &mut HostStore {
        let dirs = &self.dirs;
        self.store.get_or_insert_with(|| HostStore::open(dirs, &PoolKey::Named(POOL.to_owned())).unwrap())
    }
}

impl Machine for Disk {
    fn new() -> Self {
        // In memory where that can be had: what is kept is synced at every change.
        let folder = match Path::new("/dev/shm") {
            memory if memory.is_dir() => tempfile::tempdir_in(memory),
            _ => tempfile::tempdir(),
        };
        let folder = folder.unwrap();
        let (run, state) = (folder.path().join("run"), folder.path().join("state"));
        let dirs = StoreDirs { run, state, lock_timeout: Duration::from_secs(1) };
        let mut disk = Self { store: None, dirs, _folder: folder };
        disk.open();
        disk
    }

    fn kept(&self) -> BTreeMap<Addr, StickyLease> {
        self.store.as_ref().unwrap().kept().unwrap()
    }

    fn reboot(&mut self) {
        self.store = None;
        std::fs::remove_dir_all(&self.dirs.run).unwrap();
        self.open();
    }

    fn copy(&mut self) {
        self.store = None;
        for folder in [&self.dirs.run, &self.dirs.state].map(|root| root.join("pools")) {
            for file in std::fs::read_dir(folder).into_iter().flatten() {
                let file = file.unwrap().path();
                let copy = file.with_extension("copy");
                std::fs::copy(&file, &copy).unwrap();
                std::fs::rename(&copy, &file).unwrap();
            }
        }
        self.open();
    }

    fn problems(&mut self) -> Vec<String> {
        // Also what another process would find.
        self.store = None;
        self.open().verify().unwrap()
    }
}

impl Store for Disk {
    fn change<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut dyn KvTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        self.open().change(work)
    }
}

struct World<M> {
    store: M,
    model: Model,
    sets: Vec<RangeSet>,
    order: Order,
}

impl<M: Machine> World<M> {
    fn rules(&self) -> Rules {
        Rules { cooldown: COOLDOWN, order: self.order, probing: false, kept_gives_way: false }
    }

    fn allocate<T>(
        &mut self,
        work: impl FnOnce(&mut Allocator<'_>) -> Result<T, AllocError>,
    ) -> Result<T, AllocError> {
        let (rules, now) = (self.rules(), Millis(self.model.now));
        let sets = &self.sets;
        self.store.change(|txn| work(&mut Allocator::new(txn, sets, rules, now)))
    }

    fn add(&mut self, attachment: &Attachment, pod: u8, sticky: bool, asked: Option<u8>) {
        let owner = Owner::pod("ns", &format!("pod-{pod}"), "lan");
        let holder = LeaseHolder {
            attachment: attachment.clone(),
            pod: None,
            uid: None,
            netns: None,
            launcher: None,
            since: Millis(self.model.now),
        };
        let lease_request = LeaseRequest {
            holder,
            owner: Some(owner.clone()),
            sticky,
            migrating: false,
            floating: None,
            further: None,
            beside_source: false,
        };
        let asked = asked.map(asked_address);
        let before = self.store.kept();
        let result = self.allocate(|a| a.allocate(&lease_request, &[asked, None]));
        let held = self.model.held(attachment);
        match result {
            Ok(grants) => {
                self.model.end_quarantines();
                assert_eq!(grants.len(), self.sets.len());
                for (grant, set) in grants.iter().zip(&self.sets.clone()) {
                    self.judge(grant.address, set, attachment, &owner, sticky, asked, &held);
                }
            }
            Err(error) => {
                assert_eq!(self.store.kept(), before, "a failed ADD keeps something");
                self.judge_error(&error, asked, &owner);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that an ADD says")]
    fn judge(
        &mut self,
        got: Addr,
        set: &RangeSet,
        attachment: &Attachment,
        owner: &Owner,
        sticky: bool,
        asked: Option<Addr>,
        held: &BTreeSet<Addr>,
    ) {
        let asked = asked.filter(|asked| asked.family() == set.family());
        if held.contains(&got) {
            // The same again; it may become sticky, never less.
            if let Some(State::Leased { sticky: was, owner: Some(whose), .. }) =
                self.model.states.get_mut(&got)
                && whose == owner
            {
                *was |= sticky;
            }
            return;
        }
        assert!(!held.iter().any(|a| a.family() == set.family()), "a second address for {attachment}");
        let reserved = set.reserved().get(&got);
        assert!(reserved.is_none_or(|name| owner.is_named(name)), "{got} is reserved for {reserved:?}");
        let owns = |model: &Model, sibling_free: bool| -> Vec<Addr> {
            let free_of_sibling = |holders: &[Attachment]| {
                !holders.iter().any(|h| h.container == attachment.container && h != attachment)
            };
            let own = |state: &State| match state {
                State::Leased { owner: Some(o), sticky: true, holders, .. } => {
                    o == owner && (!sibling_free || free_of_sibling(holders))
                }
                _ => false,
            };
            model
                .states
                .iter()
                .filter(|(a, s)| a.family() == set.family() && own(s))
                .map(|(a, _)| *a)
                .collect()
        };
        let kept = owns(&self.model, true);
        let now = self.model.now;
        // An address that the pool no longer names is given up when its owner comes back.
        for address in &kept {
            if let Some(State::Leased { holders, .. }) = self.model.states.get(address)
                && sticky
                && holders.is_empty()
                && !set.pool().contains(*address)
            {
                self.model.states.insert(*address, State::Resting { since: now });
            }
        }
        if sticky && owns(&self.model, true).contains(&got) {
            assert!(asked.is_none_or(|asked| asked == got));
        } else if let Some(asked) = asked {
            assert_eq!(got, asked);
            assert!(!set.excluded().contains(got) && set.pool().contains(got));
        } else if reserved.is_none() {
            assert!(!sticky || owns(&self.model, true).is_empty(), "{owner} lost its address");
            self.model.is_next(set, got, self.order);
        }
        self.model.joined.insert((attachment.clone(), got), now);
        match self.model.states.get_mut(&got) {
            Some(State::Leased { holders, sticky: was, owner: whose, .. }) => {
                assert_eq!(whose.as_ref(), Some(owner), "{got} is somebody else's");
                let sibling = holders.iter().any(|other| other.container == attachment.container);
                assert!(!sibling, "{got} twice in one container");
                holders.push(attachment.clone());
                *was |= sticky;
            }
            _ => {
                let holders = vec![attachment.clone()];
                let state = State::Leased { owner: Some(owner.clone()), sticky, holders, since: now };
                self.model.states.insert(got, state);
            }
        }
    }

    fn judge_error(&self, error: &AllocError, asked: Option<Addr>, owner: &Owner) {
        match error {
            AllocError::Exhausted { .. } => {
                let states = self.model.states.clone();
                let mut ended = Model { states, now: self.model.now, ..Model::default() };
                ended.end_quarantines();
                // The family that an address was asked for of may be full as well.
                assert!(self.sets.iter().any(|set| ended.free(set).len() <= 1), "not exhausted");
            }
            AllocError::Held { address, holder } => {
                let state = self.model.states.get(address);
                assert!(matches!(state, Some(State::Leased { .. })), "{address} is not held by {holder}");
            }
            AllocError::Refused { address, .. } => {
                assert_eq!(Some(*address), asked);
                let set = &self.sets[0];
                assert!(!set.allocatable().contains(*address));
            }
            AllocError::Conflict { address, .. } => {
                assert!(matches!(self.model.states.get(address), Some(State::Quarantined { .. })));
            }
            AllocError::HoldsAnother { requested: other, current: has, .. } => {
                assert_eq!(Some(*other), asked);
                assert!(
                    matches!(self.model.states.get(has),
                    Some(State::Leased { owner: Some(o), .. }) if o == owner)
                        || matches!(self.model.states.get(has), Some(State::Leased { .. }))
                );
            }
            AllocError::SubnetRemoved { .. }
            | AllocError::Migrating { .. }
            | AllocError::VmInUse { .. }
            | AllocError::StillInUse { .. }
            | AllocError::Store(_) => {
                panic!("{error}")
            }
        }
    }

    fn conflict(&mut self, attachment: &Attachment) {
        let Some(address) = self.model.held(attachment).into_iter().next() else { return };
        let outcome = self
            .allocate(|a| a.report_conflict(attachment, address, "02:00:00:00:00:99", QUARANTINE, false))
            .unwrap();
        let now = self.model.now;
        match self.model.states.get(&address) {
            Some(State::Leased { holders, .. }) if holders.len() > 1 => {
                assert_eq!(outcome, ConflictOutcome::Kept)
            }
            Some(State::Leased { since, .. }) if outcome == ConflictOutcome::Quarantined => {
                let joined = self.model.joined.get(&(attachment.clone(), address));
                assert_eq!(joined, Some(since), "{address} was its owner's before");
                let state = State::Quarantined { since: now, until: now + QUARANTINE };
                self.model.states.insert(address, state);
                self.limit_quarantine(address);
            }
            _ => assert_eq!(outcome, ConflictOutcome::Kept),
        }
    }

    /// At most half of the set that the address is of; the oldest go to the end of those that rest.
    fn limit_quarantine(&mut self, latest: Addr) {
        let Some(set) = self.sets.iter().find(|set| set.pool().contains(latest)) else { return };
        let most = usize::try_from((set.allocatable().len() / 2).max(1)).unwrap();
        let mut quarantined: Vec<(u64, Addr)> = self
            .model
            .states
            .iter()
            .filter_map(|(address, state)| match state {
                State::Quarantined { until, .. } if set.pool().contains(*address) => Some((*until, *address)),
                _ => None,
            })
            .collect();
        quarantined.sort_unstable();
        let surplus = quarantined.len().saturating_sub(most);
        let ended: Vec<Addr> =
            quarantined.into_iter().map(|(_, a)| a).filter(|a| *a != latest).take(surplus).collect();
        for address in ended {
            self.model.states.insert(address, State::Resting { since: self.model.now });
        }
    }

    fn reboot(&mut self) {
        let kept = self.store.kept();
        let mut expected: Vec<Addr> = Vec::new();
        self.model.states.retain(|address, state| match state {
            State::Leased { sticky: true, holders, since, .. } => {
                holders.clear();
                *since = 0;
                expected.push(*address);
                true
            }
            _ => false,
        });
        assert_eq!(kept.keys().copied().collect::<Vec<_>>(), expected, "what outlives a reboot");
        self.store.reboot();
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Add { container, interface, pod, sticky, asked } => {
                self.add(&attachment(*container, *interface), *pod, *sticky, asked.filter(|n| *n < 15));
            }
            Step::Del { container, interface } => {
                let attachment = attachment(*container, *interface);
                let held = self.model.held(&attachment);
                let released = self.allocate(|a| a.release(&attachment)).unwrap();
                assert_eq!(released.into_iter().collect::<BTreeSet<_>>(), held);
                self.model.detach(&attachment);
            }
            Step::Gc { valid } => {
                let is_valid = |a: &Attachment| {
                    let digit: u8 = a.container[1..].parse().unwrap();
                    valid >> (digit % 8) & 1 == 1
                };
                let gone = self.allocate(|a| a.find_stale_attachments("lan", is_valid)).unwrap();
                assert!(self.allocate(|a| a.find_stale_attachments("other", |_| false)).unwrap().is_empty());
                self.allocate(|a| gone.iter().try_for_each(|gone| a.release(gone).map(drop))).unwrap();
                for attachment in gone {
                    assert!(!is_valid(&attachment));
                    self.model.detach(&attachment);
                }
                let left = self.model.states.values().filter_map(|state| match state {
                    State::Leased { holders, .. } => Some(holders),
                    _ => None,
                });
                assert!(left.flatten().all(is_valid), "GC left something");
            }
            Step::Wait { millis } => self.model.now += u64::from(*millis),
            Step::Release { address } => {
                let address = asked_address(*address);
                let known = self.allocate(|a| a.revoke(address)).unwrap();
                let now = self.model.now;
                match self.model.states.get(&address) {
                    Some(State::Leased { .. }) => {
                        self.model.states.insert(address, State::Resting { since: now });
                    }
                    Some(State::Quarantined { since, .. }) => {
                        let since = *since;
                        self.model.states.insert(address, State::Resting { since });
                    }
                    Some(State::Resting { .. }) => {
                        self.model.states.remove(&address);
                    }
                    None => assert!(!known),
                }
            }
            Step::Conflict { container, interface } => self.conflict(&attachment(*container, *interface)),
            Step::Reboot => self.reboot(),
            Step::Copy => self.store.copy(),
            Step::Redefine { definition } => {
                self.model.redefined = true;
                self.sets = sets(*definition);
            }
        }
    }
}

fn holders((address, state): (Addr, AddressState)) -> Vec<(Addr, Attachment)> {
    match state {
        AddressState::Leased(lease) => {
            lease.holders.into_iter().map(|holder| (address, holder.attachment)).collect()
        }
        AddressState::Resting { .. } | AddressState::Quarantined { .. } => Vec::new(),
    }
}

fn play<M: Machine>(steps: &[Step], order: Order) {
    let mut world =
        World { store: M::new(), model: Model { now: 1, ..Model::default() }, sets: sets(0), order };
    for (i, step) in steps.iter().enumerate() {
        world.run(step);
        // Comparing everything is most of the work.
        if i % 8 != 0 && i + 1 != steps.len() {
            continue;
        }
        let problems = world.store.problems();
        assert!(problems.is_empty(), "after step {i}, {step:?}: {problems:?}");
        let held: BTreeSet<(Addr, Attachment)> = (0..10)
            .flat_map(|c| [attachment(c, 0), attachment(c, 1)])
            .flat_map(|a| world.model.held(&a).into_iter().map(move |address| (address, a.clone())))
            .collect();
        let found: BTreeSet<(Addr, Attachment)> =
            world.store.change(|txn| list_addresses(txn)).unwrap().into_iter().flat_map(holders).collect();
        assert_eq!(found, held, "after step {i}, {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn oldest_first(steps in proptest::collection::vec(step(), 1..80)) {
        play::<MemoryStore>(&steps, Order::Oldest);
    }

    #[test]
    fn lowest_first(steps in proptest::collection::vec(step(), 1..80)) {
        play::<MemoryStore>(&steps, Order::Lowest);
    }

    #[test]
    fn while_the_pool_changes(steps in proptest::collection::vec(redefining(), 1..80)) {
        play::<MemoryStore>(&steps, Order::Oldest);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn on_a_hosts_files(steps in proptest::collection::vec(redefining(), 1..80), lowest: bool) {
        play::<Disk>(&steps, if lowest { Order::Lowest } else { Order::Oldest });
    }
}
