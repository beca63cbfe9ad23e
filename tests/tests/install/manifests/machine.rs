//! KubeVirt's VirtualMachine: Kubernetes has no type for it, so what the examples use of it is listed here, and what must
//! agree in it is compared.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use net_types::MacAddr;
use serde_json::Value;

use crate::manifests::read;
use crate::manifests::types::{only, typed};

/// Checks a VirtualMachine's `spec`.
pub(crate) fn check(spec: &Value) -> Result<(), String> {
    only(spec, &["runStrategy", "template"])?;
    only(&spec["template"], &["metadata", "spec"])?;
    typed::<ObjectMeta>(&spec["template"]["metadata"])?;
    let spec = &spec["template"]["spec"];
    only(spec, &["affinity", "domain", "networks", "terminationGracePeriodSeconds", "volumes"])?;
    if let Some(affinity) = spec.get("affinity") {
        typed::<Affinity>(affinity)?;
    }
    let domain = &spec["domain"];
    only(domain, &["cpu", "devices", "memory", "resources"])?;
    for (part, fields) in [("cpu", &["cores"]), ("memory", &["guest"])] {
        domain.get(part).map_or(Ok(()), |part| only(part, fields))?;
    }
    if let Some(resources) = domain.get("resources") {
        only(resources, &["limits", "requests"])?;
        typed::<ResourceRequirements>(resources)?;
    }
    let devices = &domain["devices"];
    only(devices, &["disks", "interfaces", "rng"])?;
    let disks = each(&devices["disks"], |disk| {
        only(disk, &["disk", "name"])?;
        only(&disk["disk"], &["bus"])
    })?;
    let volumes = each(&spec["volumes"], |volume| {
        one_of(volume, &["cloudInitNoCloud", "containerDisk", "dataVolume"], &["name"])
    })?;
    same("disks", &disks, "volumes", &volumes)?;
    let interfaces = each(&devices["interfaces"], interface)?;
    let networks = each(&spec["networks"], |network| {
        one_of(network, &["multus", "pod"], &["name"])?;
        match network.get("multus") {
            Some(multus) if multus["networkName"].is_string() => only(multus, &["networkName"]),
            Some(_) => Err("it names no network".into()),
            None => only(&network["pod"], &[]),
        }
    })?;
    same("interfaces", &interfaces, "networks", &networks)
}

fn interface(interface: &Value) -> Result<(), String> {
    one_of(interface, &["binding", "bridge", "masquerade"], &["macAddress", "model", "name", "ports"])?;
    if let Some(address) = interface.get("macAddress") {
        address.as_str().unwrap_or_default().parse::<MacAddr>().map_err(|error| error.to_string())?;
    }
    let Some(binding) = interface.get("binding") else { return Ok(()) };
    only(binding, &["name"])?;
    let registered = read("kubevirt/macvtap-binding.yaml").map_err(|stop| format!("{stop:?}"))?;
    let registered = &registered[0]["spec"]["configuration"]["network"]["binding"];
    match registered[binding["name"].as_str().unwrap_or_default()].is_object() {
        true => Ok(()),
        false => Err(format!("no binding {} is registered: {registered}", binding["name"])),
    }
}

/// Checks each item of a list, and returns their names.
fn each(list: &Value, check: impl Fn(&Value) -> Result<(), String>) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    for item in list.as_array().ok_or_else(|| format!("{list} is no list"))? {
        let name = item["name"].as_str().ok_or_else(|| format!("{item} has no name"))?;
        check(item).map_err(|what| format!("{name}: {what}"))?;
        if !names.insert(name.to_owned()) {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(names)
}

/// That an object has one of these fields, and no others than that and `more`.
fn one_of(item: &Value, fields: &[&str], more: &[&str]) -> Result<(), String> {
    only(item, &[fields, more].concat())?;
    match fields.iter().filter(|field| item.get(**field).is_some()).count() {
        1 => Ok(()),
        count => Err(format!("it has {count} of {fields:?}")),
    }
}

fn same(one: &str, names: &BTreeSet<String>, other: &str, others: &BTreeSet<String>) -> Result<(), String> {
    match names == others {
        true => Ok(()),
        false => Err(format!("{one} {names:?} are not {other} {others:?}")),
    }
}
