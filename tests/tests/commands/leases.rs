//! `k8slan-device-plugin leases`: who has which addresses on this node, and on several.

use serde_json::{Value, json};
use testnet::{Node, Outcome, Stop, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![leases_of_this_node_and_of_several]
}

const POOL: &str = "apiVersion: lan.k8slan.io/v1beta1
kind: IPPool
metadata: {name: p}
spec:
  scope: host
  ranges: [{subnet: 10.9.0.0/24}]
";

fn said(node: &Node, arguments: &str) -> Result<String, Stop> {
    let command = format!("{} leases {arguments}", program("k8slan-device-plugin").display());
    Ok(node.exec(&["sh", "-c", &command])?)
}

fn leases_of_this_node_and_of_several() -> Outcome {
    let node = Node::new("worker1")?;
    assert_eq!(said(&node, "")?, "no leases\n");
    node.write("/var/lib/k8slan/pools.d/p.yaml", POOL)?;
    node.write("/run/k8slan/node-name", "worker1\n")?;
    let network = json!({ "cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": { "type": "ipam-pool", "pool": "p" } });
    node.pod("one")?.add("ipam-pool", "net1", &network)?;
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let table = rows(&said(&node, "")?);
    assert_eq!(table[1], ["10.9.0.2", "p", "worker1", "default", "pod/one", "net1", "leased"], "{table:?}");
    let mine: Value = serde_json::from_str(&said(&node, "-o json")?)?;
    assert_eq!(
        (&mine[0]["address"], &mine[0]["node"], &mine[0]["pod"]),
        (&json!("10.9.0.2"), &json!("worker1"), &json!("one"))
    );
    let mut other = mine.clone();
    other[0]["node"] = json!("worker2");
    other[0]["address"] = json!("10.9.0.1");
    node.write("/run/nodes", format!("{mine}\n[]\n{other}\n"))?;
    let table = rows(&said(&node, "p --from /run/nodes")?);
    let shown: Vec<(&str, &str)> = table[1..].iter().map(|row| (row[0].as_str(), row[2].as_str())).collect();
    assert_eq!(shown, [("10.9.0.1", "worker2"), ("10.9.0.2", "worker1")]);
    assert_eq!(said(&node, "office --from /run/nodes")?, "no leases of office; there are some of p\n");
    Ok(())
}
