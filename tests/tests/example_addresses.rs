//! The address plans of `nad-examples/`, on nodes that have the pools' files: who gets what, and what nobody gets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;

use k8slan_tests::{Example, addresses, call_in};
use serde_json::Value;
use testnet::{CniError, Node, Outcome, Stop};

fn main() -> ExitCode {
    testnet::main(testnet::tests![what_kube_dc_keeps_is_handed_out_to_nobody_else])
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

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
            (&public, "168.119.17.50", "no node"),
            (&public, "168.119.17.51", "project-b/router-0"),
            (&public, "168.119.17.61", "shalb-demo/router-0"),
            (&public, "168.119.17.62", "eip/ssh-arti"),
            (&cloud, "100.65.0.1", "gateway"),
            (&cloud, "100.65.0.101", "router/ovn-cluster"),
            (&cloud, "100.65.0.102", "project-a/router-0"),
        ] {
            match lease(&node, ("project-c", "thief"), network, Some(address)) {
                Err(error) if error.code == 132 && error.text().contains(says) => {}
                other => return Err(Stop::Failed(format!("{address} on {name}: {other:?}"))),
            }
        }
        // A router has its address on whichever node it runs.
        let eip = lease(&node, ("project-b", "router-0"), &public, None)?;
        check(eip == ip("168.119.17.51"), format!("project b's router on {name}: {eip}"))?;
        let mut count = 0;
        loop {
            match lease(&node, ("project-c", &format!("p{count}")), &public, None) {
                Ok(address) => check(given.insert(address), format!("{address} is given twice"))?,
                Err(error) if error.code == 130 => break,
                Err(error) => return Err(error.into()),
            }
            count += 1;
        }
        let first = lease(&node, ("project-c", "first"), &cloud, None)?;
        check(given.insert(first), format!("{first} is given twice"))?;
    }
    let public: Vec<_> = (52..=60).map(|last| IpAddr::from([168, 119, 17, last])).collect();
    check(public.iter().all(|address| given.remove(address)), "not all of ext-public was given")?;
    check(given.len() == 3 && !given.contains(&ip("168.119.17.50")), format!("also given: {given:?}"))
}
