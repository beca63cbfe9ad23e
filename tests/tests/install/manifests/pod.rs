//! The DaemonSet's pod: who may do what.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, tests};

use crate::manifests::{of_kind, read};

pub(crate) fn trials() -> Vec<Trial> {
    tests![one_container_is_privileged_and_has_no_api_client, the_mounts_are_what_each_needs]
}

pub(crate) fn daemon_set(documents: &[Value]) -> Result<&Value, Stop> {
    of_kind(documents, "DaemonSet")
}

/// Every container with whether it only starts the pod.
fn containers(set: &Value) -> impl Iterator<Item = &Value> {
    let spec = &set["spec"]["template"]["spec"];
    ["initContainers", "containers"].into_iter().flat_map(|list| spec[list].as_array().into_iter().flatten())
}

fn container<'a>(set: &'a Value, name: &str) -> Result<&'a Value, Stop> {
    let found = containers(set).find(|container| container["name"] == name);
    found.ok_or_else(|| Stop::Failed(format!("there is no container {name}")))
}

/// Every mount with its container's name and its volume's.
pub(crate) fn mounts(set: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    containers(set).flat_map(|container| {
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        mounts.map(|mount| {
            (
                container["name"].as_str().unwrap_or_default(),
                mount["name"].as_str().unwrap_or_default(),
                mount,
            )
        })
    })
}

/// The node's folder behind a volume.
pub(crate) fn host_path<'a>(set: &'a Value, volume: &str) -> &'a str {
    let volumes = set["spec"]["template"]["spec"]["volumes"].as_array();
    let found = volumes.into_iter().flatten().find(|there| there["name"] == volume);
    found.and_then(|volume| volume["hostPath"]["path"].as_str()).unwrap_or_default()
}

/// That every mount has a volume and every volume is mounted.
pub(crate) fn consistent(set: &Value) {
    let mounted: BTreeSet<&str> = mounts(set).map(|(_, volume, _)| volume).collect();
    let volumes = set["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten();
    let there: BTreeSet<&str> = volumes.filter_map(|volume| volume["name"].as_str()).collect();
    assert_eq!(mounted, there, "{set}");
}

fn one_container_is_privileged_and_has_no_api_client() -> Outcome {
    let documents = read("base/daemonset.yaml")?;
    let set = daemon_set(&documents)?;
    consistent(set);
    for container in containers(set) {
        let has_dev = mounts(set).any(|(name, volume, _)| container["name"] == name && volume == "dev");
        let message = container["terminationMessagePath"].as_str().unwrap_or("/dev/termination-log");
        assert!(!has_dev || !message.starts_with("/dev"), "the runtime would make {message} on the node");
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
        if container["name"] == "node" {
            assert_eq!(context["privileged"], true);
            assert_eq!(container["args"][0], "node");
            assert!(container["ports"].is_null(), "it listens on no port");
            continue;
        }
        assert_eq!(context["privileged"], false, "{container}");
        assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{container}");
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{container}");
    }
    let cluster = container(set, "cluster")?;
    assert!(cluster["securityContext"]["capabilities"]["add"].is_null(), "{cluster}");
    // With the host's processes in sight, it could kill root's.
    let pod = &set["spec"]["template"]["spec"];
    assert!(pod["hostPID"].is_null());
    assert_eq!(pod["automountServiceAccountToken"], false, "a container that asks for it has the token");
    Ok(())
}

fn the_mounts_are_what_each_needs() -> Outcome {
    let documents = read("base/daemonset.yaml")?;
    let set = daemon_set(&documents)?;
    for (container, volume, mount) in mounts(set) {
        let propagates = mount["mountPropagation"] == "Bidirectional";
        assert_eq!(
            propagates,
            container == "node" && matches!(volume, "netns" | "run"),
            "{container}: {mount}"
        );
        if volume == "token" {
            assert_eq!(container, "cluster", "it alone talks to the API server");
            assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
            continue;
        }
        // Whoever sees a file can hold a lock on it, also where it is mounted to be read only.
        if container == "cluster" {
            let may = ["run-controller", "config"];
            assert!(may.contains(&volume), "{container}: {mount}");
        }
        // The paths are fixed: what is where on the node is there in the container.
        assert_eq!(mount["mountPath"], host_path(set, volume), "{container}");
        let writes = mount["readOnly"] != true;
        let needs = match container {
            "install" => matches!(volume, "cni-bin" | "state"),
            "node" => matches!(volume, "netns" | "run" | "state" | "kubelet" | "dev"),
            _ => false,
        };
        assert_eq!(writes, needs, "{container}: {mount}");
    }
    Ok(())
}
