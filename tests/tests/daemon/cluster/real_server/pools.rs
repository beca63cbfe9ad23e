//! The kinds of pools on the real server: defaults, what it refuses and in which words, and that the first to create a block has it.

use k8slan_tests::real_server::Program;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, eventually};

use super::{LIMIT, Started, api, start};
use crate::cluster::check;

const UID: &str = "0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b";

pub(super) fn takes_pools(program: &Program) -> Outcome {
    let definitions =
        lan::pool::crds().into_iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    let Started { client, background, .. } = &start(program, definitions)?;
    let runtime = background.runtime();
    let of_kind = |kind: &str, plural: &str, namespace| {
        api(client, "lan.k8slan.io", "v1beta1", kind, plural, namespace)
    };
    let (pools, blocks) = (of_kind("LANPool", "lanpools", None), of_kind("LANBlock", "lanblocks", None));
    let (addresses, reservations) = (
        of_kind("LANAddress", "lanaddresses", None),
        of_kind("LANReservation", "lanreservations", Some("default")),
    );

    let made = eventually(LIMIT, || {
        apply(runtime, &pools, "LANPool", "office", json!({ "subnets": ["192.168.1.0/24"] }))
    })?;
    let spec = &made.data["spec"];
    for (field, value) in [("sticky", "Auto"), ("cooldown", "1m"), ("quarantine", "10m"), ("order", "Oldest")]
    {
        check!(spec[field] == value, "{field}: {spec}");
    }
    for (spec, message) in [
        (json!({}), "either subnets or ranges"),
        (
            json!({ "subnets": ["10.0.0.0/24"], "ranges": [{ "subnet": "10.0.1.0/24" }] }),
            "either subnets or ranges",
        ),
        (json!({ "subnets": ["10.0.0.0"] }), "spec.subnets[0]"),
        (json!({ "subnets": ["10.0.0.0/24"], "sticky": "vm" }), "Unsupported value"),
        (json!({ "subnets": ["10.0.0.0/24"], "blockSize": 24 }), "a power of two"),
        (json!({ "subnets": ["10.0.0.0/24"], "exclude": ["web"] }), "spec.exclude[0]"),
        (json!({ "subnets": ["10.0.0.0/24"], "cooldown": "1d" }), "spec.cooldown"),
        (
            json!({ "subnets": ["10.0.0.0/24"], "inventory": true, "blockSize": 16 }),
            "an inventory hands out nothing",
        ),
    ] {
        let error = apply(runtime, &pools, "LANPool", "wrong", spec.clone()).err().unwrap_or_default();
        check!(error.contains(message), "{spec}: {error}");
    }
    let error = apply(
        runtime,
        &pools,
        "LANPool",
        "office",
        json!({ "subnets": ["192.168.1.0/24"], "blockSize": 16 }),
    );
    let error = error.err().unwrap_or_default();
    check!(error.contains("blockSize cannot be changed"), "{error}");
    what_hands_out_stays(runtime, &pools)?;
    let long = apply(runtime, &pools, "LANPool", &"p".repeat(64), json!({ "subnets": ["10.0.0.0/24"] }));
    let error = long.err().unwrap_or_default();
    check!(error.contains("63 characters"), "{error}");

    eventually(LIMIT, || {
        apply(runtime, &reservations, "LANReservation", "web", json!({ "pool": "office" }))
    })?;
    let owner = json!({ "kind": "VirtualMachine", "namespace": "default", "name": "web" });
    let address = json!({ "pool": "office", "address": "192.168.1.50", "owner": owner });
    eventually(LIMIT, || apply(runtime, &addresses, "LANAddress", "office.192.168.1.50", address.clone()))?;
    let moved = json!({ "pool": "office", "address": "192.168.1.51", "owner": owner });
    let error =
        apply(runtime, &addresses, "LANAddress", "office.192.168.1.50", moved).err().unwrap_or_default();
    check!(error.contains("address cannot be changed"), "{error}");
    claims(runtime, &blocks)
}

/// A pool in blocks, one of fixed parts and an inventory stay what they are: pods would have addresses of both.
fn what_hands_out_stays(runtime: &tokio::runtime::Runtime, pools: &Api<DynamicObject>) -> Outcome {
    let blocks = json!({ "subnets": ["10.1.0.0/24"] });
    let parts = |part: &str| json!({ "subnets": ["10.1.0.0/24"], "nodes": { "worker1": [part] } });
    let inventory = json!({ "subnets": ["10.1.0.0/24"], "inventory": true });
    for (name, first, other, message) in [
        ("blocks", &blocks, &parts("10.1.0.0/25"), "nodes can neither be added nor removed"),
        ("parts", &parts("10.1.0.0/25"), &blocks, "nodes can neither be added nor removed"),
        ("blocks", &blocks, &inventory, "inventory cannot be changed"),
        ("inventory", &inventory, &blocks, "inventory cannot be changed"),
    ] {
        eventually(LIMIT, || apply(runtime, pools, "LANPool", name, first.clone()))?;
        let error = apply(runtime, pools, "LANPool", name, other.clone()).err().unwrap_or_default();
        check!(error.contains(message) && error.contains("make another"), "{name}: {error}");
    }
    // Which part a node has can be changed.
    eventually(LIMIT, || apply(runtime, pools, "LANPool", "parts", parts("10.1.0.0/26")))?;
    Ok(())
}

/// To create is to claim; what is deleted is the version that was meant.
fn claims(runtime: &tokio::runtime::Runtime, blocks: &Api<DynamicObject>) -> Outcome {
    let block = |node: &str, term: u64| {
        let holder = json!({ "node": node, "uid": UID, "term": term, "fenced": false });
        let spec = json!({ "pool": "office", "prefix": "192.168.1.16/32", "holder": holder });
        object("LANBlock", "office.c0a80110", spec)
    };
    let create = |node: &str| {
        let object: DynamicObject = serde_json::from_value(block(node, 0))?;
        Ok::<_, Stop>(runtime.block_on(blocks.create(&PostParams::default(), &object)))
    };
    let made = eventually(LIMIT, || {
        create("worker1").and_then(|made| Ok(made?)).map_err(|error| format!("{error:?}"))
    })?;
    let lost = create("worker2")?;
    check!(matches!(&lost, Err(kube::Error::Api(status)) if status.reason == "AlreadyExists"), "{lost:?}");
    // What changes nothing makes no version: so a holder has a term.
    let apply = |term| {
        runtime.block_on(blocks.patch(
            "office.c0a80110",
            &PatchParams::default(),
            &Patch::Merge(block("worker1", term)),
        ))
    };
    let (same, next) = (apply(0)?, apply(1)?);
    check!(same.metadata.resource_version == made.metadata.resource_version, "{same:?}");
    check!(next.metadata.resource_version != made.metadata.resource_version, "{next:?}");
    let delete = |of: &DynamicObject| {
        let preconditions = Preconditions {
            uid: of.metadata.uid.clone(),
            resource_version: of.metadata.resource_version.clone(),
        };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        runtime.block_on(blocks.delete("office.c0a80110", &parameters))
    };
    let late = delete(&made);
    check!(matches!(&late, Err(kube::Error::Api(status)) if status.code == 409), "a late delete: {late:?}");
    delete(&next)?;
    let again = create("worker2")??;
    check!(again.metadata.uid != made.metadata.uid, "{again:?}");
    Ok(())
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "lan.k8slan.io/v1beta1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

fn apply(
    runtime: &tokio::runtime::Runtime,
    kind: &Api<DynamicObject>,
    name_of_kind: &str,
    name: &str,
    spec: Value,
) -> Result<DynamicObject, String> {
    let object = object(name_of_kind, name, spec);
    let (parameters, patch) = (PatchParams::apply("test"), Patch::Apply(&object));
    runtime.block_on(kind.patch(name, &parameters, &patch)).map_err(|error| error.to_string())
}
