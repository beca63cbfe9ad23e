//! Pools of the cluster: one object, and every node hands addresses out of it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8slan_kubernetes_tests::{Cluster, PodOf, condition, failed};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, finish};

use crate::by_hand::told;
use crate::check;
use crate::shared::beside;
use crate::site::{Lan, delete, event, node_of, pings, ready, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("a_pool_serves_every_node", a_pool_serves_every_node),
        beside("a_small_pool_is_used_to_its_last_address", a_small_pool_is_used_to_its_last_address),
    ]
}

pub(crate) const POOLS: &str = "/apis/lan.k8slan.io/v1beta1/lanpools";
const BLOCKS: &str = "/apis/lan.k8slan.io/v1beta1/lanblocks";

/// Makes a pool and waits until nodes may claim blocks of it.
pub(crate) fn make_pool(cluster: &Cluster, name: &str, spec: &Value) -> Outcome {
    let pool = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": name }, "spec": spec,
    });
    cluster.apply(&pool.to_string())?;
    cluster.until(&format!("{POOLS}/{name}"), |pool| condition(pool, "Ready") == Some("True")).map(drop)
}

/// The LAN's pods get addresses of the pool of its name.
pub(crate) fn make_lan(cluster: &Cluster, lan: &Lan) -> Outcome {
    let mut manifest = lan.manifest();
    manifest["spec"]["networkAttachments"]["ipam"] = json!({ "type": "ipam-pool", "pool": lan.name });
    lan.apply_as(cluster, &manifest)
}

pub(crate) fn address(cluster: &Cluster, pod: &Value) -> Result<Ipv4Addr, Stop> {
    let links = cluster.netns(pod)?.ip_json("-4 addr show dev net1")?;
    let found = links[0]["addr_info"][0]["local"].as_str();
    Ok(found.ok_or_else(|| failed(format!("no address: {links:?}")))?.parse()?)
}

/// A block, as it was seen last.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) prefix: String,
    pub(crate) node: String,
    /// Another one after each write.
    version: String,
}

pub(crate) fn blocks(cluster: &Cluster, pool: &str) -> Result<Vec<Block>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = cluster.list(BLOCKS)?;
    let of_pool = all.iter().filter(|block| block["spec"]["pool"] == pool);
    Ok(of_pool
        .map(|block| Block {
            prefix: text(&block["spec"]["prefix"]),
            node: text(&block["spec"]["holder"]["node"]),
            version: text(&block["metadata"]["resourceVersion"]),
        })
        .collect())
}

pub(crate) fn contains(prefix: &str, address: Ipv4Addr) -> bool {
    let parsed = prefix
        .split_once('/')
        .and_then(|(first, length)| Some((first.parse::<Ipv4Addr>().ok()?, length.parse::<u32>().ok()?)));
    parsed.is_some_and(|(first, length)| {
        (first.to_bits() ^ address.to_bits()).checked_shr(32 - length) == Some(0)
    })
}

fn a_pool_serves_every_node(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "pooled", vni: 1155, spokes: &["pooled1", "pooled2", "pooled3", "pooled4"] };
    // Blocks of 16 addresses.
    make_pool(cluster, LAN.name, &json!({ "subnets": ["10.155.0.0/22"] }))?;
    make_lan(cluster, &LAN)?;
    let mut pods = Vec::new();
    for worker in &cluster.workers {
        for spoke in &LAN.spokes[..3] {
            pods.push(PodOf::on(&format!("{spoke}-{}", worker.name()), spoke).at(worker.name()));
        }
    }
    let manifests: Vec<String> = pods.iter().map(PodOf::manifest).collect();
    cluster.apply(&manifests.join("\n---\n"))?;
    let started: Vec<Value> = pods.iter().map(|pod| ready(cluster, &pod.name)).collect::<Result<_, _>>()?;
    let addresses: Vec<Ipv4Addr> =
        started.iter().map(|pod| address(cluster, pod)).collect::<Result<_, _>>()?;
    let different: BTreeSet<&Ipv4Addr> = addresses.iter().collect();
    check!(different.len() == pods.len(), "an address twice: {addresses:?}");
    let held = blocks(cluster, LAN.name).map_err(failed)?;
    for (pod, address) in started.iter().zip(&addresses) {
        let block = held.iter().find(|block| contains(&block.prefix, *address));
        let node = block.map(|block| block.node.as_str());
        check!(node == Some(node_of(pod)), "{address} of {} is in {block:?}", node_of(pod));
    }
    for to in &addresses[1..] {
        pings(cluster, &started[0], "net1", *to)?;
    }
    leases_tell_who_has_them(cluster, LAN.name, &started, &addresses)?;
    // The node has room in its block: more pods cost no write.
    for _ in 0..3 {
        let more = start(cluster, &PodOf::on("pooled-more", "pooled4").at("worker2"))?;
        let own = address(cluster, &more)?;
        check!(!different.contains(&own), "{own} is another pod's");
        delete(cluster, "pooled-more")?;
    }
    let after = blocks(cluster, LAN.name).map_err(failed)?;
    check!(after == held, "a pod cost a write though its node had room: {held:?}, {after:?}");
    let size = cluster.kubectl(&format!("get lanpool {} -o jsonpath={{.status.size}}", LAN.name))?;
    check!(size == "1021", "the pool has {size} addresses");
    let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    cluster.kubectl(&format!("delete pod {} --timeout=110s", names.join(" ")))?;
    LAN.remove(cluster)?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name)).map(drop)
}

/// `kubectl k8slan leases` has a line for each pod, whatever its node.
fn leases_tell_who_has_them(
    cluster: &Cluster,
    pool: &str,
    pods: &[Value],
    addresses: &[Ipv4Addr],
) -> Outcome {
    let output = finish(&mut cluster.plugin(&["leases", pool])?)?;
    let table = String::from_utf8_lossy(&output.stdout);
    check!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    for (pod, address) in pods.iter().zip(addresses) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let wanted =
            [&*address.to_string(), pool, node_of(pod), "default", &format!("pod/{name}"), "net1", "leased"];
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        check!(rows.any(|row| row == wanted), "{wanted:?} is not in\n{table}");
    }
    Ok(())
}

/// Two pools are on every address, and the pod that comes too late is told so and gets the first that is given back, from
/// another node.
fn a_small_pool_is_used_to_its_last_address(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "small", vni: 1156, spokes: &["small1", "small2"] };
    // Five addresses and the gateway.
    make_pool(cluster, LAN.name, &json!({ "subnets": ["10.156.0.0/29"], "cooldown": "0s" }))?;
    make_lan(cluster, &LAN)?;
    let place = |number: usize| (LAN.spokes[number / 3], cluster.workers[number % 3].name());
    let mut addresses = BTreeSet::new();
    for number in 0..5 {
        let (spoke, node) = place(number);
        let pod = start(cluster, &PodOf::on(&format!("small-{number}"), spoke).at(node))?;
        addresses.insert(address(cluster, &pod)?);
    }
    let all: BTreeSet<Ipv4Addr> = (2..=6).map(|last| Ipv4Addr::new(10, 156, 0, last)).collect();
    check!(addresses == all, "{addresses:?}");
    let (spoke, node) = place(5);
    cluster.apply(&PodOf::on("small-late", spoke).at(node).manifest())?;
    event(cluster, "small-late", &["FailedCreatePodSandBox", "pool", "small"])?;
    // It is told when it has waited for a while.
    let waits = format!("{node}: default/small-late waits: no block of the pool small is left");
    told(cluster, LAN.name, "PodsWaiting", "True", &[&waits])?;
    event(cluster, LAN.name, &["NoAddress", &waits])?;
    // On another node than the one that waits.
    delete(cluster, "small-0")?;
    let late = ready(cluster, "small-late")?;
    let own = address(cluster, &late)?;
    check!(all.contains(&own), "{own}");
    cluster.until(&format!("{POOLS}/{}", LAN.name), |pool| condition(pool, "PodsWaiting").is_none())?;
    cluster.kubectl("delete pod small-1 small-2 small-3 small-4 small-late --timeout=110s")?;
    LAN.remove(cluster)?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name)).map(drop)
}
