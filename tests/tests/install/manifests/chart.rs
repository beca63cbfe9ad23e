//! The Helm chart, rendered by helm: it is the base and the overlays, by values.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;
use std::process::Output;

use k8slan_tests::go_programs::helm;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, finish, tests, workspace};

use crate::manifests::overlays::build;
use crate::manifests::pod::{consistent, daemon_set, host_path};
use crate::manifests::types::check;
use crate::manifests::{documents, install, numbers_alike, of_kind};

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        the_chart_is_the_base_without_values,
        the_chart_is_each_overlay_by_its_values,
        values_reach_what_they_name,
        values_that_nobody_can_mean_are_refused,
        the_charts_version_is_ours,
    ]
}

const KEEP: &str = "helm.sh/resource-policy";

fn chart() -> PathBuf {
    install().join("chart")
}

fn template(arguments: &[&str]) -> Result<Output, Stop> {
    let mut command = std::process::Command::new(helm()?);
    command.args(["template", "k8slan"]).arg(chart()).args(["--namespace", "k8slan-system"]);
    // One that go installed knows no version of Kubernetes by itself.
    command.args(["--kube-version", "1.30.0"]).args(arguments);
    Ok(finish(&mut command)?)
}

fn rendered(arguments: &[&str]) -> Result<Vec<Value>, Stop> {
    let output = template(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    let built = documents(&String::from_utf8_lossy(&output.stdout), &chart())?;
    let built: Vec<Value> = built.into_iter().filter(|document| !document.is_null()).collect();
    for document in &built {
        check(document).map_err(Stop::Failed)?;
    }
    Ok(built)
}

/// By kind and name, each as JSON.
fn sorted(documents: Vec<Value>) -> Vec<Value> {
    let key = |document: &Value| format!("{} {}", document["kind"], document["metadata"]["name"]);
    let mut documents: Vec<Value> = documents.into_iter().map(numbers_alike).map(in_order).collect();
    documents.sort_by_key(key);
    documents
}

/// The same with volumes in the order of their names, which means nothing: kustomize puts those first that a patch names.
fn in_order(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| match (name.as_str(), in_order(value)) {
                ("volumes" | "volumeMounts", Value::Array(mut items)) => {
                    items.sort_by_key(ToString::to_string);
                    (name, Value::Array(items))
                }
                (_, value) => (name, value),
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(in_order).collect(),
        other => other,
    }
}

/// The chart keeps the CRDs, and is in a namespace that is there before it; all else is the same.
fn same(chart: Vec<Value>, kustomize: Vec<Value>, what: &str) {
    let mut chart = sorted(chart);
    let mut crds = 0;
    for document in &mut chart {
        if document["kind"] == "CustomResourceDefinition" {
            let annotations = document["metadata"]["annotations"].as_object_mut();
            assert_eq!(annotations.and_then(|annotations| annotations.remove(KEEP)), Some(json!("keep")));
            if document["metadata"]["annotations"] == json!({}) {
                document["metadata"].as_object_mut().map(|metadata| metadata.remove("annotations"));
            }
            crds += 1;
        }
    }
    // Without the chart they are applied first.
    let first = build(&install().join("crds")).unwrap_or_default();
    let kustomize: Vec<Value> = sorted([kustomize, first].concat())
        .into_iter()
        .filter(|document| document["kind"] != "Namespace")
        .collect();
    let names = |documents: &[Value]| -> Vec<String> {
        documents
            .iter()
            .map(|document| format!("{} {}", document["kind"], document["metadata"]["name"]))
            .collect()
    };
    assert_eq!(names(&chart), names(&kustomize), "{what}");
    for (chart, kustomize) in chart.iter().zip(&kustomize) {
        assert_eq!(chart, kustomize, "{what}");
    }
    assert!(crds >= 2 && chart.len() > 6, "{what}: {crds} CRDs, {} objects", chart.len());
}

fn the_chart_is_the_base_without_values() -> Outcome {
    same(rendered(&[])?, build(&install().join("base"))?, "the base");
    Ok(())
}

fn the_chart_is_each_overlay_by_its_values() -> Outcome {
    let mut overlays: Vec<String> = std::fs::read_dir(install().join("overlays"))?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap()))
        .collect::<Result<_, std::io::Error>>()?;
    overlays.sort();
    assert!(overlays.len() >= 4, "{overlays:?}");
    for overlay in overlays {
        let values = chart().join("values").join(format!("{overlay}.yaml"));
        let values = values.display().to_string();
        // Beside Multus' thick plugin nothing of ours differs.
        let arguments = if overlay == "multus-thick" { vec![] } else { vec!["--values", &values] };
        same(rendered(&arguments)?, build(&install().join("overlays").join(&overlay))?, &overlay);
    }
    Ok(())
}

fn values_reach_what_they_name() -> Outcome {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let digest_value = format!("image.digest={digest}");
    let built = rendered(&[
        "--namespace=lans",
        "--set=image.repository=registry.example:5000/k8slan,image.pullPolicy=Always",
        "--set",
        &digest_value,
        "--set=imagePullSecrets[0].name=registry,crds.keep=false,admissionPolicy.enabled=false",
        "--set=host.stateDir=/srv/k8slan,host.kubeletPluginsDir=/k/plugins,resources.node.limits.memory=1Gi",
    ])?;
    let set = daemon_set(&built)?;
    consistent(set);
    let pod = &set["spec"]["template"]["spec"];
    for container in ["initContainers", "containers"].iter().flat_map(|list| pod[list].as_array().unwrap()) {
        assert_eq!(container["image"], format!("registry.example:5000/k8slan@{digest}"));
        assert_eq!(container["imagePullPolicy"], "Always");
    }
    assert_eq!(pod["imagePullSecrets"], json!([{ "name": "registry" }]));
    let paths = ["state", "kubelet"].map(|volume| host_path(set, volume));
    assert_eq!(paths, ["/srv/k8slan", "/k/plugins"]);
    // What is not said stays.
    assert_eq!(pod["containers"][0]["resources"]["limits"]["memory"], "1Gi");
    assert_eq!(pod["containers"][0]["resources"]["requests"]["memory"], "32Mi");
    assert!(!json!(built).to_string().contains("k8slan-system\""), "another namespace is named");
    assert!(!json!(built).to_string().contains(KEEP));
    assert!(of_kind(&built, "ValidatingAdmissionPolicy").is_err());
    let without = rendered(&["--set=crds.enabled=false"])?;
    assert!(of_kind(&without, "CustomResourceDefinition").is_err());
    Ok(())
}

fn values_that_nobody_can_mean_are_refused() -> Outcome {
    for (value, words) in [
        ("image.repositry=a", "repositry"),
        ("image.repository=a b", "repository"),
        ("image.digest=sha256:12", "digest"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("cni.binDir=opt/cni", "binDir"),
        ("crds.keep=maybe", "keep"),
        ("maxUnavailable=0", "maxUnavailable"),
        ("maxUnavailable=110%", "maxUnavailable"),
        ("resources.daemon.limits.memory=1Gi", "daemon"),
    ] {
        let output = template(&["--set", value])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{value}: {said}");
    }
    Ok(())
}

fn the_charts_version_is_ours() -> Outcome {
    let text = std::fs::read_to_string(chart().join("Chart.yaml"))?;
    let chart = documents(&text, &chart())?.remove(0);
    let ours = std::fs::read_to_string(workspace().join("Cargo.toml"))?;
    let version = ours.lines().find_map(|line| line.strip_prefix("version = ")).unwrap_or_default();
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field].as_str(), Some(version.trim_matches('"')), "{field}");
    }
    Ok(())
}
