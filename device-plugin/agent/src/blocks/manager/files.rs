//! Files of this node beside pools of the same names: a pool takes the place of the file that says the same.
//!
//! The leader accepts the pool when no node hands out by a file any more, and has in blocks what pods had by it. Until then each
//! node claims of what was its file's alone, so that nobody gets what another node's file gave.

use std::collections::BTreeSet;
use std::time::Duration;

use net_types::AddrSet;
use node::ClusterPool;
use pool_blocks::{BootTime, Leases as _, PoolName, Progress};
use proto::brief;
use proto::published::PoolNote;

use super::super::pool_folder::MAX_NAME;
use super::super::usage::FileBeside;
use super::notes::MAX_SENTENCE;
use super::{AGAIN, Effect, Manager, USAGE_INTERVAL};

/// How often the leases are read where there is no pool.
pub(super) const USAGE_INTERVAL_WITHOUT_POOLS: Duration = Duration::from_secs(3600);

/// As many ranges of a file are told.
const MAX_RANGES: usize = 64;

impl Manager {
    /// Whether a file is in the place of a pool, or was a moment ago.
    pub(super) fn waits_for_files(&self) -> bool {
        let pools = self.known.pools.values().filter(|pool| !pool.is_accepted() && !pool.deleted);
        let mut names = pools.map(|pool| PoolName::from(pool.name.as_str()));
        names.any(|name| self.beside(&name).is_some() || self.replaced.contains_key(&name))
    }

    /// This node's file, or what pods have of one that is gone.
    fn beside(&self, name: &PoolName) -> Option<FileBeside> {
        let of_gone = || FileBeside { addresses: self.usage.used(name), ..FileBeside::default() };
        self.usage
            .files()
            .get(name)
            .cloned()
            .or_else(|| Some(of_gone()).filter(|gone| !gone.addresses.is_empty()))
    }

    /// The pools of which there is a file, or was one.
    pub(super) fn files_beside(&self) -> BTreeSet<PoolName> {
        let used = self.usage.pools().filter(|name| !self.usage.used(name).is_empty());
        let names = self.usage.files().keys().chain(used);
        names.filter(|name| name.as_str().len() <= MAX_NAME).cloned().collect()
    }

    /// How often the leases are read although nothing asks for it. Changes of pools' files are told.
    pub(super) fn usage_interval(&self) -> Duration {
        match self.has_pools() {
            true if self.waits_for_files() => AGAIN,
            true => USAGE_INTERVAL,
            false => USAGE_INTERVAL_WITHOUT_POOLS,
        }
    }

    /// Pools changed: the leases are read again where one is to take the place of a file, or has taken it, and with the first pool.
    pub(super) fn read_leases_soon(&mut self, now: BootTime, had_pools: bool) {
        if self.waits_for_files() || (!had_pools && self.has_pools()) {
            self.next_usage = self.next_usage.min(now);
        }
    }

    pub(super) fn note_replaced(&mut self) {
        let pools = &self.known.pools;
        let is_replaced = |pool: &ClusterPool| pool.in_place_of.is_some() && !pool.is_accepted();
        self.replaced.retain(|name, _| pools.get(name.as_str()).is_some_and(is_replaced));
        for pool in pools.values().filter(|pool| is_replaced(pool)) {
            self.replaced.entry(pool.name.as_str().into()).or_insert(self.usage_reads);
        }
    }

    /// Puts pools in charge where their files say the same: by what was just read.
    pub(super) fn replace_files(&mut self) {
        for name in self.files_beside() {
            let Some(pool) = self.known.pools.get(name.as_str()) else { continue };
            let Some(file) = self.beside(&name) else { continue };
            let fits = file.differs.is_none() && file.addresses.iter().count() <= MAX_RANGES;
            if pool.replacing
                && !pool.is_in_charge()
                && !pool.deleted
                && fits
                && self.usage.is_readable(&name)
            {
                let (name, spec) = (pool.name.clone(), pool.spec.clone());
                self.effects.push(Effect::Replace(name, spec, file.addresses));
            }
        }
    }

    /// Whether all that pods had by the file is in blocks: by leases that were read since no ADD goes by the file any more.
    fn is_replaced(&self, name: &PoolName) -> bool {
        let Some(since) = self.replaced.get(name) else { return false };
        let Some(geometry) = self.geometries.get(name) else {
            // Fixed parts need no blocks.
            return self.known.pools.get(name.as_str()).is_some_and(|pool| pool.blocks.is_none());
        };
        let used = self.usage.leases(&self.geometries).keys();
        let mut used = used.into_iter().map(|(key, _)| key).filter(|key| {
            key.pool == *name && self.usage.of(key).shared_with(geometry.addresses()).is_some()
        });
        let is_held = |key| {
            self.node.progress().any(|(own, progress)| *own == key && progress == Progress::Held)
                && !self.reads.is_awaited(&key)
        };
        self.usage_reads > *since && self.usage.is_readable(name) && used.all(is_held)
    }

    /// What is to be told of a file: of a pool that there is, or `None`.
    pub(super) fn note_file(&self, name: &PoolName, note: &mut PoolNote) {
        let pool = self.known.pools.get(name.as_str());
        let file = self.beside(name);
        let differs = file.as_ref().and_then(|file| file.differs.as_deref());
        let is_gone = !self.usage.files().contains_key(name);
        let told = match (pool, &file) {
            (Some(pool), _) if pool.is_accepted() => {
                note.file = differs.map(|differs| {
                    let text = format!(
                        "its file is not read any more, since the pool was accepted; remove it, for it differs: {differs}"
                    );
                    brief(&text, MAX_SENTENCE)
                });
                return;
            }
            (Some(ClusterPool { in_place_of: Some(part), .. }), _) => {
                if self.is_replaced(name) {
                    return;
                }
                note.file_fits = true;
                note.file_domain = file.as_ref().and_then(FileBeside::known_domain);
                note.file_ranges = Some(part.clone());
                "the pool is in the place of its file, and what pods have is not all in blocks yet".to_owned()
            }
            (_, None) => return,
            (pool, Some(file)) => {
                let many = file.addresses.iter().count() > MAX_RANGES;
                let is_elsewhere = pool.is_some_and(|pool| pool.elsewhere);
                note.file_fits = pool.is_some() && !is_elsewhere && differs.is_none() && !many;
                note.file_domain = file.known_domain();
                note.file_ranges = Some(if many { hull(&file.addresses) } else { file.addresses.clone() });
                match (pool, differs) {
                    (_, Some(differs)) => format!("hands out by its file, since it differs: {differs}"),
                    (_, None) if is_elsewhere => {
                        "addresses are handed out by its file, or pods have them, and nodeSelector of the pool leaves this node out: let it \
                         have the node, or remove the file, and wait until the pods have ended"
                            .to_owned()
                    }
                    (_, None) if is_gone => "pods have addresses by a file that is gone".to_owned(),
                    (_, None) if many => format!("hands out by its file, since that has more than {MAX_RANGES} ranges"),
                    (Some(_), None) => "hands out by its file, which says the same: the pool takes its place when all nodes' do".to_owned(),
                    (None, None) => "hands out by its file; there is no LANPool of this name".to_owned(),
                }
            }
        };
        note.file = Some(brief(&told, MAX_SENTENCE));
    }
}

/// One range of each family around all addresses.
fn hull(addresses: &AddrSet) -> AddrSet {
    let of = |family| {
        let mut all = addresses.iter().filter(move |range| range.family() == family);
        let first = all.next()?;
        let last = all.last().unwrap_or(first);
        net_types::AddrRange::new(first.first(), last.last())
    };
    AddrSet::union(net_types::Family::BOTH.into_iter().filter_map(of))
}
