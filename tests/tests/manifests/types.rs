use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, tests};

use crate::{documents, install, numbers_alike};

pub(crate) fn trials() -> Vec<Trial> {
    tests![every_manifest_is_read_by_its_type, a_field_that_no_type_has_is_found]
}

fn every_manifest_is_read_by_its_type() -> Outcome {
    let mut files = Vec::new();
    collect(&install(), &mut files)?;
    assert!(files.len() > 15, "{files:?}");
    for path in files {
        let text = fs::read_to_string(&path)?;
        for document in documents(&text, &path)? {
            check(&document).map_err(|what| Stop::Failed(format!("{}: {what}", path.display())))?;
        }
    }
    Ok(())
}

fn a_field_that_no_type_has_is_found() -> Outcome {
    let mistakes = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "label": {}}}),
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {"template": {"spec": {
            "containers": [{"name": "a", "securityContext": {"priviledged": true}}] }}}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": [{"verb": ["get"]}]}),
        json!({"apiVersion": "v1", "kind": "Pod"}),
    ];
    for mistake in mistakes {
        assert!(check(&mistake).is_err(), "{mistake}");
    }
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Outcome {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
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
        ("apps/v1", "DaemonSet") => typed::<DaemonSet>(document),
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
        // Patches without a kind: of KubeVirt's object, and of Multus' DaemonSet.
        ("", "") if document["spec"]["configuration"].is_object() => {
            only(&document["spec"]["configuration"], &["network"])?;
            only(
                &document["spec"]["configuration"]["network"]["binding"]["macvtap"],
                &["domainAttachmentType"],
            )
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

/// Reads a document by its type and writes it again: what the type does not have is lost on the way.
fn typed<T: DeserializeOwned + Serialize>(document: &Value) -> Result<(), String> {
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

fn only(value: &Value, fields: &[&str]) -> Result<(), String> {
    let there = value.as_object().ok_or("is no object")?;
    match there.keys().find(|name| !fields.contains(&name.as_str())) {
        Some(name) => Err(format!("unknown field {name}")),
        None => Ok(()),
    }
}
