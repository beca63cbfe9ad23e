//! What people do to pools, by mistake or by hand: each is told, nobody loses an address, and none is given twice.

use k8slan_kubernetes_tests::{Cluster, PodOf, condition, failed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial};

use crate::check;
use crate::floating::address;
use crate::mistakes::definition;
use crate::nodes::leader;
use crate::pools::{make_lan, make_pool};
use crate::restarts::daemon_on;
use crate::shared::{alone, beside};
use crate::site::{Lan, event, pings, ready, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("who_gets_nothing_of_a_pool_is_told_why", who_gets_nothing_of_a_pool_is_told_why),
        beside("an_edit_takes_no_address_from_a_pod", an_edit_takes_no_address_from_a_pod),
        beside("a_pool_that_cannot_be_is_told", a_pool_that_cannot_be_is_told),
    ]
}

pub(crate) fn alone_trials() -> Vec<Trial> {
    vec![
        alone("blocks_and_addresses_by_hand", blocks_and_addresses_by_hand),
        alone("addresses_of_nodes_and_balancers_are_told", addresses_of_nodes_and_balancers_are_told),
    ]
}

const POOLS: &str = "/apis/lan.k8slan.io/v1beta1/lanpools";
const BLOCKS: &str = "/apis/lan.k8slan.io/v1beta1/lanblocks";
const RESERVATIONS: &str = "/apis/lan.k8slan.io/v1beta1/namespaces/default/lanreservations";

fn object(kind: &str, name: &str, spec: &Value) -> String {
    json!({ "apiVersion": "lan.k8slan.io/v1beta1", "kind": kind, "metadata": { "name": name }, "spec": spec })
        .to_string()
}

/// The reason and the message of a condition that has this status.
pub(crate) fn says<'a>(object: &'a Value, kind: &str, status: &str) -> Option<(&'a str, &'a str)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|one| one["type"] == kind && one["status"] == status)?;
    Some((found["reason"].as_str()?, found["message"].as_str()?))
}

/// Waits until a condition has this status and its message all of these words.
pub(crate) fn told(
    cluster: &Cluster,
    pool: &str,
    kind: &str,
    status: &str,
    words: &[&str],
) -> Result<Value, Stop> {
    cluster.until(&format!("{POOLS}/{pool}"), |found| {
        says(found, kind, status).is_some_and(|(reason, message)| {
            words.iter().all(|word| message.contains(word) || reason == *word)
        })
    })
}

/// A pool that leaves these addresses out.
fn excluding(mut spec: Value, exclude: &[&str]) -> Value {
    if !exclude.is_empty() {
        spec["exclude"] = json!(exclude);
    }
    spec
}

fn a_pool_that_cannot_be_is_told(cluster: &Cluster) -> Outcome {
    let refused = |spec: Value, words: &str| -> Outcome {
        let (code, said) =
            cluster.kubectl_says(&["apply", "-f", "-"], &object("LANPool", "cannot-be", &spec))?;
        check!(code != Some(0) && said.contains(words), "{spec}: {said}");
        Ok(())
    };
    refused(json!({ "subnets": ["10.161.0.0/24"], "blockSize": 24 }), "a power of two")?;
    refused(json!({ "subnets": ["10.161.0.0/24"], "exclude": ["web"] }), "spec.exclude[0]")?;
    let twice = json!([
        { "subnet": "10.161.1.0/24", "rangeStart": "10.161.1.10", "rangeEnd": "10.161.1.20" },
        { "subnet": "10.161.1.0/24", "rangeStart": "10.161.1.15", "rangeEnd": "10.161.1.30" },
    ]);
    let mistakes = [
        (
            "cannot-outside",
            json!({ "subnets": ["10.161.0.0/24"], "exclude": ["10.161.9.5"] }),
            &["Invalid", "10.161.9.5", "is outside all subnets of the pool"][..],
        ),
        ("cannot-twice", json!({ "ranges": twice }), &["Invalid", "overlap at 10.161.1.15"]),
        (
            "cannot-nothing",
            json!({ "subnets": ["10.161.2.0/30"], "exclude": ["10.161.2.0/30"] }),
            &["Invalid", "nothing is left to hand out"],
        ),
    ];
    for (name, spec, _) in &mistakes {
        cluster.apply(&object("LANPool", name, spec))?;
    }
    make_pool(cluster, "cannot-older", &json!({ "subnets": ["10.161.4.0/24"] }))?;
    let younger = json!({ "subnets": ["10.161.4.128/25"] });
    cluster.apply(&object("LANPool", "cannot-younger", &younger))?;
    for (name, _, words) in &mistakes {
        told(cluster, name, "Accepted", "False", words)?;
    }
    told(
        cluster,
        "cannot-younger",
        "Accepted",
        "False",
        &["Overlaps", "it has addresses of pool cannot-older"],
    )?;
    // The older one works on.
    told(cluster, "cannot-older", "Ready", "True", &[])?;
    for (name, spec, reason) in [
        ("cannot-nowhere", json!({ "pool": "cannot-be" }), "NoPool"),
        ("cannot-invalid", json!({ "pool": "cannot-outside" }), "PoolNotReady"),
    ] {
        let mut reservation: Value = serde_json::from_str(&object("LANReservation", name, &spec))?;
        reservation["metadata"]["namespace"] = json!("default");
        cluster.apply(&reservation.to_string())?;
        cluster.until(&format!("{RESERVATIONS}/{name}"), |found| {
            says(found, "Ready", "False").is_some_and(|(told, _)| told == reason)
        })?;
        cluster.kubectl(&format!("delete lanreservation {name}"))?;
    }
    cluster.kubectl("delete lanpool cannot-older")?;
    told(cluster, "cannot-younger", "Ready", "True", &[])?;
    cluster.kubectl("delete lanpool cannot-younger cannot-outside cannot-twice cannot-nothing").map(drop)
}

/// A network by hand, with addresses of a pool.
fn network(name: &str, pool: &str, spoke: &str) -> String {
    let ipam = json!({ "type": "ipam-pool", "pool": pool });
    definition(name, &json!({ "name": name, "type": "macvtap", "ipam": ipam }), &[spoke])
}

fn on_network(name: &str, spoke: &str, node: &str) -> String {
    let mut pod = PodOf::on(name, spoke).at(node);
    pod.networks = name.to_owned();
    pod.manifest()
}

fn who_gets_nothing_of_a_pool_is_told_why(cluster: &Cluster) -> Outcome {
    const LAN: Lan =
        Lan { name: "nothing", vni: 1160, spokes: &["nothing1", "nothing2", "nothing3", "nothing4"] };
    LAN.apply(cluster)?;
    let mistakes = [
        (
            "nothing-listed",
            json!({ "subnets": ["10.162.0.0/24"], "allowedNamespaces": ["nobody"] }),
            "gives no addresses to pods of namespace \"default\": its allowedNamespaces does not list the namespace",
        ),
        (
            "nothing-selected",
            json!({ "subnets": ["10.162.1.0/24"], "namespaceSelector": { "team": "nobody" } }),
            "its namespaceSelector asks for team=nobody, which the namespace did not have",
        ),
        (
            "nothing-here",
            json!({ "subnets": ["10.162.2.0/24"], "nodeSelector": { "zone": "nowhere" } }),
            "the pool's nodeSelector asks for the label zone=nowhere, which this node does not have",
        ),
    ];
    // Its one block has all of its addresses.
    make_pool(cluster, "nothing-large", &json!({ "subnets": ["10.162.3.0/29"], "blockSize": 256 }))?;
    cluster.apply(&network("nothing-first", "nothing-large", "nothing4"))?;
    cluster.apply(&network("nothing-large", "nothing-large", "nothing4"))?;
    for ((name, spec, _), spoke) in mistakes.iter().zip(LAN.spokes) {
        make_pool(cluster, name, spec)?;
        cluster.apply(&network(name, name, spoke))?;
        cluster.apply(&on_network(name, spoke, "worker1"))?;
    }
    cluster.apply(&on_network("nothing-first", "nothing4", "worker1"))?;
    let first = ready(cluster, "nothing-first")?;
    check!(address(&first)?.starts_with("10.162.3."), "{}", address(&first)?);
    cluster.apply(&on_network("nothing-large", "nothing4", "worker2"))?;
    for (name, _, words) in &mistakes {
        event(cluster, name, &["FailedCreatePodSandBox", words])?;
    }
    event(
        cluster,
        "nothing-large",
        &["FailedCreatePodSandBox", "no block of the pool nothing-large is left"],
    )?;
    let names: Vec<&str> =
        mistakes.iter().map(|(name, ..)| *name).chain(["nothing-large", "nothing-first"]).collect();
    cluster.kubectl(&format!("delete pod {} --timeout=110s", names.join(" ")))?;
    cluster.kubectl(&format!("delete net-attach-def {}", names.join(" ")))?;
    let pools: Vec<&str> = names.into_iter().filter(|name| *name != "nothing-first").collect();
    cluster.kubectl(&format!("delete lanpool {}", pools.join(" ")))?;
    LAN.remove(cluster)
}

/// Of one that has its addresses of no pool any more, the pool tells; and DEL takes it down.
fn an_edit_takes_no_address_from_a_pod(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "edited", vni: 1161, spokes: &["edited1", "edited2"] };
    let spec =
        |exclude: &[&str]| excluding(json!({ "subnets": ["10.163.0.0/24"], "cooldown": "0s" }), exclude);
    make_pool(cluster, LAN.name, &spec(&[]))?;
    make_lan(cluster, &LAN)?;
    let stays = start(cluster, &PodOf::on("edited-stays", "edited1").at("worker1"))?;
    let own = address(&stays)?;
    cluster.apply(&object("LANPool", LAN.name, &spec(&[&own])))?;
    let words = ["worker1 has one block", "of which the pool hands nothing out any more"];
    told(cluster, LAN.name, "Draining", "True", &words)?;
    let other = start(cluster, &PodOf::on("edited-other", "edited2").at("worker1"))?;
    check!(address(&other)? != own, "{own} twice");
    pings(cluster, &stays, "net1", address(&other)?.parse()?)?;
    cluster.apply(&object("LANPool", LAN.name, &spec(&[])))?;
    cluster.until(&format!("{POOLS}/{}", LAN.name), |pool| {
        condition(pool, "Draining").is_none()
            && pool["status"]["observedGeneration"] == pool["metadata"]["generation"]
    })?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name))?;
    event(cluster, LAN.name, &["DeletedInUse", "worker1"])?;
    pings(cluster, &stays, "net1", address(&other)?.parse()?)?;
    cluster.kubectl("delete pod edited-stays edited-other --timeout=110s")?;
    LAN.remove(cluster)
}

/// A pool's block of one address, by its name.
fn block_of(pool: &str, address: &str) -> Result<String, Stop> {
    let address: std::net::Ipv4Addr = address.parse()?;
    Ok(format!("{pool}.{:08x}", address.to_bits()))
}

/// Ends a container of the daemon on a node by force: its next process reads at once what the API server has.
fn kill_container(cluster: &Cluster, node: &str, container: &str) -> Outcome {
    let all = daemon_on(cluster, node)?;
    let (_, process) = all
        .iter()
        .find(|(name, _)| name == container)
        .ok_or_else(|| failed(format!("no {container} on {node}: {all:?}")))?;
    Ok(kill(Pid::from_raw(*process), Signal::SIGKILL)?)
}

/// Waits until the daemon's log on a node has a line with all of these words.
fn log_says(cluster: &Cluster, node: &str, words: &[&str]) -> Outcome {
    let pods = cluster
        .list(&format!("/api/v1/namespaces/k8slan-system/pods?fieldSelector=spec.nodeName%3D{node}"))
        .map_err(failed)?;
    let name = pods.first().and_then(|pod| pod["metadata"]["name"].as_str());
    let name = name.ok_or_else(|| failed(format!("no pod of the daemon on {node}")))?;
    cluster.eventually(|| {
        let log = cluster.kubectl(&format!("-n k8slan-system logs {name} -c node"));
        let log = log.map_err(|stop| format!("{stop:?}"))?;
        let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        if found { Ok(()) } else { Err(format!("no line says {words:?}: {log}")) }
    })?;
    Ok(())
}

/// What a person may do to the objects that machines write: a pool of five addresses, of which two pods of a node have one each.
fn blocks_and_addresses_by_hand(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "hand", vni: 1162, spokes: &["hand1", "hand2", "hand3"] };
    let cluster = &*cluster;
    make_pool(cluster, LAN.name, &json!({ "subnets": ["10.165.0.0/29"], "cooldown": "0s" }))?;
    make_lan(cluster, &LAN)?;
    let one = start(cluster, &PodOf::on("hand-one", "hand1").at("worker3"))?;
    let two = start(cluster, &PodOf::on("hand-two", "hand2").at("worker3"))?;
    let (first, second) = (address(&one)?, address(&two)?);
    let all = (2..=6).map(|last| format!("10.165.0.{last}"));
    let free: Vec<String> = all.filter(|address| ![&first, &second].contains(&address)).collect();
    let [given, dead, false_] = &free[..] else { return Err(failed(format!("{first}, {second}"))) };
    let deleted = format!("{BLOCKS}/{}", block_of(LAN.name, &first)?);
    let before = cluster.until(&deleted, |block| block["spec"]["holder"]["node"] == "worker3")?;

    // A block is deleted, one is made for a node that did not ask, and one for a node that there is not.
    cluster.kubectl(&format!("delete lanblock {}", block_of(LAN.name, &first)?))?;
    let node = cluster.until("/api/v1/nodes/worker3", |_| true)?;
    let block = |address: &str, node: &str, uid: &Value, label: &str| -> Result<String, Stop> {
        let holder = json!({ "node": node, "uid": uid, "term": 0, "fenced": false });
        let spec = json!({ "pool": LAN.name, "prefix": format!("{address}/32"), "holder": holder });
        let mut block: Value =
            serde_json::from_str(&object("LANBlock", &block_of(LAN.name, address)?, &spec))?;
        // By it, a node finds its own.
        block["metadata"]["labels"] = json!({ "lan.k8slan.io/node": label });
        Ok(block.to_string())
    };
    cluster.apply(&block(given, "worker3", &node["metadata"]["uid"], "worker3")?)?;
    cluster.apply(&block(dead, "worker9", &json!("0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b"), "worker8")?)?;
    // What a pod has, and what nobody has, is somebody's who is not there.
    for address in [&second, false_] {
        // One owner's second address would go at once.
        let name = format!("nobody-{}", address.replace('.', "-"));
        let owner = json!({ "kind": "Pod", "namespace": "default", "name": name });
        let spec = json!({ "pool": LAN.name, "address": address, "owner": owner });
        cluster.apply(&object("LANAddress", &format!("{}.{address}", LAN.name), &spec))?;
    }
    kill_container(cluster, "worker3", "node")?;
    let again = cluster.until(&deleted, |block| block["spec"]["holder"]["node"] == "worker3")?;
    check!(again["metadata"]["uid"] != before["metadata"]["uid"], "it was not deleted: {again:#}");
    log_says(cluster, "worker3", &[&block_of(LAN.name, &first)?, "was deleted", "made again"])?;
    cluster.until_gone(&format!("{BLOCKS}/{}", block_of(LAN.name, given)?))?;
    cluster.until(&format!("{BLOCKS}/{}", block_of(LAN.name, dead)?), |block| {
        block["spec"]["holder"]["fenced"] == true
    })?;
    for (name, pod, own) in [("hand-one", &one, &first), ("hand-two", &two, &second)] {
        let now = ready(cluster, name)?;
        check!(now["metadata"]["uid"] == pod["metadata"]["uid"] && address(&now)? == *own, "{now:#}");
    }
    pings(cluster, &one, "net1", second.parse()?)?;

    // One address is left, and then none.
    let three = start(cluster, &PodOf::on("hand-three", "hand3").at("worker1"))?;
    check!(address(&three)? == *given, "{} and not {given}", address(&three)?);
    cluster.apply(&PodOf::on("hand-four", "hand1").at("worker2").manifest())?;
    event(cluster, "hand-four", &["FailedCreatePodSandBox", "no block of the pool hand is left"])?;
    cluster.kubectl(&format!("delete lanblock {}", block_of(LAN.name, dead)?))?;
    cluster.kubectl(&format!("delete lanaddress {}.{false_}", LAN.name))?;
    let four = ready(cluster, "hand-four")?;
    check!([dead, false_].contains(&&address(&four)?), "{}", address(&four)?);
    pings(cluster, &four, "net1", second.parse()?)?;
    cluster.kubectl(&format!("delete lanaddress {}.{second}", LAN.name))?;
    cluster.kubectl("delete pod hand-one hand-two hand-three hand-four --timeout=110s")?;
    LAN.remove(cluster)?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name)).map(drop)
}

/// Whoever makes a pool forgets what others have of its subnet.
fn addresses_of_nodes_and_balancers_are_told(cluster: &mut Cluster) -> Outcome {
    let cluster = &*cluster;
    cluster.kubectl("create service loadbalancer taken --tcp=80:80")?;
    let status =
        json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "10.169.0.50" }] } } }).to_string();
    cluster.kubectl_with(&[
        "patch",
        "service",
        "taken",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ])?;
    let spec = |exclude: &[&str]| {
        let nodes = json!({ "subnet": "10.99.0.0/24", "rangeStart": "10.99.0.12", "rangeEnd": "10.99.0.12" });
        excluding(json!({ "ranges": [{ "subnet": "10.169.0.0/24" }, nodes] }), exclude)
    };
    make_pool(cluster, "taken", &spec(&[]))?;
    told(cluster, "taken", "UsedByCluster", "True", &["10.99.0.12 is node worker2's"])?;
    event(cluster, "taken", &["NodeOrLoadBalancer", "10.99.0.12 is node worker2's", "add it to exclude"])?;
    // Services are looked at every five minutes, and by a new leader.
    kill_container(cluster, &leader(cluster)?, "cluster")?;
    told(
        cluster,
        "taken",
        "UsedByCluster",
        "True",
        &["10.99.0.12 is node", "10.169.0.50 is Service default/taken's"],
    )?;
    cluster.apply(&object("LANPool", "taken", &spec(&["10.99.0.12", "10.169.0.50"])))?;
    cluster.until(&format!("{POOLS}/taken"), |pool| {
        condition(pool, "UsedByCluster").is_none() && condition(pool, "Ready") == Some("True")
    })?;
    cluster.kubectl("delete lanpool taken")?;
    cluster.kubectl("delete service taken").map(drop)
}
