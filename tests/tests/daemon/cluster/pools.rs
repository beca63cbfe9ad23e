//! Pools of the cluster with the whole daemon on one node, and pods that get their addresses of them.

use serde_json::{Value, json};
use testnet::{CniError, Daemon, Outcome, Pod, Stop, Trial, eventually, tests};

use crate::cluster::check;
use crate::cluster::site::{GROUP, SOON, Site, kubernetes_node};

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        a_selector_lets_in_the_namespaces_that_have_its_labels,
        a_pool_that_changes_takes_nothing_from_pods,
        a_pool_whose_status_cannot_be_written_stops_no_other,
        a_node_that_does_not_know_what_it_holds_hands_out_nothing_and_does_the_rest,
        who_waits_is_told_to_pod_and_pool,
        what_nodes_and_load_balancers_have_of_a_pool_is_told,
        a_stateful_sets_pod_has_its_address_again,
        a_pool_takes_the_place_of_the_file_of_its_name,
        a_file_that_differs_goes_on_until_it_goes,
    ]
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

/// Waits for a pool's condition to have this status, and these words in its message.
fn condition(site: &Site, daemon: &Daemon, pool: &str, kind: &str, status: &str, words: &str) -> Outcome {
    eventually(4 * SOON, || {
        let pool = site.server.get("lanpools", GROUP, &format!("/{pool}")).unwrap_or_default();
        let found = crate::cluster::status::condition(&pool["status"], kind);
        let message = found["message"].as_str().unwrap_or_default();
        match found["status"] == status && message.contains(words) {
            true => Ok(()),
            false => Err(format!("{}\n{}", pool["status"], daemon.log())),
        }
    })?;
    Ok(())
}

/// Waits for an event with this reason and these words.
fn event(site: &Site, reason: &str, words: &str) -> Outcome {
    const EVENTS: &str = "events.k8s.io/v1";
    eventually(2 * SOON, || {
        let all = site.server.keys("events", EVENTS);
        let all: Vec<Value> = all.iter().filter_map(|key| site.server.get("events", EVENTS, key)).collect();
        let has = |event: &Value| event["note"].as_str().is_some_and(|note| note.contains(words));
        match all.iter().any(|event| event["reason"] == reason && has(event)) {
            true => Ok(()),
            false => Err(format!("{all:?}")),
        }
    })?;
    Ok(())
}

fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap_or_default().to_owned()
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

fn a_pool_that_changes_takes_nothing_from_pods() -> Outcome {
    let site = Site::without_kubelet()?;
    let put = |first: &str, last: &str| {
        let range =
            json!({ "subnet": "10.8.0.0/16", "rangeStart": first, "rangeEnd": last, "gateway": "none" });
        put_pool(&site, "office", &json!({ "ranges": [range] }));
    };
    put("10.8.0.1", "10.8.0.254");
    let daemon = site.whole()?;
    let pod = site.node.pod("p")?;
    let add =
        |interface: &str| added(&site, &daemon, &pod, "default", interface).map(|result| address(&result));
    let first = add("net1")?;
    check!(first.starts_with("10.8.0."), "{first}");

    put("10.8.1.1", "10.8.1.254");
    condition(&site, &daemon, "office", "Draining", "True", "worker1 has one block, one address in use")?;
    // The node may be told a moment later.
    let second = eventually(SOON, || match add("net2") {
        Ok(second) if second.starts_with("10.8.1.") => Ok(second),
        other => {
            let _ = call(&site, "DEL", &pod, "default", "net2");
            Err(format!("{other:?}"))
        }
    })?;
    check!(add("net1")? == first, "the sandbox has its address still");

    site.server.delete("lanpools", GROUP, "/office");
    event(&site, "DeletedInUse", "held by worker1")?;
    refused(&site, &pod, "default", 11, "the LANPool office was deleted")?;
    check!(add("net1")? == first && add("net2")? == second, "what is there stays");

    // Another one of its name.
    put("10.8.2.1", "10.8.2.254");
    condition(&site, &daemon, "office", "Draining", "True", "worker1 has 2 blocks")?;
    let third = add("net3")?;
    check!(third.starts_with("10.8.2."), "{third}");
    check!(add("net1")? == first && add("net2")? == second, "what is there stays");
    for interface in ["net1", "net2", "net3"] {
        call(&site, "DEL", &pod, "default", interface).map_err(|error| Stop::Failed(error.to_string()))?;
    }
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}

fn a_pool_whose_status_cannot_be_written_stops_no_other() -> Outcome {
    let site = Site::without_kubelet()?;
    site.server.fault(|faults| {
        faults.errors.push(("PATCH /apis/lan.k8slan.io/v1beta1/lanpools/aaa".to_owned(), 422))
    });
    put_pool(&site, "aaa", &json!({ "subnets": ["10.7.0.0/24"] }));
    put_pool(&site, "office", &json!({ "subnets": ["10.8.0.0/24"] }));
    // A node that is gone has a block.
    let holder =
        json!({ "node": "gone", "uid": "0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b", "term": 0, "fenced": false });
    let block = json!({
        "apiVersion": GROUP, "kind": "LANBlock", "metadata": { "name": "office.0a080050" },
        "spec": { "pool": "office", "prefix": "10.8.0.80/32", "holder": holder },
    });
    site.server.put("lanblocks", block);
    let daemon = site.whole()?;
    condition(&site, &daemon, "office", "Accepted", "True", "")?;
    eventually(4 * SOON, || {
        let block = site.server.get("lanblocks", GROUP, "/office.0a080050").unwrap_or_default();
        if block["spec"]["holder"]["fenced"] == true { Ok(()) } else { Err(block.to_string()) }
    })?;
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}

fn a_node_that_does_not_know_what_it_holds_hands_out_nothing_and_does_the_rest() -> Outcome {
    let site = Site::without_kubelet()?;
    put_pool(&site, "office", &json!({ "subnets": ["10.8.0.0/24"] }));
    let daemon = site.whole()?;
    let pod = site.node.pod("p")?;
    let first = address(&added(&site, &daemon, &pod, "default", "net1")?);
    check!(daemon.terminate()?.success(), "it ends well");
    // As a newer version wrote it.
    site.node.write("/var/lib/k8slan/blocks/node.json", r#"{"records":[["x",{"phase":"resting"}]]}"#)?;
    let daemon = site.whole()?;
    refused(&site, &pod, "default", 11, "remove it, and the daemon counts what the pods have")?;
    let again = address(&added(&site, &daemon, &pod, "default", "net1")?);
    check!(again == first, "the sandbox has its address still");
    site.node.exec(&["rm", "/var/lib/k8slan/blocks/node.json"])?;
    let second = address(&added(&site, &daemon, &pod, "default", "net2")?);
    check!(second != first, "{second}");
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}

fn who_waits_is_told_to_pod_and_pool() -> Outcome {
    let site = Site::without_kubelet()?;
    put_pool(
        &site,
        "office",
        &json!({ "subnets": ["10.8.0.0/29"], "exclude": ["10.8.0.4-10.8.0.6"], "cooldown": "0s" }),
    );
    let daemon = site.whole()?;
    let pod = site.node.pod("p")?;
    for interface in ["net1", "net2"] {
        added(&site, &daemon, &pod, "default", interface)?;
    }
    event(&site, "NoBlockLeft", "all addresses are in blocks")?;
    let told = "pool \"office\" of the cluster has no address for this pod now: no block of the pool office is left for IPv4: other nodes \
                hold all of them, and give back what they do not use; add ranges to the LANPool if this lasts";
    refused(&site, &pod, "default", 11, told)?;
    // As the kubelet does, until that has lasted for a while.
    eventually(8 * SOON, || {
        let _ = call(&site, "ADD", &pod, "default", "other");
        let pool = site.server.get("lanpools", GROUP, "/office").unwrap_or_default();
        let waiting = crate::cluster::status::condition(&pool["status"], "PodsWaiting");
        match waiting["message"].as_str() {
            Some(message)
                if message.starts_with("worker1: default/p waits: no block of the pool office is left") =>
            {
                Ok(())
            }
            _ => Err(pool["status"].to_string()),
        }
    })?;
    event(&site, "NoAddress", "worker1")?;
    call(&site, "DEL", &pod, "default", "net1").map_err(|error| Stop::Failed(error.to_string()))?;
    added(&site, &daemon, &pod, "default", "other")?;
    let events = site.server.keys("events", "events.k8s.io/v1").len();
    check!(events == 2, "{events} events");
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}

fn what_nodes_and_load_balancers_have_of_a_pool_is_told() -> Outcome {
    let site = Site::without_kubelet()?;
    let service = |name: &str, kind: &str, address: &str| {
        let status = json!({ "loadBalancer": { "ingress": [{ "ip": address }] } });
        let metadata = json!({ "namespace": "default", "name": name });
        let spec = json!({ "type": kind });
        site.server.put(
            "services",
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": status }),
        );
    };
    service("web", "LoadBalancer", "10.8.0.200");
    service("apart", "LoadBalancer", "10.9.0.200");
    service("inner", "ClusterIP", "10.8.0.201");
    let with_address = |address: &str| {
        let mut worker = kubernetes_node("worker7", "worker7");
        worker["status"] = json!({ "addresses": [{ "type": "InternalIP", "address": address }] });
        site.server.put("nodes", worker);
    };
    with_address("10.8.0.7");
    put_pool(&site, "office", &json!({ "subnets": ["10.8.0.0/24"] }));
    put_pool(&site, "dmz", &json!({ "subnets": ["10.8.0.0/16"], "routingDomain": "dmz" }));
    let daemon = site.whole()?;
    let told = "10.8.0.7 is node worker7's; 10.8.0.200 is Service default/web's, and pods";
    condition(&site, &daemon, "office", "UsedByCluster", "True", told)?;
    event(&site, "NodeOrLoadBalancer", "10.8.0.200 is Service default/web's")?;
    condition(&site, &daemon, "dmz", "Accepted", "True", "")?;
    let dmz = site.server.get("lanpools", GROUP, "/dmz").unwrap_or_default();
    check!(!dmz["status"].to_string().contains("UsedByCluster"), "{dmz}");
    // A node's address is followed, and what is excluded is nobody's trouble.
    with_address("10.7.0.7");
    condition(&site, &daemon, "office", "UsedByCluster", "True", "10.8.0.200")?;
    put_pool(&site, "office", &json!({ "subnets": ["10.8.0.0/24"], "exclude": ["10.8.0.200"] }));
    eventually(2 * SOON, || {
        let office = site.server.get("lanpools", GROUP, "/office").unwrap_or_default();
        match office["status"].to_string().contains("UsedByCluster") {
            true => Err(office["status"].to_string()),
            false => Ok(()),
        }
    })?;
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}

fn a_stateful_sets_pod_has_its_address_again() -> Outcome {
    let site = Site::without_kubelet()?;
    put_pool(&site, "office", &json!({ "subnets": ["10.8.0.0/24"] }));
    let daemon = site.whole()?;
    let labels = json!({ "statefulset.kubernetes.io/pod-name": "web-0" });
    let put = |name: &str, labels: &Value| {
        let metadata = json!({ "namespace": "default", "name": name, "labels": labels });
        let spec = json!({ "nodeName": "worker1" });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
        site.server.put("pods", pod);
        let made = site.server.get("pods", "v1", &format!("default/{name}")).unwrap_or_default();
        made["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
    };
    let pod = site.node.pod("p")?;
    let run = |verb: &str, name: &str, uid: &str, interface: &str| {
        let mut call = pod.call(interface, &network("office"));
        let of = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={uid}");
        call.args = format!("IgnoreUnknown=1;{of}");
        site.node.cni("ipam-pool", verb, &call)
    };
    let add = |name: &str, uid: &str, interface: &str| {
        let add = || run("ADD", name, uid, interface).map_err(|error| format!("{error}\n{}", daemon.log()));
        eventually(6 * SOON, add).map(|added| address(&added))
    };
    let uid = put("web-0", &labels);
    let first = add("web-0", &uid, "net1")?;
    let bare = first.split('/').next().unwrap_or_default();
    let follows = |address: &str| site.server.get("lanaddresses", GROUP, &format!("/office.{address}"));
    let owner = json!({ "kind": "Pod", "namespace": "default", "name": "web-0", "network": "net" });
    check!(follows(bare).unwrap_or_default()["spec"]["owner"] == owner, "{:?}", follows(bare));
    let second = add("web-0", &uid, "net2")?;
    let other = second.split('/').next().unwrap_or_default();
    check!(
        follows(other).unwrap_or_default()["spec"]["owner"]["interface"] == "net2",
        "{:?}",
        follows(other)
    );

    for interface in ["net1", "net2"] {
        run("DEL", "web-0", &uid, interface).map_err(|error| Stop::Failed(error.to_string()))?;
    }
    site.server.delete("pods", "v1", "default/web-0");
    let uid = put("one-0", &json!({}));
    let any = add("one-0", &uid, "net3")?;
    let any = any.split('/').next().unwrap_or_default();
    check!(any != bare && any != other && follows(any).is_none(), "{any}");
    let uid = put("web-0", &labels);
    let again = [add("web-0", &uid, "net1")?, add("web-0", &uid, "net2")?];
    check!(again == [first.clone(), second.clone()], "{again:?} {first} {second}");
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}

fn put_file(site: &Site, spec: &Value) -> Outcome {
    let file =
        json!({ "apiVersion": GROUP, "kind": "IPPool", "metadata": { "name": "office" }, "spec": spec });
    Ok(site.node.write("/var/lib/k8slan/pools.d/office.yaml", file.to_string())?)
}

/// Waits for what a node says of the pool's file.
fn file_told(site: &Site, daemon: &Daemon, told: impl Fn(&Value) -> bool) -> Outcome {
    eventually(4 * SOON, || {
        let note = site.server.get("lanpoolnodes", GROUP, "/office.worker1").unwrap_or_default();
        if told(&note["spec"]) { Ok(()) } else { Err(format!("{note}\n{}", daemon.log())) }
    })?;
    Ok(())
}

fn blocks(site: &Site) -> Vec<String> {
    let names = site.server.keys("lanblocks", GROUP);
    names.into_iter().map(|name| name.trim_start_matches('/').to_owned()).collect()
}

fn a_pool_takes_the_place_of_the_file_of_its_name() -> Outcome {
    let site = Site::without_kubelet()?;
    // As it was cut by hand: what blocks of 16 would cut through.
    let range = json!({ "subnet": "10.8.0.0/16", "rangeStart": "10.8.0.20", "rangeEnd": "10.8.0.37" });
    put_file(&site, &json!({ "ranges": [range], "scope": "host" }))?;
    let pod = site.node.pod("p")?;
    let first = address(
        &call(&site, "ADD", &pod, "default", "net1").map_err(|error| Stop::Failed(error.to_string()))?,
    );
    check!(first == "10.8.0.20/16", "{first}");
    let daemon = site.whole()?;
    file_told(&site, &daemon, |told| told["fileRanges"] == json!(["10.8.0.20-10.8.0.37"]))?;
    // A node that is off has said so before.
    site.server.put("nodes", kubernetes_node("worker2", "worker2"));
    let note = json!({
        "apiVersion": GROUP, "kind": "LANPoolNode", "metadata": { "name": "office.worker2" },
        "spec": { "pool": "office", "node": "worker2", "fileRanges": ["10.8.0.38-10.8.0.50"], "fileFits": true, "file": "hands out by its file" },
    });
    site.server.put("lanpoolnodes", note);
    put_pool(&site, "office", &json!({ "subnets": ["10.8.0.0/16"] }));
    condition(
        &site,
        &daemon,
        "office",
        "Accepted",
        "False",
        "waits for worker2: what pods have by them is claimed first",
    )?;
    condition(&site, &daemon, "office", "FileOnNodes", "True", "worker2: hands out by its file")?;
    check!(blocks(&site).contains(&"office.0a080014".to_owned()), "{:?}", blocks(&site));
    // The node's own addresses go on, in blocks, and no others.
    let mut given = vec![first.clone()];
    for interface in ["net2", "net3"] {
        given.push(address(&added(&site, &daemon, &pod, "default", interface)?));
    }
    let of_file = |text: &String| {
        let last = text.strip_prefix("10.8.0.").and_then(|rest| rest.strip_suffix("/16")?.parse::<u8>().ok());
        last.is_some_and(|last| (20..=37).contains(&last))
    };
    check!(given.iter().all(of_file) && given[1] != given[2] && !given[1..].contains(&first), "{given:?}");
    check!(address(&added(&site, &daemon, &pod, "default", "net1")?) == first, "it has its address still");

    site.server.delete("lanpoolnodes", GROUP, "/office.worker2");
    condition(&site, &daemon, "office", "Accepted", "True", "")?;
    let own = site.server.get("lanpoolnodes", GROUP, "/office.worker1");
    check!(own.is_none(), "it has nothing to say: {own:?}");
    // The file is not read any more, and can go.
    put_file(&site, &json!({ "ranges": [{ "subnet": "10.9.0.0/24" }], "scope": "host" }))?;
    let fourth = address(&added(&site, &daemon, &pod, "default", "net4")?);
    check!(fourth.starts_with("10.8.0.") && !given.contains(&fourth), "{fourth}");
    site.node.exec(&["rm", "/var/lib/k8slan/pools.d/office.yaml"])?;
    check!(address(&added(&site, &daemon, &pod, "default", "net1")?) == first, "it has its address still");
    for interface in ["net1", "net2", "net3", "net4"] {
        call(&site, "DEL", &pod, "default", interface).map_err(|error| Stop::Failed(error.to_string()))?;
    }
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}

fn a_file_that_differs_goes_on_until_it_goes() -> Outcome {
    let site = Site::without_kubelet()?;
    let range = json!({ "subnet": "10.8.0.0/24", "rangeStart": "10.8.0.20", "rangeEnd": "10.8.0.37", "gateway": "none" });
    put_file(&site, &json!({ "ranges": [range], "scope": "host" }))?;
    let daemon = site.whole()?;
    let pod = site.node.pod("p")?;
    let first = address(&added(&site, &daemon, &pod, "default", "net1")?);
    file_told(&site, &daemon, |told| {
        told["file"].as_str().is_some_and(|text| text.contains("there is no LANPool"))
    })?;
    put_pool(&site, "office", &json!({ "subnets": ["10.8.0.0/24"] }));
    let differs = "the gateway of 10.8.0.20-10.8.0.37 is none in the file, and 10.8.0.1 in the LANPool";
    condition(
        &site,
        &daemon,
        "office",
        "FileOnNodes",
        "True",
        &format!("worker1: hands out by its file, since it differs: {differs}"),
    )?;
    condition(
        &site,
        &daemon,
        "office",
        "Accepted",
        "False",
        "worker1 hand out by a file of its name that does not say the same",
    )?;
    event(&site, "FileOnNode", "worker1")?;
    let second = address(&added(&site, &daemon, &pod, "default", "net2")?);
    check!((first.as_str(), second.as_str()) == ("10.8.0.20/24", "10.8.0.21/24"), "{first} {second}");
    check!(blocks(&site).is_empty(), "{:?}", blocks(&site));

    site.node.exec(&["rm", "/var/lib/k8slan/pools.d/office.yaml"])?;
    condition(&site, &daemon, "office", "Accepted", "True", "")?;
    let held = blocks(&site);
    check!(
        held.contains(&"office.0a080014".to_owned()) && held.contains(&"office.0a080015".to_owned()),
        "{held:?}"
    );
    check!(address(&added(&site, &daemon, &pod, "default", "net1")?) == first, "it has its address still");
    let third = address(&added(&site, &daemon, &pod, "default", "net3")?);
    check!(third != first && third != second, "{third}");
    for interface in ["net1", "net2", "net3"] {
        call(&site, "DEL", &pod, "default", interface).map_err(|error| Stop::Failed(error.to_string()))?;
    }
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}
