//! The address plans of `nad-examples/`, on nodes that have a third of each pool: who gets what, and what nobody gets. The daemon is
//! played; on a real cluster `tests/kubernetes/` has it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8slan_tests::{Example, addresses, call_in};
use serde_json::{Value, json};
use testnet::{CniError, Node, Outcome, Stop, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        what_kube_dc_keeps_is_handed_out_to_nobody_else,
        the_home_lans_dhcp_scope_and_virtual_addresses_are_left_alone,
        who_asks_the_unused_network_is_told,
        fixed_services_have_their_addresses,
        what_the_homelabs_table_cannot_mean_is_answered_with_what_it_can,
    ]
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

const POOLS: &str = "/var/lib/k8slan/pools.d";

/// ADD of a pool alone, for a pod of this namespace and name that may ask for an address.
fn lease(
    node: &Node,
    (namespace, name): (&str, &str),
    network: &Value,
    asked: Option<&str>,
) -> Result<IpAddr, CniError> {
    let pod = node.pod(name).unwrap_or_else(|error| panic!("{error}"));
    let mut call = call_in(namespace, &pod, "net1", network);
    if let Some(address) = asked {
        call.args += &format!(";IP={address}");
    }
    let result = node.cni("ipam-pool", "ADD", &call)?;
    Ok(addresses(&result)[0])
}

/// Kube-DC: gateways, the management router and the projects' external addresses.
fn what_kube_dc_keeps_is_handed_out_to_nobody_else() -> Outcome {
    let files = Example::named("kube-dc");
    let (cloud, public) =
        (files.network("provider.yaml", "ext-cloud")?, files.network("provider.yaml", "ext-public")?);
    let mut given = BTreeSet::new();
    for name in ["node1", "node2", "node3"] {
        let node = Node::new(name)?;
        files.pools_to(&node)?;
        for (network, address, says) in [
            (&public, "168.119.17.49", "gateway"),
            (&public, "168.119.17.50", "excluded"),
            (&cloud, "100.65.0.1", "gateway"),
            (&cloud, "100.65.0.101", "excluded"),
        ] {
            refused(lease(&node, ("project-c", "thief"), network, Some(address)), 132, &[says])?;
        }
        for (network, address) in [
            (&public, "168.119.17.51"),
            (&public, "168.119.17.61"),
            (&public, "168.119.17.62"),
            (&cloud, "100.65.0.102"),
        ] {
            refused(lease(&node, ("project-c", "thief"), network, Some(address)), ASKS, &[NO_DAEMON])?;
        }
        // A router has its address on whichever node it runs.
        let eip = lease(&node, ("project-b", "router-0"), &public, None)?;
        check(eip == ip("168.119.17.51"), format!("project b's router on {name}: {eip}"))?;
        let here = all(&node, &public)?;
        check(here.is_disjoint(&given), format!("{name} gave what another node gave: {here:?}"))?;
        given.extend(here);
        let first = lease(&node, ("project-c", "first"), &cloud, None)?;
        check(given.insert(first), format!("{first} is given twice"))?;
    }
    let public: Vec<_> = (52..=60).map(|last| IpAddr::from([168, 119, 17, last])).collect();
    check(public.iter().all(|address| given.remove(address)), "not all of ext-public was given")?;
    check(given.len() == 3, format!("also given: {given:?}"))
}

/// What this node does not have is asked for, and here nobody answers.
const ASKS: u64 = 11;
const NO_DAEMON: &str = "the daemon does not answer";

/// A network's part of an answer: an error with this code that says all of this.
fn refused(answer: Result<IpAddr, CniError>, code: u64, says: &[&str]) -> Outcome {
    match answer {
        Err(error) if error.code == code && says.iter().all(|part| error.text().contains(part)) => Ok(()),
        other => Err(Stop::Failed(format!("code {code} with {says:?} expected: {other:?}"))),
    }
}

/// Everything that a node has of a pool.
fn all(node: &Node, network: &Value) -> Result<BTreeSet<IpAddr>, Stop> {
    let mut given = BTreeSet::new();
    let pod = node.pod("all")?;
    loop {
        let call = call_in("default", &pod, &format!("net{}", given.len()), network);
        match node.cni("ipam-pool", "ADD", &call) {
            Ok(result) => given.extend(addresses(&result)),
            Err(error) if error.code == ASKS && error.text().contains(NO_DAEMON) => return Ok(given),
            Err(error) => return Err(error.into()),
        }
    }
}

/// kube-vip: what the router and kube-vip hand out is excluded.
fn the_home_lans_dhcp_scope_and_virtual_addresses_are_left_alone() -> Outcome {
    let files = Example::named("kube-vip");
    let network = files.network("networks.yaml", "home-eno1")?;
    let mut given = BTreeSet::new();
    for name in ["cp1", "cp2", "cp3"] {
        let node = Node::new(name)?;
        files.pools_to(&node)?;
        for (address, code, says) in [
            ("192.168.1.1", 135, "in no range"),
            ("192.168.1.11", 135, "in no range"),
            ("192.168.1.100", 135, "in no range"),
            ("192.168.1.199", 135, "in no range"),
            ("192.168.1.230", 132, "excluded"),
            ("192.168.1.231", 132, "excluded"),
            ("192.168.1.239", 132, "excluded"),
        ] {
            refused(lease(&node, ("default", "thief"), &network, Some(address)), code, &[says])?;
        }
        let here = all(&node, &network)?;
        check(here.is_disjoint(&given), format!("{name} gave what another node gave"))?;
        given.extend(here);
    }
    let numbers: Vec<IpAddr> =
        (200..=229).chain(240..=254).map(|last| IpAddr::from([192, 168, 1, last])).collect();
    check(given.iter().eq(&numbers), format!("{given:?}"))
}

fn homelab(name: &str) -> Result<(Example, Node), Stop> {
    let (files, node) = (Example::named("homelab"), Node::new(name)?);
    files.pools_to(&node)?;
    Ok((files, node))
}

fn of_pool(pool: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": "misconfigured", "type": "macvtap", "ipam": {"type": "ipam-pool", "pool": pool}})
}

/// homelab: 192.168.1.0/24 "will indicate wrongly configured devices".
fn who_asks_the_unused_network_is_told() -> Outcome {
    let (_, node) = homelab("server")?;
    for pool in ["unused", "devices", "infrastructure", "entrypoint", "metallb", "home", "kubernetes"] {
        let answer = lease(&node, ("lab", "printer"), &of_pool(pool), None);
        refused(answer, 127, &[pool, "network misconfigured", "pod lab/printer"])?;
    }
    check(!by_hand(&node, "leases")?.contains("leased"), "an inventory gave something")?;
    check(by_hand(&node, "check")?.contains("are in order"), "the plan is not in order")
}

fn by_hand(node: &Node, arguments: &str) -> Result<String, Stop> {
    Ok(node.tool(&program("ipam-pool").to_string_lossy(), arguments)?)
}

/// homelab: every service of the table has its address, and nobody else gets one of them.
fn fixed_services_have_their_addresses() -> Outcome {
    let (files, node) = homelab("server")?;
    for (network, first, services) in [
        (
            "lan-services",
            2,
            &[
                ("traefik-lan", 1),
                ("plex", 60),
                ("kubernetes-dashboard", 65),
                ("qbittorrent", 71),
                ("logs", 77),
                ("tekton", 88),
                ("consul-dns", 90),
                ("consul-admin", 91),
                ("pihole", 99),
            ][..],
        ),
        ("online-services", 129, &[("traefik-online", 128)][..]),
    ] {
        let network = files.network("networks.yaml", network)?;
        for (service, last) in services {
            let address = format!("192.168.6.{last}");
            let answer = lease(&node, ("default", "other"), &network, Some(&address));
            refused(answer, ASKS, &[NO_DAEMON])?;
            check(lease(&node, ("service", service), &network, None)? == ip(&address), *service)?;
        }
        let other = lease(&node, ("default", "other"), &network, None)?;
        check(other == IpAddr::from([192, 168, 6, first]), format!("the first of the others has {other}"))?;
    }
    Ok(())
}

/// homelab: the table's 192.168.5.0/20.
fn what_the_homelabs_table_cannot_mean_is_answered_with_what_it_can() -> Outcome {
    let (files, node) = (Example::named("homelab"), Node::new("server")?);
    // As files, on a host without a cluster.
    for pool in files.objects("LANPool")? {
        node.write(
            &format!("{POOLS}/{}.yaml", pool["metadata"]["name"].as_str().unwrap_or_default()),
            pool.to_string(),
        )?;
    }
    let put = |subnet: &str, more: &str| {
        let text = format!(
            "apiVersion: lan.k8slan.io/v1beta1\nkind: LANPool\nmetadata: {{name: entrypoint}}\nspec:\n  \
             ranges: [{{subnet: {subnet}, gateway: none}}]\n{more}"
        );
        node.write(&format!("{POOLS}/entrypoint.yaml"), text)
    };
    let ask = || lease(&node, ("default", "haproxy"), &of_pool("entrypoint"), None);
    put("192.168.5.0/20", "  scope: host\n")?;
    refused(ask(), 101, &["192.168.5.0/20", "192.168.0.0/20", "192.168.5.0/24"])?;
    // The first of the two holds all other networks of the table; the next message says what to do about that.
    put("192.168.0.0/20", "  scope: host\n")?;
    refused(ask(), 124, &["overlap", "inventory"])?;
    put("192.168.0.0/20", "  inventory: true\n")?;
    check(by_hand(&node, "check")?.contains("are in order"), "as an inventory it is not in order")?;
    // The second is the one that the address plan has room for.
    put("192.168.5.0/24", "  scope: host\n  reservations: {default/haproxy: 192.168.5.100}\n")?;
    check(ask()? == ip("192.168.5.100"), "haproxy does not get its address")
}
