use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use anyhow::{Context as _, Result};
use lan::observed::{LinkKind, NetnsOwner, NetnsState, Observed};
use lan::{Holder, NetnsName};
use net_types::SpokeName;
use netplumb::{Netlink, Netns, NetnsId};

use super::decision::Standing;
use super::observe;

/// Where namespaces have their names.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// The network namespaces of this node's LANs, held open: one whose name somebody takes away lives on,
/// with everything in it, and gets its name back.
#[derive(Default)]
pub(super) struct Namespaces {
    spaces: BTreeMap<NetnsName, Space>,
    /// Namespaces that are not ours, so that each is opened only once.
    foreign: BTreeMap<NetnsName, NetnsId>,
}

/// One namespace of ours, or one that has a name that we need.
struct Space {
    held: Option<Held>,
    place: Place,
    observed: Observed,
    /// Whether `observed` is out of date.
    stale: bool,
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
    /// Looks at all names again.
    pub(super) fn scan(&mut self) -> Result<()> {
        let mut seen = BTreeSet::new();
        for name in names()? {
            let place = self.place(&name).with_context(|| format!("look at {}", name.path().display()))?;
            seen.insert(name.clone());
            self.put(name, place);
        }
        self.foreign.retain(|name, _| seen.contains(name));
        for (_, space) in self.spaces.iter_mut().filter(|(name, _)| !seen.contains(*name)) {
            if space.place != Place::Nothing {
                (space.place, space.stale) = (Place::Nothing, true);
            }
        }
        self.forget_empty();
        Ok(())
    }

    /// What is at a name, and takes hold of it where it is new and ours.
    fn place(&mut self, name: &NetnsName) -> Result<Place> {
        let path = name.path();
        if !Netns::is_mounted(&path)? {
            // An empty file is what is left of a mount; all else is somebody's.
            let leftover = match fs::symlink_metadata(&path) {
                Ok(meta) => meta.is_file() && meta.len() == 0,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            return Ok(if leftover { Place::Nothing } else { Place::Foreign });
        }
        let netns = match Netns::open(&path) {
            Ok(netns) => netns,
            Err(error) if error.is_not_found() => return Ok(Place::Nothing),
            Err(netplumb::Error::NotANetns { .. }) => return Ok(Place::Foreign),
            Err(error) => return Err(error.into()),
        };
        let id = netns.id();
        if self.held(name).is_some_and(|held| held.netns.id() == id) {
            return Ok(Place::Held);
        }
        if self.foreign.get(name) == Some(&id) {
            return Ok(Place::Foreign);
        }
        let held = Held::open(netns)?;
        if observe::owner(&held.netlink)?.is_none() {
            self.foreign.insert(name.clone(), id);
            return Ok(Place::Foreign);
        }
        self.foreign.remove(name);
        self.hold(name, held);
        Ok(Place::Held)
    }

    fn put(&mut self, name: NetnsName, place: Place) {
        match self.spaces.get_mut(&name) {
            Some(space) if space.place != place => (space.place, space.stale) = (place, true),
            Some(_) => {}
            // Nobody's, or somebody else's, and no LAN needs the name.
            None => {}
        }
    }

    /// Takes hold of a namespace that was just found, or made.
    pub(super) fn hold(&mut self, name: &NetnsName, held: Held) {
        let observed = Observed::absent();
        let space = Space { held: Some(held), place: Place::Held, observed, stale: true };
        self.spaces.insert(name.clone(), space);
    }

    /// Sees to it that a name that a LAN needs is looked at, whatever is there.
    pub(super) fn want(&mut self, name: &NetnsName) -> Result<()> {
        if !self.spaces.contains_key(name) {
            let place = self.place(name).with_context(|| format!("look at {}", name.path().display()))?;
            let observed = Observed::absent();
            self.spaces.entry(name.clone()).or_insert(Space { held: None, place, observed, stale: true });
        }
        Ok(())
    }

    /// Looks again at what has this name.
    pub(super) fn look_at(&mut self, name: &NetnsName) -> Result<()> {
        let place = self.place(name).with_context(|| format!("look at {}", name.path().display()))?;
        self.put(name.clone(), place);
        self.touch(name);
        Ok(())
    }

    /// Lets go of names that nobody needs and where nothing of ours is.
    pub(super) fn keep_only(&mut self, wanted: impl Fn(&NetnsName) -> bool) {
        self.spaces.retain(|name, space| space.held.is_some() || wanted(name));
    }

    fn forget_empty(&mut self) {
        self.spaces.retain(|_, space| space.held.is_some() || space.place == Place::Foreign);
    }

    /// Lets go of a namespace, which dies with that if nothing else holds it.
    pub(super) fn let_go(&mut self, name: &NetnsName) {
        self.spaces.remove(name);
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
    pub(super) fn refresh(&mut self) -> Result<()> {
        for (name, space) in self.spaces.iter_mut().filter(|(_, space)| space.stale) {
            space.observed = space.look().with_context(|| format!("look into network namespace {name}"))?;
            space.stale = false;
        }
        Ok(())
    }

    /// What is in a namespace, as of the last [`Namespaces::refresh`].
    pub(super) fn observed(&self, name: &NetnsName) -> Option<&Observed> {
        self.spaces.get(name).map(|space| &space.observed)
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
        let links = observe::links(&held.netlink)?;
        Ok(Observed { netns, settings: observe::settings(&held.netns)?, links })
    }
}

fn names() -> Result<Vec<NetnsName>> {
    let failed = || format!("list {NETNS_DIR}");
    let entries = match fs::read_dir(NETNS_DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(failed)?.file_name();
        // Names that no LAN can have are others'.
        names.extend(name.to_str().and_then(|name| name.parse().ok()));
    }
    Ok(names)
}
