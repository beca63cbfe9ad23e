//! Every overlay, built by kustomize as its users build it.

use std::path::Path;

use k8slan_tests::go_programs::kustomize;
use serde_json::Value;
use testnet::{Outcome, Stop, Trial, finish, tests};

use crate::manifests::pod::{consistent, daemon_set, host_path, mounts};
use crate::manifests::types::check;
use crate::manifests::{documents, install, numbers_alike, read};

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        the_base_builds_to_the_one_file,
        talos_writes_nothing_in_etc,
        k3s_has_a_cni_folder_of_its_own,
        the_other_overlays_build,
        metrics_are_a_component,
        k8slan_gos_names_are_a_component,
    ]
}

pub(crate) fn build(folder: &Path) -> Result<Vec<Value>, Stop> {
    let output = finish(kustomize()?.arg(folder))?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", folder.display());
    assert!(!said.contains("deprecated"), "{}: {said}", folder.display());
    let built = documents(&String::from_utf8_lossy(&output.stdout), folder)?;
    for document in &built {
        check(document).map_err(|what| Stop::Failed(format!("{}: {what}", folder.display())))?;
    }
    Ok(built)
}

/// An overlay's DaemonSet; all else is as in the base.
fn overlay(name: &str) -> Result<Value, Stop> {
    let built = build(&install().join("overlays").join(name))?;
    let set = daemon_set(&built)?.clone();
    consistent(&set);
    let others = |documents: &[Value]| {
        let mut others: Vec<String> = documents
            .iter()
            .filter(|document| document["kind"] != "DaemonSet")
            .map(|document| numbers_alike(document.clone()).to_string())
            .collect();
        others.sort();
        others
    };
    assert!(others(&built) == others(&read("k8slan.yaml")?), "{name} changes more than the DaemonSet");
    Ok(set)
}

fn the_base_builds_to_the_one_file() -> Outcome {
    let sorted = |documents: Vec<Value>| {
        let mut documents: Vec<Value> = documents.into_iter().map(numbers_alike).collect();
        documents.sort_by_key(ToString::to_string);
        documents
    };
    assert_eq!(sorted(build(&install().join("base"))?), sorted(read("k8slan.yaml")?));
    Ok(())
}

fn talos_writes_nothing_in_etc() -> Outcome {
    let set = overlay("talos")?;
    let etc = |path: &str| path.starts_with("/etc");
    assert!(!mounts(&set).any(|(_, _, mount)| mount["mountPath"].as_str().is_some_and(etc)), "{set}");
    assert_eq!(host_path(&set, "netns"), "/var/run/netns");
    assert_eq!(host_path(&set, "run"), "/var/run/k8slan");
    Ok(())
}

fn k3s_has_a_cni_folder_of_its_own() -> Outcome {
    assert_eq!(host_path(&overlay("k3s")?, "cni-bin"), "/var/lib/rancher/k3s/data/cni");
    Ok(())
}

fn the_other_overlays_build() -> Outcome {
    assert_eq!(overlay("single-node")?["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
    overlay("multus-thick").map(drop)
}

/// Builds a root of one's own: the base, a component, and more lines.
fn build_mine(component: &str, more: &str) -> Result<Vec<Value>, Stop> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().canonicalize()?.join("mine");
    std::fs::create_dir(&root)?;
    let up = "../".repeat(root.components().count() - 1);
    let install = install().canonicalize()?;
    let install = format!("{up}{}", install.display().to_string().trim_start_matches('/'));
    let text = format!("resources: [{install}/base]\ncomponents: [{install}/components/{component}]\n{more}");
    std::fs::write(root.join("kustomization.yaml"), text)?;
    build(&root)
}

fn k8slan_gos_names_are_a_component() -> Outcome {
    let built = build_mine("k8slan-go", "")?;
    let set = daemon_set(&built)?;
    let spec = &set["spec"]["template"]["spec"];
    for container in
        ["initContainers", "containers"].iter().flat_map(|kind| spec[kind].as_array().into_iter().flatten())
    {
        let env = container["env"].as_array().into_iter().flatten();
        let values: Vec<_> =
            env.filter(|env| env["name"] == "K8SLAN_COMPAT").map(|env| &env["value"]).collect();
        assert_eq!(values, ["k8slan-go"], "{container}");
        let names: Vec<_> =
            container["env"].as_array().into_iter().flatten().map(|env| &env["name"]).collect();
        assert!(container["name"] == "install" || names.iter().any(|name| *name == "NODE_NAME"), "{names:?}");
    }
    Ok(())
}

fn metrics_are_a_component() -> Outcome {
    // Whoever has the Prometheus operator has a registry, too.
    let images = "images: [{name: localhost/k8slan, newName: registry.example/k8slan, newTag: 1.2.3}]\n";
    let built = build_mine("pod-monitor", images)?;
    let monitor = crate::manifests::of_kind(&built, "PodMonitor")?;
    let set = daemon_set(&built)?;
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    for (name, value) in monitor["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten() {
        assert_eq!(&labels[name], value, "the monitor selects no pod of the DaemonSet");
    }
    let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
    assert!(set.to_string().contains(&format!("\"name\":{port}")), "no port is called {port}");
    assert!(!set.to_string().contains("localhost/k8slan"), "an image that is not replaced: {set}");
    Ok(())
}
