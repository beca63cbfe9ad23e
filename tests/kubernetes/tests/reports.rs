//! What each node says of a LAN, as kubectl reads it.

use k8slan_kubernetes_tests::{Cluster, PodOf, failed};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial};

use crate::check;
use crate::shared::alone;
use crate::site::{Lan, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        alone("kubectl_waits_for_a_lan_on_a_node", kubectl_waits_for_a_lan_on_a_node),
        alone("reports_under_a_definition_of_the_version_before", reports_under_an_older_definition),
    ]
}

/// How long the daemon might take to write a report that it need not: it collects changes for less than a second.
const QUIET: std::time::Duration = std::time::Duration::from_secs(2);

const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/lannodes.lan.k8slan.io";

fn report_path(lan: &Lan, node: &str) -> String {
    format!("/apis/lan.k8slan.io/v1beta1/namespaces/k8slan-system/lannodes/{}.{node}", lan.name)
}

fn of_kind<'a>(report: &'a Value, kind: &str) -> &'a Value {
    let list = report["status"]["conditions"].as_array();
    list.and_then(|list| list.iter().find(|condition| condition["type"] == kind)).unwrap_or(&Value::Null)
}

fn wait(cluster: &Cluster, lan: &Lan, node: &str, wanted: &str) -> Result<String, Stop> {
    cluster.kubectl(&format!(
        "-n k8slan-system wait lannode/{}.{node} --for=condition={wanted} --timeout=30s",
        lan.name
    ))
}

/// `kubectl wait` sees what a node says of a LAN, also after many reports, of which each is another generation of the report;
/// and the time of a condition moves with its status alone.
fn kubectl_waits_for_a_lan_on_a_node(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "waited", vni: 1301, spokes: &["waited1"] };
    LAN.apply(cluster)?;
    for node in ["worker1", "worker2", "worker3"] {
        for kind in ["Ready", "Accepted"] {
            let said = wait(cluster, &LAN, node, kind)?;
            check!(said.contains("condition met"), "{said}");
        }
    }
    let path = report_path(&LAN, "worker1");
    let first = cluster.until(&path, |_| true)?;
    let since = |report: &Value, kind: &str| of_kind(report, kind)["lastTransitionTime"].clone();
    check!(since(&first, "Ready").is_string() && since(&first, "Accepted").is_string(), "{first:#}");
    check!(first["spec"]["ready"]["holds"] == true, "a leader of the version before reads this: {first:#}");

    // Reports for other reasons: a pod, and another MTU.
    start(cluster, &PodOf::on("waited", "waited1").at("worker1"))?;
    cluster.until(&path, |report| {
        report["spec"]["attachments"].as_array().is_some_and(|list| list.len() == 1)
    })?;
    let patch = json!({ "spec": { "mtu": 1400 } }).to_string();
    cluster.kubectl_with(&["-n", "k8slan-system", "patch", "lan", LAN.name, "--type=merge", "-p", &patch])?;
    let later = cluster.until(&path, |report| report["spec"]["mtu"] == 1400)?;
    let generation = |report: &Value| report["metadata"]["generation"].as_i64().unwrap_or_default();
    check!(generation(&later) >= generation(&first) + 2, "{later:#}");
    check!(of_kind(&later, "Ready")["message"] != of_kind(&first, "Ready")["message"], "{later:#}");
    for kind in ["Ready", "Accepted"] {
        check!(since(&later, kind) == since(&first, kind), "{kind}: {first:#} {later:#}");
        wait(cluster, &LAN, "worker1", kind)?;
    }

    // A new daemon has nothing new to say. What the cluster's part of it writes is the same, and no other version of the report.
    let version = |report: &Value| report["metadata"]["resourceVersion"].clone();
    cluster.kubectl("-n k8slan-system rollout restart daemonset k8slan-ds")?;
    cluster.kubectl("-n k8slan-system rollout status daemonset k8slan-ds --timeout=180s")?;
    testnet::stays(QUIET, || match cluster.get(&path)? {
        Some(report) if version(&report) == version(&later) => Ok(()),
        other => Err(format!("{later:#} {other:#?}")),
    })?;

    // The underlay goes: the status turns, and its time with it; that of the other condition stays.
    cluster.worker("worker1")?.ip("link set eth1 name gone1")?;
    wait(cluster, &LAN, "worker1", "Ready=False")?;
    let broken = cluster.until(&path, |report| of_kind(report, "Ready")["status"] == "False")?;
    let columns = cluster.kubectl("-n k8slan-system get lannodes")?;
    cluster.worker("worker1")?.ip("link set gone1 name eth1")?;
    check!(since(&broken, "Ready").as_str() > since(&later, "Ready").as_str(), "{later:#} {broken:#}");
    check!(since(&broken, "Accepted") == since(&later, "Accepted"), "{later:#} {broken:#}");
    check!(broken["spec"]["ready"]["holds"] == false, "{broken:#}");
    let row = |name: &str| columns.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    let cells = |name: &str| row(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    check!(
        cells("waited.worker1").get(3..5) == Some(&["False".into(), "UnderlayMissing".into()]),
        "{columns}"
    );
    check!(cells("waited.worker2").get(3..5) == Some(&["True".into(), "Built".into()]), "{columns}");
    wait(cluster, &LAN, "worker1", "Ready")?;
    cluster.kubectl("delete pod waited --timeout=60s")?;
    LAN.remove(cluster)
}

/// The daemons are of this version, and the definition of the objects is not yet: reports come without conditions, and the
/// leader sums them up all the same. When the definition is there, they have them again.
fn reports_under_an_older_definition(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "older", vni: 1302, spokes: &["older1"] };
    let mut definition = cluster.until(DEFINITION, |_| true)?;
    definition["metadata"] = json!({ "name": "lannodes.lan.k8slan.io" });
    definition["status"] = Value::Null;
    let newer = definition.clone();
    let schema = definition
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .ok_or_else(|| failed("the definition has no schema"))?;
    schema["properties"].as_object_mut().map(|properties| properties.remove("status"));
    schema["properties"]["spec"]["required"] = json!(["accepted", "lan", "node", "ready"]);
    let replace = |definition: &Value| -> Result<String, Stop> {
        let (code, said) = cluster.kubectl_says(&["replace", "-f", "-"], &definition.to_string())?;
        check_code(code, said)
    };
    replace(&definition)?;
    let outcome = under_an_older_definition(cluster, &LAN);
    replace(&newer)?;
    outcome?;
    let patch = json!({ "spec": { "mtu": 1390 } }).to_string();
    cluster.eventually(|| {
        let edit = ["-n", "k8slan-system", "patch", "lan", LAN.name, "--type=merge", "-p", &patch];
        cluster.kubectl_with(&edit).map_err(|stop| format!("{stop:?}"))
    })?;
    cluster.until(&report_path(&LAN, "worker1"), |report| of_kind(report, "Ready")["status"] == "True")?;
    LAN.remove(cluster)
}

fn check_code(code: Option<i32>, said: String) -> Result<String, Stop> {
    if code == Some(0) { Ok(said) } else { Err(failed(said)) }
}

fn under_an_older_definition(cluster: &Cluster, lan: &Lan) -> Outcome {
    lan.apply(cluster)?;
    let report = cluster.until(&report_path(lan, "worker1"), |_| true)?;
    check!(report["spec"]["ready"]["holds"] == true && report["status"].is_null(), "{report:#}");
    let logs = cluster.kubectl("-n k8slan-system logs daemonset/k8slan-ds -c cluster --tail=200")?;
    check!(logs.contains("the definition of LANNode is of an older version"), "{logs}");
    Ok(())
}
