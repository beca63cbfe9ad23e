//! A machine: its clock, its disk, its process, and what really runs on it.

use std::collections::VecDeque;

use net_types::{Addr, AddrRange, AddrSet};

use crate::{BootTime, Disk, DiskVersion, Geometry, Key, Leases, Node, NodeName, Owner, Run};

/// A pod, or a launcher of the owner's virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) address: Addr,
    /// What the address was allocated from.
    pub(super) key: Key,
    pub(super) owner: Option<Owner>,
}

/// An address that is not handed out though nobody has it: it rests, is quarantined, or is kept for who had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) address: Addr,
    pub(super) key: Key,
    pub(super) owner: Option<Owner>,
    /// `None`: it is kept, over reboots as well.
    pub(super) until: Option<u64>,
    /// Whether the leader took it from this node.
    pub(super) freed: bool,
}

impl Rest {
    pub(super) fn lasts(&self, now: u64) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    On,
    /// Its hypervisor stopped it: nothing runs, and its clocks stand.
    Paused,
    Off,
}

pub(super) struct Machine {
    pub(super) name: NodeName,
    pub(super) power: Power,
    pub(super) partitioned: bool,
    /// Whether the daemon runs; without it, addresses are allocated by what it wrote last.
    pub(super) daemon: bool,
    /// Grows with every start of the daemon: answers to the one before reach nobody.
    pub(super) incarnation: u64,
    /// What it has heard of the pool; it is on its disk, too.
    pub(super) pools: Vec<Geometry>,
    pub(super) node: Node,
    pub(super) disk: Option<Disk>,
    /// What the next process of this boot finds.
    pub(super) run: Run,
    /// Writes that were begun.
    pub(super) writes: VecDeque<(DiskVersion, Disk)>,
    pub(super) pods: Vec<Pod>,
    pub(super) rests: Vec<Rest>,
    /// Whether the leases say what the pods have.
    pub(super) leases: bool,
    /// When a node that lost its disk has counted.
    pub(super) counts_at: u64,
    /// When it was last said to be off though it ran.
    pub(super) said_off: Option<u64>,
    /// How fast its clock goes, in thousandths.
    rate: u64,
    /// The true time of its boot, and for how long it was paused since.
    booted: u64,
    paused: u64,
    paused_at: u64,
    /// What a time service or a person did to its other clock.
    pub(super) wall_offset: i64,
    pub(super) next_wake: u64,
}

impl Machine {
    pub(super) fn new(name: NodeName, rate: u64, pools: Vec<Geometry>, node: Node) -> Self {
        Self {
            name,
            power: Power::On,
            partitioned: false,
            daemon: true,
            incarnation: 0,
            pools,
            node,
            disk: Some(Disk::default()),
            run: Run::default(),
            writes: VecDeque::new(),
            pods: Vec::new(),
            rests: Vec::new(),
            leases: true,
            counts_at: u64::MAX,
            said_off: None,
            rate,
            booted: 0,
            paused: 0,
            paused_at: 0,
            wall_offset: 0,
            next_wake: 0,
        }
    }

    /// CLOCK_BOOTTIME at this true time.
    pub(super) fn clock(&self, now: u64) -> BootTime {
        let stopped = if self.power == Power::Paused { now - self.paused_at } else { 0 };
        BootTime::from_millis((now - self.booted).saturating_sub(self.paused + stopped) * self.rate / 1_000)
    }

    /// The clock that people set.
    pub(super) fn wall_clock(&self, now: u64) -> BootTime {
        BootTime::from_millis((now + 100_000_000).saturating_add_signed(self.wall_offset))
    }

    /// How long it takes until its clock shows this.
    pub(super) fn until(&self, now: u64, time: BootTime) -> u64 {
        time.millis().saturating_sub(self.clock(now).millis()).saturating_mul(1_000) / self.rate + 1
    }

    pub(super) fn boot(&mut self, now: u64) {
        self.power = Power::On;
        (self.booted, self.paused) = (now, 0);
    }

    pub(super) fn pause(&mut self, now: u64) {
        self.power = Power::Paused;
        self.paused_at = now;
    }

    pub(super) fn unpause(&mut self, now: u64) {
        self.power = Power::On;
        self.paused += now - self.paused_at;
    }

    pub(super) fn runs(&self) -> bool {
        self.power == Power::On && self.daemon
    }

    /// What its leases say.
    pub(super) fn leases(&self, now: u64) -> LeasesOf {
        let pods = self.pods.iter().map(|pod| (&pod.key, pod.address, &pod.owner));
        let rests = self.rests.iter().filter(|rest| rest.lasts(now));
        let all = pods.chain(rests.map(|rest| (&rest.key, rest.address, &rest.owner)));
        let known = all.filter(|_| self.leases);
        LeasesOf(known.map(|(key, address, owner)| (key.clone(), address, owner.clone())).collect())
    }
}

/// What a machine uses: of what, and for whom.
pub(super) struct LeasesOf(Vec<(Key, Addr, Option<Owner>)>);

impl Leases for LeasesOf {
    fn used(&self, key: &Key) -> AddrSet {
        let own = self.0.iter().filter(|(of, ..)| of == key);
        AddrSet::union(own.map(|(_, address, _)| AddrRange::single(*address)))
    }

    fn keys(&self) -> Vec<(Key, Option<Owner>)> {
        self.0.iter().map(|(key, _, owner)| (key.clone(), owner.clone())).collect()
    }
}
