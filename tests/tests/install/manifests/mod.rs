//! Manifests are code: what is under `install/` and `nad-examples/`, and what the pages show, is read by the types that
//! Kubernetes, KubeVirt and our own programs read it with, and rendered as its users render it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testnet::{Stop, workspace};

mod admission;
mod argocd;
mod chart;
mod examples;
mod machine;
mod network;
mod overlays;
mod pages;
mod pod;
mod pool_admission;
mod rendered;
mod types;
mod uninstall;

pub(crate) fn trials() -> Vec<testnet::Trial> {
    let trials = [
        types::trials(),
        rendered::trials(),
        overlays::trials(),
        chart::trials(),
        argocd::trials(),
        pod::trials(),
        admission::trials(),
        pool_admission::trials(),
        uninstall::trials(),
        examples::trials(),
        pages::trials(),
    ];
    trials.into_iter().flatten().collect()
}

/// The folder of manifests.
fn install() -> PathBuf {
    workspace().join("install")
}

/// The YAML documents of a text; one without content is left out.
fn documents(text: &str, source: &Path) -> Result<Vec<Value>, Stop> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| Stop::Failed(format!("{}: {error}", source.display())))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The documents of a file under `install/`.
fn read(file: &str) -> Result<Vec<Value>, Stop> {
    let path = install().join(file);
    let text = fs::read_to_string(&path).map_err(|e| Stop::Failed(format!("{}: {e}", path.display())))?;
    documents(&text, &path)
}

/// The one of this kind.
fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Result<&'a Value, Stop> {
    let found = documents.iter().find(|document| document["kind"] == kind);
    found.ok_or_else(|| Stop::Failed(format!("there is no {kind}")))
}

/// The same with every number as it is written with a point: YAML's 1 and 1.0 are one number of a schema.
fn numbers_alike(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(items) => items.into_iter().map(numbers_alike).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, numbers_alike(value))).collect()
        }
        other => other,
    }
}
