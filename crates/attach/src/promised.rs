//! The `prevResult` of CHECK: the result of a whole chain, of which one plugin made a part.

use cni::{AddResult, IpConfig, Route};
use net_types::IfName;

/// The part of a chain's result that is about the pod's interface with that name; `None` if it has no such interface.
///
/// Addresses and routes of other plugins' interfaces are left out. A result does not say which interface a route
/// uses; if there are several, the route's gateway decides.
#[must_use]
pub fn own_part(promised: &AddResult, ifname: &IfName) -> Option<AddResult> {
    let in_pod =
        || promised.interfaces.iter().enumerate().filter(|(_, interface)| interface.sandbox.is_some());
    let (at, _) = in_pod().find(|(_, interface)| interface.name == ifname.as_str())?;
    let mut own = promised.clone();
    own.ips.retain(|ip| ip.interface.is_none_or(|index| index == at));
    if in_pod().count() > 1 {
        own.routes.retain(|route| goes_by(route, &own.ips));
    }
    Some(own)
}

fn goes_by(route: &Route, ips: &[IpConfig]) -> bool {
    route.gw.is_some_and(|gw| ips.iter().any(|ip| ip.address.contains(gw) || ip.gateway == Some(gw)))
}

#[cfg(test)]
mod tests {
    use cni::Interface;

    use super::*;

    fn named(text: &str) -> IfName {
        text.parse().unwrap()
    }

    fn address(text: &str, gateway: &str, interface: Option<usize>) -> IpConfig {
        IpConfig::new(text.parse().unwrap(), gateway.parse().ok(), interface)
    }

    fn route(destination: &str, gateway: &str) -> Route {
        Route::new(destination.parse().unwrap(), gateway.parse().ok())
    }

    #[test]
    fn an_interface_has_its_own_addresses_and_routes() {
        let promised = AddResult {
            interfaces: vec![
                Interface::in_container(&named("eth0"), None, "/ns"),
                Interface::on_host(&named("net1"), None),
                Interface::in_container(&named("net1"), None, "/ns"),
            ],
            ips: vec![
                address("10.0.0.2/24", "10.0.0.1", Some(0)),
                address("10.9.0.2/24", "10.9.0.1", Some(2)),
                address("fd09::2/64", "fe80::1", Some(2)),
            ],
            routes: vec![
                route("0.0.0.0/0", "10.0.0.1"),
                route("10.8.0.0/16", "10.9.0.7"),
                route("::/0", "fe80::1"),
            ],
            ..AddResult::default()
        };
        let own = own_part(&promised, &named("net1")).unwrap();
        assert_eq!(own.ips, promised.ips[1..]);
        assert_eq!(own.routes, promised.routes[1..]);
        let first = own_part(&promised, &named("eth0")).unwrap();
        assert_eq!((first.ips, first.routes), (promised.ips[..1].to_vec(), promised.routes[..1].to_vec()));
        assert_eq!(own_part(&promised, &named("net2")), None);
        let alone = AddResult { interfaces: promised.interfaces[1..].to_vec(), ..promised.clone() };
        assert_eq!(
            own_part(&alone, &named("net1")).unwrap().routes,
            promised.routes,
            "there is no other to go by"
        );
        assert_eq!(
            own_part(
                &AddResult { interfaces: vec![promised.interfaces[1].clone()], ..promised },
                &named("net1")
            ),
            None
        );
    }
}
