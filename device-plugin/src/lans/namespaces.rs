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

/// Where namespaces have their names.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// The network namespaces of this node's LANs, held open: one whose name somebody takes away lives on,
/// with everything in it, and gets its name back.
///
/// Only names that a LAN declares, or that the daemon itself gave before, are looked at. A pod that may
/// change its own links could give its own namespace a LAN's mark; under such a name it cannot be.
pub(super) struct Namespaces {
    spaces: BTreeMap<NetnsName, Space>,
    given: Given,
}

/// The names that the daemon gave, a file for each.
struct Given {
    path: PathBuf,
    dir: SafeDir,
    names: BTreeSet<NetnsName>,
}

/// One name, and what it stands for.
struct Space {
    held: Option<Held>,
    place: Place,
    observed: Observed,
    /// Whether `observed` is out of date.
    stale: bool,
    /// Why it could not be looked at.
    trouble: Option<String>,
}

/// A namespace with a socket in it.
pub(super) struct Held {
    pub(super) netns: Netns,
    pub(super) netlink: Netlink,
}

/// What is at a namespace's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
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
    /// `given` is the folder that remembers the names that the daemon gave.
    pub(super) fn open(given: PathBuf) -> Result<Self> {
        let dir = SafeDir::create(&given)?;
        let names = dir.names()?.iter().filter_map(|name| name.parse().ok()).collect();
        Ok(Self { spaces: BTreeMap::new(), given: Given { path: given, dir, names } })
    }

    /// Looks at all names again.
    pub(super) fn scan(&mut self) {
        let mut names: BTreeSet<NetnsName> = self.given.names.clone();
        names.extend(self.spaces.keys().cloned());
        for name in names {
            self.look_at(&name);
        }
    }

    /// Sees to it that a name that a LAN needs is looked at.
    pub(super) fn want(&mut self, name: &NetnsName) {
        if !self.spaces.contains_key(name) {
            self.look_at(name);
        }
    }

    /// Looks again at what has this name.
    pub(super) fn look_at(&mut self, name: &NetnsName) {
        let found = self.place(name).and_then(|found| {
            // A namespace of ours under a name that was forgotten.
            if found.0 == Place::Held {
                self.remember(name)?;
            }
            Ok(found)
        });
        let space = self.spaces.entry(name.clone()).or_insert_with(Space::empty);
        match found {
            Ok((place, held)) => {
                space.held = held.or(space.held.take());
                space.place = place;
                space.trouble = None;
            }
            Err(error) => space.trouble = Some(format!("look at {}: {error:#}", name.path().display())),
        }
        space.stale = true;
    }

    /// What is at a name, and a hold on it where it is ours and not held yet.
    fn place(&self, name: &NetnsName) -> Result<(Place, Option<Held>)> {
        let path = name.path();
        if !Netns::is_mounted(&path)? {
            // An empty file is what is left of a mount; all else is somebody's.
            let leftover = match fs::symlink_metadata(&path) {
                Ok(meta) => meta.is_file() && meta.len() == 0,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            return Ok((if leftover { Place::Nothing } else { Place::Foreign }, None));
        }
        let netns = match Netns::open(&path) {
            Ok(netns) => netns,
            Err(error) if error.is_not_found() => return Ok((Place::Nothing, None)),
            Err(netplumb::Error::NotANetns { .. }) => return Ok((Place::Foreign, None)),
            Err(error) => return Err(error.into()),
        };
        if self.held(name).is_some_and(|held| held.netns.id() == netns.id()) {
            return Ok((Place::Held, None));
        }
        let held = Held::open(netns)?;
        match observe::owner(&held.netlink)? {
            Some(_) => Ok((Place::Held, Some(held))),
            None => Ok((Place::Foreign, None)),
        }
    }

    /// Remembers a name that is about to be given, so that the namespace is found again whatever happens.
    pub(super) fn remember(&mut self, name: &NetnsName) -> Result<()> {
        if self.given.names.contains(name) {
            return Ok(());
        }
        // The folder may be another one.
        self.given.dir = SafeDir::create(&self.given.path)?;
        self.given.dir.write(name.as_str(), b"", Durability::UntilReboot)?;
        self.given.names.insert(name.clone());
        Ok(())
    }

    /// Takes hold of a namespace that was just made.
    pub(super) fn hold(&mut self, name: &NetnsName, held: Held) {
        let space = Space { held: Some(held), place: Place::Held, ..Space::empty() };
        self.spaces.insert(name.clone(), space);
    }

    /// Lets go of a namespace, which dies with that if nothing else holds it.
    pub(super) fn let_go(&mut self, name: &NetnsName) -> Result<()> {
        self.spaces.remove(name);
        self.given.dir.remove(name.as_str())?;
        self.given.names.remove(name);
        Ok(())
    }

    /// Forgets names where nothing of ours is and that nobody wants, and takes away the empty file that
    /// is left of one.
    pub(super) fn forget_empty(&mut self, wanted: impl Fn(&NetnsName) -> bool) -> Result<()> {
        let is_empty = |space: &Space| space.held.is_none() && space.place == Place::Nothing;
        let given = self.given.names.iter();
        let left: Vec<NetnsName> = given
            .filter(|name| !wanted(name) && self.spaces.get(*name).is_some_and(is_empty))
            .cloned()
            .collect();
        for name in left {
            // Only an empty file goes; whatever else came meanwhile is an error.
            Netns::remove_at(&name.path())?;
            self.let_go(&name)?;
        }
        self.spaces.retain(|name, space| space.held.is_some() || wanted(name));
        Ok(())
    }

    /// Marks a namespace as changed.
    pub(super) fn touch(&mut self, name: &NetnsName) {
        if let Some(space) = self.spaces.get_mut(name) {
            space.stale = true;
        }
    }

    /// Marks all of them as changed.
    pub(super) fn touch_all(&mut self) {
        self.spaces.values_mut().for_each(|space| space.stale = true);
    }

    /// Looks into the namespaces that changed.
    pub(super) fn refresh(&mut self) {
        for (name, space) in self.spaces.iter_mut().filter(|(_, space)| space.stale) {
            match space.look() {
                Ok(observed) => {
                    (space.observed, space.stale) = (observed, false);
                }
                // It stays stale, and is looked into again at the next pass.
                Err(error) => space.trouble = Some(format!("look into network namespace {name}: {error:#}")),
            }
        }
    }

    /// What is in a namespace, as of the last [`Namespaces::refresh`].
    pub(super) fn observed(&self, name: &NetnsName) -> Option<&Observed> {
        self.spaces.get(name).map(|space| &space.observed)
    }

    /// Why a namespace could not be looked at.
    pub(super) fn trouble(&self, name: &NetnsName) -> Option<&str> {
        self.spaces.get(name)?.trouble.as_deref()
    }

    /// The namespace itself.
    pub(super) fn held(&self, name: &NetnsName) -> Option<&Held> {
        self.spaces.get(name)?.held.as_ref()
    }

    /// All that are held.
    pub(super) fn all_held(&self) -> impl Iterator<Item = (&NetnsName, &Held)> {
        self.spaces.iter().filter_map(|(name, space)| Some((name, space.held.as_ref()?)))
    }

    /// What stands on this node, for the decision what is to become of it.
    pub(super) fn standing(&self) -> BTreeMap<NetnsName, Standing> {
        let standing = |space: &Space| {
            let vni = space.observed.links.iter().find_map(|link| match &link.kind {
                LinkKind::Vxlan(vxlan) if link.is_ours() => Some(vxlan.vni),
                _ => None,
            });
            Standing { owner: space.observed.owner().cloned(), vni }
        };
        let held = self.spaces.iter().filter(|(_, space)| space.held.is_some());
        held.map(|(name, space)| (name.clone(), standing(space))).collect()
    }

    /// The indexes of the node's links that VXLAN devices of ours send by, with their LANs.
    pub(super) fn underlays(&self) -> impl Iterator<Item = (&LanKey, u32)> {
        self.spaces.values().flat_map(|space| {
            let owner = space.observed.owner();
            space.observed.links.iter().filter_map(move |link| match &link.kind {
                LinkKind::Vxlan(vxlan) if link.is_ours() => Some((owner?, vxlan.underlay?)),
                _ => None,
            })
        })
    }

    /// The spokes that pods use, with the namespace that each is in and who uses it. `spoke_of_port`
    /// knows the spoke of a port whose other end is inside the pod.
    pub(super) fn in_use(
        &self,
        spoke_of_port: impl Fn(&str) -> Option<SpokeName>,
    ) -> Vec<(SpokeName, NetnsName, String)> {
        let mut in_use = Vec::new();
        for (name, space) in &self.spaces {
            for spoke in space.observed.spokes() {
                let Holder::Live(who) = spoke.holder() else { continue };
                let of_port = spoke.port.and_then(|port| spoke_of_port(&port.name));
                let known = of_port.or_else(|| spoke.end.and_then(|end| end.name.parse().ok()));
                in_use.extend(known.map(|spoke| (spoke, name.clone(), who)));
            }
        }
        in_use
    }
}

impl Space {
    fn empty() -> Self {
        Self { held: None, place: Place::Nothing, observed: Observed::absent(), stale: true, trouble: None }
    }

    fn look(&self) -> Result<Observed> {
        let Some(held) = &self.held else {
            let netns = if self.place == Place::Foreign { NetnsState::Foreign } else { NetnsState::Absent };
            return Ok(Observed { netns, ..Observed::absent() });
        };
        // It was ours when it was found, whatever has become of its mark.
        let owner = observe::owner(&held.netlink)?.unwrap_or(NetnsOwner::Unknown);
        let netns = match self.place {
            Place::Held => NetnsState::Mounted(owner),
            Place::Nothing => NetnsState::Unmounted(owner),
            Place::Foreign => NetnsState::Foreign,
        };
        let links = observe::links(&held.netlink).context("read its links")?;
        let settings = observe::settings(&held.netns).context("read its settings")?;
        Ok(Observed { netns, settings, links })
    }
}
