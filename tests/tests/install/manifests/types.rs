use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, ResourceQuota, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use lan::Lan;
use lan::manifest::{self, Document};
use lan::pool::{LanPool, LanReservation, ParsedPool};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, tests};

use crate::manifests::{documents, install, machine, network, numbers_alike};

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        every_manifest_is_read_by_its_type,
        a_field_that_no_type_has_is_found,
        the_image_is_the_one_of_this_version,
        mistakes_in_a_machine_are_found
    ]
}

fn every_manifest_is_read_by_its_type() -> Outcome {
    let mut files = Vec::new();
    collect(&install(), &mut files)?;
    collect(&testnet::workspace().join("docs"), &mut files)?;
    assert!(files.len() > 15, "{files:?}");
    for path in files {
        let text = fs::read_to_string(&path)?;
        for document in documents(&text, &path)? {
            check(&document).map_err(|what| Stop::Failed(format!("{}: {what}", path.display())))?;
        }
    }
    Ok(())
}

/// What `make image` calls it: a node that has imported the archive asks no registry.
fn the_image_is_the_one_of_this_version() -> Outcome {
    let mut files = Vec::new();
    collect(&install(), &mut files)?;
    let mut found = 0;
    for path in files {
        let text = fs::read_to_string(&path)?;
        for image in text.lines().filter_map(|line| line.trim().strip_prefix("image: ")) {
            assert_eq!(image, concat!("localhost/k8slan:", env!("CARGO_PKG_VERSION")), "{}", path.display());
            found += 1;
        }
    }
    assert!(found >= 9, "only {found} images are found");
    Ok(())
}

fn a_field_that_no_type_has_is_found() -> Outcome {
    let mistakes = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "label": {}}}),
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {"template": {"spec": {
            "containers": [{"name": "a", "securityContext": {"priviledged": true}}] }}}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": [{"verb": ["get"]}]}),
        json!({"apiVersion": "v1", "kind": "Endpoints"}),
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a", "resource": {}}]}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"annotation": {}}, "spec": {"containers": []}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replica": 1, "selector": {}, "template": {}}}),
        json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": {"name": "a"},
            "spec": {"config": r#"{"cniVersion": "1.0.0", "type": "macvtap", "masters": "eth0"}"#}}),
        json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": "a", "annotation": {}},
            "spec": {"config": r#"{"cniVersion": "1.0.0", "type": "macvtap", "master": "eth0"}"#}}),
        json!({"apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN", "metadata": {"name": "a"},
            "spec": {"ns": "n", "bridge": "b", "vxlan": "v", "vni": 1, "defaultVxlanDevice": "eth0"}}),
        json!({"apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": {"name": "a"},
            "spec": {"ranges": [{"subnet": "10.0.0.1/24"}]}}),
    ];
    for mistake in mistakes {
        assert!(check(&mistake).is_err(), "{mistake}");
    }
    Ok(())
}

fn mistakes_in_a_machine_are_found() -> Outcome {
    let text = fs::read_to_string(testnet::workspace().join("nad-examples/k8slan/vm.yaml"))?;
    for (right, wrong) in [
        ("name: macvtap", "name: macvtp"),
        ("networkName: pod1", "networkname: pod1"),
        ("- name: hostnetwork\n        multus", "- name: hostnet\n        multus"),
        ("masquerade: {}", "masquerade: {}\n            bridge: {}"),
        ("memory: 1024M", "memory: {a: b}"),
        ("bus: virtio", "buss: virtio"),
        ("name: cloudinitdisk", "name: cloudinit"),
        ("runStrategy: Always", "running: maybe"),
    ] {
        assert!(text.contains(right), "{right}");
        let machine: Value = serde_saphyr::from_str(&text.replacen(right, wrong, 1))?;
        assert!(check(&machine).is_err(), "{wrong}");
    }
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Outcome {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // Templates are read when they are rendered.
        if path.file_name().is_some_and(|name| name == "chart") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
    Ok(())
}

/// That the document's type has every field that it sets.
pub(crate) fn check(document: &Value) -> Result<(), String> {
    let kind = document["kind"].as_str().unwrap_or_default();
    let version = document["apiVersion"].as_str().unwrap_or_default();
    match (version, kind) {
        ("v1", "Namespace") => typed::<Namespace>(document),
        ("v1", "ServiceAccount") => typed::<ServiceAccount>(document),
        ("v1", "Pod") => typed::<Pod>(document),
        ("v1", "ResourceQuota") => typed::<ResourceQuota>(document),
        ("v1", "Secret") => typed::<Secret>(document),
        ("apps/v1", "DaemonSet") => typed::<DaemonSet>(document),
        ("apps/v1", "Deployment") => typed::<Deployment>(document),
        ("apps/v1", "StatefulSet") => typed::<StatefulSet>(document),
        ("lan.k8slan.io/v1beta1", "LAN") => {
            typed::<ObjectMeta>(&document["metadata"])?;
            lan(document)
        }
        ("lan.k8slan.io/v1beta1", "LANPool") => {
            typed::<LanPool>(document)?;
            let pool: LanPool = serde_json::from_value(document.clone()).map_err(|e| e.to_string())?;
            ParsedPool::parse(&pool.spec).map(drop).map_err(|e| chain(&e))
        }
        ("lan.k8slan.io/v1beta1", "LANReservation") => typed::<LanReservation>(document),
        ("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition") => {
            only(document, &["apiVersion", "kind", "metadata", "spec"])?;
            typed::<ObjectMeta>(&document["metadata"])?;
            only(&document["spec"], &["config"])?;
            network::of_definition(document)
        }
        ("kubevirt.io/v1", "VirtualMachine") => {
            only(document, &["apiVersion", "kind", "metadata", "spec"])?;
            typed::<ObjectMeta>(&document["metadata"])?;
            machine::check(&document["spec"])
        }
        ("batch/v1", "Job") => typed::<Job>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => typed::<ClusterRole>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => typed::<ClusterRoleBinding>(document),
        ("rbac.authorization.k8s.io/v1", "Role") => typed::<Role>(document),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => typed::<RoleBinding>(document),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            typed::<ValidatingAdmissionPolicy>(document)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            typed::<ValidatingAdmissionPolicyBinding>(document)
        }
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            typed::<CustomResourceDefinition>(document)
        }
        ("kustomize.config.k8s.io/v1beta1", "Kustomization")
        | ("kustomize.config.k8s.io/v1alpha1", "Component") => only(
            document,
            &["apiVersion", "kind", "resources", "components", "patches", "images", "namespace"],
        ),
        // Kubernetes has no type for it: the operator's documentation is all there is to go by.
        ("monitoring.coreos.com/v1", "PodMonitor") => {
            only(document, &["apiVersion", "kind", "metadata", "spec"])?;
            only(&document["spec"], &["selector", "podMetricsEndpoints"])
        }
        // krew's, by its documentation.
        ("krew.googlecontainertools.github.com/v1alpha2", "Plugin") => {
            only(document, &["apiVersion", "kind", "metadata", "spec"])?;
            typed::<ObjectMeta>(&document["metadata"])?;
            let spec = ["version", "homepage", "shortDescription", "description", "platforms"];
            only(&document["spec"], &spec)?;
            document["spec"]["platforms"].as_array().into_iter().flatten().try_for_each(|platform| {
                only(platform, &["selector", "uri", "sha256", "bin", "files"])?;
                typed::<LabelSelector>(&platform["selector"])
            })
        }
        // Patches without a kind: of KubeVirt's object, and of Multus' DaemonSet.
        ("", "") if document["spec"]["configuration"].is_object() => {
            only(&document["spec"]["configuration"], &["network"])?;
            only(
                &document["spec"]["configuration"]["network"]["binding"]["macvtap"],
                &["domainAttachmentType"],
            )
        }
        // Of Argo CD's ConfigMap.
        ("", "") if document["data"].is_object() => {
            only(document, &["data"])?;
            only(&document["data"], &["resource.customizations.health.lan.k8slan.io_LAN"])
        }
        ("", "") if document["spec"]["template"].is_object() => {
            only(document, &["spec"])?;
            let mut set = document.clone();
            set["apiVersion"] = json!("apps/v1");
            set["kind"] = json!("DaemonSet");
            typed::<DaemonSet>(&set)
        }
        _ => Err(format!("no type for {version} {kind:?}")),
    }
}

/// As a file of LANs is read on a single host, which is stricter than an API server.
fn lan(document: &Value) -> Result<(), String> {
    match manifest::read(&document.to_string()).as_slice() {
        [Document::Lan { key, spec }] => Lan::new(key.clone(), spec).map(drop).map_err(|e| format!("{e:?}")),
        [Document::Broken { message, .. }] => Err(message.clone()),
        other => Err(format!("is read as {other:?}")),
    }
}

/// An error with its sources.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}

/// Reads a document by its type and writes it again: what the type does not have is lost on the way.
pub(crate) fn typed<T: DeserializeOwned + Serialize>(document: &Value) -> Result<(), String> {
    let mut document = document.clone();
    // What a patch takes away is for kustomize alone.
    remove_deletions(&mut document);
    let object: T = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
    let written = serde_json::to_value(object).map_err(|error| error.to_string())?;
    lost(&document, &written, "")
}

fn lost(document: &Value, written: &Value, path: &str) -> Result<(), String> {
    match document {
        Value::Object(_) | Value::Array(_) if written.is_null() => {
            Err(format!("{path}: {document} is not read"))
        }
        Value::Object(fields) => {
            fields.iter().try_for_each(|(name, value)| lost(value, &written[name], &format!("{path}.{name}")))
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, value)| lost(value, &written[index], &format!("{path}[{index}]"))),
        Value::Null => Ok(()),
        // A quantity.
        Value::Number(number) if written.as_str() == Some(&number.to_string()) => Ok(()),
        _ if numbers_alike(document.clone()) == numbers_alike(written.clone()) => Ok(()),
        _ => Err(format!("{path}: {document} is read as {written}")),
    }
}

fn remove_deletions(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.retain(|item| item["$patch"] != "delete");
            items.iter_mut().for_each(remove_deletions);
        }
        Value::Object(fields) => fields.values_mut().for_each(remove_deletions),
        _ => {}
    }
}

/// That an object has no other fields than these.
pub(crate) fn only(value: &Value, fields: &[&str]) -> Result<(), String> {
    let there = value.as_object().ok_or("is no object")?;
    match there.keys().find(|name| !fields.contains(&name.as_str())) {
        Some(name) => Err(format!("unknown field {name}")),
        None => Ok(()),
    }
}
