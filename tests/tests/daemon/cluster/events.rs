//! Events on a LAN: for what somebody must act on, once.

use std::time::Duration;

use controller::LanReport;
use k8slan_tests::apiserver::ApiServer;
use lan::{ACCEPTED, SpokeUse};
use serde_json::{Value, json};
use testnet::{Error, Outcome, Trial, eventually, stays, tests};

use crate::cluster::check;
use crate::cluster::mirror::lan;
use crate::cluster::status::{Node, broken, built, condition, is_held, says, status};

const GROUP: &str = "lan.k8slan.io/v1beta1";
const EVENTS: &str = "events.k8s.io/v1";
const SOON: Duration = Duration::from_secs(5);
/// Another leader has the lease of two seconds that was deleted, and has read all reports.
const SAID: Duration = Duration::from_secs(2);
/// Another try would come by then.
const TRIED: Duration = Duration::from_secs(1);
/// Pods that wait are looked at every few seconds.
const WAITS: Duration = Duration::from_secs(6);

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        a_node_that_cannot_build_is_told_once,
        a_refused_lan_is_told_and_unequal_mtus_are,
        a_deletion_that_waits_is_told,
        a_spoke_that_is_removed_in_use_is_told_with_its_pod,
        who_may_not_write_events_goes_on,
        a_pod_that_waits_for_a_spoke_is_told_who_has_it,
    ]
}

/// The events of a LAN, oldest first.
fn events(server: &ApiServer) -> Vec<Value> {
    let keys = server.keys("events", EVENTS);
    let mut events: Vec<Value> = keys.iter().filter_map(|key| server.get("events", EVENTS, key)).collect();
    events.sort_by_key(|event| event["eventTime"].as_str().unwrap_or_default().to_owned());
    events
}

fn reasons(server: &ApiServer, wanted: &[&str]) -> Result<Vec<Value>, Error> {
    eventually(SOON, || {
        let found = events(server);
        if found.iter().map(|event| &event["reason"]).eq(wanted) {
            Ok(found)
        } else {
            Err(format!("{found:#?}"))
        }
    })
}

fn a_node_that_cannot_build_is_told_once() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", built(1426, &[]))]);
    status(&server, SOON, |status| status["nodes"] == "1/1")?;
    let missing = || [("a/one", broken("UnderlayMissing", "underlay eth1 does not exist on this node"))];
    node.report(&missing());
    let found = reasons(&server, &["UnderlayMissing"])?.remove(0);
    let of = &found["regarding"];
    check!(found["type"] == "Warning" && found["action"] == "Build", "{found}");
    check!(found["note"] == "worker1: underlay eth1 does not exist on this node", "{found}");
    check!(of["kind"] == "LAN" && of["name"] == "one" && of["namespace"] == "a", "{found}");
    check!(of["uid"] == server.get("lans", GROUP, "a/one").unwrap()["metadata"]["uid"], "{found}");
    check!(found["reportingInstance"] == "worker1", "{found}");
    // Another leader says nothing that was said.
    drop(node);
    server.delete("leases", "coordination.k8s.io/v1", "k8slan-system/k8slan-leader");
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&missing());
    stays(SAID, || match events(&server) {
        found if found.len() == 1 => Ok(()),
        found => Err(format!("{found:#?}")),
    })?;
    // And that all is well again is worth a word.
    node.report(&[("a/one", built(1426, &[]))]);
    let found = reasons(&server, &["UnderlayMissing", "Built"])?;
    check!(found[1]["type"] == "Normal", "{found:?}");
    Ok(())
}

fn a_refused_lan_is_told_and_unequal_mtus_are() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let (one, two) =
        (Node::start(&server, dir.path(), "worker1")?, Node::start(&server, dir.path(), "worker2")?);
    let refused = || {
        let mut report = broken("Refused", "refused");
        let message = "vni 1 belongs to LAN x/first already";
        report.conditions[0] = says(ACCEPTED, false, "Conflict", message);
        [("a/one", report)]
    };
    one.report(&refused());
    two.report(&refused());
    let found = reasons(&server, &["Conflict"])?;
    check!(found[0]["note"] == "vni 1 belongs to LAN x/first already", "{found:?}");
    one.report(&[("a/one", built(1426, &[]))]);
    two.report(&[("a/one", built(8926, &[]))]);
    let found = eventually(SOON, || {
        let mut found = events(&server);
        found.retain(|event| event["type"] == "Warning");
        if found.len() == 2 { Ok(found) } else { Err(format!("{found:#?}")) }
    })?;
    check!(found[1]["reason"] == "UnequalMtu", "{found:#?}");
    check!(found[1]["note"].as_str().unwrap().contains("the LAN has 1426 on every node"), "{found:?}");
    Ok(())
}

fn a_deletion_that_waits_is_told() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", built(1426, &[("s1", "default/web")]))]);
    is_held(&server)?;
    status(&server, SOON, |status| status["attachments"] == 1)?;
    server.delete("lans", GROUP, "a/one");
    let found = reasons(&server, &["InUse"])?;
    check!(found[0]["note"].as_str().unwrap().contains("default/web on worker1 (spoke s1)"), "{found:?}");
    Ok(())
}

fn a_spoke_that_is_removed_in_use_is_told_with_its_pod() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let node = Node::start(&server, dir.path(), "worker1")?;
    let used = |removed| {
        let by = SpokeUse { spoke: "s1".into(), by: "default/web".into(), removed };
        [("a/one", LanReport { attachments: vec![by], ..built(1426, &[]) })]
    };
    node.report(&used(false));
    status(&server, SOON, |status| status["attachments"] == 1)?;
    node.report(&used(true));
    let found = status(&server, SOON, |status| status["reason"] == "RemovedInUse")?;
    let told = condition(&found["status"], "SpokesRemoved");
    check!(told["status"] == "True", "{found}");
    check!(told["message"].as_str().unwrap().starts_with("default/web on worker1 (spoke s1): "), "{found}");
    let found = reasons(&server, &["RemovedInUse"])?;
    check!(found[0]["type"] == "Warning", "{found:?}");
    check!(found[0]["note"].as_str().unwrap().contains("default/web on worker1 (spoke s1)"), "{found:?}");
    // It is over, and told again when it is so again.
    node.report(&[("a/one", built(1426, &[]))]);
    let is_over = |status: &Value| condition(status, "SpokesRemoved").is_null();
    status(&server, SOON, |status| is_over(status) && status["reason"].is_null())?;
    node.report(&used(true));
    reasons(&server, &["RemovedInUse", "RemovedInUse"])?;
    Ok(())
}

fn who_may_not_write_events_goes_on() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.fault(|faults| faults.errors = vec![("/events".into(), 403)]);
    server.put("lans", lan("a", "one", 1));
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", broken("UnderlayMissing", "underlay eth1 does not exist on this node"))]);
    status(&server, SOON, |status| status["reason"] == "UnderlayMissing")?;
    let tries = || server.requests().iter().filter(|line| line.contains("/events")).count();
    stays(TRIED, || match tries() {
        tries if tries <= 1 => Ok(()),
        tries => Err(format!("{tries} tries")),
    })?;
    check!(tries() == 1, "it was not tried");
    node.report(&[("a/one", built(1426, &[]))]);
    status(&server, SOON, |status| json!("1/1") == status["nodes"])?;
    Ok(())
}

fn pod(name: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "default", "name": name },
        "spec": { "containers": [] },
        "status": {
            "phase": "Pending",
            "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message }],
        },
    })
}

fn a_pod_that_waits_for_a_spoke_is_told_who_has_it() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    let mut one = lan("a", "one", 1);
    one["spec"]["spokes"] = json!(["s1"]);
    server.put("lans", one);
    let (first, second) =
        (Node::start(&server, dir.path(), "worker1")?, Node::start(&server, dir.path(), "worker2")?);
    first.report(&[("a/one", built(1426, &[("s1", "default/web")]))]);
    second.report(&[("a/one", built(1426, &[("s1", "default/api")]))]);
    status(&server, SOON, |status| status["attachments"] == 2)?;
    server.put(
        "pods",
        pod("waits", "0/2 nodes are available: 2 Insufficient macvtap.k8slan.io/s1. no new claims."),
    );
    server.put("pods", pod("other", "0/2 nodes are available: 2 Insufficient cpu."));
    let told = || {
        let mut found = events(&server);
        found.retain(|event| event["reason"] == "SpokeNotFree");
        found
    };
    let found = eventually(Duration::from_secs(20), || match told() {
        found if found.is_empty() => Err(format!("{:#?}", events(&server))),
        found => Ok(found),
    })?;
    let note = "spoke s1 of LAN a/one: worker1: held by default/web, worker2: held by default/api";
    check!(found.len() == 1 && found[0]["note"] == note, "{found:#?}");
    let of = &found[0]["regarding"];
    check!(of["kind"] == "Pod" && of["name"] == "waits" && of["namespace"] == "default", "{found:#?}");
    // It is told once, however often the scheduler says it.
    server.put(
        "pods",
        pod("waits", "0/2 nodes are available: 2 Insufficient macvtap.k8slan.io/s1. preemption: 0/2."),
    );
    stays(WAITS, || match told() {
        told if told.len() == 1 => Ok(()),
        told => Err(format!("{told:#?}")),
    })?;
    Ok(())
}
