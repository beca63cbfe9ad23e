//! Network configurations: read by the plugin that they are for, and without keys that it does not know. A plugin
//! ignores those, as the specification wants it, so nobody else would tell.

use std::collections::BTreeSet;
use std::fs;

use k8slan_tests::Network;
use serde_json::Value;
use testnet::workspace;

use crate::manifests::types::chain;

const DEFINITION: [&str; 2] = ["cniVersion", "type"];
/// What every plugin has.
const PROTOCOL: [&str; 8] =
    ["cniVersion", "name", "type", "ipam", "dns", "args", "capabilities", "runtimeConfig"];

/// Checks a NetworkAttachmentDefinition, as Multus hands it on.
pub(crate) fn of_definition(object: &Value) -> Result<(), String> {
    let text = object["spec"]["config"].as_str().ok_or("it has no spec.config")?;
    let config: Value = serde_json::from_str(text).map_err(|error| format!("spec.config: {error}"))?;
    for key in DEFINITION {
        if !config[key].is_string() {
            return Err(format!("spec.config has no {key}"));
        }
    }
    if object["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"].is_null() {
        return check(&config);
    }
    let network = Network::of_object(object).map_err(|stop| format!("{stop:?}"))?;
    check(&network.config)?;
    match wanted(network.config)? {
        macvtap::Wanted::Device(spoke) if spoke == network.spoke => Ok(()),
        other => Err(format!("its resource is for spoke {}, but it wants {other:?}", network.spoke)),
    }
}

/// Checks a configuration, or an `ipam` section by itself.
pub(crate) fn check(config: &Value) -> Result<(), String> {
    match config["type"].as_str() {
        Some("macvtap") => {
            known(config, &["`macvtap`"], &["pciBusID"])?;
            wanted(config.clone())?;
        }
        Some("vlan-bridge") => {
            known(config, &["`vlan-bridge`"], &[])?;
            each(&config["uplinks"], &["`vlan-bridge`: `uplinks[]`"])?;
            each(&config["gateway"], &["`vlan-bridge`: `gateway[]`"])?;
            let read: vlan_bridge::Config =
                serde_json::from_value(config.clone()).map_err(|e| e.to_string())?;
            read.validate(config.get("ipam").is_some()).map_err(|e| chain(&e))?;
        }
        Some("ipam-pool") => return ipam(config),
        other => return Err(format!("say in {} which type reads a configuration of {other:?}", file!())),
    }
    match config.get("ipam") {
        Some(section) if section["type"] == "ipam-pool" => ipam(section),
        _ => Ok(()),
    }
}

fn wanted(config: Value) -> Result<macvtap::Wanted, String> {
    let config: macvtap::Config = serde_json::from_value(config).map_err(|e| e.to_string())?;
    config.wanted(None).map_err(|e| chain(&e))
}

fn ipam(section: &Value) -> Result<(), String> {
    known(section, &["`ipam-pool`: the `ipam` section"], &[])?;
    for list in section["ranges"].as_array().into_iter().flatten() {
        each(list, &["Ranges: `ipam.ranges[][]`, `spec.ranges[]` of a pool"])?;
    }
    each(&section["routes"], &["Routes: `ipam.routes[]`"])
}

fn each(list: &Value, headings: &[&str]) -> Result<(), String> {
    list.as_array().into_iter().flatten().try_for_each(|item| known(item, headings, &[]))
}

/// That docs/reference.md, which is made from the types, lists every key.
fn known(value: &Value, headings: &[&str], more: &[&str]) -> Result<(), String> {
    let keys = keys(headings)?;
    let fields = value.as_object().ok_or_else(|| format!("{value} is no object"))?;
    let strange = fields.keys().find(|key| {
        !keys.contains(*key) && !PROTOCOL.contains(&key.as_str()) && !more.contains(&key.as_str())
    });
    strange.map_or(Ok(()), |key| Err(format!("unknown key {key}")))
}

/// The keys of parts of docs/reference.md.
pub(crate) fn keys(headings: &[&str]) -> Result<BTreeSet<String>, String> {
    let page = fs::read_to_string(workspace().join("docs/reference.md")).map_err(|e| e.to_string())?;
    let mut keys = BTreeSet::new();
    for heading in headings {
        let part = page.split("\n## ").find_map(|part| part.strip_prefix(heading)?.strip_prefix('\n'));
        let part = part.ok_or_else(|| format!("docs/reference.md has no {heading}"))?;
        let rows = part.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        keys.extend(rows.map(|(key, _)| key.to_owned()));
    }
    Ok(keys)
}
