//! Checks of the kernel's features, tried in a network namespace of the check's own.
//!
//! Trying is the only certain way: a module may be built in, loaded on demand, or barred. As for any program that
//! makes such a device, the kernel may load the module.

use std::net::IpAddr;

use lan::MAX_LEARNED;
use net_types::{IfName, MacvtapMode, VlanId, Vni};
use netplumb::{
    Bridge, BridgeInfo, LinkKind, Macvtap, Netlink, Netns, NewLink, Nftables, PortGuard, Result, Veth,
    VlanFiltering, VlanLink, VlanProtocol, Vxlan,
};

use super::finding::Finding;
use super::host_snapshot::HostSnapshot;

/// An index that neither a spoke's macvtap (2^30 and more) nor any other link of the kernel has: the names
/// `/dev/tapN` are shared by the whole machine.
const TAP_INDEX: u32 = (1 << 30) - 2;

struct Trial {
    netns: Netns,
    netlink: Netlink,
}

/// A feature: how to try it, how to get it, and what needs it.
struct Ability {
    name: &'static str,
    remedy: &'static str,
    /// What needs it; `None`: every LAN does.
    only: Option<&'static str>,
    attempt: fn(&Trial) -> Result<()>,
}

const ABILITIES: [Ability; 8] = [
    Ability { name: "bridge", remedy: "modprobe bridge", only: None, attempt: bridge },
    Ability {
        name: "veth",
        remedy: "modprobe veth",
        only: None,
        attempt: |trial| trial.veth("v0").map(drop),
    },
    Ability {
        name: "VXLAN, IPv6 group",
        remedy: "modprobe vxlan",
        only: Some("LANs with an IPv6 group"),
        attempt: vxlan6,
    },
    Ability {
        name: "VXLAN, IPv4 group",
        remedy: "modprobe vxlan",
        only: Some("LANs with an IPv4 group"),
        attempt: vxlan4,
    },
    Ability { name: "macvtap", remedy: "modprobe macvtap", only: None, attempt: macvtap },
    Ability {
        name: "VLAN filtering of bridges",
        remedy: "boot a kernel with CONFIG_BRIDGE_VLAN_FILTERING",
        only: Some("ports of vlan-bridge with VLANs"),
        attempt: vlan_filtering,
    },
    Ability {
        name: "802.1Q devices",
        remedy: "modprobe 8021q",
        only: Some("VLAN devices (underlays like eth0.10, the node's own legs)"),
        attempt: vlan_device,
    },
    Ability {
        name: "nftables for bridges",
        remedy: "boot a kernel with CONFIG_NF_TABLES_BRIDGE",
        only: Some("vlan-bridge's guards against forged addresses"),
        attempt: guard,
    },
];

/// Tries all features.
pub(super) fn check(_: &HostSnapshot<'_>) -> Vec<Finding> {
    let trial = Netns::new().and_then(|netns| Ok(Trial { netlink: Netlink::open(&netns)?, netns }));
    let trial = match trial {
        Ok(trial) => trial,
        Err(error) => {
            let advice = "run it as root, outside of a container without CAP_SYS_ADMIN and CAP_NET_ADMIN";
            return vec![Finding::failure("kernel: network namespaces", error.to_string(), advice)];
        }
    };
    ABILITIES.iter().map(|ability| ability.finding(&trial)).chain([limit_of_addresses(&trial)]).collect()
}

/// Kernels without it take no notice of it.
fn limit_of_addresses(trial: &Trial) -> Finding {
    const CHECK: &str = "kernel: limit of a bridge's addresses";
    let bridge = Bridge { fdb_max_learned: Some(MAX_LEARNED), ..Bridge::new(name("brl")) };
    let made = trial.netlink.create_bridge(&bridge).and_then(|index| trial.netlink.link_by_index(index));
    match made.map(|link| link.map(|link| link.kind)) {
        Ok(Some(LinkKind::Bridge(BridgeInfo { fdb_max_learned: Some(MAX_LEARNED), .. }))) => {
            Finding::fine(CHECK, "works, tried")
        }
        Ok(_) => Finding::warning(
            CHECK,
            "this kernel has none",
            "boot Linux 6.7 or later, if pods are not trusted: one that sends from ever new addresses takes the node's memory",
        ),
        Err(error) => Finding::not_looked_at(CHECK, error.to_string()),
    }
}

impl Ability {
    fn finding(&self, trial: &Trial) -> Finding {
        let check = format!("kernel: {}", self.name);
        let Err(error) = (self.attempt)(trial) else { return Finding::fine(check, "works, tried") };
        let remedy = self.remedy;
        match self.only {
            None => Finding::failure(check, error.to_string(), format!("{remedy}; every LAN needs it")),
            Some(only) => {
                Finding::warning(check, error.to_string(), format!("{remedy}; only {only} need it"))
            }
        }
    }
}

impl Trial {
    /// Creates a pair with that name; returns the index of its main end.
    fn veth(&self, main: &str) -> Result<u32> {
        let peer = format!("{main}p");
        let made =
            self.netlink.create_veth(&Veth::new(NewLink::new(name(main)), NewLink::new(name(&peer))))?;
        Ok(made.main)
    }

    fn vxlan(&self, link: &str, vni: u64, group: &str) -> Result<()> {
        let lower = self.veth(&format!("{link}l"))?;
        let vni = Vni::try_from(vni).unwrap_or_else(|_| unreachable!("small"));
        let group = group.parse().unwrap_or_else(|_| unreachable!("an address"));
        self.netlink.create_vxlan(&Vxlan::new(name(link), vni, lower, group)).map(drop)
    }
}

fn name(text: &str) -> IfName {
    text.parse().unwrap_or_else(|_| unreachable!("a short word"))
}

fn bridge(trial: &Trial) -> Result<()> {
    trial.netlink.create_bridge(&Bridge::new(name("br"))).map(drop)
}

fn vxlan6(trial: &Trial) -> Result<()> {
    trial.vxlan("x6", 6, "ff02::14")
}

fn vxlan4(trial: &Trial) -> Result<()> {
    trial.vxlan("x4", 4, "239.1.1.1")
}

fn macvtap(trial: &Trial) -> Result<()> {
    let lower = trial.veth("m0")?;
    let mut macvtap = Macvtap::new(name("mt"), lower, MacvtapMode::Passthru);
    macvtap.link.index = Some(TAP_INDEX);
    let index = trial.netlink.create_macvtap(&macvtap)?;
    trial.netlink.delete_link(index).map(drop)
}

fn vlan_filtering(trial: &Trial) -> Result<()> {
    let mut bridge = Bridge::new(name("brv"));
    bridge.vlan_filtering = Some(VlanFiltering::default());
    trial.netlink.create_bridge(&bridge).map(drop)
}

fn vlan_device(trial: &Trial) -> Result<()> {
    let lower = trial.veth("q0")?;
    let id = VlanId::try_from(10).unwrap_or_else(|_| unreachable!("a VLAN"));
    let link = NewLink::new(name("q0.10"));
    let vlan = VlanLink { link, lower, id, protocol: VlanProtocol::Dot1q };
    trial.netlink.create_vlan(&vlan).map(drop)
}

fn guard(trial: &Trial) -> Result<()> {
    let mac = "02:00:00:00:00:01".parse().unwrap_or_else(|_| unreachable!("an address"));
    let guard = PortGuard {
        port: name("port"),
        own: vec![mac],
        check_macs: true,
        addresses: Some(vec![IpAddr::from([192, 0, 2, 1]).into()]),
        asking: false,
    };
    Nftables::open(&trial.netns)?.guard(&guard)
}
