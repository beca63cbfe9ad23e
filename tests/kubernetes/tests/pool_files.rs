//! Pools that were files on the nodes, split by hand, become one object.

use std::net::Ipv4Addr;

use k8slan_kubernetes_tests::{Cluster, PodOf, condition, failed};
use serde_json::{Value, json};
use testnet::{Outcome, Trial, finish};

use crate::check;
use crate::pools::{POOLS, address, blocks, contains, make_lan};
use crate::shared::beside;
use crate::site::{Lan, delete, node_of, pings, ready, start, under_pings};

pub(crate) fn trials() -> Vec<Trial> {
    vec![beside("a_pool_takes_the_place_of_the_nodes_files", a_pool_takes_the_place_of_the_nodes_files)]
}

const NODES: &str = "/apis/lan.k8slan.io/v1beta1/lanpoolnodes";
const FILE: &str = "/var/lib/k8slan/pools.d/filed.yaml";

fn part(first: u8, last: u8, gateway: &str) -> String {
    json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": "filed" },
        "spec": {
            "ranges": [{
                "subnet": "10.172.0.0/22", "rangeStart": format!("10.172.0.{first}"), "rangeEnd": format!("10.172.0.{last}"),
                "gateway": gateway,
            }],
            "scope": "host",
        },
    })
    .to_string()
}

fn reason(pool: &Value, kind: &str) -> String {
    let conditions = pool["status"]["conditions"].as_array().into_iter().flatten();
    let mut found = conditions.filter(|condition| condition["type"] == kind);
    found.next().map(|found| format!("{}: {}", found["reason"], found["message"])).unwrap_or_default()
}

fn a_pool_takes_the_place_of_the_nodes_files(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "filed", vni: 1165, spokes: &["filed1", "filed2", "filed3"] };
    // Where blocks of 16 would cut through, and on the third node with a mistake.
    let parts = [(2, 20, "10.172.0.1"), (21, 70, "10.172.0.1"), (71, 99, "none")];
    for (worker, (first, last, gateway)) in cluster.workers.iter().zip(parts) {
        worker.write(FILE, part(first, last, gateway))?;
    }
    make_lan(cluster, &LAN)?;
    let on = |spoke: &str, node: &str| PodOf::on(&format!("{spoke}-{node}"), spoke).at(node);
    let mut pods = Vec::new();
    for (spoke, node) in [("filed1", "worker1"), ("filed2", "worker1"), ("filed1", "worker2")] {
        pods.push(start(cluster, &on(spoke, node))?);
    }
    let own = pods.iter().map(|pod| address(cluster, pod)).collect::<Result<Vec<Ipv4Addr>, _>>()?;
    check!(own.iter().map(|own| own.octets()[3]).eq([2, 3, 21]), "{own:?}");
    pings(cluster, &pods[0], "net1", own[2])?;

    under_pings(cluster, &pods[0], own[2], || {
        let pool = json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": LAN.name },
            "spec": { "subnets": ["10.172.0.0/22"] },
        });
        cluster.apply(&pool.to_string())?;
        let waiting = cluster.until(&format!("{POOLS}/{}", LAN.name), |pool| {
            reason(pool, "FileOnNodes")
                .contains("worker3: hands out by its file, since it differs: the gateway")
        })?;
        let told = reason(&waiting, "Accepted");
        check!(told.contains("FilesOnNodes") && told.contains("worker3 hand out by a file"), "{told}");
        check!(blocks(cluster, LAN.name).map_err(failed)?.is_empty(), "blocks beside files");
        // All nodes go on with their files.
        let fourth = start(cluster, &on("filed2", "worker2"))?;
        check!(address(cluster, &fourth)? == Ipv4Addr::new(10, 172, 0, 22), "{}", address(cluster, &fourth)?);
        delete(cluster, "filed2-worker2")?;
        // The mistake is mended.
        cluster.worker("worker3")?.write(FILE, part(71, 99, "10.172.0.1"))?;
        cluster.until(&format!("{POOLS}/{}", LAN.name), |pool| condition(pool, "Ready") == Some("True"))?;
        let files = cluster.list(NODES).map_err(failed)?;
        let left: Vec<_> = files.iter().filter(|file| file["spec"]["pool"] == LAN.name).collect();
        check!(left.iter().all(|file| file["spec"]["fileRanges"].is_null()), "{left:#?}");
        Ok(())
    })?;

    let held = blocks(cluster, LAN.name).map_err(failed)?;
    for (pod, address) in pods.iter().zip(&own) {
        let block = held.iter().find(|block| contains(&block.prefix, *address));
        let node = block.map(|block| block.node.as_str());
        check!(node == Some(node_of(pod)), "{address} of {} is in {block:?}", node_of(pod));
    }
    for worker in &cluster.workers {
        worker.exec(&["rm", FILE])?;
    }
    for (name, address) in ["filed1-worker1", "filed2-worker1", "filed1-worker2"].iter().zip(&own) {
        check!(
            crate::pools::address(cluster, &ready(cluster, name)?)? == *address,
            "{name} has another address"
        );
    }
    let mut all = own.clone();
    for (spoke, node) in [("filed3", "worker1"), ("filed2", "worker2"), ("filed3", "worker3")] {
        let pod = start(cluster, &on(spoke, node))?;
        let new = address(cluster, &pod)?;
        check!(!all.contains(&new), "{new} is another pod's: {all:?}");
        pings(cluster, &pod, "net1", own[0])?;
        all.push(new);
        pods.push(pod);
    }
    let output = finish(&mut cluster.plugin(&["leases", LAN.name])?)?;
    let table = String::from_utf8_lossy(&output.stdout);
    check!(all.iter().all(|own| table.contains(&own.to_string())), "{all:?} are not all in\n{table}");
    let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    cluster.kubectl(&format!("delete pod {} --timeout=110s", names.join(" ")))?;
    LAN.remove(cluster)?;
    cluster.kubectl(&format!("delete lanpool {}", LAN.name)).map(drop)
}
