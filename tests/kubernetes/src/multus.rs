//! Multus, played: what version 4.2 does between a container runtime and the plugins, as its source has it
//! (`pkg/multus`, `pkg/types`, `pkg/k8sclient`), without what pods do not notice (informers, events, gateways).
//!
//! - *Thin*: a plugin that the runtime runs. It puts the runtime's `CNI_ARGS`, which it inherits, **behind** its own, so
//!   that all keys come twice.
//! - *Thick*: a plugin that carries the call to a daemon on the node. The daemon runs the plugins, and has no `CNI_ARGS`
//!   of its own: the keys come once, and `CNI_PATH` is the daemon's. That its pod has another mount namespace than the
//!   node is not played: it enters the node's root before it runs them.
//!
//! Which of them the program plays is in the name that it is called by.

mod api;
mod arguments;
mod call;
mod delegate;
mod device;
mod thick;

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

use api::Api;
use call::{Call, Environment};
use delegate::Delegate;

/// The configuration in the nodes' CNI folder.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    cni_version: String,
    kubeconfig: String,
    cluster_network: String,
}

/// The name of the thick one's plugin, which the runtime runs.
pub const SHIM: &str = "multus-shim";
/// The name of the thick one's daemon.
pub const DAEMON: &str = "multus-daemon";

/// The `main` of the programs.
#[must_use]
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    if name == DAEMON {
        let Err(said) = thick::daemon() else { return ExitCode::SUCCESS };
        eprintln!("{said}");
        return ExitCode::FAILURE;
    }
    match run(name == SHIM) {
        Ok(answer) => {
            print!("{answer}");
            ExitCode::SUCCESS
        }
        Err(said) => {
            print!("{}", json!({ "cniVersion": "1.0.0", "code": 999, "msg": said }));
            ExitCode::FAILURE
        }
    }
}

fn run(shim: bool) -> Result<String, String> {
    let text = |value: OsString| value.to_string_lossy().into_owned();
    let environment: Environment =
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    let verb = environment.get("CNI_COMMAND").cloned().unwrap_or_default();
    if verb == "VERSION" {
        let versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        return Ok(json!({ "cniVersion": "1.1.0", "supportedVersions": versions }).to_string());
    }
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).map_err(|error| format!("stdin: {error}"))?;
    let configuration: Value =
        serde_json::from_slice(&input).map_err(|error| format!("error loading netconf: {error}"))?;
    if shim {
        return thick::plugin(&verb, &environment, &configuration);
    }
    handle(&verb, configuration, &Call::to_plugin(&environment)?)
}

/// Handles one call; the text is the answer to the runtime.
fn handle(verb: &str, configuration: Value, call: &Call) -> Result<String, String> {
    let configuration: Configuration =
        serde_json::from_value(configuration).map_err(|error| format!("error loading netconf: {error}"))?;
    match verb {
        "ADD" => add(&configuration, call),
        "DEL" => del(&configuration, call).map(|()| String::new()),
        "CHECK" => delegate::saved(&call.container)?
            .iter()
            .try_for_each(|delegate| delegate.check(call))
            .map(|()| String::new()),
        other => Err(format!("{other} is not played")),
    }
}

fn add(configuration: &Configuration, call: &Call) -> Result<String, String> {
    let api = Api::new(&configuration.kubeconfig)?;
    let Some(pod) = api.pod(call)? else {
        // The pod is gone again: an empty result.
        let interfaces = json!([{ "name": call.ifname, "sandbox": call.netns }]);
        let ips = json!([{ "address": "0.0.0.0/32", "gateway": "0.0.0.0" }]);
        return Ok(json!({ "cniVersion": configuration.cni_version, "interfaces": interfaces, "ips": ips })
            .to_string());
    };
    let mut delegates = vec![Delegate::cluster(&configuration.cluster_network, &call.ifname)?];
    delegates.extend(
        delegate::of_pod(&api, &pod)
            .map_err(|error| format!("error loading k8s delegates k8s args: {error}"))?,
    );
    delegate::save(&call.container, &delegates)?;
    let (mut answer, mut statuses) = (Value::Null, Vec::new());
    for number in 0..delegates.len() {
        let delegate = &delegates[number];
        match delegate.add(call) {
            Ok(result) => {
                statuses.push(delegate.status(&result));
                if number == 0 {
                    answer = result;
                }
            }
            Err(error) => {
                // As there: what the DELs say is not told.
                delegates[..=number].iter().rev().for_each(|delegate| drop(delegate.del(call)));
                let name = delegate.network();
                let (namespace, pod, uid) = (&call.pod_namespace, &call.pod_name, &call.pod_uid);
                return Err(format!(
                    "[{namespace}/{pod}/{uid}:{name}]: error adding container to network {name:?}: {error}"
                ));
            }
        }
    }
    api.set_network_status(call, &statuses)?;
    Ok(answer.to_string())
}

fn del(configuration: &Configuration, call: &Call) -> Result<(), String> {
    let delegates = match delegate::saved(&call.container) {
        Ok(delegates) => delegates,
        Err(_) => {
            let api = Api::new(&configuration.kubeconfig)?;
            // Nothing can be known, and an error would keep the sandbox for ever.
            let Ok(Some(pod)) = api.pod(call) else { return Ok(()) };
            let mut delegates = vec![Delegate::cluster(&configuration.cluster_network, &call.ifname)?];
            delegates.extend(delegate::of_pod(&api, &pod).unwrap_or_default());
            delegates
        }
    };
    let said: Vec<String> = delegates.iter().rev().filter_map(|delegate| delegate.del(call).err()).collect();
    delegate::forget(&call.container);
    if said.is_empty() { Ok(()) } else { Err(said.join(" / ")) }
}
