//! Checks whether VXLAN can use the LANs' UDP port, and which program or device has it.
//!
//! The kernel shares one socket among the VXLAN devices of a port, a family and the same options, so that neither a
//! socket nor a device on the port proves that a LAN cannot use it. So a device like a LAN's is created, in a network
//! namespace that is deleted at once.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net_types::{UdpPort, Vni};
use netplumb::{LO, LinkChange, LinkKind, Netlink, Netns, Result, Vxlan};
use nix::errno::Errno;

use super::finding::Finding;
use super::host_snapshot::{HostSnapshot, USUAL_PORT};
use agent::udp_port::{PortHolder, find_port_holder};

/// How many network identifiers to try, if one is taken although no known LAN has it.
const TRIES: u64 = 8;

/// A socket that LANs need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    port: UdpPort,
    v6: bool,
    /// The underlay, which may be in a VRF; `lo` if it is not known or does not exist.
    underlay: u32,
    /// Whether a declared LAN needs it, or only possible ones.
    declared: bool,
}

/// Checks every port of a LAN.
pub(super) fn check(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let wanted = wanted(host);
    let mut findings = Vec::new();
    for port in wanted.iter().map(|wanted| wanted.port).collect::<BTreeSet<_>>() {
        let check = format!("UDP port {port}");
        let mut found = check_port_users(host, port, &check);
        // One refusal with two reasons would be confusing.
        if found.is_empty() {
            found.extend(
                wanted.iter().filter(|wanted| wanted.port == port).filter_map(|w| w.refused(host, &check)),
            );
        }
        found.dedup();
        if found.is_empty() {
            found.push(Finding::fine(check, "VXLAN can have it, tried"));
        }
        findings.extend(found);
    }
    findings
}

/// The sockets that the LANs with an underlay on this node need, or without one those that most LANs would need.
fn wanted(host: &HostSnapshot<'_>) -> BTreeSet<Wanted> {
    let mut wanted = BTreeSet::new();
    for underlay in host.underlays() {
        let index = underlay.link.map_or(LO, |link| link.index);
        wanted.extend(underlay.lans.iter().map(|lan| Wanted {
            port: lan.port,
            v6: lan.group.get().is_ipv6(),
            underlay: index,
            declared: true,
        }));
    }
    if let (true, Ok(port)) = (wanted.is_empty(), UdpPort::try_from(u64::from(USUAL_PORT))) {
        wanted.extend([true, false].map(|v6| Wanted { port, v6, underlay: LO, declared: false }));
    }
    wanted
}

/// Other VXLAN devices that a LAN cannot coexist with, whether they are up or not.
fn check_port_users(host: &HostSnapshot<'_>, port: UdpPort, check: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for link in &host.links {
        let LinkKind::Vxlan(vxlan) = &link.kind else { continue };
        if vxlan.port != port.get() {
            continue;
        }
        if vxlan.collect_metadata {
            let found = format!(
                "VXLAN device {} takes packets of every VNI on it (collect metadata, as Open vSwitch and Cilium use it)",
                link.name
            );
            let advice = "no other VXLAN device can share that port (EADDRINUSE): give the LANs another one \
                          (vxlanPort), the same on every node";
            findings.push(Finding::failure(check, found, advice));
            continue;
        }
        let same = host.lans.iter().find(|lan| lan.port == port && lan.vni.get() == vxlan.vni);
        if let Some(lan) = same {
            let found = format!(
                "VXLAN device {} has VNI {} on it, which LAN {} wants",
                link.name, vxlan.vni, lan.key
            );
            findings.push(Finding::failure(check, found, "give the LAN another VNI or port"));
        }
    }
    findings
}

impl Wanted {
    /// Why VXLAN cannot have the socket; `None` if it can.
    fn refused(&self, host: &HostSnapshot<'_>, check: &str) -> Option<Finding> {
        let error = self.attempt(host).err()?;
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        if error.errno() != Some(Errno::EADDRINUSE) {
            // Other checks report the kernel's and IPv6's state.
            return Some(Finding::not_looked_at(check, format!("over {family}: {error}")));
        }
        let PortHolder { who, advice } = find_port_holder(self.port, self.v6, &host.links);
        let found = format!("VXLAN over {family} cannot have it (EADDRINUSE): {who}");
        Some(match self.declared || self.v6 {
            true => Finding::failure(check, found, advice),
            false => {
                Finding::warning(check, found, format!("{advice}; only LANs with an IPv4 group need it"))
            }
        })
    }

    /// Creates a device like a LAN's and sets it up, which makes the kernel open the socket. It has no remote, joins
    /// no group, and exists for some milliseconds.
    fn attempt(&self, host: &HostSnapshot<'_>) -> Result<()> {
        let netns = Netns::new()?;
        let inside = Netlink::open(&netns)?;
        let remote =
            if self.v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let known: BTreeSet<u32> = host.lans.iter().map(|lan| lan.vni.get()).collect();
        let free = (0..=u64::from(Vni::MAX.get())).rev().filter_map(|vni| Vni::try_from(vni).ok());
        let mut made = Ok(None);
        for vni in free.filter(|vni| !known.contains(&vni.get())).take(TRIES as usize) {
            let name = "trial".parse().unwrap_or_else(|_| unreachable!("a short word"));
            let mut vxlan = Vxlan::new(name, vni, self.underlay, remote);
            vxlan.port = self.port;
            vxlan.link.netns = Some(netns.clone());
            made = host.netlink.create_vxlan(&vxlan).map(Some);
            if !made.as_ref().is_err_and(netplumb::Error::is_exists) {
                break;
            }
        }
        let Some(index) = made? else { return Ok(()) };
        let up = inside.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() });
        // The kernel deletes a namespace some time after its last use, and the socket with it; this deletes it now.
        inside.delete_link(index)?;
        up
    }
}
