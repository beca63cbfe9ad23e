//! Kubernetes' own server of custom resources: it takes the CRDs, and what the daemon writes.
//!
//! `apiextensions-apiserver` is looked for in `PATH` and where `go install k8s.io/apiextensions-apiserver@v0.34.2` puts
//! it. It keeps its objects in etcd, which `tests/packages.sh` unpacks, and knows neither nodes nor leases: for those
//! there is the double.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use k8slan_device_plugin::cluster::{LanReport, Mirror, Reporter, Reports};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use lan::Report;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, eventually, finish, needs, tests};
use tokio::sync::watch;

use crate::{Background, check};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    tests![the_real_server_takes_the_crds_and_what_the_daemon_writes]
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(dir: &Path, program: &Path, arguments: &[&str]) -> Result<Running, Stop> {
    let log = std::fs::File::create(dir.join("log"))?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Running(command.spawn()?))
}

fn server_program() -> Result<PathBuf, Stop> {
    const NAME: &str = "apiextensions-apiserver";
    let below =
        |variable: &str, folder: &str| std::env::var_os(variable).map(|dir| Path::new(&dir).join(folder));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(below("GOPATH", "bin")).chain(below("HOME", "go/bin"));
    let found = places.map(|dir| dir.join(NAME)).find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        // Not a package of Debian: a test peer that one has or has not, also where CI is set.
        None => Err(Stop::Skipped(format!("needs {NAME}, which go installs"))),
    }
}

fn etcd_program() -> Result<PathBuf, Stop> {
    let unpacked = testnet::workspace().join("target/etcd/usr/bin/etcd");
    if unpacked.is_file() {
        return Ok(unpacked);
    }
    needs("etcd")?;
    Ok(PathBuf::from("etcd"))
}

/// A certificate of the group that may do everything.
fn credentials(dir: &Path) -> Result<(), Stop> {
    // Without extensions it would be a certificate of version 1, which rustls does not take.
    std::fs::write(dir.join("extensions"), "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n")?;
    for line in [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 2",
        "req -newkey rsa:2048 -nodes -keyout admin.key -out admin.csr -subj /O=system:masters/CN=admin",
        "x509 -req -in admin.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile extensions -out admin.crt -days 2",
    ] {
        let output = finish(Command::new("openssl").args(line.split(' ')).current_dir(dir))?;
        check!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn kubeconfig(dir: &Path, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "k", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true,
        } }],
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
        "users": [{ "name": "u", "user": {
            "client-certificate": dir.join("admin.crt"), "client-key": dir.join("admin.key"),
        } }],
    })
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn start(dir: &Path) -> Result<(Running, Running, Value), Stop> {
    let program = server_program()?;
    let etcd_program = etcd_program()?;
    needs("openssl")?;
    credentials(dir)?;
    let (client, peer, port) = (free_port()?, free_port()?, free_port()?);
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let etcd_dir = dir.join("etcd");
    std::fs::create_dir(&etcd_dir)?;
    let cluster = format!("default={peer}");
    let etcd = run(
        &etcd_dir,
        &etcd_program,
        &[
            "--data-dir",
            "data",
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &cluster,
        ],
    )?;
    let config = kubeconfig(dir, port);
    std::fs::write(dir.join("kubeconfig"), config.to_string())?;
    let port = port.to_string();
    let server = run(
        dir,
        &program,
        &[
            "--etcd-servers",
            &client,
            "--secure-port",
            &port,
            "--bind-address",
            "127.0.0.1",
            "--cert-dir",
            "certs",
            "--client-ca-file",
            "ca.crt",
            "--kubeconfig",
            "kubeconfig",
            "--authentication-kubeconfig",
            "kubeconfig",
            "--authorization-kubeconfig",
            "kubeconfig",
            "--authentication-skip-lookup",
            "--enable-priority-and-fairness=false",
            "--disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,\
         ValidatingAdmissionPolicy,MutatingAdmissionPolicy",
        ],
    )?;
    Ok((etcd, server, config))
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
    let dir = tempfile::tempdir()?;
    let (_etcd, _server, config) = start(dir.path())?;
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
    for crd in [lan::crd::crd(), lan::crd::node_crd()] {
        let crd: DynamicObject = serde_json::from_value(serde_json::to_value(crd)?)?;
        eventually(LIMIT, || match runtime.block_on(crds.create(&PostParams::default(), &crd)) {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(_) => Ok(()),
        })?;
    }
    let lans = api(&client, "lan.k8slan.io", "v1beta1", "LAN", "lans", Some("a"));
    let mut object = crate::mirror::lan("a", "one", 1);
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

    let mirror = Mirror::new(client.clone(), "worker1", Vec::new(), dir.path().join("lans"))?;
    let said = |reason: &str| Report { holds: true, reason: reason.into(), message: String::new() };
    let report = LanReport {
        generation: Some(1),
        accepted: said("Accepted"),
        ready: said("Built"),
        underlay: Some("eth1".into()),
        mtu: Some(1426),
        room: Some(1426),
        takes_part: true,
        attachments: Vec::new(),
    };
    let (_reports, receiver) =
        watch::channel::<Arc<Reports>>(Arc::new(BTreeMap::from([("a/one".parse()?, report)])));
    let reporter = Reporter::new(client.clone(), "worker1".into(), receiver, mirror.hearing());
    runtime.spawn(async move { tokio::join!(mirror.run(), reporter.run()).0 });
    let reports = api(&client, "lan.k8slan.io", "v1beta1", "LANNode", "lannodes", Some("a"));
    let found = eventually(LIMIT, || {
        runtime.block_on(reports.get("one.worker1")).map_err(|error| error.to_string())
    })?;
    check!(found.data["spec"]["mtu"] == 1426 && found.data["spec"]["underlay"] == "eth1", "{:?}", found.data);
    check!(dir.path().join("lans/a.one.yaml").is_file(), "the mirror has the LAN");

    // What the leader writes, and what a person then sees.
    let ready = lan::Condition {
        kind: "Ready".into(),
        status: "False".into(),
        reason: "UnderlayMissing".into(),
        message: "worker1: underlay eth1 is missing".into(),
        last_transition_time: "2026-11-21T08:00:00Z".into(),
        observed_generation: Some(1),
    };
    let accepted = lan::Condition {
        kind: "Accepted".into(),
        status: "True".into(),
        reason: "Accepted".into(),
        ..ready.clone()
    };
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
        json!(cells) == json!(["one.worker1", "one", "worker1", true, "Built", "eth1", 1426]),
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
