//! NetworkAttachmentDefinitions that the leader keeps.

use std::collections::BTreeSet;
use std::time::Duration;

use k8slan_tests::apiserver::ApiServer;
use serde_json::json;
use testnet::{Error, Outcome, Trial, eventually, tests};

use crate::cluster::check;
use crate::cluster::mirror::lan;
use crate::cluster::status::{Node, built, condition, status};

const GROUP: &str = "lan.k8slan.io/v1beta1";
const DEFINITIONS: &str = "network-attachment-definitions";
const CNI: &str = "k8s.cni.cncf.io/v1";
const SOON: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_secs(15);

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        definitions_follow_the_lan,
        four_hundred_are_made_once_each,
        those_of_users_are_never_touched,
        a_cluster_without_multus_is_told,
        k8slan_gos_are_made_taken_over_and_removed,
    ]
}

fn are(server: &ApiServer, wanted: &[&str]) -> Result<(), Error> {
    let wanted: BTreeSet<String> = wanted.iter().map(|&key| key.to_owned()).collect();
    eventually(LATER, || match server.keys(DEFINITIONS, CNI) {
        found if found == wanted => Ok(()),
        found => Err(format!("{found:?}")),
    })
}

fn definitions_follow_the_lan() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    let mut object = lan("a", "one", 1);
    object["spec"]["networkAttachments"] = json!({ "ipam": { "type": "ipam-pool", "pool": "p" } });
    server.put("lans", object.clone());
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", built(1426, &[]))]);
    are(&server, &["a/s1"])?;
    let found = status(&server, SOON, |s| condition(s, "NetworkAttachments")["status"] == "True")?;
    check!(found["status"]["reason"].is_null(), "{found}");
    let definition = server.get(DEFINITIONS, CNI, "a/s1").unwrap();
    let resource = &definition["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"];
    check!(*resource == "macvtap.k8slan.io/s1", "{definition}");
    check!(definition["spec"]["config"].as_str().unwrap().contains("ipam-pool"), "{definition}");

    object["spec"]["spokes"] = json!(["s1", "s2"]);
    object["spec"]["allowedNamespaces"] = json!(["web"]);
    server.put("lans", object.clone());
    are(&server, &["web/s1", "web/s2"])?;
    object["spec"]["networkAttachments"] = json!({});
    server.put("lans", object.clone());
    eventually(LATER, || {
        let definition = server.get(DEFINITIONS, CNI, "web/s1").unwrap_or_default();
        match definition["spec"]["config"].as_str() {
            Some(config) if !config.contains("ipam") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    // Somebody edits it: it is k8slan's, and is put right.
    let mut edited = server.get(DEFINITIONS, CNI, "web/s1").unwrap();
    edited["spec"]["config"] = json!("{}");
    server.put(DEFINITIONS, edited);
    eventually(LATER, || {
        let definition = server.get(DEFINITIONS, CNI, "web/s1").unwrap_or_default();
        if definition["spec"]["config"] == "{}" { Err("it is as it was edited".into()) } else { Ok(()) }
    })?;
    server.delete("lans", GROUP, "a/one");
    are(&server, &[])?;
    Ok(())
}

/// The watch tells of what was made long after the next look at it.
/// Who has not made one for good would do it again by then: the leader looks each 300 ms here.
const AGAIN: Duration = Duration::from_secs(1);

fn four_hundred_are_made_once_each() -> Outcome {
    const COUNT: usize = 400;
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    let mut object = lan("a", "one", 1);
    object["spec"]["networkAttachments"] = json!({});
    object["spec"]["spokes"] = (0..COUNT).map(|number| format!("s{number}")).collect();
    server.put("lans", object);
    let node = Node::start(&server, dir.path(), "worker1")?;
    // Reports come in meanwhile, and are summed up.
    let mut attached = false;
    eventually(4 * LATER, || {
        attached = !attached;
        let users: &[(&str, &str)] = if attached { &[("s1", "default/web")] } else { &[] };
        node.report(&[("a/one", built(1426, users))]);
        match server.keys(DEFINITIONS, CNI).len() {
            COUNT => Ok(()),
            some => Err(format!("{some} definitions")),
        }
    })?;
    std::thread::sleep(AGAIN);
    let asked = server.requests();
    let writes = asked.iter().filter(|line| line.contains(DEFINITIONS) && !line.starts_with("GET ")).count();
    check!(writes == COUNT, "{writes} writes for {COUNT} definitions");
    let found = status(&server, SOON, |s| condition(s, "NetworkAttachments")["status"] == "True")?;
    check!(found["status"]["reason"].is_null(), "{found}");
    Ok(())
}

fn those_of_users_are_never_touched() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    let mine = |name: &str| {
        json!({
            "apiVersion": CNI, "kind": "NetworkAttachmentDefinition",
            "metadata": { "namespace": "a", "name": name }, "spec": { "config": "{\"type\":\"bridge\"}" },
        })
    };
    server.put(DEFINITIONS, mine("s1"));
    server.put(DEFINITIONS, mine("other"));
    let before = [server.get(DEFINITIONS, CNI, "a/s1"), server.get(DEFINITIONS, CNI, "a/other")];
    let mut object = lan("a", "one", 1);
    object["spec"]["networkAttachments"] = json!({});
    object["spec"]["spokes"] = json!(["s1", "s2"]);
    server.put("lans", object);
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", built(1426, &[]))]);
    are(&server, &["a/other", "a/s1", "a/s2"])?;
    let found = status(&server, SOON, |s| condition(s, "NetworkAttachments")["status"] == "False")?;
    let message = condition(&found["status"], "NetworkAttachments")["message"].to_string();
    check!(message.contains("a/s1 exists and is not k8slan's"), "{message}");
    server.delete("lans", GROUP, "a/one");
    are(&server, &["a/other", "a/s1"])?;
    let after = [server.get(DEFINITIONS, CNI, "a/s1"), server.get(DEFINITIONS, CNI, "a/other")];
    check!(before == after, "{after:?}");
    Ok(())
}

fn a_cluster_without_multus_is_told() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.fault(|faults| faults.errors = vec![(DEFINITIONS.into(), 404)]);
    let mut object = lan("a", "one", 1);
    object["spec"]["networkAttachments"] = json!({});
    server.put("lans", object);
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", built(1426, &[]))]);
    let found = status(&server, SOON, |s| condition(s, "NetworkAttachments")["status"] == "False")?;
    let message = condition(&found["status"], "NetworkAttachments")["message"].to_string();
    check!(message.contains("is Multus installed"), "{message}");
    check!(condition(&found["status"], "Ready")["status"] == "True", "{found}");
    Ok(())
}

fn k8slan_gos_are_made_taken_over_and_removed() -> Outcome {
    const ALL: [&str; 4] =
        ["a/k8slan-mac-one-s1", "a/k8slan-mac-s1", "a/k8slan-veth-one-s1", "a/k8slan-veth-s1"];
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let uid = server.get("lans", GROUP, "a/one").unwrap()["metadata"]["uid"].clone();
    // As its controller makes them: without labels, controlled by the LAN.
    let upstreams = |name: &str, more: serde_json::Value| {
        let mut config = json!({"cniVersion": "0.3.1", "name": name, "type": "macvtap"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({
            "apiVersion": CNI, "kind": "NetworkAttachmentDefinition",
            "metadata": {
                "namespace": "a", "name": name,
                "annotations": {"k8s.v1.cni.cncf.io/resourceName": format!("macvtap.k8slan.io/{name}")},
                "ownerReferences": [{
                    "apiVersion": GROUP, "kind": "LAN", "name": "one", "uid": uid, "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": {"config": format!("{config:#}")},
        })
    };
    server.put(DEFINITIONS, upstreams("k8slan-mac-s1", json!({})));
    let changed =
        upstreams("k8slan-veth-s1", json!({"type": "k8slanveth", "veth": "s1", "addrs": ["10.0.0.1/24"]}));
    server.put(DEFINITIONS, changed);
    let stranger = json!({
        "apiVersion": CNI, "kind": "NetworkAttachmentDefinition",
        "metadata": {"namespace": "a", "name": "k8slan-mac-one-s1"}, "spec": {"config": "{\"type\":\"bridge\"}"},
    });
    server.put(DEFINITIONS, stranger);
    let before = ["k8slan-veth-s1", "k8slan-mac-one-s1"]
        .map(|name| server.get(DEFINITIONS, CNI, &format!("a/{name}")));
    let node = Node::leading(&server, dir.path(), "worker1", |leader| leader.naming_as_k8slan_go(true))?;
    node.report(&[("a/one", built(1426, &[]))]);
    are(&server, &ALL)?;
    let label = |key: &str| {
        let definition = server.get(DEFINITIONS, CNI, key).unwrap_or_default();
        definition["metadata"]["labels"]["app.kubernetes.io/managed-by"].clone()
    };
    eventually(LATER, || match label("a/k8slan-mac-s1") {
        label if label == "k8slan" => Ok(()),
        label => Err(format!("upstream's is not taken over: {label}")),
    })?;
    let made = server.get(DEFINITIONS, CNI, "a/k8slan-veth-one-s1").unwrap();
    let config = made["spec"]["config"].as_str().unwrap();
    check!(config.contains("\"k8slanveth\"") && config.contains("\"veth\":\"s1\""), "{made}");
    // What a stranger made is told; what somebody changed of the LAN's own is not.
    let found = status(&server, LATER, |s| condition(s, "NetworkAttachments")["status"] == "False")?;
    let message = condition(&found["status"], "NetworkAttachments")["message"].to_string();
    check!(
        message.contains("a/k8slan-mac-one-s1 exists") && !message.contains("k8slan-veth-s1"),
        "{message}"
    );
    let after = ["k8slan-veth-s1", "k8slan-mac-one-s1"]
        .map(|name| server.get(DEFINITIONS, CNI, &format!("a/{name}")));
    check!(before == after, "{after:?}");
    node.stop();
    // The switch is off: what is k8slan's goes, taken over or made.
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", built(1426, &[]))]);
    are(&server, &["a/k8slan-mac-one-s1", "a/k8slan-veth-s1"])?;
    Ok(())
}
