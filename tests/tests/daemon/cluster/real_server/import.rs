//! `kubectl k8slan import` against the whole server, with whereabouts' own definitions: the script, kubectl and the program as
//! they are. There is no node: where the script asks a daemon's pod, the program is run here.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8slan_tests::real_server::{ADMIN, Program, definitions_of_multus};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, eventually, finish, needs, program, workspace};

use super::{LIMIT, Started, api, start};
use crate::cluster::check;

/// The cluster, and the plugin for its kubectl.
struct Cluster<'a> {
    started: &'a Started,
    kubectl: PathBuf,
}

impl<'a> Cluster<'a> {
    fn of(started: &'a Started, server: &Program) -> Result<Self, Stop> {
        let (dir, kubectl) = (started.dir.path(), started.dir.path().join("kubectl"));
        let config = dir.join("admin.json");
        fs::write(&config, started._server.kubeconfig(ADMIN).to_string())?;
        // exec -i POD -c node -- PROGRAM ARGUMENT…; a Job's pod has come to its end, and has a folder here.
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n\
             *'get pods -l app.kubernetes.io/name=k8slan'*) echo worker1 ds-worker1 now; exit ;;\n\
             *'get nodes '*) echo worker1; exit ;;\n\
             *'get pods -l k8slan.io/import='*) echo worker1 job-worker1 Succeeded; exit ;;\n\
             *' logs job-worker1'*) exec {} host-local-leases --dir={} --node-name=worker1 ;;\n\
             *' exec -i '*) while [ \"$1\" != -- ]; do shift; done; shift 2; exec {} \"$@\" ;;\nesac\n\
             exec {} --kubeconfig={} --cache-dir={} \"$@\"\n",
            program("k8slan-device-plugin").display(),
            dir.join("networks").display(),
            program("k8slan-device-plugin").display(),
            server.kubectl()?.join(" "),
            config.display(),
            dir.join("cache").display(),
        );
        fs::write(&kubectl, script)?;
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755))?;
        Ok(Self { started, kubectl })
    }

    fn import(&self, arguments: &[&str]) -> Result<Output, Stop> {
        let script = workspace().join("install/kubectl/kubectl-k8slan");
        let mut command = Command::new("/bin/sh");
        command.arg(script).arg("import").args(arguments).env("KUBECTL", &self.kubectl);
        Ok(finish(&mut command)?)
    }

    /// What it says where all is well.
    fn says(&self, arguments: &[&str], words: &[&str]) -> Result<String, Stop> {
        let output = self.import(arguments)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        check!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        for word in words {
            check!(said.contains(word), "{arguments:?}: {word:?} is not in\n{said}");
        }
        Ok(said)
    }

    fn refuses(&self, arguments: &[&str], words: &str) -> Outcome {
        let output = self.import(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        check!(output.status.code() == Some(1) && said.contains(words), "{arguments:?}: {said}");
        Ok(())
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let text = |field: &str| object[field].as_str().unwrap().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let plural = match kind.as_str() {
            "NetworkAttachmentDefinition" => "network-attachment-definitions".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        api(&self.started.client, group, version, &kind, &plural, object["metadata"]["namespace"].as_str())
    }

    /// Writes an object as a whole: what it does not say goes.
    fn put(&self, object: &Value) -> Outcome {
        let name = object["metadata"]["name"].as_str().unwrap();
        let api = self.api(object);
        let mut object: DynamicObject = serde_json::from_value(object.clone())?;
        let put = async |object: &mut DynamicObject| match api.get_opt(name).await? {
            Some(there) => {
                object.metadata.resource_version = there.metadata.resource_version;
                api.replace(name, &PostParams::default(), object).await
            }
            None => api.create(&PostParams::default(), object).await,
        };
        let runtime = self.started.background.runtime();
        // The server takes some moments until it knows a definition.
        eventually(LIMIT, || {
            runtime.block_on(put(&mut object)).map(drop).map_err(|error| error.to_string())
        })?;
        Ok(())
    }

    fn pool(&self, name: &str) -> Result<Option<Value>, Stop> {
        let pools = api(&self.started.client, "lan.k8slan.io", "v1beta1", "LANPool", "lanpools", None);
        let found = self.started.background.runtime().block_on(pools.get_opt(name))?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    fn excludes(&self, name: &str) -> Result<Value, Stop> {
        Ok(self.pool(name)?.unwrap_or_default()["spec"]["exclude"].clone())
    }
}

fn definition(ipam: &Value) -> Value {
    let config = json!({ "cniVersion": "0.3.1", "type": "macvlan", "master": "eth0", "ipam": ipam });
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": { "namespace": "default", "name": "iot" }, "spec": { "config": config.to_string() },
    })
}

/// What whereabouts has given of a range, by the distance from its address.
fn given(name: &str, range: &str, allocations: &[(&str, &str)]) -> Value {
    let allocations = allocations.iter().map(|(offset, pod)| {
        (
            (*offset).to_owned(),
            json!({ "id": "0123456789abcdef", "ifname": "net1", "podref": format!("default/{pod}") }),
        )
    });
    json!({
        "apiVersion": "whereabouts.cni.cncf.io/v1alpha1", "kind": "IPPool",
        "metadata": { "namespace": "kube-system", "name": name },
        "spec": { "range": range, "allocations": allocations.collect::<serde_json::Map<_, _>>() },
    })
}

/// The kinds that an import reads and writes.
fn definitions() -> Result<Vec<Value>, Stop> {
    let mut definitions =
        lan::pool::crds().into_iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    definitions.push(definitions_of_multus());
    for name in ["ippools", "overlappingrangeipreservations"] {
        let path = Path::new("tests/fixtures/whereabouts").join(name).with_extension("yaml");
        let text = fs::read_to_string(workspace().join(path))?;
        definitions.push(serde_saphyr::from_str(&text).map_err(|error| Stop::Failed(error.to_string()))?);
    }
    Ok(definitions)
}

/// The server takes the Jobs that read the leases, and nothing is left of them.
pub(super) fn takes_the_place_of_host_local(server: &Program) -> Outcome {
    needs("/bin/sh")?;
    let started = start(server, definitions()?)?;
    let cluster = Cluster::of(&started, server)?;
    cluster
        .put(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "k8slan-system" } }))?;
    let labels = json!({ "app.kubernetes.io/name": "k8slan" });
    let container = json!({ "name": "install", "image": "localhost/k8slan:0.1.0" });
    cluster.put(&json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "namespace": "k8slan-system", "name": "k8slan-ds" },
        "spec": { "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels }, "spec": { "initContainers": [container], "containers": [{ "name": "node", "image": "a" }] },
        } },
    }))?;
    cluster.put(&definition(&json!({
        "type": "host-local", "ranges": [[{ "subnet": "10.7.0.0/24", "gateway": "10.7.0.254" }], [{ "subnet": "fd07::/64" }]],
    })))?;
    let network = started.dir.path().join("networks/iot");
    fs::create_dir_all(&network)?;
    for address in ["10.7.0.5", "10.7.0.6", "fd07::5"] {
        fs::write(network.join(address), "0123456789abcdef\r\nnet1")?;
    }
    cluster.says(&["host-local"], &["LANPool iot: made; of host-local pods have 3 addresses"])?;
    let made = cluster.pool("iot")?.unwrap_or_default();
    check!(made["spec"]["exclude"] == json!(["10.7.0.5-10.7.0.6", "fd07::5"]), "{made}");
    let jobs = api(&started.client, "batch", "v1", "Job", "jobs", Some("k8slan-system"));
    let left = started.background.runtime().block_on(jobs.list(&ListParams::default()))?;
    // What deletes their pods, and so them, is a controller.
    check!(left.items.iter().all(|job| job.metadata.deletion_timestamp.is_some()), "{left:?}");
    cluster.put(&definition(&json!({ "type": "ipam-pool", "pool": "iot" })))?;
    cluster.says(&["host-local"], &["LANPool iot: opened", "10.7.0.6 container 0123456789abc on worker1"])?;
    fs::remove_file(network.join("10.7.0.5"))?;
    cluster.says(&["host-local", "--finish"], &["1 address (10.7.0.5) free again", "10.7.0.6 container"])?;
    check!(cluster.excludes("iot")? == json!(["10.7.0.6", "fd07::5"]), "{}", cluster.excludes("iot")?);
    Ok(())
}

pub(super) fn takes_the_place_of_whereabouts(server: &Program) -> Outcome {
    needs("/bin/sh")?;
    let started = start(server, definitions()?)?;
    let cluster = Cluster::of(&started, server)?;
    cluster.put(&definition(&json!({
        "type": "whereabouts", "gateway": "192.168.2.1",
        "ipRanges": [{ "range": "192.168.2.0/24", "exclude": ["192.168.2.240/28"] }, { "range": "fd00:2::/64" }],
    })))?;
    cluster.put(&given(
        "192.168.2.0-24",
        "192.168.2.0/24",
        &[("2", "web-0"), ("3", "web-1"), ("9", "db-0")],
    ))?;
    cluster.put(&given("fd00-2---64", "fd00:2::/64", &[("1", "web-0"), ("18446744073709551614", "db-0")]))?;
    cluster.put(&json!({
        "apiVersion": "whereabouts.cni.cncf.io/v1alpha1", "kind": "OverlappingRangeIPReservation",
        "metadata": { "namespace": "kube-system", "name": "192.168.2.77" },
        "spec": { "podref": "default/left-over", "ifname": "net1" },
    }))?;

    let shown = cluster
        .says(&["whereabouts", "--dry-run", "-o", "yaml"], &["# LANPool iot: made", "kind: LANPool"])?;
    check!(cluster.pool("iot")?.is_none(), "a dry run made it");
    cluster.says(
        &["whereabouts"],
        &[
            "LANPool iot: made; of whereabouts pods have 6 addresses",
            "default/iot: \"ipam\": {\"type\": \"ipam-pool\", \"pool\": \"iot\"}",
        ],
    )?;
    let made = cluster.pool("iot")?.unwrap_or_default();
    // What was shown is what was made, with the server's defaults.
    let shown: Value = serde_saphyr::from_str(shown.split("---").next().unwrap_or_default())
        .map_err(|error| Stop::Failed(format!("{error}: {shown}")))?;
    for (field, value) in shown["spec"].as_object().into_iter().flatten() {
        check!(made["spec"][field] == *value, "{field}: {made} is not {shown}");
    }
    let excluded = json!([
        "192.168.2.240-192.168.2.255",
        "192.168.2.2-192.168.2.3",
        "192.168.2.9",
        "192.168.2.77",
        "fd00:2::1",
        "fd00:2::ffff:ffff:ffff:fffe",
    ]);
    check!(made["spec"]["exclude"] == excluded && made["spec"]["allowedNamespaces"] == json!([]), "{made}");

    // More pods come until the definition is changed.
    cluster.refuses(&["whereabouts", "--finish"], "since definitions default/iot still name it")?;
    cluster.put(&given(
        "192.168.2.0-24",
        "192.168.2.0/24",
        &[("2", "web-0"), ("9", "db-0"), ("10", "late")],
    ))?;
    cluster.put(&definition(&json!({ "type": "ipam-pool", "pool": "iot" })))?;
    cluster.says(&["whereabouts"], &["LANPool iot: opened", "192.168.2.10 pod default/late"])?;
    let opened = cluster.pool("iot")?.unwrap_or_default();
    check!(opened["spec"].get("allowedNamespaces").is_none(), "{opened}");
    cluster.says(&["whereabouts"], &["LANPool iot: nothing to change"])?;
    let again = cluster.pool("iot")?.unwrap_or_default();
    check!(
        again["metadata"]["resourceVersion"] == opened["metadata"]["resourceVersion"],
        "it was written again"
    );

    // Pods are restarted, and go from whereabouts.
    cluster.put(&given("192.168.2.0-24", "192.168.2.0/24", &[("9", "db-0")]))?;
    cluster.put(&given("fd00-2---64", "fd00:2::/64", &[]))?;
    cluster.says(
        &["whereabouts", "--pool", "iot", "--finish"],
        &["stay excluded", "192.168.2.9 pod default/db-0"],
    )?;
    let rest = json!(["192.168.2.240-192.168.2.255", "192.168.2.9", "192.168.2.77"]);
    check!(cluster.excludes("iot")? == rest, "{}", cluster.excludes("iot")?);
    cluster.put(&given("192.168.2.0-24", "192.168.2.0/24", &[]))?;
    let left = json!({ "apiVersion": "whereabouts.cni.cncf.io/v1alpha1", "kind": "OverlappingRangeIPReservation", "metadata": { "namespace": "kube-system" } });
    let reservations = cluster.api(&left);
    started.background.runtime().block_on(reservations.delete("192.168.2.77", &DeleteParams::default()))?;
    cluster.says(&["whereabouts", "--finish"], &["nothing of whereabouts is left in it"])?;
    let ended = cluster.pool("iot")?.unwrap_or_default();
    check!(ended["spec"]["exclude"] == json!(["192.168.2.240-192.168.2.255"]), "{ended}");
    check!(ended["metadata"].get("annotations").is_none(), "{ended}");
    cluster.refuses(&["whereabouts", "--finish"], "no LANPool was imported from whereabouts")
}
