use std::collections::BTreeMap;

use net_types::SpokeName;

use crate::TapIndex;
use crate::observed::{Alias, Link, LinkKind, Observed};

/// The two ends of an attachment's veth, as far as they are in the LAN's namespace.
#[derive(Clone, Copy, Debug)]
pub struct SpokeLinks<'a> {
    /// The end with the spoke's name; absent if it is in the pod.
    pub end: Option<&'a Link>,
    /// The end that is a port of the bridge.
    pub port: Option<&'a Link>,
}

/// Whether an attachment uses a spoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An attachment whose pod exists.
    Live(String),
    /// An attachment whose pod is gone.
    Dead,
    /// No attachment: the process died between creating the links and marking their owner.
    Leftover,
}

impl SpokeLinks<'_> {
    /// The attachment that uses the spoke.
    #[must_use]
    pub fn holder(&self) -> Holder {
        let mut dead = false;
        for link in [self.end, self.port].into_iter().flatten() {
            match &link.alias {
                Alias::Attachment { live: true, who } => return Holder::Live(who.clone()),
                Alias::Attachment { live: false, .. } => dead = true,
                _ => {}
            }
        }
        if dead {
            return Holder::Dead;
        }
        match self.end {
            // Its other end is in a pod, as long as it exists.
            None => Holder::Live("a pod whose identity was taken off the link".to_owned()),
            Some(_) => Holder::Leftover,
        }
    }

    /// The indexes of the ends that are in the LAN's namespace.
    pub fn indexes(&self) -> impl Iterator<Item = u32> + use<> {
        [self.end, self.port].map(|end| end.map(|link| link.index)).into_iter().flatten()
    }

    /// One of the two ends; if the spoke's end is in the pod, the port, whose name identifies the spoke.
    #[must_use]
    pub fn any(&self) -> Option<&Link> {
        self.end.or(self.port)
    }
}

impl Observed {
    /// The veth pairs in the namespace that k8slan made.
    #[must_use]
    pub fn spokes(&self) -> Vec<SpokeLinks<'_>> {
        let veths: BTreeMap<u32, &Link> = self
            .links
            .iter()
            .filter(|link| matches!(link.kind, LinkKind::Veth { .. }))
            .map(|link| (link.index, link))
            .collect();
        let mut spokes = Vec::new();
        for &link in veths.values() {
            let LinkKind::Veth { peer } = link.kind else { continue };
            let peer = peer.and_then(|index| veths.get(&index).copied());
            // One request creates both ends, so one of them being ours is enough.
            if !link.is_ours() && !peer.is_some_and(Link::is_ours) {
                continue;
            }
            match peer {
                None if TapIndex::is_port_name(&link.name) => {
                    spokes.push(SpokeLinks { end: None, port: Some(link) });
                }
                None => spokes.push(SpokeLinks { end: Some(link), port: None }),
                // Each pair once, from the side of its port.
                Some(peer) if as_port(link) > as_port(peer) => {
                    spokes.push(SpokeLinks { end: Some(peer), port: Some(link) });
                }
                Some(_) => {}
            }
        }
        spokes
    }
}

/// Orders the two ends: the greater is the port, by its name, or by a name that no spoke can have. Only names count,
/// so that a pair stays the same pair whatever changes.
fn as_port(link: &Link) -> (bool, bool, u32) {
    (TapIndex::is_port_name(&link.name), link.name.parse::<SpokeName>().is_err(), link.index)
}
