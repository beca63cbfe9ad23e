use std::collections::{BTreeMap, BTreeSet};

use net_types::{
    Attach, IfName, IfNameError, MacvtapMode, Mtu, OutOfRange, SpokeName, SpokeNameError, UdpPort,
    UnknownName,
};

use crate::key::is_label;
use crate::lan::Spoke;
use crate::limits::{MAX_NAMESPACES, MAX_NODES, MAX_SPOKES};
use crate::{Group, GroupError, Lan, LanKey, LanSpec, NetnsName, NetnsNameError, TapIndex};

/// One mistake in a LAN's specification.
///
/// The text begins with the field and is complete by itself: it becomes the message of a status condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum Mistake {
    #[error("ns: {0}")]
    Ns(NetnsNameError),
    #[error("{field}: {error}")]
    LinkName { field: String, error: IfNameError },
    #[error("{field}: {name:?} {why}: choose another name")]
    ReservedName {
        field: String,
        name: String,
        /// The clause about who uses the name.
        why: &'static str,
    },
    #[error("{field}: {name:?} is already the name of the LAN's {other}: choose another")]
    SameName {
        field: String,
        name: String,
        /// The link that has the name already.
        other: &'static str,
    },
    #[error("vni: {0}")]
    Vni(OutOfRange),
    #[error("vxlanGrp: {0}")]
    Group(GroupError),
    #[error("vxlanPort: {0}")]
    Port(OutOfRange),
    #[error("mtu: {0}")]
    Mtu(OutOfRange),
    #[error("no node has an underlay: set defaultVxlanDev, vxlanDevMap or both")]
    NoUnderlay,
    #[error("vxlanDevMap: {0:?} is not a node's name")]
    NodeName(String),
    #[error("spokes: {0}")]
    SpokeName(SpokeNameError),
    #[error("spokes: {0:?} is listed more than once")]
    DuplicateSpoke(String),
    #[error("spokeOverrides: {0:?} is not in spokes")]
    UnknownSpoke(String),
    #[error("{field}: {error}")]
    Choice { field: String, error: UnknownName },
    #[error(
        "allowedNamespaces: {0:?} is not a namespace's name: 1 to 63 lower-case letters, digits and '-', a letter or digit first and last"
    )]
    Namespace(String),
    #[error("{field}: {given} entries, {max} are the most")]
    TooMany { field: &'static str, given: usize, max: usize },
}

impl Lan {
    /// Validates a specification, and reports all mistakes.
    ///
    /// # Errors
    /// All mistakes in the order of the fields, at least one.
    pub fn new(key: LanKey, spec: &LanSpec) -> Result<Self, Vec<Mistake>> {
        let mut check = Check { mistakes: Vec::new() };
        let netns = check.keep(spec.ns.parse::<NetnsName>().map_err(Mistake::Ns));
        let bridge = check.own_link("bridge", &spec.bridge);
        let vxlan = check.own_link("vxlan", &spec.vxlan);
        if spec.vxlan == spec.bridge {
            check.mistakes.push(Mistake::SameName {
                field: "vxlan".to_owned(),
                name: spec.vxlan.clone(),
                other: "bridge",
            });
        }
        let vni = check.keep(number(spec.vni).map_err(Mistake::Vni));
        let group = check.keep(spec.vxlan_grp.parse::<Group>().map_err(Mistake::Group));
        let port = check.keep(number::<UdpPort>(spec.vxlan_port).map_err(Mistake::Port));
        let default_underlay =
            spec.default_vxlan_dev.as_ref().and_then(|name| check.link("defaultVxlanDev", name));
        let underlays = check.underlays(spec);
        let mtu = spec.mtu.and_then(|mtu| check.keep(number::<Mtu>(mtu).map_err(Mistake::Mtu)));
        let spokes = check.spokes(spec);
        let allowed_namespaces = check.namespaces(spec.allowed_namespaces.as_deref());

        match (netns, bridge, vxlan, vni, group, port) {
            (Some(netns), Some(bridge), Some(vxlan), Some(vni), Some(group), Some(port))
                if check.mistakes.is_empty() =>
            {
                Ok(Self {
                    key,
                    netns,
                    bridge,
                    vxlan,
                    vni,
                    group,
                    port,
                    default_underlay,
                    underlays,
                    mtu,
                    common_mtu: None,
                    spokes,
                    allowed_namespaces,
                })
            }
            _ => Err(check.mistakes),
        }
    }
}

struct Check {
    mistakes: Vec<Mistake>,
}

impl Check {
    fn keep<T>(&mut self, result: Result<T, Mistake>) -> Option<T> {
        result.map_err(|mistake| self.mistakes.push(mistake)).ok()
    }

    fn link(&mut self, field: &str, name: &str) -> Option<IfName> {
        self.keep(name.parse().map_err(|error| Mistake::LinkName { field: field.to_owned(), error }))
    }

    /// The name of a link that the daemon creates.
    fn own_link(&mut self, field: &str, name: &str) -> Option<IfName> {
        let why = reserved(name).or_else(|| {
            TapIndex::is_port_name(name).then_some("is what the bridge ports of spokes are called")
        });
        match why {
            Some(why) => {
                let (field, name) = (field.to_owned(), name.to_owned());
                self.keep(Err(Mistake::ReservedName { field, name, why }))
            }
            None => self.link(field, name),
        }
    }

    fn underlays(&mut self, spec: &LanSpec) -> BTreeMap<String, IfName> {
        self.limit("vxlanDevMap", spec.vxlan_dev_map.len(), MAX_NODES);
        if spec.default_vxlan_dev.is_none() && spec.vxlan_dev_map.is_empty() {
            self.mistakes.push(Mistake::NoUnderlay);
        }
        let mut underlays = BTreeMap::new();
        for (node, name) in &spec.vxlan_dev_map {
            if node.is_empty()
                || node.len() > 253
                || node.chars().any(|c| c.is_whitespace() || c.is_control())
            {
                self.mistakes.push(Mistake::NodeName(node.clone()));
            }
            if let Some(link) = self.link(&format!("vxlanDevMap.{node}"), name) {
                underlays.insert(node.clone(), link);
            }
        }
        underlays
    }

    fn spokes(&mut self, spec: &LanSpec) -> BTreeMap<SpokeName, Spoke> {
        self.limit("spokes", spec.spokes.len(), MAX_SPOKES);
        let attach = self.choice("attach", &spec.attach, Attach::Macvtap);
        let mode = self.choice("mode", &spec.mode, MacvtapMode::Passthru);
        let mut seen = BTreeSet::new();
        let mut spokes = BTreeMap::new();
        for name in &spec.spokes {
            if !seen.insert(name) {
                self.mistakes.push(Mistake::DuplicateSpoke(name.clone()));
                continue;
            }
            for (other, taken) in [("bridge", &spec.bridge), ("VXLAN device", &spec.vxlan)] {
                if name == taken {
                    let (field, name) = ("spokes".to_owned(), name.clone());
                    self.mistakes.push(Mistake::SameName { field, name, other });
                }
            }
            if let Some(why) = reserved(name) {
                let (field, name) = ("spokes".to_owned(), name.clone());
                self.mistakes.push(Mistake::ReservedName { field, name, why });
                continue;
            }
            if let Some(spoke) = self.keep(name.parse::<SpokeName>().map_err(Mistake::SpokeName)) {
                spokes.insert(spoke, Spoke { attach, mode });
            }
        }
        for (name, change) in &spec.spoke_overrides {
            let field = |end: &str| format!("spokeOverrides.{name}.{end}");
            let attach = change.attach.as_ref().map(|text| self.choice(&field("attach"), text, attach));
            let mode = change.mode.as_ref().map(|text| self.choice(&field("mode"), text, mode));
            if !seen.contains(name) {
                self.mistakes.push(Mistake::UnknownSpoke(name.clone()));
            } else if let Some(spoke) = name.parse().ok().and_then(|name: SpokeName| spokes.get_mut(&name)) {
                spoke.attach = attach.unwrap_or(spoke.attach);
                spoke.mode = mode.unwrap_or(spoke.mode);
            }
        }
        spokes
    }

    fn choice<T>(&mut self, field: &str, text: &str, otherwise: T) -> T
    where
        T: std::str::FromStr<Err = UnknownName>,
    {
        let parsed = text.parse().map_err(|error| Mistake::Choice { field: field.to_owned(), error });
        self.keep(parsed).unwrap_or(otherwise)
    }

    fn namespaces(&mut self, given: Option<&[String]>) -> Option<BTreeSet<String>> {
        let given = given?;
        self.limit("allowedNamespaces", given.len(), MAX_NAMESPACES);
        for namespace in given.iter().filter(|namespace| !is_label(namespace)) {
            self.mistakes.push(Mistake::Namespace(namespace.clone()));
        }
        Some(given.iter().cloned().collect())
    }

    fn limit(&mut self, field: &'static str, given: usize, max: usize) {
        if given > max {
            self.mistakes.push(Mistake::TooMany { field, given, max });
        }
    }
}

/// Converts a number of the specification, which may be negative.
fn number<T: std::str::FromStr<Err = OutOfRange>>(given: i64) -> Result<T, OutOfRange> {
    given.to_string().parse()
}

/// Valid link names with another meaning.
fn reserved(name: &str) -> Option<&'static str> {
    match name {
        "lo" => Some("is the namespace's own loopback link"),
        // The kernel refuses links that would share a folder of /proc/sys/net (sysctl_dev_name_is_allowed).
        "all" | "default" => Some("is a folder of the kernel's network settings"),
        // dev_alloc_name takes it for a pattern.
        _ if name.contains('%') => Some("has a '%', which the kernel replaces by a number"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SpokeOverride;
    use crate::testing::{document, key};

    fn mistakes(edit: impl FnOnce(&mut LanSpec)) -> Vec<String> {
        let mut spec = document();
        edit(&mut spec);
        match Lan::new(key("a/b"), &spec) {
            Ok(lan) => panic!("accepted: {lan:?}"),
            Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
        }
    }

    fn only(edit: impl FnOnce(&mut LanSpec), text: &str) {
        let found = mistakes(edit);
        assert!(found.len() == 1 && found[0].contains(text), "wanted one with {text:?}: {found:#?}");
    }

    #[test]
    fn the_documents_lan_is_good() {
        let lan = Lan::new(key("k8slan-system/lan-test"), &document()).unwrap();
        assert_eq!(lan.underlay("worker1").unwrap().as_str(), "eth1");
        assert_eq!(lan.underlay("worker3").unwrap().as_str(), "eth0.10");
        assert_eq!(lan.group.to_string(), "ff02::14");
        assert_eq!(lan.port.get(), 4789);
        let spoke = Spoke { attach: Attach::Macvtap, mode: MacvtapMode::Passthru };
        assert_eq!(lan.spokes[&"pod1".parse().unwrap()], spoke);
        assert_eq!(lan.allowed_namespaces, None);
    }

    #[test]
    fn every_mistake_has_its_message() {
        only(|s| s.ns = "../etc".into(), "ns: \"../etc\" is not a valid name of a network namespace");
        only(|s| s.bridge = "br:2".into(), "bridge: link name \"br:2\" contains ':'");
        only(|s| s.bridge = "br%d".into(), "bridge: \"br%d\" has a '%'");
        only(
            |s| s.default_vxlan_dev = Some("eth%d".into()),
            "defaultVxlanDev: link name \"eth%d\" contains '%'",
        );
        only(|s| s.default_vxlan_dev = Some("all".into()), "defaultVxlanDev: a link cannot be named \"all\"");
        let underlay = |s: &mut LanSpec| s.vxlan_dev_map.insert("worker1".into(), "eth%d".into());
        only(|s| drop(underlay(s)), "vxlanDevMap.worker1: link name \"eth%d\" contains '%'");
        only(|s| s.vxlan = "lo".into(), "vxlan: \"lo\" is the namespace's own loopback");
        only(|s| s.vxlan = "+4a3b2c1d".into(), "bridge ports of spokes");
        only(|s| s.vxlan = "br2".into(), "vxlan: \"br2\" is already the name of the LAN's bridge");
        only(|s| s.vni = 0, "vni: VNI 0 is out of range: it must be 1 to 16777215");
        only(|s| s.vni = 1 << 24, "vni: VNI 16777216 is out of range");
        only(|s| s.vni = -1, "vni: VNI -1 is out of range");
        only(|s| s.vxlan_grp = "fe80::1".into(), "vxlanGrp: fe80::1 is not a multicast address");
        only(|s| s.vxlan_grp = "ff01::1".into(), "does not leave the node");
        only(|s| s.vxlan_grp = "all".into(), "vxlanGrp: \"all\" is not an IP address");
        only(|s| s.vxlan_port = 65_536, "vxlanPort: UDP port 65536 is out of range");
        only(|s| s.mtu = Some(67), "mtu: MTU 67 is out of range: it must be 68 to 65535");
        only(
            |s| s.default_vxlan_dev = Some("eth 0".into()),
            "defaultVxlanDev: link name \"eth 0\" contains ' '",
        );
        only(
            |s| {
                s.default_vxlan_dev = None;
                s.vxlan_dev_map.clear();
            },
            "no node has an underlay",
        );
        only(
            |s| s.vxlan_dev_map.insert("w".into(), "a/b".into()).map_or((), drop),
            "vxlanDevMap.w: link name",
        );
        only(
            |s| s.vxlan_dev_map.insert("w 1".into(), "eth0".into()).map_or((), drop),
            "\"w 1\" is not a node's name",
        );
        only(|s| s.spokes.push("pod1".into()), "spokes: \"pod1\" is listed more than once");
        only(|s| s.spokes.push("br2".into()), "spokes: \"br2\" is already the name of the LAN's bridge");
        only(|s| s.spokes.push("vx2".into()), "already the name of the LAN's VXLAN device");
        only(|s| s.spokes.push("lo".into()), "spokes: \"lo\" is the namespace's own");
        only(|s| s.spokes.push("all".into()), "a folder of the kernel's network settings");
        only(|s| s.spokes.push("a-name-of-16-byt".into()), "spokes: spoke name: link name");
        only(|s| s.spokes.push("tap0".into()), "KubeVirt");
        only(
            |s| s.attach = "bridge".into(),
            "attach: unknown attach \"bridge\": choose one of macvtap, veth",
        );
        only(|s| s.mode = "source".into(), "mode: unknown macvtap mode \"source\"");
        only(
            |s| s.allowed_namespaces = Some(vec!["Web".into()]),
            "allowedNamespaces: \"Web\" is not a namespace's name",
        );
        only(
            |s| s.spokes.extend((0..1023).map(|n| format!("x{n}"))),
            "spokes: 1025 entries, 1024 are the most",
        );
        let change = |name: &str, attach: &str| {
            let change = SpokeOverride { attach: Some(attach.into()), mode: None };
            let name = name.to_owned();
            move |s: &mut LanSpec| s.spoke_overrides.insert(name, change).map_or((), drop)
        };
        only(change("pod9", "veth"), "spokeOverrides: \"pod9\" is not in spokes");
        only(change("pod1", "tun"), "spokeOverrides.pod1.attach: unknown attach \"tun\"");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let found = mistakes(|s| {
            s.ns = String::new();
            s.vni = 0;
            s.vxlan_grp = "10.0.0.1".into();
            s.spokes = vec!["a".into(), "a".into(), "b/c".into()];
        });
        assert_eq!(found.len(), 5, "{found:#?}");
    }

    #[test]
    fn overrides_change_only_what_they_name() {
        let mut spec = document();
        spec.mode = "bridge".into();
        let veth = SpokeOverride { attach: Some("veth".into()), mode: None };
        spec.spoke_overrides.insert("pod2".into(), veth);
        let lan = Lan::new(key("a/b"), &spec).unwrap();
        let (one, two) = (lan.spokes[&"pod1".parse().unwrap()], lan.spokes[&"pod2".parse().unwrap()]);
        assert_eq!(one, Spoke { attach: Attach::Macvtap, mode: MacvtapMode::Bridge });
        assert_eq!(two, Spoke { attach: Attach::Veth, mode: MacvtapMode::Bridge });
    }
}
