//! `nad-examples/`: every file, and how they refer to one another.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ipam_pool::PoolFile;
use lan::pool::{LanPool, ParsedPool};
use serde_json::Value;
use testnet::{Outcome, Stop, Trial, tests};

use crate::manifests::types::{check, only};

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        every_object_is_read_by_its_type,
        pools_of_a_folder_lie_beside_one_another,
        every_pool_that_is_named_is_there,
        every_namespace_is_made_as_the_readme_says,
        objects_refer_to_one_another
    ]
}

fn examples() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![testnet::workspace().join("nad-examples")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "yaml") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// Every object of every file, with the file's path.
fn objects() -> Vec<(PathBuf, Value)> {
    let of_file = |(path, text): (PathBuf, String)| {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        documents.into_iter().map(move |object| (path.clone(), object))
    };
    examples().into_iter().flat_map(of_file).collect()
}

/// The objects of one kind, with their files' folders.
fn of_kind(kind: &str) -> Vec<(PathBuf, Value)> {
    let of_kind = objects().into_iter().filter(|(_, object)| object["kind"] == kind);
    of_kind.map(|(path, object)| (path.parent().unwrap().to_owned(), object)).collect()
}

fn every_object_is_read_by_its_type() -> Outcome {
    let mut kinds = BTreeSet::new();
    for (path, object) in objects() {
        check(&object).map_err(|what| Stop::Failed(format!("{}: {what}", path.display())))?;
        kinds.insert(object["kind"].as_str().unwrap_or_default().to_owned());
    }
    for kind in [
        "LAN",
        "LANPool",
        "LANReservation",
        "NetworkAttachmentDefinition",
        "Pod",
        "StatefulSet",
        "VirtualMachine",
    ] {
        assert!(kinds.contains(kind), "no {kind} among the examples");
    }
    Ok(())
}

/// By the parser of the plugin, as a file of each.
fn pools_of_a_folder_lie_beside_one_another() -> Outcome {
    let mut pools: BTreeMap<PathBuf, Vec<PoolFile>> = BTreeMap::new();
    for (path, object) in objects().into_iter().filter(|(_, object)| object["kind"] == "LANPool") {
        let name = object["metadata"]["name"].as_str().unwrap();
        let pool = PoolFile::parse(name, &object.to_string())
            .unwrap_or_else(|e| panic!("{} {name}: {e:?}", path.display()));
        pools.entry(path.parent().unwrap().to_owned()).or_default().push(pool);
    }
    for (folder, pools) in &pools {
        for (at, pool) in pools.iter().enumerate() {
            for other in &pools[..at] {
                pool.check_overlap(other).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            }
        }
    }
    assert!(!pools.is_empty(), "no pool among the examples");
    Ok(())
}

/// A network or a reservation that names a pool names one of its folder.
fn every_pool_that_is_named_is_there() -> Outcome {
    for (path, object) in objects() {
        let config: Value = serde_json::from_str(object["spec"]["config"].as_str().unwrap_or("{}")).unwrap();
        for named in [&config["ipam"]["pool"], &object["spec"]["pool"]] {
            if let Some(pool) = named.as_str() {
                assert!(pool_of(path.parent().unwrap(), pool).is_some(), "{}: no {pool}", path.display());
            }
        }
    }
    Ok(())
}

/// The pool of this name in a folder.
fn pool_of(folder: &Path, name: &str) -> Option<Value> {
    let of_folder = objects().into_iter().filter(|(path, _)| path.parent() == Some(folder));
    let mut pools = of_folder.map(|(_, object)| object).filter(|object| object["kind"] == "LANPool");
    pools.find(|object| object["metadata"]["name"] == name)
}

fn every_namespace_is_made_as_the_readme_says() -> Outcome {
    let readme = fs::read_to_string(testnet::workspace().join("nad-examples/README.md"))?;
    for (path, object) in objects() {
        let Some(namespace) = object["metadata"]["namespace"].as_str() else { continue };
        let folder =
            path.parent().and_then(|folder| folder.file_name()).unwrap_or_default().to_string_lossy();
        let made = readme
            .lines()
            .filter(|line| {
                line.contains("kubectl create namespace") && line.ends_with(&format!("# {folder}"))
            })
            .any(|line| line.split([' ', ';']).any(|word| word == namespace));
        assert!(made || namespace == "k8slan-system", "{}: nobody makes {namespace}", path.display());
    }
    Ok(())
}

/// Checks the JSON that selects networks of a pod: each is one of the examples', and a default route leads to its pool's
/// gateway.
pub(crate) fn selected(text: &str) -> Result<(), String> {
    let list: Vec<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for one in list {
        only(&one, &["default-route", "interface", "name", "namespace"])?;
        let same = |object: &Value, key: &str| one[key].is_null() || object["metadata"][key] == one[key];
        let definitions = of_kind("NetworkAttachmentDefinition");
        let found = definitions.iter().find(|(_, object)| same(object, "name") && same(object, "namespace"));
        let (folder, object) = found.ok_or_else(|| format!("no example has the network {one}"))?;
        let config: Value = serde_json::from_str(object["spec"]["config"].as_str().unwrap_or_default())
            .map_err(|error| error.to_string())?;
        let Some(gateway) = one["default-route"][0].as_str() else { continue };
        let pool = pool_of(folder, config["ipam"]["pool"].as_str().unwrap_or_default())
            .ok_or_else(|| format!("{}: no such pool", one["name"]))?;
        let pool: LanPool = serde_json::from_value(pool).map_err(|error| error.to_string())?;
        let addresses = ParsedPool::parse(&pool.spec).map_err(|error| error.to_string())?;
        let gateways = addresses.parts().iter().filter_map(|part| part.gateway());
        if !gateways.into_iter().any(|own| own.to_string() == gateway) {
            return Err(format!("{gateway} is not the gateway of {}", one["name"]));
        }
    }
    Ok(())
}

/// Every pod and virtual machine names networks of its folder, and what needs a resource names a spoke of a LAN there,
/// of which a pod asks for one.
fn objects_refer_to_one_another() -> Outcome {
    let networks = of_kind("NetworkAttachmentDefinition");
    let resource_of = |folder: &PathBuf, name: &str| {
        let network =
            networks.iter().find(|(place, object)| place == folder && object["metadata"]["name"] == name);
        let (_, network) = network.unwrap_or_else(|| panic!("{}: no network {name}", folder.display()));
        network["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"].as_str().map(str::to_owned)
    };
    let spokes: BTreeSet<(PathBuf, String)> = of_kind("LAN")
        .into_iter()
        .flat_map(|(folder, lan)| {
            let spokes = lan["spec"]["spokes"].as_array().unwrap().clone();
            let resource = |spoke: Value| format!("macvtap.k8slan.io/{}", spoke.as_str().unwrap());
            spokes.into_iter().map(move |spoke| (folder.clone(), resource(spoke)))
        })
        .collect();
    let is_spoke = |folder: &PathBuf, resource: &str| {
        let known = spokes.contains(&(folder.clone(), resource.to_owned()));
        assert!(known, "{}: {resource} is no spoke", folder.display());
    };
    for (folder, network) in &networks {
        if let Some(resource) = resource_of(folder, network["metadata"]["name"].as_str().unwrap()) {
            is_spoke(folder, &resource);
        }
    }
    for (folder, pod) in of_kind("Pod") {
        let names = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"].as_str().unwrap();
        for name in names.split(',') {
            if let Some(resource) = resource_of(&folder, name.trim()) {
                assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"][&resource], 1, "{name}");
            }
        }
    }
    for (folder, set) in of_kind("StatefulSet") {
        let template = &set["spec"]["template"];
        let text = template["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"].as_str().unwrap();
        selected(text).map_err(Stop::Failed)?;
        let names: Vec<Value> = serde_json::from_str(text)?;
        for name in names.iter().map(|one| one["name"].as_str().unwrap()) {
            if let Some(resource) = resource_of(&folder, name) {
                assert_eq!(template["spec"]["containers"][0]["resources"]["limits"][&resource], 1, "{name}");
            }
        }
    }
    for (folder, machine) in of_kind("VirtualMachine") {
        for network in machine["spec"]["template"]["spec"]["networks"].as_array().unwrap() {
            if let Some(name) = network["multus"]["networkName"].as_str() {
                resource_of(&folder, name);
            }
        }
    }
    Ok(())
}
