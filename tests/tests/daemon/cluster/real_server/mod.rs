//! Kubernetes' own servers: they take the CRDs, and what the daemon writes; the whole one also takes all of `install/`.
//!
//! | server | where it is looked for | what it knows |
//! |---|---|---|
//! | `apiextensions-apiserver` | `PATH`, and where `go install k8s.io/apiextensions-apiserver@v0.34.2` puts it | custom resources alone |
//! | `kube-apiserver` | the folder that `KUBEBUILDER_ASSETS` names, as envtest has it, with an etcd beside it; else what `make test-kubernetes` built | everything |
//!
//! Without them the tests are skipped by name. What is done with the whole one is also done with the double, so that
//! only what is different there is not run on a machine without it.

mod import;
mod pool_requests;
mod pools;
mod steady;
mod whole;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use controller::{LanNodeWriter, LanReport, Reports};
use k8slan_tests::real_server::{ADMIN, Place, Program, RealServer};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, eventually, tests};
use tokio::sync::watch;

use crate::cluster::status::says;
use crate::cluster::{Background, check};

/// How long a server may take to start, and to take in what it was given.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = tests![
        the_real_server_takes_the_crds_and_what_the_daemon_writes,
        the_whole_real_server_takes_the_crds_and_what_the_daemon_writes,
        the_real_server_takes_pools,
        the_real_server_answers_what_nodes_ask_about_blocks,
        of_pools_that_overlap_two_leaders_accept_one,
        a_pool_takes_the_place_of_whereabouts,
        a_pool_takes_the_place_of_host_local,
    ];
    trials.extend(steady::trials());
    trials.extend(whole::trials());
    trials
}

fn api(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

fn the_real_server_takes_the_crds_and_what_the_daemon_writes() -> Outcome {
    takes_the_crds_and_what_the_daemon_writes(&Program::extensions()?)
}

fn the_whole_real_server_takes_the_crds_and_what_the_daemon_writes() -> Outcome {
    takes_the_crds_and_what_the_daemon_writes(&Program::whole()?)
}

fn the_real_server_answers_what_nodes_ask_about_blocks() -> Outcome {
    pool_requests::answers_what_nodes_ask(&Program::extensions()?)
}

fn of_pools_that_overlap_two_leaders_accept_one() -> Outcome {
    pool_requests::two_leaders_accept_one(&Program::extensions()?)
}

fn a_pool_takes_the_place_of_whereabouts() -> Outcome {
    import::takes_the_place_of_whereabouts(&Program::whole()?)
}

fn a_pool_takes_the_place_of_host_local() -> Outcome {
    import::takes_the_place_of_host_local(&Program::whole()?)
}

fn the_real_server_takes_pools() -> Outcome {
    pools::takes_pools(&Program::extensions()?)
}

/// A server that has these definitions, and a client of it.
struct Started {
    client: Client,
    background: Background,
    _server: RealServer,
    /// The server's files, and room for a test's.
    dir: tempfile::TempDir,
}

fn start(program: &Program, definitions: impl IntoIterator<Item = Value>) -> Result<Started, Stop> {
    let dir = tempfile::tempdir()?;
    let server =
        RealServer::start(program, Place::on_loopback(dir.path()), |program: &Path| Command::new(program))?;
    let config = server.kubeconfig(ADMIN);
    let background = Background::new();
    let runtime = background.runtime();
    let client = runtime.block_on(async {
        let config = serde_json::from_value(config)?;
        let config =
            kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await;
        Ok::<_, Stop>(Client::try_from(config?)?)
    })?;
    let crds = api(
        &client,
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        None,
    );
    for definition in definitions {
        let definition: DynamicObject = serde_json::from_value(definition)?;
        eventually(LIMIT, || match runtime.block_on(crds.create(&PostParams::default(), &definition)) {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(_) => Ok(()),
        })?;
    }
    Ok(Started { client, background, _server: server, dir })
}

fn takes_the_crds_and_what_the_daemon_writes(program: &Program) -> Outcome {
    let definitions = [serde_json::to_value(lan::crd::crd())?, serde_json::to_value(lan::crd::node_crd())?];
    let Started { client, background, dir, .. } = &start(program, definitions)?;
    let runtime = background.runtime();
    if program.knows_the_core() {
        let namespaces = api(client, "", "v1", "Namespace", "namespaces", None);
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "a" } });
        let namespace: DynamicObject = serde_json::from_value(namespace)?;
        eventually(LIMIT, || {
            let made = runtime.block_on(namespaces.create(&PostParams::default(), &namespace));
            made.map(drop).map_err(|error| error.to_string())
        })?;
    }
    let lans = api(client, "lan.k8slan.io", "v1beta1", "LAN", "lans", Some("a"));
    let mut object = crate::cluster::mirror::lan("a", "one", 1);
    let apply = |object: &Value| {
        runtime.block_on(lans.patch("one", &PatchParams::apply("test"), &Patch::Apply(object)))
    };
    let made = eventually(LIMIT, || apply(&object).map_err(|error| error.to_string()))?;
    defaults(&made.data["spec"])?;
    for (edit, message) in mistakes() {
        let before = object["spec"].clone();
        for (field, value) in edit.as_object().into_iter().flatten() {
            match value {
                Value::Null => drop(object["spec"].as_object_mut().unwrap().remove(field)),
                value => object["spec"][field] = value.clone(),
            }
        }
        let error = apply(&object).err().map(|error| error.to_string()).unwrap_or_default();
        check!(error.contains(message), "{edit}: {error}");
        object["spec"] = before;
    }
    let long = lan::LanKey::MAX_NAME + 1;
    let mut named = object.clone();
    named["metadata"]["name"] = json!("l".repeat(long));
    let refused =
        runtime.block_on(lans.patch(&"l".repeat(long), &PatchParams::apply("test"), &Patch::Apply(&named)));
    let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
    check!(error.contains("metadata.name takes 180 characters at most"), "{error}");

    let (mirror, folder) =
        crate::cluster::mirrored::mirrored(client.clone(), "worker1", Vec::new(), &dir.path().join("lans"))?;
    let report = LanReport {
        generation: Some(1),
        conditions: vec![says("Accepted", true, "Accepted", ""), says("Ready", true, "Built", "")],
        underlay: Some("eth1".into()),
        mtu: Some(1426),
        room: Some(1426),
        takes_part: true,
        attachments: Vec::new(),
    };
    let (_reports, receiver) =
        watch::channel::<Arc<Reports>>(Arc::new(BTreeMap::from([("a/one".parse()?, report)])));
    let reporter = LanNodeWriter::new(client.clone(), "worker1".into(), receiver, mirror.state());
    runtime.spawn(async move { tokio::join!(mirror.run(), folder, reporter.run()).0 });
    let reports = api(client, "lan.k8slan.io", "v1beta1", "LANNode", "lannodes", Some("a"));
    let found = eventually(LIMIT, || {
        runtime.block_on(reports.get("one.worker1")).map_err(|error| error.to_string())
    })?;
    check!(found.data["spec"]["mtu"] == 1426 && found.data["spec"]["underlay"] == "eth1", "{:?}", found.data);
    eventually(LIMIT, || match dir.path().join("lans/a.one.yaml").is_file() {
        true => Ok(()),
        false => Err("the mirror does not have the LAN".to_owned()),
    })?;

    // What the leader writes, and what a person then sees.
    let ready =
        says("Ready", false, "UnderlayMissing", "worker1: underlay eth1 is missing").observing(Some(1));
    let accepted = says("Accepted", true, "Accepted", "").observing(Some(1));
    let status = lan::LanStatus {
        observed_generation: Some(1),
        conditions: vec![accepted, ready],
        nodes: Some("0/1".into()),
        reason: Some("UnderlayMissing".into()),
        ..lan::LanStatus::default()
    };
    let patch = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN", "metadata": { "name": "one", "namespace": "a" },
        "status": status,
    });
    let params = PatchParams::apply("k8slan-leader").force();
    runtime.block_on(lans.patch_status("one", &params, &Patch::Apply(&patch)))?;
    let shown = |plural: &str| -> Result<(Vec<String>, Vec<Value>), Stop> {
        let request = hyper::Request::get(format!("/apis/lan.k8slan.io/v1beta1/namespaces/a/{plural}"))
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())
            .map_err(|error| Stop::Failed(error.to_string()))?;
        let table: Value = runtime.block_on(client.request(request))?;
        let columns = table["columnDefinitions"].as_array().into_iter().flatten();
        let names = columns.map(|column| column["name"].as_str().unwrap_or_default().to_owned()).collect();
        Ok((names, table["rows"][0]["cells"].as_array().cloned().unwrap_or_default()))
    };
    let (names, cells) = shown("lans")?;
    check!(
        names == ["Name", "Accepted", "Ready", "Nodes", "Reason", "Ns", "VNI", "Spokes", "Age"],
        "{names:?}"
    );
    let wanted = json!(["one", "True", "False", "0/1", "UnderlayMissing", "n1", 1]);
    check!(cells.len() == 9 && json!(cells[..7]) == wanted, "{cells:?}");
    let (names, cells) = shown("lannodes")?;
    check!(names == ["Name", "LAN", "Node", "Ready", "Reason", "Underlay", "MTU"], "{names:?}");
    check!(
        json!(cells) == json!(["one.worker1", "one", "worker1", "True", "Built", "eth1", 1426]),
        "{cells:?}"
    );
    Ok(())
}

/// Every default, and that nothing else is filled in.
fn defaults(spec: &Value) -> Result<(), Stop> {
    let wanted = json!({
        "ns": "n1", "bridge": "br", "vxlan": "vx", "vni": 1, "defaultVxlanDev": "eth1", "spokes": ["s1"],
        "vxlanGrp": "ff02::14", "vxlanPort": 4789, "attach": "macvtap", "mode": "passthru",
        "deletionPolicy": "WhenUnused",
    });
    check!(*spec == wanted, "{spec}");
    Ok(())
}

/// What is changed in a good LAN, and what the server must say, in the words of the definition.
fn mistakes() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({ "vni": 2 }),
            "vni cannot be changed: until all nodes have followed, the LAN would be two; delete it and create it anew",
        ),
        (json!({ "ns": "other" }), "ns cannot be changed: delete the LAN and create it with the other name"),
        (
            json!({ "vxlan": "br" }),
            "bridge and vxlan are two links in one namespace: give them different names",
        ),
        (
            json!({ "spokes": ["br"] }),
            "a spoke is a link beside the bridge and the VXLAN device: give it a name of its own",
        ),
        (
            json!({ "defaultVxlanDev": null }),
            "no node has an underlay: set defaultVxlanDev, vxlanDevMap or both",
        ),
        (json!({ "spokeOverrides": { "x": {} } }), "spokeOverrides names a spoke that is not in spokes"),
        (json!({ "bridge": "all" }), "this name means something else to the kernel: choose another"),
        (
            json!({ "vxlan": "+4a3b2c1d" }),
            "'+' and eight hexadecimal digits are the names of the spokes' bridge ports: choose another",
        ),
        (json!({ "spokes": ["lo"] }), "this name means something else to the kernel: choose another"),
        (
            json!({ "spokes": ["tap0"] }),
            "tap and hexadecimal digits are the names of links that KubeVirt makes: choose another",
        ),
        (json!({ "spokes": ["a", "a"] }), "duplicate entries"),
        (json!({ "vxlanGrp": "10.0.0.1" }), "spec.vxlanGrp"),
        (json!({ "vxlanPort": 0 }), "spec.vxlanPort"),
        (json!({ "mtu": 67 }), "spec.mtu"),
        (json!({ "attach": "bridge" }), "\"macvtap\", \"veth\""),
        (json!({ "mode": "source" }), "spec.mode"),
        (json!({ "deletionPolicy": "Never" }), "spec.deletionPolicy"),
        (json!({ "allowedNamespaces": ["Web"] }), "spec.allowedNamespaces[0]"),
    ]
}
