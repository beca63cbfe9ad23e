//! Addresses that follow their owners over nodes, as `ipam-pool` hands them out. The daemon's node part is played.

use serde_json::json;
use testnet::{CniCall, Node, Outcome, Stop};

use crate::blocks::{
    FAR, add_interface_while, add_while, address, grant, grant_floating, http, is_code, network, put_pool,
    usage,
};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        an_owner_gets_its_own_address_and_nobody_else,
        what_was_kept_on_the_node_goes_with_its_machine,
        what_another_node_has_by_now_is_not_kept,
        a_stateful_sets_pod_keeps_its_address,
    ]
}

/// A launcher pod of the machine `v`, as the daemon knows it.
fn launcher<'a>(node: &'a Node, name: &str) -> Result<testnet::Pod<'a>, Stop> {
    let pod = node.pod(name)?;
    node.write(&format!("/run/k8slan/owners/uid-{}.json", pod.container()), r#"{"vm":"v"}"#)?;
    Ok(pod)
}

fn an_owner_gets_its_own_address_and_nobody_else() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    grant(&node, &["10.9.0.5"], FAR, &[])?;
    let of_vm = launcher(&node, "virt-launcher-v-aaaaa")?;
    let answer = || {
        grant_floating(&node, &["10.9.0.5"], &[("10.9.0.40", "vm:default/v/net", FAR)], &[])?;
        Ok(http("200 OK", ""))
    };
    let (asked, added) = add_while(&node, &of_vm, answer)?;
    assert!(
        asked.contains(r#"{"create":true,"family":"v4","owner":"vm:default/v/net","pod":"default/virt-launcher-v-aaaaa","#),
        "{asked}"
    );
    assert_eq!(address(&added?), "10.9.0.40/24");
    assert_eq!(usage(&node)?["pools"]["office"]["floating"], json!({ "10.9.0.40": "vm:default/v/net" }));
    // A pod gets what is anybody's, and is not given the machine's.
    let pod = node.pod("p")?;
    assert_eq!(address(&pod.add("ipam-pool", "net1", &network())?), "10.9.0.5/24");
    let mut asks = network();
    asks["runtimeConfig"] = json!({ "ips": ["10.9.0.40"] });
    is_code(pod.add("ipam-pool", "net2", &asks), 11, "the daemon does not answer")?;
    // Nothing is kept here: the cluster keeps it.
    of_vm.del("ipam-pool", "net1", &network())?;
    assert_eq!(usage(&node)?["pools"]["office"], json!({ "used": ["10.9.0.5"], "floating": {} }));
    let next = launcher(&node, "virt-launcher-v-bbbbb")?;
    assert_eq!(address(&next.add("ipam-pool", "net1", &network())?), "10.9.0.40/24");
    // So does its second interface in the network, with an address of its own.
    let second = "vm:default/v/net/net2";
    asks["runtimeConfig"] = json!({ "ips": ["10.9.0.41"] });
    let answer = || Ok(http("503 Service Unavailable", "it is looked for"));
    let (asked, added) = add_interface_while(&node, &next, "net2", &asks, answer)?;
    assert!(asked.contains(r#"{"address":"10.9.0.41","create":true"#) && asked.contains(second), "{asked}");
    is_code(added, 11, "it is looked for")?;
    let both = [("10.9.0.40", "vm:default/v/net", FAR), ("10.9.0.41", second, FAR)];
    grant_floating(&node, &["10.9.0.5"], &both, &[])?;
    assert_eq!(address(&next.add("ipam-pool", "net2", &network())?), "10.9.0.41/24");
    assert_eq!(address(&next.add("ipam-pool", "net2", &network())?), "10.9.0.41/24");
    assert_eq!(address(&next.add("ipam-pool", "net1", &network())?), "10.9.0.40/24");
    assert_eq!(
        usage(&node)?["pools"]["office"]["floating"],
        json!({ "10.9.0.40": "vm:default/v/net", "10.9.0.41": second })
    );
    next.del("ipam-pool", "net2", &network())?;
    // What is reserved for the machine has precedence, and is made by the leader.
    let pool = json!({ "name": "office", "spec": { "subnets": ["10.9.0.0/24"] }, "blocks": { "v4": 32, "v6": 128 },
        "reserved": [{ "owner": "vm:default/v", "address": "10.9.0.60" }] });
    node.write("/var/lib/k8slan/blocks/pools/office.json", pool.to_string())?;
    next.del("ipam-pool", "net1", &network())?;
    let answer = || Ok(http("503 Service Unavailable", "the address is not made yet"));
    let (asked, added) = add_while(&node, &next, answer)?;
    assert!(asked.contains(r#"{"create":false,"family":"v4","owner":"vm:default/v","#), "{asked}");
    is_code(added, 11, "the address is not made yet")?;
    grant_floating(&node, &["10.9.0.5"], &[("10.9.0.60", "vm:default/v", FAR)], &[])?;
    assert_eq!(address(&next.add("ipam-pool", "net1", &network())?), "10.9.0.60/24");
    Ok(())
}

/// A node whose pool is a file, in the older form, that keeps addresses for machines.
fn with_a_file() -> Result<Node, Stop> {
    let node = Node::new("n")?;
    let file = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "IPPool", "metadata": { "name": "office" },
        "spec": { "ranges": [{ "subnet": "10.9.0.0/24" }], "scope": "host", "sticky": "vm" },
    });
    node.write("/var/lib/k8slan/pools.d/office.yaml", file.to_string())?;
    Ok(node)
}

/// A file became an object: the machine has an address that this node alone kept for it.
fn what_was_kept_on_the_node_goes_with_its_machine() -> Outcome {
    let node = with_a_file()?;
    let of_vm = launcher(&node, "virt-launcher-v-aaaaa")?;
    let kept = address(&of_vm.add("ipam-pool", "net1", &network())?).to_owned();
    of_vm.del("ipam-pool", "net1", &network())?;
    node.exec(&["rm", "/var/lib/k8slan/pools.d/office.yaml"])?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    grant(&node, &["10.9.0.2-10.9.0.9"], FAR, &[])?;
    let bare = kept.trim_end_matches("/24");
    let owner = "vm:default/v/net";
    let answer = || {
        let rest = "10.9.0.3-10.9.0.9";
        assert_eq!(grant_floating(&node, &[rest], &[], &["--unless-used"])?["written"], false, "it is kept");
        let other = [(bare, "vm:default/w/net", 0)];
        assert_eq!(grant_floating(&node, &[rest], &other, &["--unless-used"])?["written"], false);
        let own = [(bare, owner, 0)];
        assert_eq!(grant_floating(&node, &[rest], &own, &["--unless-used"])?["written"], true);
        grant_floating(&node, &[rest], &[(bare, owner, FAR)], &[])?;
        Ok(http("200 OK", ""))
    };
    assert_eq!(bare, "10.9.0.2");
    let (asked, added) = add_while(&node, &of_vm, answer)?;
    assert!(asked.contains(r#"{"address":"10.9.0.2","create":true"#), "{asked}");
    assert_eq!(address(&added?), kept);
    of_vm.del("ipam-pool", "net1", &network())?;
    assert_eq!(usage(&node)?["pools"]["office"]["used"], json!([]));
    Ok(())
}

/// The block of what this node kept is another node's, and the machine gets another address.
fn what_another_node_has_by_now_is_not_kept() -> Outcome {
    let node = with_a_file()?;
    let of_vm = launcher(&node, "virt-launcher-v-aaaaa")?;
    assert_eq!(address(&of_vm.add("ipam-pool", "net1", &network())?), "10.9.0.2/24");
    of_vm.del("ipam-pool", "net1", &network())?;
    node.exec(&["rm", "/var/lib/k8slan/pools.d/office.yaml"])?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"], "cooldown": "0s" }))?;
    assert_eq!(usage(&node)?["pools"]["office"]["used"], json!(["10.9.0.2"]));
    grant_floating(&node, &["10.9.0.5"], &[("10.9.0.40", "vm:default/v/net", FAR)], &[])?;
    assert_eq!(address(&of_vm.add("ipam-pool", "net1", &network())?), "10.9.0.40/24");
    assert_eq!(usage(&node)?["pools"]["office"]["used"], json!(["10.9.0.40"]));
    Ok(())
}

/// By what the daemon records of a pod whose name could be a StatefulSet's.
fn a_stateful_sets_pod_keeps_its_address() -> Outcome {
    const UID: &str = "0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b";
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"], "cooldown": "0s" }))?;
    grant(&node, &["10.9.0.5"], FAR, &[])?;
    let pod = node.pod("web-0")?;
    let call = |interface: &str| {
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID={UID}");
        CniCall { args, ..pod.call(interface, &network()) }
    };
    let add = |interface: &str| node.cni("ipam-pool", "ADD", &call(interface));
    // No daemon records pods here: it is any pod.
    assert_eq!(address(&add("net1")?), "10.9.0.5/24");
    node.cni("ipam-pool", "DEL", &call("net1"))?;
    node.exec(&["mkdir", "-p", "/run/k8slan/owners"])?;
    is_code(add("net1"), 11, "has not recorded yet")?;
    let record = format!("/run/k8slan/owners/{UID}.set");
    node.write(&record, r#"{"statefulSet":true}"#)?;
    is_code(add("net1"), 11, "the daemon does not answer")?;
    grant_floating(&node, &["10.9.0.6"], &[("10.9.0.40", "pod:default/web-0/net", FAR)], &[])?;
    assert_eq!(address(&add("net1")?), "10.9.0.40/24");
    node.cni("ipam-pool", "DEL", &call("net1"))?;
    assert_eq!(usage(&node)?["pools"]["office"]["used"], json!([]), "the cluster keeps it");
    node.write(&record, r#"{"statefulSet":false}"#)?;
    assert_eq!(address(&add("net1")?), "10.9.0.6/24");
    node.cni("ipam-pool", "DEL", &call("net1"))?;
    // A network may say that its pods keep nothing.
    node.write(&record, r#"{"statefulSet":true}"#)?;
    let mut keeps_nothing = network();
    keeps_nothing["ipam"]["sticky"] = json!("none");
    let call = CniCall { args: call("net1").args, ..pod.call("net1", &keeps_nothing) };
    assert_eq!(address(&node.cni("ipam-pool", "ADD", &call)?), "10.9.0.6/24");
    node.write(&record, "{}")?;
    is_code(add("net2"), 176, "whether a StatefulSet made the pod")
}
