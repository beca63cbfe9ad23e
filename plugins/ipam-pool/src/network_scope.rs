//! Whether a network spans nodes: each of them would then hand out the same addresses.

use cni::{Request, Verb};
use net_types::IfName;
use netplumb::{Link, LinkKind, Netlink};
use node::LINK_GROUP;
use serde::Deserialize;
use serde_json::Value;

/// Main plugins whose networks end at the host.
const HOST_ONLY: [&str; 3] = ["ptp", "loopback", "dummy"];

/// The reference plugin, whose networks end at the host unless someone added an uplink to its bridge.
const REFERENCE_BRIDGE: &str = "bridge";

/// A reference plugin whose networks end at the host unless its interface is the port of a bridge with an uplink.
const TAP: &str = "tap";

/// The main plugin whose networks end at the host if its bridge has no uplink.
const VLAN_BRIDGE: &str = "vlan-bridge";

/// That plugin's default bridge.
const DEFAULT_BRIDGE: &str = "cni0";

/// The keys of that plugin that show an uplink, in any case, as there.
pub(crate) const NAMES: &[&str] = &["bridge", "createBridge", "uplinks"];

/// The values of these keys. Invalid values are for that plugin to report.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BridgeKeys {
    bridge: Value,
    uplinks: Value,
    create_bridge: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bridge {
    /// Whether the main plugin created it.
    is_ours: bool,
    /// A port that is not a pod's of `vlan-bridge`.
    other_port: Option<String>,
    /// A port that is not a pod's of the reference plugin either.
    uplink: Option<String>,
}

/// The kernel's answer about a bridge.
#[derive(Debug, thiserror::Error)]
#[error("cannot tell whether bridge {bridge} leads beyond this host")]
pub struct ReadBridgeError {
    bridge: String,
    source: netplumb::Error,
}

/// The network and why it spans nodes; `None` if it ends at this host. CHECK hands out nothing, so it gets `None`.
pub(crate) fn why_it_spans_nodes<C>(request: &Request<C>) -> Result<Option<String>, ReadBridgeError> {
    let Some(main) = request.plugin_type.as_deref() else { return Ok(None) };
    if request.verb == Verb::Check {
        return Ok(None);
    }
    let why = why_spanning(main, request.document(), |name| {
        read_bridge(name).map_err(|source| ReadBridgeError { bridge: name.to_string(), source })
    })?;
    Ok(why.map(|why| format!("{}, {why}", request.network)))
}

/// Why a main plugin's network spans nodes.
fn why_spanning<E>(
    main: &str,
    document: &[u8],
    read_bridge: impl FnOnce(&IfName) -> Result<Option<Bridge>, E>,
) -> Result<Option<String>, E> {
    if HOST_ONLY.contains(&main) {
        return Ok(None);
    }
    let spanning = |why: &str| Ok(Some(format!("type {main}{why}")));
    if main == REFERENCE_BRIDGE || main == TAP {
        // A key that stands there twice: these plugins take the last.
        let Ok(keys) = serde_json::from_slice::<BridgeKeys>(document) else { return spanning("") };
        let default = if main == TAP { "" } else { DEFAULT_BRIDGE };
        let name = keys.bridge.as_str().filter(|name| !name.is_empty()).unwrap_or(default);
        let Ok(name) = name.parse::<IfName>() else { return Ok(None) };
        return match read_bridge(&name)?.and_then(|bridge| bridge.uplink) {
            Some(port) => spanning(&format!(", {port} is a port of bridge {name}")),
            None => Ok(None),
        };
    }
    if main != VLAN_BRIDGE {
        return spanning("");
    }
    // A key that stands there twice; that plugin refuses it.
    let Ok(keys) = serde_json::from_slice::<BridgeKeys>(document) else { return spanning("") };
    if keys.uplinks.as_array().is_some_and(|uplinks| !uplinks.is_empty()) {
        return spanning(" with uplinks");
    }
    let name = keys.bridge.as_str().filter(|name| !name.is_empty()).unwrap_or(DEFAULT_BRIDGE);
    // That plugin refuses an invalid name itself.
    let Ok(name) = name.parse::<IfName>() else { return spanning("") };
    match read_bridge(&name)? {
        None if keys.create_bridge == Value::Bool(false) => {
            spanning(&format!(", {name} is the node's own bridge"))
        }
        // The plugin creates it, without an uplink.
        None => Ok(None),
        Some(Bridge { other_port: Some(port), .. }) => {
            spanning(&format!(", {port} is a port of bridge {name}"))
        }
        Some(Bridge { is_ours: false, .. }) => spanning(&format!(", {name} is the node's own bridge")),
        Some(_) => Ok(None),
    }
}

fn read_bridge(name: &IfName) -> netplumb::Result<Option<Bridge>> {
    let host = Netlink::open_current()?;
    let Some(link) = host.link_by_name(name)? else { return Ok(None) };
    if !matches!(link.kind, LinkKind::Bridge(_)) {
        // The main plugin refuses it.
        return Ok(Some(Bridge { is_ours: false, other_port: None, uplink: None }));
    }
    // Ports of pods have the link group since they were created, uplinks never have it.
    let mut others = host.ports(link.index)?;
    others.retain(|port| port.group != LINK_GROUP);
    // The reference plugin names its ports like this; a tap is a virtual machine of this node.
    let of_reference = |port: &Link| match &port.kind {
        LinkKind::Veth => port.name.starts_with("veth"),
        LinkKind::Other(kind) => kind == "tun",
        _ => false,
    };
    let uplink = others.iter().find(|port| !of_reference(port)).map(|port| port.name.clone());
    let other_port = others.into_iter().next().map(|port| port.name);
    Ok(Some(Bridge { is_ours: link.group == LINK_GROUP, other_port, uplink }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Bridge = Bridge { is_ours: true, other_port: None, uplink: None };

    fn describe(main: &str, keys: &str, bridge: Option<Bridge>) -> String {
        let document = format!("{{\"type\":\"{main}\"{keys}}}");
        let found = why_spanning(main, document.as_bytes(), |_| Ok::<_, ()>(bridge)).unwrap();
        found.unwrap_or_else(|| "ends here".to_owned())
    }

    #[test]
    fn a_network_ends_at_the_host_or_leads_on() {
        for main in HOST_ONLY {
            assert_eq!(describe(main, "", None), "ends here", "{main}");
        }
        for main in
            ["macvtap", "macvlan", "ipvlan", "vlan", "host-device", "sriov", "k8slanveth", "ipam-pool"]
        {
            assert_eq!(describe(main, "", None), format!("type {main}"));
        }
    }

    #[test]
    fn the_bridge_of_a_reference_plugin_leads_on_by_an_uplink() {
        let shared = Bridge { is_ours: false, other_port: Some("veth12345678".to_owned()), uplink: None };
        let wired = Bridge { uplink: Some("eth1".to_owned()), ..shared.clone() };
        for (keys, bridge, expected) in [
            ("", None, "ends here"),
            (",\"bridge\":\"br0\"", Some(shared.clone()), "ends here"),
            (",\"bridge\":\"br0\"", Some(wired.clone()), "type bridge, eth1 is a port of bridge br0"),
            ("", Some(wired.clone()), "type bridge, eth1 is a port of bridge cni0"),
            (",\"bridge\":\"br0\",\"bridge\":\"br1\"", None, "type bridge"),
        ] {
            assert_eq!(describe(REFERENCE_BRIDGE, keys, bridge), expected, "{keys}");
        }
        for (keys, bridge, expected) in [
            ("", Some(wired.clone()), "ends here"),
            (",\"bridge\":\"\"", Some(wired.clone()), "ends here"),
            (",\"bridge\":\"br0\"", Some(shared), "ends here"),
            (",\"bridge\":\"br0\"", Some(wired), "type tap, eth1 is a port of bridge br0"),
        ] {
            assert_eq!(describe(TAP, keys, bridge), expected, "{keys}");
        }
    }

    #[test]
    fn a_bridge_ends_at_the_host_as_long_as_nothing_leads_on() {
        let node = Bridge { is_ours: false, ..OURS };
        let wired = Bridge { other_port: Some("eth1".to_owned()), ..OURS };
        for (keys, bridge, expected) in [
            ("", None, "ends here"),
            (",\"uplinks\":[]", None, "ends here"),
            (",\"uplinks\":null,\"bridge\":null", Some(OURS), "ends here"),
            (",\"bridge\":\"br0\"", Some(OURS), "ends here"),
            (",\"uplinks\":[{\"name\":\"eth1\"}]", None, "type vlan-bridge with uplinks"),
            (",\"createBridge\":false", None, "type vlan-bridge, cni0 is the node's own bridge"),
            (",\"bridge\":\"br0\"", Some(node), "type vlan-bridge, br0 is the node's own bridge"),
            (",\"bridge\":\"br0\",\"bridge\":\"cni0\"", None, "type vlan-bridge"),
            (",\"bridge\":\"br0\"", Some(wired), "type vlan-bridge, eth1 is a port of bridge br0"),
        ] {
            assert_eq!(describe(VLAN_BRIDGE, keys, bridge), expected, "{keys}");
        }
    }
}
