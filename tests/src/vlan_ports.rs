//! What the tests of `vlan-bridge` share: a node with an uplink, a configuration, what members of a bridge carry, frames.
#![expect(clippy::unwrap_used, reason = "for tests only")]

use std::time::Duration;

use serde_json::{Value, json};
use testnet::{CniError, Node, Outcome, PacketSocket, Stop};

/// The plugin under test.
pub const PLUGIN: &str = "vlan-bridge";

/// An outcome that fails with `what` where the condition does not hold.
///
/// # Errors
/// It does not.
pub fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

/// The same with a text that is only made, and what it asks only asked, where the condition does not hold.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($what:tt)+) => {
        if $condition { Ok(()) } else { Err(testnet::Stop::Failed(format!($($what)+))) }
    };
}

/// A configuration of network `net` for bridge br0.
#[must_use]
pub fn config(fields: Value) -> Value {
    let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": PLUGIN, "bridge": "br0"});
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// A node whose eth1 leads to `wire`, where frames can be seen.
///
/// # Errors
/// It cannot be made.
pub fn node() -> Result<Node, Stop> {
    let node = Node::new("one")?;
    node.ip("link add eth1 type veth peer name wire")?;
    node.ip("link set dev eth1 up")?;
    node.ip("link set dev wire up")?;
    Ok(node)
}

/// What `bridge` of iproute2 answers on a node.
///
/// # Errors
/// It failed.
pub fn bridge(node: &Node, arguments: &str) -> Result<String, Stop> {
    let argv: Vec<&str> = std::iter::once("bridge").chain(arguments.split_whitespace()).collect();
    Ok(node.exec(&argv)?)
}

/// What a member of the bridge carries, as `bridge -compressvlans` says it: `10 20-30 1u*`, u for untagged and * for the
/// PVID.
///
/// # Errors
/// `bridge` failed.
pub fn vlans(node: &Node, link: &str) -> Result<String, Stop> {
    let shown: Value = serde_json::from_str(&bridge(node, "-json -compressvlans vlan show")?).unwrap();
    let member = shown.as_array().unwrap().iter().find(|member| member["ifname"] == link);
    let entries = member.and_then(|member| member["vlans"].as_array().cloned()).unwrap_or_default();
    let entry = |entry: &Value| {
        let mut text = entry["vlan"].to_string();
        if let Some(end) = entry.get("vlanEnd") {
            text += &format!("-{end}");
        }
        for flag in entry["flags"].as_array().into_iter().flatten() {
            text += if flag == "PVID" { "*" } else { "u" };
        }
        text
    };
    Ok(entries.iter().map(entry).collect::<Vec<_>>().join(" "))
}

/// The port of a result.
#[must_use]
pub fn port(result: &Value) -> String {
    result["interfaces"][1]["name"].as_str().unwrap().to_owned()
}

/// The MAC address of the pod's interface in a result.
#[must_use]
pub fn mac(result: &Value) -> [u8; 6] {
    let text = result["interfaces"][2]["mac"].as_str().unwrap();
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A broadcast frame from an address, with these tags.
#[must_use]
pub fn frame(source: [u8; 6], tags: &[u8]) -> Vec<u8> {
    // The same however many tags there are: a bridge only adds and removes tags.
    [&[0xff; 6][..], &source, tags, &[0x88, 0xb5], &[0x55; 64]].concat()
}

/// The 802.1Q tag of a VLAN.
#[must_use]
pub fn tag(id: u8) -> [u8; 4] {
    [0x81, 0, 0, id]
}

/// Whether a frame arrives there exactly like this; what must not arrive is waited for a shorter time.
///
/// # Errors
/// The link is gone.
pub fn arrives(at: &PacketSocket, expected: &[u8], wanted: bool) -> Result<bool, Stop> {
    let timeout = Duration::from_millis(if wanted { 2000 } else { 60 });
    Ok(at.find(timeout, |f| f.bytes == expected)?.is_some())
}

/// That a frame arrives.
///
/// # Errors
/// It does not.
pub fn sees(at: &PacketSocket, expected: &[u8], what: &str) -> Outcome {
    check(arrives(at, expected, true)?, format!("{what}: not seen"))
}

/// That a frame does not arrive.
///
/// # Errors
/// It does.
pub fn sees_not(at: &PacketSocket, unexpected: &[u8], what: &str) -> Outcome {
    check(!arrives(at, unexpected, false)?, format!("{what}: seen"))
}

/// That a verb was refused with this code, and words that say this.
///
/// # Errors
/// It was not.
pub fn refused(result: Result<Value, CniError>, code: u64, says: &str) -> Outcome {
    match result {
        Ok(result) => Err(Stop::Failed(format!("accepted: {result}, but {says:?} was expected"))),
        Err(error) if error.code == code && error.text().contains(says) => Ok(()),
        Err(error) => Err(Stop::Failed(format!("code {code} and {says:?} expected: {error}"))),
    }
}
