//! k8slan is taken away: what stays, and what does not.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8slan_kubernetes_tests::{Cluster, KUBELET, PodOf, failed};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial};

use crate::check;
use crate::shared::{alone, install};
use crate::site::{Lan, definitions, delete, give, pings, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        alone("the_one_file_deleted_takes_no_lan_along", the_one_file_deleted_takes_no_lan_along),
        alone("reports_deleted_with_their_crd_free_no_lan", reports_deleted_with_their_crd_free_no_lan),
        alone(
            "everything_deleted_at_once_and_then_uninstalled",
            everything_deleted_at_once_and_then_uninstalled,
        ),
        alone("uninstalled_and_then_everything_deleted", uninstalled_and_then_everything_deleted),
    ]
}

const FIRST: Ipv4Addr = Ipv4Addr::new(10, 130, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 130, 0, 2);

/// How often the script and the kubelets are looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// What other trials left of theirs: who asks for a spoke keeps k8slan on the cluster.
fn without_others(cluster: &Cluster) -> Outcome {
    let namespaces = cluster.list("/api/v1/namespaces").map_err(failed)?;
    for namespace in namespaces.iter().filter_map(|namespace| namespace["metadata"]["name"].as_str()) {
        if namespace.starts_with("kube-") || namespace.starts_with("k8slan-") {
            continue;
        }
        for kinds in ["deployments,statefulsets,jobs --cascade=foreground", "pods"] {
            cluster.kubectl(&format!("-n {namespace} delete {kinds} --all --timeout=180s"))?;
        }
    }
    cluster.nodes_are_ready()
}

/// A LAN in use by two pods, and one that nobody uses.
fn used_and_unused(cluster: &Cluster, used: &Lan, unused: &Lan) -> Result<[Value; 2], Stop> {
    without_others(cluster)?;
    used.apply(cluster)?;
    unused.apply(cluster)?;
    let one = start(cluster, &PodOf::on("one", used.spokes[0]).at("worker1"))?;
    let two = start(cluster, &PodOf::on("two", used.spokes[1]).at("worker2"))?;
    give(cluster, &one, "net1", FIRST)?;
    give(cluster, &two, "net1", SECOND)?;
    pings(cluster, &one, "net1", SECOND)?;
    let held = |lan: &Value| lan["metadata"]["finalizers"] == json!(["lan.k8slan.io/in-use"]);
    cluster.until(&used.path(), |lan| lan["status"]["attachments"] == 2 && held(lan))?;
    let lan = cluster.until(&unused.path(), |_| true)?;
    check!(lan["metadata"]["finalizers"].is_null(), "nobody uses it: {lan:#}");
    Ok([one, two])
}

fn no_daemon(cluster: &Cluster) -> Outcome {
    let pods = "/api/v1/namespaces/k8slan-system/pods";
    cluster.eventually(|| match cluster.list(pods)?.as_slice() {
        [] => Ok(()),
        pods => Err(format!("{} pods", pods.len())),
    })?;
    Ok(())
}

fn the_one_file_deleted_takes_no_lan_along(cluster: &mut Cluster) -> Outcome {
    const USED: Lan = Lan { name: "kept", vni: 1131, spokes: &["kept1", "kept2"] };
    const UNUSED: Lan = Lan { name: "unused", vni: 1132, spokes: &["unused1"] };
    let cluster = &*cluster;
    let [one, two] = used_and_unused(cluster, &USED, &UNUSED)?;
    cluster.kubectl("delete -f install/k8slan.yaml --timeout=60s")?;
    no_daemon(cluster)?;
    // What nobody uses goes without a daemon; what is used stays, and works.
    UNUSED.remove(cluster)?;
    cluster.until(&USED.path(), |lan| lan["metadata"]["deletionTimestamp"].is_null())?;
    pings(cluster, &one, "net1", SECOND)?;
    pings(cluster, &two, "net1", FIRST)?;
    install(cluster)?;
    pings(cluster, &one, "net1", SECOND)?;
    cluster.kubectl("-n k8slan-system delete lan kept --wait=false")?;
    cluster.until(&USED.path(), |lan| lan["status"]["reason"] == "InUse")?;
    delete(cluster, "one")?;
    delete(cluster, "two")?;
    cluster.until_gone(&USED.path())
}

/// The nodes' reports go with their CRD while the daemons run and one leads, and so could a LAN in use.
fn reports_deleted_with_their_crd_free_no_lan(cluster: &mut Cluster) -> Outcome {
    const USED: Lan = Lan { name: "unsaid", vni: 1137, spokes: &["unsaid1", "unsaid2"] };
    const UNUSED: Lan = Lan { name: "unsaidone", vni: 1138, spokes: &["unsaidone1"] };
    let cluster = &*cluster;
    let [one, _] = used_and_unused(cluster, &USED, &UNUSED)?;
    cluster.kubectl("delete crd lannodes.lan.k8slan.io --timeout=60s")?;
    cluster.kubectl("-n k8slan-system delete lan unsaid unsaidone --wait=false")?;
    cluster.until_gone(&UNUSED.path())?;
    let waits = ["worker1", "worker2"]
        .map(|node| format!("what is attached on {node}, whose LANNode object was deleted"));
    let lan = cluster.until(&USED.path(), |lan| lan["status"]["waitingFor"] == json!(waits))?;
    check!(lan["metadata"]["finalizers"] == json!(["lan.k8slan.io/in-use"]), "{lan:#}");
    pings(cluster, &one, "net1", SECOND)?;
    cluster.kubectl("apply -f install/crds.yaml")?;
    delete(cluster, "one")?;
    delete(cluster, "two")?;
    cluster.until_gone(&USED.path())
}

/// The daemon, its rights, the CRDs and the namespace in one command, and nobody there any more who lets the LAN in use go.
fn everything_deleted_at_once_and_then_uninstalled(cluster: &mut Cluster) -> Outcome {
    const USED: Lan = Lan { name: "last", vni: 1133, spokes: &["last1", "last2"] };
    const UNUSED: Lan = Lan { name: "lastone", vni: 1134, spokes: &["lastone1"] };
    let cluster = &*cluster;
    let [one, _] = used_and_unused(cluster, &USED, &UNUSED)?;
    cluster.kubectl("delete -f install/crds.yaml -f install/k8slan.yaml --wait=false")?;
    cluster.until_gone(&UNUSED.path())?;
    no_daemon(cluster)?;
    let namespace = cluster.until("/api/v1/namespaces/k8slan-system", |_| true)?;
    check!(namespace["status"]["phase"] == "Terminating", "{namespace:#}");
    let lan = cluster.until(&USED.path(), |_| true)?;
    check!(lan["metadata"]["finalizers"] == json!(["lan.k8slan.io/in-use"]), "{lan:#}");
    pings(cluster, &one, "net1", SECOND)?;
    // A pod that has ended asks for a spoke, and holds nothing.
    let mut ended: Value = serde_json::from_str(&PodOf::on("ended", "last2").manifest())?;
    ended["spec"]["restartPolicy"] = json!("Never");
    ended["spec"]["nodeName"] = json!("worker3");
    ended["spec"]["activeDeadlineSeconds"] = json!(1);
    cluster.apply(&ended.to_string())?;
    cluster.until("/api/v1/namespaces/default/pods/ended", |pod| pod["status"]["phase"] == "Failed")?;
    let (code, said) = cluster.script("install/uninstall/uninstall.sh", &[])?;
    check!(
        code == Some(1) && said.contains("pods ask for macvtap.k8slan.io/… resources"),
        "{code:?}: {said}"
    );
    let named: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    check!(named == ["default/one", "default/two"], "{said}");
    delete(cluster, "one")?;
    delete(cluster, "two")?;
    let said = uninstalled(cluster)?;
    check!(said.contains("the nodes have the image localhost/k8slan:"), "{said}");
    check!(said.contains("finalizer of LAN k8slan-system/last removed"), "{said}");
    nothing_is_left(cluster, &USED)?;
    delete(cluster, "ended")?;
    // And it can be put in again.
    install(cluster)
}

/// The other way round: the script first, while the daemon runs, and the files after it.
fn uninstalled_and_then_everything_deleted(cluster: &mut Cluster) -> Outcome {
    const USED: Lan = Lan { name: "leave", vni: 1135, spokes: &["leave1", "leave2"] };
    const UNUSED: Lan = Lan { name: "leaveone", vni: 1136, spokes: &["leaveone1"] };
    let cluster = &*cluster;
    used_and_unused(cluster, &USED, &UNUSED)?;
    delete(cluster, "one")?;
    delete(cluster, "two")?;
    let said = uninstalled(cluster)?;
    for what in [
        "NetworkAttachmentDefinition default/leave1 deleted",
        "LANNode k8slan-system/leave.worker1 deleted",
        "lease k8slan-system/k8slan-leader deleted",
        "node worker2: ",
    ] {
        check!(said.contains(what), "{what}: {said}");
    }
    nothing_is_left(cluster, &USED)?;
    let files = "install/k8slan.yaml -f install/crds.yaml";
    let said = cluster.kubectl(&format!("delete -f {files} --ignore-not-found"))?;
    check!(said.is_empty(), "{said}");
    // Without the flag each object is named that is not there, and nothing else happens.
    let all = format!("delete -f {files}");
    let (code, said) = cluster.kubectl_says(&all.split(' ').collect::<Vec<_>>(), "")?;
    let told = said.lines().filter(|line| line.starts_with("Error from server (NotFound): ")).count();
    check!(code == Some(1) && told > 10 && told == said.lines().count(), "{code:?}: {said}");
    install(cluster)
}

/// Runs the script to its good end. A kubelet lets go of a resource five minutes after its plugin, or when it starts anew: the
/// kubelets are restarted when the nodes are clean.
fn uninstalled(cluster: &Cluster) -> Result<String, Stop> {
    std::thread::scope(|scope| {
        let script = scope.spawn(|| cluster.script("install/uninstall/uninstall.sh", &[]));
        let job = "/apis/batch/v1/namespaces/k8slan-uninstall/jobs/k8slan-cluster-uninstall";
        while !script.is_finished() && cluster.get(job).map_err(failed)?.is_none() {
            std::thread::sleep(INTERVAL);
        }
        for worker in &cluster.workers {
            worker.stop_program(KUBELET, Signal::SIGTERM)?;
            worker.start_program(KUBELET)?;
        }
        while !script.is_finished() {
            for worker in &cluster.workers {
                worker.restart_kubelet_that_ended()?;
            }
            std::thread::sleep(INTERVAL);
        }
        let (code, said) = script.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        check!(code == Some(0) && said.ends_with("== k8slan is gone\n"), "{code:?}: {said}");
        Ok(said)
    })
}

/// At the API server and on the nodes; the LAN stood there.
fn nothing_is_left(cluster: &Cluster, lan: &Lan) -> Outcome {
    for path in [
        "/api/v1/namespaces/k8slan-system",
        "/api/v1/namespaces/k8slan-uninstall",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/lans.lan.k8slan.io",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/k8slan",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/k8slan-cluster-uninstall",
    ] {
        check!(cluster.get(path).map_err(failed)?.is_none(), "{path} is still there");
    }
    let networks = cluster.list(&definitions("default")).map_err(failed)?;
    check!(
        networks.iter().all(|one| one["metadata"]["labels"]["app.kubernetes.io/managed-by"] != "k8slan"),
        "{networks:#?}"
    );
    for worker in &cluster.workers {
        // A kubelet that was restarted may keep the names, as zero; nobody can ask for them.
        cluster.until(&format!("/api/v1/nodes/{}", worker.name()), |node| {
            let capacity = node["status"]["capacity"].as_object().into_iter().flatten();
            capacity.into_iter().all(|(name, count)| !name.contains("k8slan") || *count == "0")
        })?;
        for (folder, ours) in [("/run", "k8slan"), ("/opt/cni/bin", "macvtap"), ("/run/netns", lan.name)] {
            check!(
                !worker.list(folder).iter().any(|name| name == ours),
                "{}: {folder}/{ours}",
                worker.name()
            );
        }
        // What an administrator wrote stays.
        let mut left = worker.list("/var/lib/k8slan");
        left.retain(|name| name != "pools.d");
        check!(left.is_empty(), "{}: {left:?}", worker.name());
    }
    Ok(())
}
