//! Imports as they are made, on objects of the shapes that whereabouts and host-local write.

mod finishing;
mod selecting;
mod taking_over;

use serde_json::{Value, json};

use super::*;

/// What a cluster and its nodes have.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster(Vec<Value>);

impl Cluster {
    /// A NetworkAttachmentDefinition, `<namespace>/<name>`.
    fn definition(mut self, name: &str, ipam: Value) -> Self {
        let (namespace, name) = name.split_once('/').unwrap();
        let config =
            json!({ "cniVersion": "0.3.1", "name": name, "type": "macvlan", "master": "eth0", "ipam": ipam });
        self.0.push(json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": { "namespace": namespace, "name": name }, "spec": { "config": config.to_string() },
        }));
        self
    }

    fn without_definition(mut self, name: &str) -> Self {
        self.0.retain(|object| {
            object["kind"] != "NetworkAttachmentDefinition" || documents::name_of(object) != name
        });
        self
    }

    /// As whereabouts writes it, in its namespace: distances from the range's address, and the pods.
    fn ip_pool(mut self, name: &str, range: &str, allocations: &[(&str, &str)]) -> Self {
        self.0.retain(|object| object["kind"] != "IPPool" || object["metadata"]["name"] != name);
        let given = allocations.iter().map(|(offset, pod)| {
            ((*offset).to_owned(), json!({ "id": "0123456789abcdef", "ifname": "net1", "podref": pod }))
        });
        self.0.push(json!({
            "apiVersion": "whereabouts.cni.cncf.io/v1alpha1", "kind": "IPPool",
            "metadata": { "namespace": "kube-system", "name": name, "resourceVersion": "7" },
            "spec": { "range": range, "allocations": given.collect::<serde_json::Map<_, _>>() },
        }));
        self
    }

    fn reservation(mut self, name: &str, pod: &str) -> Self {
        self.0.push(json!({
            "apiVersion": "whereabouts.cni.cncf.io/v1alpha1", "kind": "OverlappingRangeIPReservation",
            "metadata": { "namespace": "kube-system", "name": name },
            "spec": { "containerid": "0123456789abcdef", "podref": pod, "ifname": "net1" },
        }));
        self
    }

    /// host-local's files on a node.
    fn node(mut self, name: &str, network: &str, addresses: &[&str]) -> Self {
        let leases: Vec<Value> = addresses
            .iter()
            .map(|address| json!({ "address": address, "container": "0123456789abcdef" }))
            .collect();
        self.0.retain(|document| document["node"] != name);
        self.0.push(json!({ "node": name, "hostLocal": { network: leases } }));
        self
    }

    fn pool(mut self, object: Value) -> Self {
        self.0.retain(|other| {
            other["kind"] != "LANPool" || other["metadata"]["name"] != object["metadata"]["name"]
        });
        self.0.push(object);
        self
    }

    fn documents(&self) -> Documents {
        // As kubectl prints it: in lists.
        let (nodes, objects): (Vec<&Value>, Vec<&Value>) =
            self.0.iter().partition(|document| document["node"].is_string());
        let mut text = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
        nodes.iter().for_each(|node| text.push_str(&node.to_string()));
        Documents::read(text.as_bytes()).unwrap()
    }

    fn ask(&self, plugin: Plugin, pool: &str, finish: bool) -> Result<Plan> {
        let pool = Some(pool.to_owned()).filter(|pool| !pool.is_empty());
        plan(&self.documents(), &Question { plugin, pool, finish })
    }

    fn import(&self, plugin: Plugin) -> Plan {
        self.ask(plugin, "", false).unwrap()
    }

    fn finish(&self, plugin: Plugin) -> Plan {
        self.ask(plugin, "", true).unwrap()
    }

    /// After kubectl has done what the plan says.
    fn after(mut self, plan: &Plan) -> Self {
        for step in &plan.steps {
            if let Some(Change::Create(object) | Change::Replace(object)) = step.change.clone() {
                self = self.pool(object);
            }
        }
        self
    }

    fn lan_pool(&self, name: &str) -> Value {
        let pool =
            self.0.iter().find(|object| object["kind"] == "LANPool" && object["metadata"]["name"] == name);
        pool.unwrap_or_else(|| panic!("no LANPool {name}")).clone()
    }
}

fn text(plan: &Plan) -> String {
    told(plan).join("\n")
}

fn has(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
}

/// What whereabouts' own documentation has, with an address of either family.
fn dual() -> Cluster {
    let ipam = json!({
        "type": "whereabouts",
        "ipRanges": [
            { "range": "192.168.2.225/28", "exclude": ["192.168.2.229/30", "192.168.2.236/32"] },
            { "range": "fd00:2::/64", "range_start": "fd00:2::10" },
        ],
        "gateway": "192.168.2.225", "routes": [{ "dst": "10.0.0.0/8" }], "log_file": "/tmp/whereabouts.log",
        "dns": {}, "range_end": null,
    });
    Cluster::default()
        .definition("default/iot", ipam)
        .definition("default/other", json!({ "type": "host-local", "subnet": "10.1.0.0/24" }))
        .ip_pool(
            "192.168.2.224-28",
            "192.168.2.224/28",
            &[("2", "default/web-0"), ("3", "default/web-1"), ("9", "shop/db")],
        )
        .ip_pool(
            "fd00-2---64",
            "fd00:2::/64",
            &[("16", "default/web-0"), ("18446744073709551614", "shop/db")],
        )
        .reservation("192.168.2.226", "default/web-0")
        .reservation("192.168.2.238", "shop/left-over")
        .reservation("fd00-2--10", "default/web-0")
}
