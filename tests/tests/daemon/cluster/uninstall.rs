//! `cluster-uninstall`: what the daemons left at the API server goes, and nothing else.

use std::process::Command;
use std::time::Duration;

use k8slan_tests::access::Rules;
use k8slan_tests::apiserver::ApiServer;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, eventually, finish, program, tests};

use crate::cluster::check;
use crate::cluster::mirror::lan;
use crate::cluster::status::{Node, built};

const GROUP: &str = "lan.k8slan.io/v1beta1";
const DEFINITIONS: &str = "network-attachment-definitions";
const CNI: &str = "k8s.cni.cncf.io/v1";
const LEASES: &str = "coordination.k8s.io/v1";
const LEASE: &str = "k8slan-system/k8slan-leader";

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        everything_goes_and_nothing_else,
        one_node_alone,
        a_kubelet_is_waited_for,
        an_empty_cluster_has_nothing
    ]
}

fn run(server: &ApiServer, arguments: &[&str]) -> Result<Result<String, String>, Stop> {
    let dir = tempfile::tempdir()?;
    let kubeconfig = dir.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "k", "cluster": { "server": server.url() } }],
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
        "users": [{ "name": "u", "user": {} }],
    });
    std::fs::write(&kubeconfig, config.to_string())?;
    let mut command = Command::new(program("k8slan-device-plugin"));
    let output = finish(command.env("KUBECONFIG", &kubeconfig).arg("cluster-uninstall").args(arguments))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
}

/// A node as a kubelet leaves it, with a number of devices of a resource.
fn with_resources(server: &ApiServer, name: &str, count: &str) {
    let resources =
        json!({ "cpu": "4", "macvtap.k8slan.io/s1": count, "macvtap.k8slan.io/old": "0", "other.io/x": "1" });
    let mut node = server.get("nodes", "v1", &format!("/{name}")).unwrap();
    node["status"]["capacity"] = resources.clone();
    node["status"]["allocatable"] = resources;
    server.put("nodes", node);
}

fn resources(server: &ApiServer, name: &str) -> Value {
    let status = &server.get("nodes", "v1", &format!("/{name}")).unwrap()["status"];
    json!([status["capacity"], status["allocatable"]])
}

fn cluster(dir: &std::path::Path) -> Result<(ApiServer, [Node; 2]), Stop> {
    let server = ApiServer::start()?;
    let mut object = lan("a", "one", 1);
    object["spec"]["networkAttachments"] = json!({});
    object["metadata"]["finalizers"] = json!(["example.com/theirs"]);
    server.put("lans", object);
    let mine = json!({
        "apiVersion": CNI, "kind": "NetworkAttachmentDefinition",
        "metadata": { "namespace": "a", "name": "mine", "labels": { "app.kubernetes.io/managed-by": "helm" } },
    });
    server.put(DEFINITIONS, mine);
    let nodes = [Node::start(&server, dir, "worker1")?, Node::start(&server, dir, "worker2")?];
    for (node, name) in nodes.iter().zip(["worker1", "worker2"]) {
        node.report(&[("a/one", built(1426, &[("s1", "default/web")]))]);
        with_resources(&server, name, "1");
    }
    eventually(Duration::from_secs(15), || {
        let lan = server.get("lans", GROUP, "a/one").unwrap_or_default();
        let held = lan["metadata"]["finalizers"].as_array().is_some_and(|list| list.len() == 2);
        let ready =
            held && server.keys("lannodes", GROUP).len() == 2 && server.keys(DEFINITIONS, CNI).len() == 2;
        if ready { Ok(()) } else { Err(format!("{lan} {:?}", server.keys(DEFINITIONS, CNI))) }
    })?;
    Ok((server, nodes))
}

/// The Job of the manifests: what it says to the program, and what it may do.
fn job() -> Result<(Vec<String>, Rules), Stop> {
    let manifests = std::fs::read_to_string(testnet::workspace().join("install/uninstall/job.yaml"))?;
    let rules =
        Rules::of(&manifests, ("k8slan-uninstall", "k8slan-cluster-uninstall")).map_err(Stop::Failed)?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&manifests)?;
    let pod = documents
        .iter()
        .find(|document| document["kind"] == "Job")
        .map(|job| &job["spec"]["template"]["spec"]);
    let pod = pod.ok_or_else(|| Stop::Failed("there is no Job".into()))?;
    check!(pod["serviceAccountName"] == "k8slan-cluster-uninstall", "{pod}");
    let arguments = pod["containers"][0]["args"].as_array().into_iter().flatten();
    Ok((arguments.filter_map(Value::as_str).map(str::to_owned).collect(), rules))
}

/// With the Job's words and its rights alone.
fn everything_goes_and_nothing_else() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (server, nodes) = cluster(dir.path())?;
    let (arguments, rules) = job()?;
    check!(arguments.first().is_some_and(|first| first == "cluster-uninstall"), "{arguments:?}");
    let arguments: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let refused = run(&server, &arguments)?.err().unwrap_or_default();
    check!(refused.contains("still leads") && refused.contains("delete the DaemonSet first"), "{refused}");
    check!(server.keys("lannodes", GROUP).len() == 2, "something was done all the same");
    for node in nodes {
        node.stop();
    }
    for name in ["worker1", "worker2"] {
        with_resources(&server, name, "0");
    }
    server.enforce(rules.clone());
    let said = run(&server, &arguments)?.map_err(Stop::Failed)?;
    for line in [
        "NetworkAttachmentDefinition a/s1 deleted",
        "finalizer of LAN a/one removed",
        "LANNode a/one.worker2 deleted",
        "lease k8slan-system/k8slan-leader deleted",
        "node worker1: 2 resources of macvtap.k8slan.io taken out of its status",
    ] {
        check!(said.contains(line), "{line}: {said}");
    }
    check!(server.refused().is_empty(), "the role is not sufficient: {:#?}", server.refused());
    let unused = rules.unused(&server.accesses());
    check!(unused.is_empty(), "the role is not minimal: {unused:#?}");
    let left = json!({ "cpu": "4", "other.io/x": "1" });
    for name in ["worker1", "worker2"] {
        check!(resources(&server, name) == json!([left, left]), "{}", resources(&server, name));
    }
    let lan = server.get("lans", GROUP, "a/one").unwrap_or_default();
    check!(lan["metadata"]["finalizers"] == json!(["example.com/theirs"]), "{lan}");
    check!(server.keys(DEFINITIONS, CNI).iter().eq(["a/mine"]), "{:?}", server.keys(DEFINITIONS, CNI));
    check!(
        server.keys("lannodes", GROUP).is_empty() && server.get("leases", LEASES, LEASE).is_none(),
        "reports, lease"
    );
    let again = run(&server, &[])?.map_err(Stop::Failed)?;
    check!(again == "nothing of k8slan is left\n", "{again}");
    Ok(())
}

fn one_node_alone() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (server, _nodes) = cluster(dir.path())?;
    // The others' daemons go on, and one of them leads.
    let said = run(&server, &["--node-name", "worker2"])?.map_err(Stop::Failed)?;
    check!(said.contains("LANNode a/one.worker2 deleted") && !said.contains("worker1"), "{said}");
    check!(resources(&server, "worker1")[0]["macvtap.k8slan.io/s1"] == "1", "another node's resources went");
    check!(
        resources(&server, "worker2")
            == json!([{ "cpu": "4", "other.io/x": "1" }, { "cpu": "4", "other.io/x": "1" }]),
        "{}",
        resources(&server, "worker2")
    );
    check!(
        server.get("leases", LEASES, LEASE).is_some() && server.keys(DEFINITIONS, CNI).len() == 2,
        "too much"
    );
    let lan = server.get("lans", GROUP, "a/one").unwrap_or_default();
    check!(lan["metadata"]["finalizers"].as_array().is_some_and(|list| list.len() == 2), "{lan}");
    // Who leads has read that nothing is attached there, before the report went.
    check!(lan["status"]["attachedOn"] == json!(["worker1"]), "{lan}");
    Ok(())
}

/// A kubelet that lives puts its number of devices back until it lets go.
fn a_kubelet_is_waited_for() -> Outcome {
    let server = ApiServer::start()?;
    with_kubelet(&server, "worker1", "True", "1");
    // Its kubelet lets nothing go any more.
    with_kubelet(&server, "worker2", "Unknown", "1");
    let said = std::thread::scope(|scope| -> Result<_, Stop> {
        let running = scope.spawn(|| run(&server, &["--wait", "60"]));
        eventually(Duration::from_secs(15), || {
            match server.requests().iter().any(|line| line.contains("/nodes")) {
                true => Ok(()),
                false => Err("it looks at no node".into()),
            }
        })?;
        check!(resources(&server, "worker1")[0]["macvtap.k8slan.io/s1"] == "1", "it did not wait");
        check!(resources(&server, "worker2")[0]["macvtap.k8slan.io/s1"] == "1", "it did not wait");
        with_kubelet(&server, "worker1", "True", "0");
        running.join().map_err(|_| Stop::Failed("it panicked".into()))?
    })?
    .map_err(Stop::Failed)?;
    check!(said.matches("1 resource of macvtap.k8slan.io taken out").count() == 2, "{said}");
    check!(!said.contains("still holds"), "{said}");
    with_kubelet(&server, "worker1", "True", "1");
    let said = run(&server, &["--wait", "1"])?.map_err(Stop::Failed)?;
    check!(said.contains("worker1") && said.contains("its kubelet still holds some"), "{said}");
    Ok(())
}

/// A node with one resource of ours, and whether its kubelet is heard of.
fn with_kubelet(server: &ApiServer, name: &str, ready: &str, count: &str) {
    let resources = json!({ "cpu": "4", "macvtap.k8slan.io/s1": count });
    let condition = json!({
        "type": "Ready", "status": ready, "reason": "", "message": "",
        "lastHeartbeatTime": null, "lastTransitionTime": null,
    });
    server.put(
        "nodes",
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "status": { "capacity": resources, "allocatable": resources, "conditions": [condition] },
        }),
    );
}

fn an_empty_cluster_has_nothing() -> Outcome {
    let server = ApiServer::start()?;
    let said = run(&server, &[])?.map_err(Stop::Failed)?;
    check!(said == "nothing of k8slan is left\n", "{said}");
    // A definition of LANs that is deleted already leaves kinds that the server does not know.
    server.fault(|faults| faults.errors = vec![("lan.k8slan.io".into(), 404)]);
    run(&server, &[])?.map_err(Stop::Failed)?;
    server.fault(|faults| faults.errors = vec![("/nodes".into(), 403)]);
    let refused = run(&server, &[])?.err().unwrap_or_default();
    check!(refused.contains("cannot list nodes"), "{refused}");
    Ok(())
}
