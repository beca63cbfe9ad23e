//! Addresses of pools that nodes or load balancers have: whoever made such a pool forgot to exclude them.
//!
//! The leader watches nodes anyway. Services of type LoadBalancer are listed now and then, and selected by the API server: to
//! watch them would cost memory for all of them and an event for each change of any, and a warning need not be quick.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use lan::Condition;
use lan::pool::LanPoolSpec;
use net_types::{Addr, AddrSet};

use super::api::list;
use super::conditions::USED_BY_CLUSTER;
use crate::aggregate_status::join_some;

/// Who has each address, for messages.
pub(super) type Foreign = BTreeMap<Addr, String>;

/// The addresses by which others reach a node.
pub(super) fn of_node(node: &Node) -> Vec<Addr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let reached = all.filter(|found| matches!(found.type_.as_str(), "InternalIP" | "ExternalIP"));
    reached.filter_map(|found| parse(&found.address)).collect()
}

/// The addresses of all load balancers.
///
/// # Errors
/// The API server does not answer, or does not let this process list them.
pub(super) async fn of_load_balancers(client: &Client) -> Result<Foreign, kube::Error> {
    let api: Api<DeserializeGuard<Service>> = Api::all(client.clone());
    let all = list(&api, &ListParams::default().fields("spec.type=LoadBalancer")).await?;
    Ok(all.iter().filter_map(|service| service.0.as_ref().ok()).flat_map(of_service).collect())
}

fn of_service(service: &Service) -> Vec<(Addr, String)> {
    let metadata = &service.metadata;
    let who = format!(
        "Service {}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    );
    let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let points = balancer.flat_map(|balancer| balancer.ingress.iter().flatten());
    points.filter_map(|point| Some((parse(point.ip.as_deref()?)?, who.clone()))).collect()
}

fn parse(text: &str) -> Option<Addr> {
    text.parse::<IpAddr>().ok().map(Addr::from)
}

/// What of a pool is somebody's already. A pool of a routing domain of its own is in another network than nodes and Services.
pub(super) fn used_by_cluster(
    spec: &LanPoolSpec,
    handed_out: &AddrSet,
    foreign: &Foreign,
) -> Option<Condition> {
    if spec.routing_domain.as_ref().is_some_and(|domain| !domain.is_empty()) {
        return None;
    }
    let inside = foreign.iter().filter(|(address, _)| handed_out.contains(**address));
    let told: Vec<String> = inside.map(|(address, who)| format!("{address} is {who}'s")).collect();
    let message = format!(
        "{}, and pods may be given it as well: add it to exclude, or give the pool a routingDomain if it is in another network",
        join_some(&told)
    );
    (!told.is_empty()).then(|| Condition::new(USED_BY_CLUSTER, true, "NodeOrLoadBalancer", message))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn who_has_an_address_of_a_pool_is_told() {
        let node: Node = from_value(json!({ "status": { "addresses": [
            { "type": "InternalIP", "address": "192.168.1.10" }, { "type": "Hostname", "address": "192.168.1.11" },
            { "type": "ExternalIP", "address": "fd00::a" }, { "type": "InternalIP", "address": "?" },
        ] } }))
        .unwrap();
        let mut foreign: Foreign =
            of_node(&node).into_iter().map(|address| (address, "node worker1".to_owned())).collect();
        let service: Service = from_value(json!({
            "metadata": { "namespace": "default", "name": "web" },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.168.1.200" }, { "hostname": "web.example.org" }] } },
        }))
        .unwrap();
        foreign.extend(of_service(&service));
        assert_eq!(foreign.len(), 3);
        let set =
            AddrSet::union(["192.168.1.2-192.168.1.254", "10.0.0.1"].map(|range| range.parse().unwrap()));
        let spec = |spec| from_value::<LanPoolSpec>(spec).unwrap();
        let office = spec(json!({ "subnets": ["192.168.1.0/24"] }));
        let told = used_by_cluster(&office, &set, &foreign).unwrap().message;
        let words = "192.168.1.10 is node worker1's; 192.168.1.200 is Service default/web's, and pods";
        assert!(told.starts_with(words), "{told}");
        let apart = spec(json!({ "subnets": ["192.168.1.0/24"], "routingDomain": "dmz" }));
        assert_eq!(used_by_cluster(&apart, &set, &foreign), None);
        let rest = set.without(&AddrSet::union(["192.168.1.10-192.168.1.200".parse().unwrap()]));
        assert_eq!(used_by_cluster(&office, &rest, &foreign), None);
    }
}
