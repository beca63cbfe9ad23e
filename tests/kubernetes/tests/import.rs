//! `kubectl k8slan import`: a pool in place of another plugin's ranges, while pods have addresses of it.

use k8slan_kubernetes_tests::{Cluster, PodOf};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, finish};

use crate::check;
use crate::floating::address;
use crate::shared::beside;
use crate::site::{delete, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("a_pool_takes_the_place_of_host_local", a_pool_takes_the_place_of_host_local),
        beside("a_pool_takes_the_place_of_whereabouts", a_pool_takes_the_place_of_whereabouts),
    ]
}

/// What the import says where it is done.
fn import(cluster: &Cluster, arguments: &[&str], words: &[&str]) -> Result<String, Stop> {
    let output = finish(&mut cluster.plugin(&[&["import"], arguments].concat())?)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    check!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    for word in words {
        check!(said.contains(word), "{arguments:?}: {word:?} is not in\n{said}");
    }
    Ok(said)
}

/// A network that ends at the node, of a plugin of others.
fn define(cluster: &Cluster, name: &str, ipam: &Value) -> Outcome {
    let config =
        json!({ "cniVersion": "0.4.0", "name": name, "type": "bridge", "bridge": name, "ipam": ipam });
    let definition = json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": { "name": name, "namespace": "default" }, "spec": { "config": config.to_string() },
    });
    cluster.apply(&definition.to_string()).map(drop)
}

/// A pod on a network without spokes.
fn pod(name: &str, network: &str, node: &str) -> PodOf {
    PodOf { name: name.to_owned(), networks: network.to_owned(), ..PodOf::default() }.at(node)
}

fn pool(cluster: &Cluster, name: &str) -> Result<Value, Stop> {
    Ok(cluster
        .get(&format!("/apis/lan.k8slan.io/v1beta1/lanpools/{name}"))
        .map_err(k8slan_kubernetes_tests::failed)?
        .unwrap_or_default())
}

fn a_pool_takes_the_place_of_host_local(cluster: &Cluster) -> Outcome {
    let host_local =
        json!({ "type": "host-local", "ranges": [[{ "subnet": "10.167.0.0/28", "gateway": "10.167.0.1" }]] });
    define(cluster, "oldlocal", &host_local)?;
    // host-local goes on behind what it gave last, so that the nodes give different ones.
    let worker = cluster.worker("worker2")?;
    worker.write("/var/lib/cni/networks/oldlocal/last_reserved_ip.0", "10.167.0.7")?;
    let mut old = Vec::new();
    for (name, node) in [("oldlocal-a", "worker1"), ("oldlocal-b", "worker1"), ("oldlocal-c", "worker2")] {
        old.push(address(&start(cluster, &pod(name, "oldlocal", node))?)?);
    }
    check!(old == ["10.167.0.2", "10.167.0.3", "10.167.0.8"], "{old:?}");
    import(cluster, &["host-local"], &["LANPool oldlocal: made; of host-local pods have 3 addresses"])?;
    let made = pool(cluster, "oldlocal")?;
    let excluded = json!(["10.167.0.2-10.167.0.3", "10.167.0.8"]);
    check!(made["spec"]["exclude"] == excluded && made["spec"]["allowedNamespaces"] == json!([]), "{made:#}");

    define(cluster, "oldlocal", &json!({ "type": "ipam-pool", "pool": "oldlocal" }))?;
    import(cluster, &["host-local"], &["LANPool oldlocal: opened", "10.167.0.8 container"])?;
    let mut new = Vec::new();
    for (name, node) in [("newlocal-a", "worker1"), ("newlocal-b", "worker2")] {
        new.push(address(&start(cluster, &pod(name, "oldlocal", node))?)?);
    }
    let first = new[0] != new[1] && new.iter().all(|own| own.starts_with("10.167.0.") && !old.contains(own));
    check!(first, "{new:?} beside {old:?}");

    cluster.kubectl("delete pod oldlocal-a oldlocal-c --timeout=110s")?;
    import(cluster, &["host-local", "--finish"], &["2 addresses", "10.167.0.3 container"])?;
    check!(pool(cluster, "oldlocal")?["spec"]["exclude"] == json!(["10.167.0.3"]), "one pod is left");
    delete(cluster, "oldlocal-b")?;
    import(cluster, &["host-local", "--finish"], &["nothing of host-local is left in it"])?;
    let ended = pool(cluster, "oldlocal")?;
    check!(ended["spec"]["exclude"].as_array().is_none_or(Vec::is_empty), "{ended:#}");
    check!(ended["metadata"]["annotations"]["lan.k8slan.io/imported"].is_null(), "{ended:#}");
    cluster.kubectl("delete pod newlocal-a newlocal-b --timeout=110s")?;
    cluster.kubectl("delete net-attach-def oldlocal")?;
    cluster.kubectl("delete lanpool oldlocal").map(drop)
}

/// As whereabouts keeps what it gave: by the distance from the range's address.
fn given(cluster: &Cluster, allocations: &[(&str, &str)]) -> Outcome {
    let allocations: serde_json::Map<String, Value> = allocations
        .iter()
        .map(|(at, pod)| {
            ((*at).to_owned(), json!({ "id": "0123456789abcdef", "ifname": "net1", "podref": pod }))
        })
        .collect();
    let object = json!({
        "apiVersion": "whereabouts.cni.cncf.io/v1alpha1", "kind": "IPPool",
        "metadata": { "namespace": "kube-system", "name": "10.168.0.0-28" },
        "spec": { "range": "10.168.0.0/28", "allocations": allocations },
    });
    cluster.apply(&object.to_string()).map(drop)
}

/// The program is not there: what it keeps is written by hand.
fn a_pool_takes_the_place_of_whereabouts(cluster: &Cluster) -> Outcome {
    cluster.kubectl("apply -f tests/fixtures/whereabouts/")?;
    for kind in ["ippools", "overlappingrangeipreservations"] {
        cluster.eventually(|| cluster.list(&format!("/apis/whereabouts.cni.cncf.io/v1alpha1/{kind}")))?;
    }
    define(cluster, "oldabouts", &json!({ "type": "whereabouts", "range": "10.168.0.0/28" }))?;
    let all: Vec<(String, String)> =
        (1..=13).map(|at| (at.to_string(), format!("default/oldabouts-{at}"))).collect();
    let of = |count: usize| all.iter().take(count).map(|(at, pod)| (&**at, &**pod)).collect::<Vec<_>>();
    given(cluster, &of(12))?;
    let made = ["# LANPool oldabouts: made", "kind: LANPool", "name: oldabouts"];
    import(cluster, &["whereabouts", "--dry-run", "-o", "yaml"], &made)?;
    check!(pool(cluster, "oldabouts")?.is_null(), "a dry run made it");
    import(cluster, &["whereabouts"], &["LANPool oldabouts: made; of whereabouts pods have 12 addresses"])?;
    // One came late.
    given(cluster, &of(13))?;
    define(cluster, "oldabouts", &json!({ "type": "ipam-pool", "pool": "oldabouts" }))?;
    import(
        cluster,
        &["whereabouts"],
        &["LANPool oldabouts: opened", "10.168.0.13 pod default/oldabouts-13"],
    )?;
    let opened = pool(cluster, "oldabouts")?;
    check!(opened["spec"]["exclude"] == json!(["10.168.0.1-10.168.0.13"]), "{opened:#}");
    // One address is left.
    let new = start(cluster, &pod("newabouts-a", "oldabouts", "worker1"))?;
    check!(address(&new)? == "10.168.0.14", "{}", address(&new)?);
    given(cluster, &of(12))?;
    import(cluster, &["whereabouts", "--finish"], &["10.168.0.13) free again"])?;
    let next = start(cluster, &pod("newabouts-b", "oldabouts", "worker2"))?;
    check!(address(&next)? == "10.168.0.13", "{}", address(&next)?);
    given(cluster, &[])?;
    import(cluster, &["whereabouts", "--finish"], &["nothing of whereabouts is left in it"])?;
    let ended = pool(cluster, "oldabouts")?;
    check!(ended["spec"]["exclude"].as_array().is_none_or(Vec::is_empty), "{ended:#}");
    cluster.kubectl("delete pod newabouts-a newabouts-b --timeout=110s")?;
    cluster.kubectl("delete net-attach-def oldabouts")?;
    cluster.kubectl("delete lanpool oldabouts")?;
    cluster.kubectl("delete -f tests/fixtures/whereabouts/ --timeout=60s").map(drop)
}
