use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use lan::observed::{LinkKind, NetnsOwner, NetnsState, Observed};
use lan::{Holder, LanKey, NetnsName};
use net_types::SpokeName;
use netplumb::{Netlink, Netns};
use node::{Durability, SafeDir};

use super::decision::Standing;
use super::observe;

/// The network namespaces of this node's LANs, held open: one whose name somebody removes continues to exist with
/// everything in it, and gets its name again.
///
/// Only names that a LAN declares, or that the daemon itself gave before, are examined. A pod that may change its own
/// links could give its own namespace a LAN's mark, but never such a name.
pub(super) struct Namespaces {
    entries: BTreeMap<NetnsName, Entry>,
    owned: OwnedNames,
}

/// The names that the daemon gave, recorded in one file each.
struct OwnedNames {
    path: PathBuf,
    dir: SafeDir,
    names: BTreeSet<NetnsName>,
}

/// One name, and its namespace.
struct Entry {
    held: Option<Held>,
    occupant: Occupant,
    observed: Observed,
    /// Whether `observed` is out of date.
    stale: bool,
    /// Why it could not be read.
    trouble: Option<String>,
}

/// A namespace with a netlink socket in it.
pub(super) struct Held {
    pub(super) netns: Netns,
    pub(super) netlink: Netlink,
}

/// What is at a namespace's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    Nothing,
    /// The namespace that is held.
    Held,
    /// Something that k8slan did not make.
    Foreign,
}

impl Held {
    pub(super) fn open(netns: Netns) -> Result<Self> {
        let netlink = Netlink::open(&netns)?;
        Ok(Self { netns, netlink })
    }
}

impl Namespaces {
    /// `owned` is the folder that records the names that the daemon gave.
    pub(super) fn open(owned: PathBuf) -> Result<Self> {
        let dir = SafeDir::create(&owned)?;
        let names = dir.names()?.iter().filter_map(|name| name.parse().ok()).collect();
        Ok(Self { entries: BTreeMap::new(), owned: OwnedNames { path: owned, dir, names } })
    }

    /// Examines all names again.
    pub(super) fn locate_all(&mut self) {
        let mut names: BTreeSet<NetnsName> = self.owned.names.clone();
        names.extend(self.entries.keys().cloned());
        for name in names {
            self.locate(&name);
        }
    }

    /// Makes sure that a name that a LAN needs has been examined.
    pub(super) fn ensure_located(&mut self, name: &NetnsName) {
        if !self.entries.contains_key(name) {
            self.locate(name);
        }
    }

    /// Examines again what has this name.
    pub(super) fn locate(&mut self, name: &NetnsName) {
        let found = self.find_occupant(name).and_then(|found| {
            // A namespace of ours whose name was not recorded.
            if found.0 == Occupant::Held {
                self.remember(name)?;
            }
            Ok(found)
        });
        let entry = self.entries.entry(name.clone()).or_insert_with(Entry::empty);
        match found {
            Ok((occupant, held)) => {
                entry.held = held.or(entry.held.take());
                entry.occupant = occupant;
                entry.trouble = None;
            }
            Err(error) => entry.trouble = Some(format!("look at {}: {error:#}", name.path().display())),
        }
        entry.stale = true;
    }

    /// Finds what has a name, and opens it if it is ours and not held yet.
    fn find_occupant(&self, name: &NetnsName) -> Result<(Occupant, Option<Held>)> {
        let path = name.path();
        if !Netns::is_mounted(&path)? {
            // An empty file is left over from a mount; anything else is foreign.
            let leftover = match fs::symlink_metadata(&path) {
                Ok(meta) => meta.is_file() && meta.len() == 0,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            return Ok((if leftover { Occupant::Nothing } else { Occupant::Foreign }, None));
        }
        let netns = match Netns::open(&path) {
            Ok(netns) => netns,
            Err(error) if error.is_not_found() => return Ok((Occupant::Nothing, None)),
            Err(netplumb::Error::NotANetns { .. }) => return Ok((Occupant::Foreign, None)),
            Err(error) => return Err(error.into()),
        };
        if self.held(name).is_some_and(|held| held.netns.id() == netns.id()) {
            return Ok((Occupant::Held, None));
        }
        let held = Held::open(netns)?;
        match observe::owner(&held.netlink)? {
            Some(_) => Ok((Occupant::Held, Some(held))),
            None => Ok((Occupant::Foreign, None)),
        }
    }

    /// Records a name that is about to be given, so that the namespace can be found again after a crash.
    pub(super) fn remember(&mut self, name: &NetnsName) -> Result<()> {
        if self.owned.names.contains(name) {
            return Ok(());
        }
        // The folder may have been replaced.
        self.owned.dir = SafeDir::create(&self.owned.path)?;
        self.owned.dir.write(name.as_str(), b"", Durability::UntilReboot)?;
        self.owned.names.insert(name.clone());
        Ok(())
    }

    /// Holds a namespace that was just created.
    pub(super) fn hold(&mut self, name: &NetnsName, held: Held) {
        let entry = Entry { held: Some(held), occupant: Occupant::Held, ..Entry::empty() };
        self.entries.insert(name.clone(), entry);
    }

    /// Drops a namespace, which the kernel then deletes if nothing else holds it.
    pub(super) fn forget(&mut self, name: &NetnsName) -> Result<()> {
        self.entries.remove(name);
        self.owned.dir.remove(name.as_str())?;
        self.owned.names.remove(name);
        Ok(())
    }

    /// Drops names that have nothing of ours and that no LAN needs, and removes the empty files that are left of
    /// them.
    pub(super) fn forget_empty(&mut self, wanted: impl Fn(&NetnsName) -> bool) -> Result<()> {
        let is_empty = |entry: &Entry| entry.held.is_none() && entry.occupant == Occupant::Nothing;
        let owned = self.owned.names.iter();
        let left: Vec<NetnsName> = owned
            .filter(|name| !wanted(name) && self.entries.get(*name).is_some_and(is_empty))
            .cloned()
            .collect();
        for name in left {
            // Only an empty file is removed; anything else that appeared meanwhile is an error.
            Netns::remove_at(&name.path())?;
            self.forget(&name)?;
        }
        self.entries.retain(|name, entry| entry.held.is_some() || wanted(name));
        Ok(())
    }

    /// Marks a namespace as changed.
    pub(super) fn mark_stale(&mut self, name: &NetnsName) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.stale = true;
        }
    }

    /// Marks all of them as changed.
    pub(super) fn mark_all_stale(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.stale = true);
    }

    /// Reads the namespaces that changed.
    pub(super) fn refresh(&mut self) {
        for (name, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.stale) {
            match entry.observe() {
                Ok(observed) => {
                    (entry.observed, entry.stale) = (observed, false);
                }
                // It stays stale, and is read again in the next reconcile.
                Err(error) => entry.trouble = Some(format!("look into network namespace {name}: {error:#}")),
            }
        }
    }

    /// The contents of a namespace at the last [`Namespaces::refresh`].
    pub(super) fn observed(&self, name: &NetnsName) -> Option<&Observed> {
        self.entries.get(name).map(|entry| &entry.observed)
    }

    /// Why a namespace could not be read.
    pub(super) fn trouble(&self, name: &NetnsName) -> Option<&str> {
        self.entries.get(name)?.trouble.as_deref()
    }

    pub(super) fn held(&self, name: &NetnsName) -> Option<&Held> {
        self.entries.get(name)?.held.as_ref()
    }

    pub(super) fn all_held(&self) -> impl Iterator<Item = (&NetnsName, &Held)> {
        self.entries.iter().filter_map(|(name, entry)| Some((name, entry.held.as_ref()?)))
    }

    /// The existing namespaces, for the decision.
    pub(super) fn standing(&self) -> BTreeMap<NetnsName, Standing> {
        let standing = |entry: &Entry| {
            let vni = entry.observed.links.iter().find_map(|link| match &link.kind {
                LinkKind::Vxlan(vxlan) if link.is_ours() => Some(vxlan.vni),
                _ => None,
            });
            Standing { owner: entry.observed.owner().cloned(), vni }
        };
        let held = self.entries.iter().filter(|(_, entry)| entry.held.is_some());
        held.map(|(name, entry)| (name.clone(), standing(entry))).collect()
    }

    /// The underlays' indexes of our VXLAN devices, with their LANs.
    pub(super) fn underlays(&self) -> impl Iterator<Item = (&LanKey, u32)> {
        self.entries.values().flat_map(|entry| {
            let owner = entry.observed.owner();
            entry.observed.links.iter().filter_map(move |link| match &link.kind {
                LinkKind::Vxlan(vxlan) if link.is_ours() => Some((owner?, vxlan.underlay?)),
                _ => None,
            })
        })
    }

    /// The spokes that pods use, with their namespace and user. `spoke_of_port` finds the spoke of a port whose other
    /// end is in the pod.
    pub(super) fn in_use(
        &self,
        spoke_of_port: impl Fn(&str) -> Option<SpokeName>,
    ) -> Vec<(SpokeName, NetnsName, String)> {
        let mut in_use = Vec::new();
        for (name, entry) in &self.entries {
            for spoke in entry.observed.spokes() {
                let Holder::Live(who) = spoke.holder() else { continue };
                let of_port = spoke.port.and_then(|port| spoke_of_port(&port.name));
                let known = of_port.or_else(|| spoke.end.and_then(|end| end.name.parse().ok()));
                in_use.extend(known.map(|spoke| (spoke, name.clone(), who)));
            }
        }
        in_use
    }
}

impl Entry {
    fn empty() -> Self {
        Self {
            held: None,
            occupant: Occupant::Nothing,
            observed: Observed::absent(),
            stale: true,
            trouble: None,
        }
    }

    fn observe(&self) -> Result<Observed> {
        let Some(held) = &self.held else {
            let netns =
                if self.occupant == Occupant::Foreign { NetnsState::Foreign } else { NetnsState::Absent };
            return Ok(Observed { netns, ..Observed::absent() });
        };
        // It was ours when it was found, even if its mark has been removed since.
        let owner = observe::owner(&held.netlink)?.unwrap_or(NetnsOwner::Unknown);
        let netns = match self.occupant {
            Occupant::Held => NetnsState::Mounted(owner),
            Occupant::Nothing => NetnsState::Unmounted(owner),
            Occupant::Foreign => NetnsState::Foreign,
        };
        let links = observe::links(&held.netlink).context("read its links")?;
        let settings = observe::settings(&held.netns).context("read its settings")?;
        Ok(Observed { netns, settings, links })
    }
}
