//! What the cluster is told of pools on this node.

use std::collections::BTreeMap;
use std::time::Duration;

use net_types::AddrSet;
use node::ClusterPool;
use pool_blocks::{Answer, BootTime, Place, PoolName, Progress, Request};
use proto::brief;
use proto::health::PoolCounts;
use proto::published::{PoolNote, PoolNotes};

use super::super::usage::Usage;
use super::{Effect, Manager};

/// How long pods wait before that is told: most get an address meanwhile.
const TOLD_AFTER: Duration = Duration::from_secs(20);
/// How long after it was refused last a pod counts as waiting: the kubelet tries again more often.
const WAITS_FOR: Duration = Duration::from_secs(120);
/// The longest sentence, in bytes, and how many there are of one pool.
pub(super) const MAX_SENTENCE: usize = 500;
const MAX_SENTENCES: usize = 16;
/// How many pods of those that wait for a pool are remembered, and how many of them are named: what is told does not change with
/// each of hundreds.
const MAX_WAITING: usize = 256;
const MAX_NAMED: usize = 3;

/// A pod that waits for an address of a pool.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// `None`: it is not known which one.
    pod: Option<String>,
    since: BootTime,
    last: BootTime,
    reason: String,
}

impl Waiting {
    fn is_over(&self, now: BootTime) -> bool {
        self.last.after(WAITS_FOR) <= now
    }

    fn is_told(&self, now: BootTime) -> bool {
        self.since.after(TOLD_AFTER) <= now
    }
}

/// Which pods have waited long, and why the last of them does.
fn sentence(all: &[Waiting], now: BootTime) -> Option<String> {
    let told = || all.iter().filter(|waiting| waiting.is_told(now));
    let reason = &told().max_by_key(|waiting| waiting.last)?.reason;
    let names: Vec<&str> = told().filter_map(|waiting| waiting.pod.as_deref()).collect();
    let named = names.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
    Some(match names.len() {
        0 => reason.clone(),
        1 => format!("{named} waits: {reason}"),
        2..=MAX_NAMED => format!("{named} wait: {reason}"),
        _ => format!("{named} and others wait: {reason}"),
    })
}

/// What was told, and what is to be.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Those that came first are first.
    waiting: BTreeMap<PoolName, Vec<Waiting>>,
    told: Option<PoolNotes>,
}

impl Notes {
    /// A pod was refused.
    pub(super) fn refused(&mut self, now: BootTime, pool: &PoolName, pod: Option<&str>, reason: &str) {
        let reason = reason.to_owned();
        let all = self.waiting.entry(pool.clone()).or_default();
        all.retain(|waiting| !waiting.is_over(now));
        let has_room = all.len() < MAX_WAITING;
        match all.iter_mut().find(|waiting| waiting.pod.as_deref() == pod) {
            Some(waiting) => (waiting.last, waiting.reason) = (now, reason),
            None if !has_room => {}
            None => all.push(Waiting { pod: pod.map(str::to_owned), since: now, last: now, reason }),
        }
    }

    /// A pod got an address.
    pub(super) fn granted(&mut self, pool: &PoolName, pod: Option<&str>) {
        if let Some(all) = self.waiting.get_mut(pool) {
            all.retain(|waiting| waiting.pod.as_deref() != pod);
        }
    }

    /// When there may be something else to tell.
    pub(super) fn wake_at(&self, now: BootTime) -> Option<BootTime> {
        let times = self
            .waiting
            .values()
            .flatten()
            .flat_map(|one| [one.since.after(TOLD_AFTER), one.last.after(WAITS_FOR)]);
        times.filter(|time| *time > now).min()
    }
}

impl Manager {
    pub(super) fn tell_notes(&mut self, now: BootTime) {
        if self.usage_reads == 0 {
            return;
        }
        self.notes.waiting.retain(|_, all| {
            all.retain(|waiting| !waiting.is_over(now));
            !all.is_empty()
        });
        let notes = self.notes_now(now);
        // On a cluster without pools nothing is asked.
        if notes.is_empty() && self.notes.told.is_none() && !self.has_pools() {
            return;
        }
        if self.notes.told.as_ref() != Some(&notes) {
            self.effects.push(Effect::Notes(notes.clone()));
            self.notes.told = Some(notes);
        }
    }

    /// What this node has of each pool.
    pub(super) fn counts(&self) -> BTreeMap<String, PoolCounts> {
        let number = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
        let mut counts = BTreeMap::<String, PoolCounts>::new();
        for (key, progress) in self.node.progress() {
            if let (Progress::Held, Place::Block(prefix)) = (progress, key.place) {
                let of = counts.entry(key.pool.to_string()).or_default();
                let block = AddrSet::union([prefix.range()]);
                let all = self.handed_out.get(&key.pool).map(|all| all.intersection(&block));
                of.blocks += 1;
                of.addresses = of.addresses.saturating_add(number(all.unwrap_or_default().len()));
            }
        }
        for pool in self.usage.pools() {
            counts.entry(pool.to_string()).or_default().used = number(self.usage.used(pool).len());
        }
        counts
    }

    fn notes_now(&self, now: BootTime) -> PoolNotes {
        let mut notes = PoolNotes::new();
        // Of one that was deleted, the cluster has nothing by which it could be told, but that it was in the place of a file.
        let is_told =
            |pool: &&ClusterPool| !pool.deleted || (pool.in_place_of.is_some() && !pool.is_accepted());
        for pool in self.known.pools.values().filter(is_told) {
            let name = PoolName::from(pool.name.as_str());
            let used = self.usage.used(&name);
            let outside = self.handed_out.get(&name).map_or(0, |all| used.without(all).len());
            let waiting = self.notes.waiting.get(&name).and_then(|all| sentence(all, now));
            let conflicts =
                self.conflicts_told.iter().filter(|conflict| conflict.key.pool == name).map(|conflict| {
                    brief(
                        &format!("{} is used here, and {} has it as well", conflict.used, conflict.other),
                        MAX_SENTENCE,
                    )
                });
            let mut note = PoolNote {
                outside: u64::try_from(outside).unwrap_or(u64::MAX),
                waiting: waiting.map(|waiting| brief(&waiting, MAX_SENTENCE)),
                conflicts: conflicts.take(MAX_SENTENCES).collect(),
                ..PoolNote::default()
            };
            self.note_file(&name, &mut note);
            if note != PoolNote::default() {
                notes.insert(pool.name.clone(), note);
            }
        }
        for name in self.files_beside().iter().filter(|name| !self.known.pools.contains_key(name.as_str())) {
            let mut note = PoolNote::default();
            self.note_file(name, &mut note);
            notes.insert(name.to_string(), note);
        }
        notes
    }

    pub(super) fn tell_unreadable(&self, usage: &Usage) {
        for (pool, why) in usage.unreadable() {
            if self.usage.unreadable().get(pool) != Some(why) {
                tracing::warn!(%pool, "what this node uses of a pool cannot be read, so that nothing of it goes back: {why}");
            }
        }
    }

    /// What somebody deleted, or a backup did not have.
    pub(super) fn tell_made_again(&self, request: &Request, answer: &Answer) {
        if let (Request::Create(key, _), Answer::Written(_)) = (request, answer)
            && self.node.held_before(key)
        {
            let kind = if matches!(key.place, Place::Block(_)) { "LANBlock" } else { "LANAddress" };
            tracing::warn!(
                "{kind} {key} was deleted while this node had it, by hand or by a restored backup, and is made again: pods keep \
                 their addresses of it"
            );
        }
    }

    pub(super) fn tell_conflicts(&mut self) {
        let conflicts = self.node.conflicts(&self.usage.leases(&self.geometries));
        if conflicts != self.conflicts_told {
            for conflict in &conflicts {
                let (key, used, other) = (&conflict.key, &conflict.used, &conflict.other);
                tracing::error!("{used} of {key} is used on this node, and {other} has it as well");
            }
            self.conflicts_told = conflicts;
        }
    }
}
