//! Checks of the devices that carry LANs.

use net_types::Mtu;
use netplumb::{Conf, Sysctl};

use super::finding::Finding;
use super::host_snapshot::{HostSnapshot, Underlay};

/// The least MTU that IPv6 works with (RFC 8200, 5).
const IPV6_MTU: u32 = 1280;

/// Reports mistakes in LANs, which all other checks leave out.
pub(super) fn lans(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = host
        .mistakes
        .iter()
        .map(|mistake| Finding::failure("LANs", mistake.clone(), "mend it; until then that LAN is not built"))
        .collect();
    match &host.source {
        Some(Ok(source)) => {
            let (here, all) =
                (host.underlays().iter().map(|underlay| underlay.lans.len()).sum::<usize>(), &host.lans);
            let found =
                format!("{} from {source}, {here} of them with an underlay on node {}", all.len(), host.node);
            findings.push(Finding::fine("LANs", found));
        }
        Some(Err(why)) => findings.push(Finding::not_looked_at("LANs", why.clone())),
        None => {}
    }
    if host.lans.is_empty() && host.options.underlays.is_empty() {
        let why = "no LAN is known yet, so no underlay is";
        findings.push(Finding::not_looked_at("underlays", why).with_advice(
            "name them with --underlay, or the folder of LAN files with --lan-dir, or set KUBECONFIG, to have them looked at",
        ));
    }
    findings
}

/// Checks that the underlays exist and are up.
pub(super) fn present(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let finding = |underlay: Underlay<'_>| {
        let (check, name) = (format!("underlay: {}", underlay.name), &underlay.name);
        let Some(link) = underlay.link else {
            let advice =
                format!("make it, or give node {} another underlay: vxlanDevMap, defaultVxlanDev", host.node);
            return Finding::failure(check, format!("there is no link {name}"), advice);
        };
        match (link.up, link.carrier) {
            (true, true) => Finding::fine(check, "up, with a carrier"),
            (true, false) => {
                Finding::warning(check, "it has no carrier", "plug it in; LANs on it reach no other node")
            }
            (false, _) => Finding::failure(
                check,
                "it is down",
                format!("ip link set {name} up, and for ever in the node's network configuration"),
            ),
        }
    };
    host.underlays().into_iter().map(finding).collect()
}

/// Checks IPv6 in the kernel, on the node, and on each underlay.
pub(super) fn ipv6(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let underlays = host.underlays();
    let wanted = underlays.is_empty() || underlays.iter().any(Underlay::is_v6);
    let verdict = |found: String, advice: &str| {
        if wanted {
            Finding::failure("IPv6", found, format!("{advice}; or give the LANs an IPv4 group (vxlanGrp)"))
        } else {
            Finding::fine("IPv6", format!("{found}, and no LAN here has an IPv6 group"))
        }
    };
    let setting = Sysctl::net("ipv6/conf/all/disable_ipv6");
    let mut findings = match host.netns.sysctl_get(&setting) {
        Err(error) => vec![Finding::not_looked_at("IPv6", error.to_string())],
        Ok(None) => vec![verdict("the kernel has none".to_owned(), "start it without ipv6.disable=1")],
        Ok(Some(value)) if value != "0" => vec![verdict(
            format!("{} is {value}", setting.path().display()),
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0, and for ever in /etc/sysctl.d",
        )],
        Ok(Some(_)) => vec![Finding::fine("IPv6", "it is on")],
    };
    if findings.iter().all(|finding| finding.result == super::Level::Fine) {
        findings
            .extend(underlays.iter().filter(|underlay| underlay.is_v6()).filter_map(|u| ipv6_on(host, u)));
    }
    findings
}

fn ipv6_on(host: &HostSnapshot<'_>, underlay: &Underlay<'_>) -> Option<Finding> {
    let (link, name) = (underlay.link?, &underlay.name);
    let check = format!("IPv6: {name}");
    if let Ok(Some(value)) = host.netns.sysctl_get(&Sysctl::ipv6(Conf::Link(name), "disable_ipv6"))
        && value != "0"
    {
        let advice = format!("sysctl -w net/ipv6/conf/{name}/disable_ipv6=0, and for ever in /etc/sysctl.d");
        return Some(Finding::failure(check, "it is off on this device", advice));
    }
    let addresses = match host.netlink.addresses(Some(link.index)) {
        Ok(addresses) => addresses,
        Err(error) => return Some(Finding::not_looked_at(check, error.to_string())),
    };
    let usable = addresses
        .iter()
        .find(|address| address.address.is_ipv6() && !address.tentative && !address.dad_failed);
    Some(match usable {
        Some(address) => Finding::fine(check, format!("{}", address.address)),
        None if !link.up => {
            Finding::not_looked_at(check, "it is down, and has its addresses only when it is up")
        }
        None => Finding::failure(
            check,
            "it has no IPv6 address, not even a link-local one, so VXLAN has nothing to send from",
            format!("ip link set {name} addrgenmode eui64, or give it an address"),
        ),
    })
}

/// Checks multicast, as far as it can be seen on the node.
pub(super) fn multicast(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let finding = |underlay: Underlay<'_>| {
        let check = format!("multicast: {}", underlay.name);
        let link = underlay.link?;
        Some(if link.multicast {
            let found = "the device takes it; whether switches between the nodes pass it on (IGMP and MLD snooping) \
                         cannot be seen from here";
            Finding::fine(check, found)
        } else {
            let advice = format!("ip link set {} multicast on; or take another device", underlay.name);
            Finding::failure(
                check,
                "the device takes no multicast, by which the nodes find one another",
                advice,
            )
        })
    };
    host.underlays().into_iter().filter_map(finding).collect()
}

/// Checks that each LAN's MTU fits.
pub(super) fn mtu(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for underlay in host.underlays() {
        let Some(link) = underlay.link else { continue };
        let Ok(mtu) = Mtu::try_from(u64::from(link.mtu)) else { continue };
        for lan in &underlay.lans {
            let check = format!("MTU: {} on {}", lan.key, underlay.name);
            findings.push(match lan.mtu_on(mtu) {
                Err(no_room) => Finding::failure(
                    check,
                    no_room.to_string(),
                    "the same on every node: the LAN has one MTU",
                ),
                Ok(mtu) if mtu.get() < IPV6_MTU => Finding::warning(
                    check,
                    format!("the LAN has {mtu}, and IPv6 needs {IPV6_MTU}"),
                    "raise the underlay's",
                ),
                Ok(mtu) => Finding::fine(check, format!("{mtu}, on an underlay with {}", link.mtu)),
            });
        }
        if underlay.lans.is_empty() {
            let room = link.mtu.saturating_sub(HEADROOM);
            let check = format!("MTU: {}", underlay.name);
            findings.push(Finding::fine(
                check,
                format!("{}, which leaves {room} to a LAN with an IPv6 group", link.mtu),
            ));
        }
    }
    findings
}

/// The bytes of the outer headers of a LAN with an IPv6 group.
const HEADROOM: u32 = 74;

/// Checks reverse path filters, which only concern IPv4.
pub(super) fn rp_filter(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let value = |conf: Conf<'_>| -> Option<u8> {
        host.netns.sysctl_get(&Sysctl::ipv4(conf, "rp_filter")).ok()??.trim().parse().ok()
    };
    let all = value(Conf::All);
    let finding = |underlay: Underlay<'_>| {
        let name = &underlay.name;
        underlay.link?;
        let check = format!("rp_filter: {name}");
        // The larger of the two applies (ip-sysctl.rst).
        let effective = value(Conf::Link(name)).max(all);
        Some(match effective {
            None => Finding::not_looked_at(check, "there is no such setting"),
            Some(1) if underlay.is_v4() => Finding::warning(
                check,
                "strict: VXLAN from a node whose address is not routed by this device is dropped",
                format!(
                    "sysctl -w net/ipv4/conf/{name}/rp_filter=2 (loose), or be sure that the route to every node is by {name}"
                ),
            ),
            Some(1) => {
                Finding::fine(check, "strict, which does not matter here: no LAN on it has an IPv4 group")
            }
            Some(0) => Finding::fine(check, "off"),
            Some(_) => Finding::fine(check, "loose"),
        })
    };
    host.underlays().into_iter().filter_map(finding).collect()
}
