use std::net::IpAddr;

use serde_json::{Value, json};
use testnet::{CniCall, CniError, Pod, Stop};

use crate::Worker;

/// The plugin's configuration as Multus hands it over for a network whose resource is this spoke.
#[must_use]
pub fn on_spoke(spoke: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": "lan", "type": "macvtap", "deviceID": spoke})
}

/// A pod on a spoke, its interface `net1` with this address (`10.0.0.1/24`).
///
/// # Errors
/// If the LAN is not built or the plugin refuses.
pub fn joined<'a>(worker: &'a Worker, spoke: &str, address: &str) -> Result<Pod<'a>, Stop> {
    worker.ready(spoke)?;
    let pod = worker.pod(spoke)?;
    pod.add("macvtap", "net1", &on_spoke(spoke))?;
    pod.ip(&format!("addr add {address} dev net1 nodad"))?;
    Ok(pod)
}

/// What a runtime says about a pod of this Kubernetes namespace.
#[must_use]
pub fn call_in(namespace: &str, pod: &Pod<'_>, ifname: &str, config: &Value) -> CniCall {
    let call = pod.call(ifname, config);
    let args = call.args.replace("K8S_POD_NAMESPACE=default;", &format!("K8S_POD_NAMESPACE={namespace};"));
    CniCall { args, ..call }
}

/// How often a runtime's caller asks again, at most.
const TRIES: usize = 5;

/// Asks again, as a kubelet does, where a plugin says to try again later (code 11): where many attach at once on a busy
/// machine, a lock is waited for longer than a plugin does.
///
/// # Errors
/// Any other, or this one again and again.
pub fn asked_again(mut ask: impl FnMut() -> Result<Value, CniError>) -> Result<Value, CniError> {
    let mut tries = 1;
    loop {
        match ask() {
            Err(error) if error.code == 11 && tries < TRIES => eprintln!("asked again: {error}"),
            answer => return answer,
        }
        tries += 1;
    }
}

/// The addresses of a result, without the lengths of their prefixes.
#[must_use]
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let list = result["ips"].as_array().into_iter().flatten();
    list.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
}
