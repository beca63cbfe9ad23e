//! `install/k8slan.yaml` is the base, and `install/crds.yaml` what stays without it, for `kubectl apply -f`.

use std::fs;
use std::path::Path;

use testnet::{Outcome, Stop, Trial, tests};

use crate::manifests::{install, read};

pub(crate) fn trials() -> Vec<Trial> {
    tests![the_one_file_is_the_base, the_one_file_has_nothing_that_lans_live_in]
}

const HEAD: &str = "\
# Everything of k8slan but the namespace and the CRDs (crds.yaml), for kubectl apply -f. Made from install/base by the test
# 'manifests'; UPDATE=1 cargo test -p k8slan-tests --test install the_one_file writes it anew.
";

const CRDS_HEAD: &str = "\
# What LANs live in, for kubectl apply -f, before k8slan.yaml. Who deletes these deletes every LAN. Made from install/crds by
# the test 'manifests'; UPDATE=1 cargo test -p k8slan-tests --test install the_one_file writes it anew.
";

fn the_one_file_is_the_base() -> Outcome {
    is_made_from("k8slan.yaml", HEAD, "base")?;
    is_made_from("crds.yaml", CRDS_HEAD, "crds")
}

/// Whoever deletes the one file, or an overlay, keeps the LANs.
fn the_one_file_has_nothing_that_lans_live_in() -> Outcome {
    let kinds = |file: &str| -> Result<Vec<String>, Stop> {
        Ok(read(file)?
            .iter()
            .map(|document| document["kind"].as_str().unwrap_or_default().to_owned())
            .collect())
    };
    let kept = ["Namespace", "CustomResourceDefinition"];
    let definitions = kinds("crds.yaml")?;
    assert_eq!(definitions[0], kept[0]);
    assert!(definitions.len() == 8 && definitions[1..].iter().all(|kind| kind == kept[1]), "{definitions:?}");
    let one = kinds("k8slan.yaml")?;
    assert!(one.iter().any(|kind| kind == "DaemonSet"), "{one:?}");
    assert!(!one.iter().any(|kind| kept.contains(&&**kind)), "{one:?}");
    Ok(())
}

fn is_made_from(file: &str, head: &str, folder: &str) -> Outcome {
    let mut text = head.to_owned();
    append(Path::new(folder), &mut text)?;
    let path = install().join(file);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text)?;
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == text,
        "install/{file} is not what install/{folder} says: \
         run UPDATE=1 cargo test -p k8slan-tests --test install the_one_file"
    );
    Ok(())
}

/// The resources of a kustomization that changes nothing, one after the other.
fn append(folder: &Path, text: &mut String) -> Outcome {
    let kustomization = &read(&format!("{}/kustomization.yaml", folder.display()))?[0];
    let fields: Vec<&String> =
        kustomization.as_object().into_iter().flat_map(|object| object.keys()).collect();
    assert!(fields == ["apiVersion", "kind", "resources"], "{}: {fields:?}", folder.display());
    for resource in kustomization["resources"].as_array().into_iter().flatten() {
        let resource = folder.join(resource.as_str().unwrap_or_default());
        let path = install().join(&resource);
        if path.is_dir() {
            append(&resource, text)?;
            continue;
        }
        let content =
            fs::read_to_string(&path).map_err(|e| Stop::Failed(format!("{}: {e}", path.display())))?;
        text.push_str("---\n");
        text.push_str(&content);
    }
    Ok(())
}
