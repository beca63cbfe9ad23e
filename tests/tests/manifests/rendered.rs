//! `install/k8slan.yaml` is the base, for `kubectl apply -f`.

use std::fs;
use std::path::Path;

use testnet::{Outcome, Stop, Trial, tests};

use crate::{install, read};

pub(crate) fn trials() -> Vec<Trial> {
    tests![the_one_file_is_the_base]
}

const HEAD: &str = "\
# Everything of k8slan, for kubectl apply -f. Made from install/base by the test 'manifests';
# UPDATE=1 cargo test -p k8slan-tests --test manifests the_one_file writes it anew.
";

fn the_one_file_is_the_base() -> Outcome {
    let mut text = HEAD.to_owned();
    append(Path::new("base"), &mut text)?;
    let path = install().join("k8slan.yaml");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text)?;
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == text,
        "install/k8slan.yaml is not what install/base says: \
         run UPDATE=1 cargo test -p k8slan-tests --test manifests the_one_file"
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
