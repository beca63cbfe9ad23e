//! Pools of the cluster with the whole daemon on one node, and pods that get their addresses of them.

use serde_json::{Value, json};
use testnet::{CniError, Daemon, Outcome, Pod, Stop, Trial, eventually, tests};

use crate::cluster::check;
use crate::cluster::site::{GROUP, SOON, Site};

pub(crate) fn trials() -> Vec<Trial> {
    tests![a_selector_lets_in_the_namespaces_that_have_its_labels]
}

fn put_pool(site: &Site, name: &str, spec: &Value) {
    let pool = json!({ "apiVersion": GROUP, "kind": "LANPool", "metadata": { "name": name }, "spec": spec });
    site.server.put("lanpools", pool);
}

fn put_namespace(site: &Site, name: &str, labels: &Value) {
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
    site.server.put("namespaces", namespace);
}

fn network(pool: &str) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "type": "macvlan", "ipam": { "type": "ipam-pool", "pool": pool } })
}

/// A verb for one interface of a pod in this namespace.
fn call(site: &Site, verb: &str, pod: &Pod, namespace: &str, interface: &str) -> Result<Value, CniError> {
    let mut call = pod.call(interface, &network("office"));
    call.args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={}", pod.name());
    site.node.cni("ipam-pool", verb, &call)
}

/// Tries until it succeeds, as the kubelet does.
fn added(site: &Site, daemon: &Daemon, pod: &Pod, namespace: &str, interface: &str) -> Result<Value, Stop> {
    let add =
        || call(site, "ADD", pod, namespace, interface).map_err(|error| format!("{error}\n{}", daemon.log()));
    Ok(eventually(6 * SOON, add)?)
}

/// Waits until it is refused so.
fn refused(site: &Site, pod: &Pod, namespace: &str, code: u64, words: &str) -> Outcome {
    eventually(SOON, || match call(site, "ADD", pod, namespace, "other") {
        Err(error) if error.code == code && error.text().contains(words) => Ok(()),
        Ok(added) => {
            let _ = call(site, "DEL", pod, namespace, "other");
            Err(format!("it has {added}"))
        }
        other => Err(format!("{other:?}")),
    })?;
    Ok(())
}

fn a_selector_lets_in_the_namespaces_that_have_its_labels() -> Outcome {
    let site = Site::without_kubelet()?;
    put_namespace(&site, "blue", &json!({ "team": "a" }));
    put_namespace(&site, "red", &json!({}));
    put_pool(&site, "office", &json!({ "subnets": ["10.8.0.0/24"] }));
    let daemon = site.whole()?;
    let pod = site.node.pod("p")?;
    added(&site, &daemon, &pod, "red", "net1")?;
    let asked = || site.server.requests().iter().any(|request| request.contains("/namespaces?"));
    check!(!asked(), "no pool has a selector: {:?}", site.server.requests());

    put_pool(&site, "office", &json!({ "subnets": ["10.8.0.0/24"], "namespaceSelector": { "team": "a" } }));
    refused(&site, &pod, "red", 178, "asks for team=a, which the namespace did not have")?;
    added(&site, &daemon, &pod, "blue", "net2")?;
    put_namespace(&site, "red", &json!({ "team": "a" }));
    added(&site, &daemon, &pod, "red", "net3")?;
    // A namespace of which nobody has heard.
    refused(&site, &pod, "new", 178, "namespace \"new\"")?;
    put_namespace(&site, "new", &json!({ "team": "a" }));
    added(&site, &daemon, &pod, "new", "net4")?;

    // What pods have they keep.
    put_namespace(&site, "blue", &json!({ "team": "b" }));
    refused(&site, &pod, "blue", 178, "team=a")?;
    for (namespace, interface) in [("red", "net1"), ("blue", "net2"), ("red", "net3"), ("new", "net4")] {
        call(&site, "DEL", &pod, namespace, interface).map_err(|error| Stop::Failed(error.to_string()))?;
    }
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}
