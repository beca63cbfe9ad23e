//! A cluster into which `install/k8slan.yaml` is put, and the daemon on its one node, with no more rights than that gives.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8slan_tests::kubelet::Kubelet;
use k8slan_tests::real_server::{ADMIN, ClusterClient, DAEMON, Place, Program, RealServer};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, eventually, tests};

use super::LIMIT;
use crate::cluster::check;
use crate::cluster::site::{SOON, Site, document, failed, kubernetes_node};

const LATER: Duration = Duration::from_secs(20);
const LANS: &str = "lan.k8slan.io/v1beta1 LAN";

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        a_cluster_with_what_install_puts_there_has_lans,
        a_real_cluster_with_what_install_puts_there_has_lans,
    ]
}

/// With the double, which checks nothing: so that all of this is run, wherever tests are.
fn a_cluster_with_what_install_puts_there_has_lans() -> Outcome {
    let site = Site::new()?;
    let cluster = ClusterClient::of_file(&site.node, site.kubeconfig())?;
    has_lans(&site, &cluster, site.kubeconfig(), &[])
}

/// With kube-apiserver, which checks everything: fields, CEL, roles, the admission policy.
fn a_real_cluster_with_what_install_puts_there_has_lans() -> Outcome {
    let program = Program::whole()?;
    let dir = tempfile::tempdir()?;
    let site = Site::new()?;
    let server =
        RealServer::start(&program, Place::on_loopback(dir.path()), |program| site.node.command(program))?;
    let file = |name: &str, config: &Value| -> Result<PathBuf, Stop> {
        let path = dir.path().join(name);
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    };
    let admin = ClusterClient::of_file(&site.node, &file("kubeconfig.admin", &server.kubeconfig(ADMIN))?)?;
    let daemon = file("kubeconfig.daemon", &server.kubeconfig(DAEMON))?;
    has_lans(&site, &admin, &daemon, &[refuses_pods_of_other_namespaces])
}

/// Waits for an object of the daemon's namespace.
fn wait(
    cluster: &ClusterClient<'_>,
    kind: &str,
    name: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value, Stop> {
    let found = eventually(LATER, || match cluster.get(kind, "k8slan-system", name)? {
        Some(object) if wanted(&object) => Ok(object),
        other => Err(format!("{kind} {name}: {other:?}")),
    })?;
    Ok(found)
}

fn ready(lan: &Value, status: &str) -> bool {
    crate::cluster::status::condition(&lan["status"], "Ready")["status"] == status
}

/// What only a real server does.
type Further = fn(&ClusterClient<'_>) -> Outcome;

/// `admin` installs, and looks; the daemon has `kubeconfig`.
fn has_lans(site: &Site, admin: &ClusterClient<'_>, kubeconfig: &Path, further: &[Further]) -> Outcome {
    admin.install()?;
    let node = kubernetes_node("worker1", "worker1");
    let (mut without, mut status) = (node.clone(), node);
    without.as_object_mut().unwrap().remove("status");
    admin.apply(&without).map_err(failed)?;
    status["metadata"] = json!({ "name": "worker1" });
    let nodes = admin.api("v1 Node", None);
    let params = PatchParams::apply("kubelet").force();
    admin.ask(async { nodes.patch_status("worker1", &params, &Patch::Apply(&status)).await })?;
    let mut lan = document(&["pod1"]);
    lan["spec"]["networkAttachments"] = json!({});
    lan["spec"]["allowedNamespaces"] = json!(["blue", "k8slan-system"]);
    eventually(LIMIT, || admin.apply(&lan))?;
    // A role counts some moments after it was made.
    let own = ClusterClient::of_file(&site.node, kubeconfig)?;
    let lans = own.api(LANS, None);
    eventually(LIMIT, || {
        let list = own.ask(async { lans.list(&ListParams::default()).await });
        list.map(drop).map_err(|error| error.to_string())
    })?;

    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let daemon = site.whole_with(kubeconfig)?;
    kubelet.wait_allocatable(1, SOON).map_err(|what| failed(format!("{what}\n{}", daemon.log())))?;
    wait(admin, LANS, "lan-test", |lan| {
        let free = lan["metadata"]["finalizers"].is_null();
        free && ready(lan, "True") && lan["status"]["nodes"] == "1/1"
    })?;
    wait(admin, "lan.k8slan.io/v1beta1 LANNode", "lan-test.worker1", |report| report["spec"]["mtu"] == 1426)?;
    wait(admin, "coordination.k8s.io/v1 Lease", "k8slan-leader", |lease| {
        lease["spec"]["holderIdentity"].as_str().is_some_and(|holder| holder.starts_with("worker1"))
    })?;
    wait(admin, "k8s.cni.cncf.io/v1 NetworkAttachmentDefinition", "pod1", |definition| {
        definition["metadata"]["ownerReferences"][0]["name"] == "lan-test"
    })?;
    for further in further {
        further(admin)?;
    }
    // Something for a person to act on is an event of the LAN.
    site.node.ip("link set eth1 down")?;
    site.node.ip("link set eth1 name away")?;
    wait(admin, LANS, "lan-test", |lan| ready(lan, "False") && lan["status"]["reason"] == "UnderlayMissing")?;
    let events = admin.api("events.k8s.io/v1 Event", Some("k8slan-system"));
    eventually(LATER, || {
        let list =
            admin.ask(async { events.list(&ListParams::default()).await }).map_err(|e| e.to_string())?;
        let is_it = |event: &DynamicObject| {
            event.data["regarding"]["name"] == "lan-test" && event.data["reason"] == "UnderlayMissing"
        };
        if list.items.iter().any(is_it) { Ok(()) } else { Err(format!("{:?}", list.items)) }
    })?;
    // Nothing is attached, so that it goes at once.
    let lans = admin.api(LANS, Some("k8slan-system"));
    admin.ask(async { lans.delete("lan-test", &DeleteParams::default()).await })?;
    eventually(LATER, || match admin.get(LANS, "k8slan-system", "lan-test")? {
        None => Ok(()),
        Some(lan) => Err(lan.to_string()),
    })?;
    let metrics = site.get("/metrics");
    check!(metrics.contains("k8slan_api_errors_total 0"), "{metrics}\n{}", daemon.log());
    let log = daemon.log();
    check!(!log.to_lowercase().contains("forbidden"), "{log}");
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}

/// The policy of `install/` refuses a pod that its LAN does not admit, in its words, and lets the others pass.
fn refuses_pods_of_other_namespaces(admin: &ClusterClient<'_>) -> Outcome {
    for name in ["red", "blue"] {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        admin.apply(&namespace).map_err(failed)?;
    }
    let pod = |name: &str, namespace: &str| {
        let limits = json!({ "macvtap.k8slan.io/pod1": "1" });
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": namespace, "name": name },
            "spec": { "containers": [{ "name": "c", "image": "i", "resources": { "limits": limits } }] },
        })
    };
    let mut tries = 0;
    // A policy counts some moments after it was made.
    eventually(LIMIT, || {
        tries += 1;
        match admin.apply(&pod(&format!("pod{tries}"), "red")) {
            Err(why) if why.contains("LAN k8slan-system/lan-test admits no pods of namespace red") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    admin.apply(&pod("pod", "blue")).map(drop).map_err(failed)
}
