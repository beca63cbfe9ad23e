//! k8slan (Go)'s names for spokes, which lead to the same spokes as their own ones.

use std::collections::{BTreeMap, BTreeSet};

use lan::Spoke;
use net_types::{Attach, MacvtapMode, SpokeName};

/// A spoke in one of the ways in which k8slan (Go) names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The resource, and the NetworkAttachmentDefinition.
    pub name: String,
    /// What stands in the pod.
    pub attach: Attach,
    /// Whether the LAN's name is part of it, as in versions after v0.0.2.
    pub with_lan: bool,
}

/// What the names of macvtaps begin with.
pub const MAC: &str = "k8slan-mac-";
/// What the names of veths begin with.
pub const VETH: &str = "k8slan-veth-";

/// Whether a spoke may be a bare veth where the type `k8slanveth` asks for one. In the modes in which a macvtap holds its pod
/// to one address, a veth would take that back.
pub fn takes_veths(how: &Spoke) -> bool {
    how.attach == Attach::Veth || how.mode == MacvtapMode::Passthru
}

/// All names of a spoke. `lan`: the name of the LAN's object.
pub fn names(lan: &str, spoke: &SpokeName) -> [Name; 4] {
    let name = |prefix, attach, with_lan| {
        let name = if with_lan { format!("{prefix}{lan}-{spoke}") } else { format!("{prefix}{spoke}") };
        Name { name, attach, with_lan }
    };
    let (mac, veth) = ((MAC, Attach::Macvtap), (VETH, Attach::Veth));
    [
        name(mac.0, mac.1, false),
        name(veth.0, veth.1, false),
        name(mac.0, mac.1, true),
        name(veth.0, veth.1, true),
    ]
}

/// Whether a resource's name is a spoke's, its own one or one of these. `lan`: the name of the LAN's object.
pub fn leads_to(resource: &str, lan: &str, spoke: &str) -> bool {
    let by_another = |spoke: SpokeName| names(lan, &spoke).iter().any(|name| name.name == resource);
    resource == spoke || spoke.parse().is_ok_and(by_another)
}

/// Names that are one spoke's and one way's alone. One that several have is nobody's: LAN `a` with spoke `b-c` and LAN
/// `a-b` with spoke `c` have one, and whoever asks for it must not get into the other's LAN.
pub fn unambiguous<T>(
    named: impl Iterator<Item = (String, T)>,
    taken: &BTreeSet<&str>,
) -> BTreeMap<String, T> {
    let mut first = BTreeMap::new();
    let mut ambiguous = BTreeSet::new();
    for (name, of) in named {
        if taken.contains(name.as_str()) || first.contains_key(&name) {
            ambiguous.insert(name);
        } else {
            first.insert(name, of);
        }
    }
    first.retain(|name, _| !ambiguous.contains(name));
    first
}
