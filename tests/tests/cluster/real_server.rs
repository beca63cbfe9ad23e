//! Kubernetes' own server of custom resources: it takes the CRDs, and what the daemon writes.
//!
//! `apiextensions-apiserver` is looked for in `PATH` and where `go install k8s.io/apiextensions-apiserver@v0.34.2` puts
//! it. It keeps its objects in etcd, and knows neither nodes nor leases: for those there is the double.

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
use testnet::{Outcome, Stop, Trial, eventually, needs, tests};
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

/// A certificate of the group that may do everything.
fn credentials(dir: &Path) -> Result<(), Stop> {
    // Without extensions it would be a certificate of version 1, which rustls does not take.
    std::fs::write(dir.join("extensions"), "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n")?;
    for line in [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 2",
        "req -newkey rsa:2048 -nodes -keyout admin.key -out admin.csr -subj /O=system:masters/CN=admin",
        "x509 -req -in admin.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile extensions -out admin.crt -days 2",
    ] {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(dir).output()?;
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
    needs("etcd")?;
    needs("openssl")?;
    credentials(dir)?;
    let (client, peer, port) = (free_port()?, free_port()?, free_port()?);
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let etcd_dir = dir.join("etcd");
    std::fs::create_dir(&etcd_dir)?;
    let cluster = format!("default={peer}");
    let etcd = run(
        &etcd_dir,
        Path::new("etcd"),
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
    for (field, value) in
        [("attach", json!("macvtap")), ("deletionPolicy", json!("WhenUnused")), ("vxlanPort", json!(4789))]
    {
        check!(made.data["spec"][field] == value, "default of {field}: {:?}", made.data);
    }
    for (field, value, words) in
        [("vni", json!(2), "vni cannot be changed"), ("ns", json!("other"), "ns cannot be changed")]
    {
        let before = std::mem::replace(&mut object["spec"][field], value);
        let error = apply(&object).err().map(|error| error.to_string()).unwrap_or_default();
        check!(error.contains(words), "{field}: {error}");
        object["spec"][field] = before;
    }

    let mirror = Mirror::new(client.clone(), Vec::new(), dir.path().join("lans"))?;
    let said = |reason: &str| Report { holds: true, reason: reason.into(), message: String::new() };
    let report = LanReport {
        generation: Some(1),
        accepted: said("Accepted"),
        ready: said("Built"),
        underlay: Some("eth1".into()),
        mtu: Some(1426),
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
    Ok(())
}
