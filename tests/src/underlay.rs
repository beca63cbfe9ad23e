use serde_json::Value;
use testnet::{Error, Namespaces};

/// The name of a VXLAN device's underlay, which is a link of the node's namespace.
///
/// The kernel tells its index; `ip` in the LAN's namespace shows the name that this index has there, or `if7`
/// where it has none. `None` if the node has no link of that index.
///
/// # Errors
/// If links cannot be listed.
pub fn underlay(node: &Namespaces, inside: &Namespaces, vxlan: &Value) -> Result<Option<String>, Error> {
    let shown = vxlan["linkinfo"]["info_data"]["link"].as_str().unwrap_or_default();
    let index = match inside.link(shown)? {
        Some(link) => link["ifindex"].as_u64(),
        None => shown.strip_prefix("if").and_then(|number| number.parse().ok()),
    };
    let links = node.ip_json("link show")?;
    let underlay = links.iter().find(|link| index.is_some() && link["ifindex"].as_u64() == index);
    Ok(underlay.and_then(|link| link["ifname"].as_str()).map(str::to_owned))
}
