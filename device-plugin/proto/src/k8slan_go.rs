//! k8slan (Go)'s names for spokes, which lead to the same spokes as their own names.

use std::collections::{BTreeMap, BTreeSet};

use lan::Spoke;
use net_types::{Attach, MacvtapMode, SpokeName};

/// One of k8slan (Go)'s names of a spoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name of the resource and of the NetworkAttachmentDefinition.
    pub name: String,
    /// The kind of the pod's interface.
    pub attach: Attach,
    /// Whether the LAN's name is a part of it, as in versions after v0.0.2.
    pub with_lan: bool,
}

/// The prefix of the names of macvtaps.
pub const MAC: &str = "k8slan-mac-";
/// The prefix of the names of veths.
pub const VETH: &str = "k8slan-veth-";

/// Whether the type `k8slanveth` may attach the spoke by a bare veth. It may not in the modes in which a macvtap
/// restricts its pod to one address, because a veth would lift the restriction.
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

/// Whether a resource's name is the spoke's own or one of these. `lan`: the name of the LAN's object.
pub fn leads_to(resource: &str, lan: &str, spoke: &str) -> bool {
    let by_another = |spoke: SpokeName| names(lan, &spoke).iter().any(|name| name.name == resource);
    resource == spoke || spoke.parse().is_ok_and(by_another)
}

/// The names that mean exactly one spoke and one kind. LAN `a` with spoke `b-c` and LAN `a-b` with spoke `c` have a
/// name in common; it is left out, because a pod that requests it must not get into the other LAN.
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
