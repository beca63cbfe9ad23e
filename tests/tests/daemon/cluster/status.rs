//! Reports of nodes, the leader that sums them up, and LANs that are deleted while in use.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller::{Election, FINALIZER, LanNodeWriter, LanReport, Leader, Reports, Timing};
use k8slan_tests::apiserver::ApiServer;
use lan::{ACCEPTED, Condition, LanKey, READY, SpokeUse};
use serde_json::{Value, json};
use testnet::{Error, Outcome, Stop, Trial, eventually, stays, tests};
use tokio::sync::{oneshot, watch};

use crate::cluster::mirror::lan;
use crate::cluster::mirrored::mirrored;
use crate::cluster::{Background, check};

const GROUP: &str = "lan.k8slan.io/v1beta1";
const LEASES: &str = "coordination.k8s.io/v1";
const SOON: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_secs(15);
/// What a node says last as it stops is said by then.
const STOPPED: Duration = Duration::from_millis(300);
/// Whoever would write what is written already does so by then: reports are collected for 200 ms, and leaders look each 300.
const QUIET: Duration = Duration::from_secs(1);
const QUICK: Timing = Timing {
    lease: Duration::from_secs(2),
    renew: Duration::from_millis(300),
    look: Duration::from_millis(300),
};

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        nodes_report_and_the_leader_sums_up,
        one_mtu_for_nodes_that_come_and_go,
        an_mtu_rises_when_all_had_room_for_long,
        a_new_leader_goes_on_with_the_waiting,
        a_node_that_has_no_part_any_more_says_nothing,
        nothing_is_written_when_nothing_changes,
        a_lan_is_held_only_while_something_is_attached,
        a_deleted_lan_waits_for_its_last_pod,
        a_lan_deleted_before_its_use_is_told_goes_as_by_force,
        force_does_not_wait,
        a_dead_node_blocks_nothing,
        a_report_that_is_deleted_frees_no_lan,
        a_node_that_loses_its_part_says_first_that_nothing_is_attached,
        reports_survive_a_refusing_server,
        another_leads_when_the_leader_dies,
        a_leader_that_stops_gives_the_lease_back,
    ]
}

/// One node's daemon, as far as the cluster sees it.
pub(crate) struct Node {
    reports: watch::Sender<Arc<Reports>>,
    stop: Option<oneshot::Sender<()>>,
    background: Background,
}

impl Node {
    pub(crate) fn start(server: &ApiServer, dir: &Path, name: &str) -> Result<Self, Stop> {
        Self::leading(server, dir, name, |leader| leader)
    }

    /// The same, where the leader is another than usual.
    pub(crate) fn leading(
        server: &ApiServer,
        dir: &Path,
        name: &str,
        change: impl FnOnce(Leader) -> Leader,
    ) -> Result<Self, Stop> {
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        server.put("nodes", object);
        let background = Background::new();
        let client = background.client(&server.url());
        let (mirror, folder) = mirrored(client.clone(), name, Vec::new(), &dir.join(name))?;
        let (reports, receiver) = watch::channel(Arc::new(Reports::new()));
        let reporter = LanNodeWriter::new(client.clone(), name.to_owned(), receiver, mirror.state());
        let (stop, stopped) = oneshot::channel::<()>();
        let leader = change(Leader::new(client.clone(), name));
        let name = name.to_owned();
        background.runtime().spawn(async move {
            let election = Election::new(client, "k8slan-system", "k8slan-leader", &name, QUICK);
            let stopped = async {
                let _ = stopped.await;
            };
            tokio::join!(mirror.run(), folder, reporter.run(), election.run(|| leader.run(), stopped)).0
        });
        Ok(Self { reports, stop: Some(stop), background })
    }

    pub(crate) fn report(&self, lans: &[(&str, LanReport)]) {
        let reports: BTreeMap<LanKey, LanReport> =
            lans.iter().map(|(key, report)| (key.parse().unwrap(), report.clone())).collect();
        self.reports.send_replace(Arc::new(reports));
    }

    /// Ends as on SIGTERM.
    pub(crate) fn stop(mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        std::thread::sleep(STOPPED);
        drop(self.background);
    }
}

pub(crate) fn built(mtu: u32, users: &[(&str, &str)]) -> LanReport {
    LanReport {
        generation: Some(1),
        conditions: vec![says(ACCEPTED, true, "Accepted", ""), says(READY, true, "Built", "")],
        underlay: Some("eth1".into()),
        mtu: Some(mtu),
        room: Some(mtu),
        takes_part: true,
        attachments: users
            .iter()
            .map(|(spoke, by)| SpokeUse { spoke: (*spoke).into(), by: (*by).into(), removed: false })
            .collect(),
    }
}

pub(crate) fn broken(reason: &str, message: &str) -> LanReport {
    let conditions = vec![says(ACCEPTED, true, "Accepted", ""), says(READY, false, reason, message)];
    LanReport { conditions, mtu: None, room: None, ..built(1426, &[]) }
}

/// A node's condition of a LAN, since a day in November.
pub(crate) fn says(kind: &str, status: bool, reason: &str, message: &str) -> Condition {
    Condition {
        last_transition_time: Some("2026-11-21T08:00:00Z".into()),
        ..Condition::new(kind, status, reason, message)
    }
}

pub(crate) fn status(
    server: &ApiServer,
    limit: Duration,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value, Error> {
    eventually(limit, || match server.get("lans", GROUP, "a/one") {
        Some(lan) if wanted(&lan["status"]) => Ok(lan),
        other => Err(format!("{other:?}")),
    })
}

pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let list = status["conditions"].as_array();
    list.and_then(|list| list.iter().find(|c| c["type"] == kind)).unwrap_or(&Value::Null)
}

fn nodes_report_and_the_leader_sums_up() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let one = Node::start(&server, dir.path(), "worker1")?;
    let two = Node::start(&server, dir.path(), "worker2")?;
    one.report(&[("a/one", built(1426, &[("s1", "default/web")]))]);
    two.report(&[("a/one", broken("UnderlayMissing", "underlay eth2 is missing: add it"))]);
    let found = status(&server, SOON, |status| status["nodes"] == "1/2")?;
    check!(found["status"]["attachments"] == 1 && found["status"]["reason"] == "UnderlayMissing", "{found}");
    let ready = condition(&found["status"], "Ready");
    check!(ready["status"] == "False", "{found}");
    check!(ready["message"] == "worker2: underlay eth2 is missing: add it", "{found}");
    check!(condition(&found["status"], "Accepted")["status"] == "True", "{found}");
    two.report(&[("a/one", built(8926, &[]))]);
    let found = status(&server, SOON, |status| status["nodes"] == "2/2")?;
    check!(condition(&found["status"], "Ready")["status"] == "True", "{found}");
    check!(found["status"]["mtu"] == 1426, "{found}");
    check!(condition(&found["status"], "MtuUniform")["reason"] == "UnequalMtu", "{found}");
    let reports = server.keys("lannodes", GROUP);
    check!(reports.iter().eq(["a/one.worker1", "a/one.worker2"]), "{reports:?}");
    let report = server.get("lannodes", GROUP, "a/one.worker1").unwrap();
    check!(report["spec"]["attachments"] == json!([{ "spoke": "s1", "by": "default/web" }]), "{report}");
    Ok(())
}

fn one_mtu_for_nodes_that_come_and_go() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let large = Node::start(&server, dir.path(), "worker1")?;
    large.report(&[("a/one", built(8926, &[]))]);
    status(&server, SOON, |status| status["mtu"] == 8926)?;
    let small = Node::start(&server, dir.path(), "worker2")?;
    small.report(&[("a/one", built(1426, &[]))]);
    status(&server, SOON, |status| status["mtu"] == 1426)?;
    // Every node is told by its file.
    eventually(SOON, || {
        let text = std::fs::read_to_string(dir.path().join("worker1/a.one.yaml")).unwrap_or_default();
        if text.contains(r#""lan.k8slan.io/mtu": "1426""#) { Ok(()) } else { Err(text) }
    })?;
    large.report(&[("a/one", LanReport { mtu: Some(1426), ..built(8926, &[]) })]);
    let versions = || server.get("lans", GROUP, "a/one").map(|lan| lan["metadata"]["generation"].clone());
    let before = versions();
    // The small one is not heard, loses its underlay, is gone, and comes back: frames of 1426 always fit.
    let mut node = server.get("nodes", "v1", "/worker2").unwrap();
    node["status"]["conditions"][0]["status"] = json!("Unknown");
    server.put("nodes", node);
    status(&server, SOON, |status| status["nodes"] == "1/1" && status["mtu"] == 1426)?;
    small.report(&[("a/one", broken("UnderlayMissing", "underlay eth1 is missing"))]);
    drop(small);
    server.delete("nodes", "v1", "/worker2");
    let rising = |status: &Value| condition(status, "MtuUniform")["reason"] == "Rising";
    let found = status(&server, LATER, rising)?;
    check!(found["status"]["mtu"] == 1426, "{found}");
    check!(condition(&found["status"], "MtuUniform")["status"] == "True", "{found}");
    let small = Node::start(&server, dir.path(), "worker2")?;
    small.report(&[("a/one", built(1400, &[]))]);
    status(&server, SOON, |status| status["mtu"] == 1400)?;
    check!(versions() == before, "the specification was written to");
    // What the author asks for is no business of the nodes.
    let mut object = lan("a", "one", 1);
    object["spec"]["mtu"] = json!(1300);
    server.put("lans", object);
    let found = status(&server, SOON, |status| status["mtu"] == 1300)?;
    check!(condition(&found["status"], "MtuUniform")["status"] == "True", "{found}");
    eventually(SOON, || {
        let text = std::fs::read_to_string(dir.path().join("worker1/a.one.yaml")).unwrap_or_default();
        if text.contains("lan.k8slan.io/mtu") { Err(text) } else { Ok(()) }
    })?;
    Ok(())
}

/// The whole way of a rise, with a hold of seconds instead of ten minutes: from the nodes' reports to the LAN's status,
/// the event, and the nodes' files.
fn an_mtu_rises_when_all_had_room_for_long() -> Outcome {
    const HOLD: Duration = Duration::from_secs(2);
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let start = |name| Node::leading(&server, dir.path(), name, |leader| leader.rising_after(HOLD));
    let (one, two) = (start("worker1")?, start("worker2")?);
    one.report(&[("a/one", built(1426, &[]))]);
    two.report(&[("a/one", built(8926, &[]))]);
    status(&server, SOON, |status| status["mtu"] == 1426 && status["nodes"] == "2/2")?;
    let has_room = |room: u32| {
        let report = LanReport { mtu: Some(1426), ..built(room, &[]) };
        one.report(&[("a/one", report)]);
    };
    has_room(8926);
    let rising = |status: &Value| condition(status, "MtuUniform")["reason"] == "Rising";
    status(&server, SOON, rising)?;
    // It is small again for a moment, and the waiting begins anew.
    std::thread::sleep(HOLD / 2);
    has_room(1426);
    status(&server, SOON, |status| !rising(status))?;
    let since = Instant::now();
    has_room(4000);
    let says = |status: &Value| condition(status, "MtuUniform")["message"].to_string();
    status(&server, SOON, |status| status["mtu"] == 1426 && says(status).contains("4000"))?;
    has_room(8926);
    // To the most that all had all the time, and not before its time.
    let found = status(&server, 2 * HOLD, |status| status["mtu"] != 1426)?;
    check!(found["status"]["mtu"] == 4000 && since.elapsed() >= HOLD, "{found} after {:?}", since.elapsed());
    status(&server, 2 * HOLD, |status| status["mtu"] == 8926)?;
    check!(since.elapsed() >= 2 * HOLD, "{:?}", since.elapsed());
    for node in ["worker1", "worker2"] {
        eventually(SOON, || {
            let text = std::fs::read_to_string(dir.path().join(node).join("a.one.yaml")).unwrap_or_default();
            if text.contains(r#""lan.k8slan.io/mtu": "8926""#) { Ok(()) } else { Err(text) }
        })?;
    }
    Ok(())
}

/// An upgrade restarts every leader; the waiting of ten minutes must end all the same.
fn a_new_leader_goes_on_with_the_waiting() -> Outcome {
    const HOLD: Duration = Duration::from_secs(8);
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let start = |name| Node::leading(&server, dir.path(), name, |leader| leader.rising_after(HOLD));
    let one = start("worker1")?;
    holder(&server, SOON, |name| name == "worker1")?;
    let two = start("worker2")?;
    one.report(&[("a/one", built(8926, &[]))]);
    two.report(&[("a/one", built(1426, &[]))]);
    status(&server, SOON, |status| status["mtu"] == 1426 && status["nodes"] == "2/2")?;
    let since = Instant::now();
    two.report(&[("a/one", LanReport { mtu: Some(1426), ..built(8926, &[]) })]);
    let found = status(&server, SOON, |status| status["mtuRise"]["to"] == 8926)?;
    check!(found["status"]["mtuRise"]["at"].is_string(), "{found}");
    std::thread::sleep((HOLD * 3 / 4).saturating_sub(since.elapsed()));
    one.stop();
    holder(&server, SOON, |name| name == "worker2")?;
    let found = status(&server, LATER, |status| status["mtu"] == 8926)?;
    let waited = since.elapsed();
    check!(waited >= HOLD && waited < HOLD + HOLD / 2, "it rose after {waited:?}");
    check!(found["status"]["mtuRise"].is_null(), "{found}");
    Ok(())
}

fn a_node_that_has_no_part_any_more_says_nothing() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", built(1426, &[]))]);
    status(&server, SOON, |status| status["nodes"] == "1/1")?;
    node.report(&[("a/one", LanReport { takes_part: false, ..broken("NoUnderlay", "none") })]);
    eventually(SOON, || match server.keys("lannodes", GROUP) {
        reports if reports.is_empty() => Ok(()),
        reports => Err(format!("{reports:?}")),
    })?;
    status(&server, SOON, |status| status["nodes"] == "0/0")?;
    node.report(&[("a/one", built(1426, &[]))]);
    status(&server, SOON, |status| status["nodes"] == "1/1")?;
    Ok(())
}

fn writes(server: &ApiServer) -> Vec<String> {
    // The lease is renewed all the time, as it must be.
    let is_write = |line: &&String| !line.starts_with("GET ") && !line.contains("/leases");
    server.requests().iter().filter(is_write).cloned().collect()
}

/// What was written when nothing more is.
fn at_rest(server: &ApiServer) -> Result<Vec<String>, Error> {
    let (mut last, mut since) = (0, Instant::now());
    eventually(LATER, || {
        let writes = writes(server);
        if writes.len() != last {
            (last, since) = (writes.len(), Instant::now());
        }
        if since.elapsed() >= QUIET { Ok(writes) } else { Err(format!("{last} writes, and more")) }
    })
}

fn nothing_is_written_when_nothing_changes() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let one = Node::start(&server, dir.path(), "worker1")?;
    let two = Node::start(&server, dir.path(), "worker2")?;
    for node in [&one, &two] {
        node.report(&[("a/one", built(1426, &[]))]);
    }
    status(&server, SOON, |status| status["nodes"] == "2/2")?;
    let before = at_rest(&server)?;
    for node in [&one, &two] {
        node.report(&[("a/one", built(1426, &[]))]);
    }
    // A heartbeat of a node, a watch that ends, and time.
    let mut heartbeat = server.get("nodes", "v1", "/worker1").unwrap();
    heartbeat["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-11-21T09:00:00Z");
    server.put("nodes", heartbeat);
    server.hang_up();
    stays(QUIET, || match writes(&server) {
        after if after.len() == before.len() => Ok(()),
        after => Err(format!("written: {:?}", &after[before.len()..])),
    })?;
    Ok(())
}

/// Something is attached, and the leader has seen to it that the LAN waits for that.
pub(crate) fn is_held(server: &ApiServer) -> Result<(), Error> {
    eventually(LATER, || match server.get("lans", GROUP, "a/one") {
        Some(lan) if lan["metadata"]["finalizers"] == json!([FINALIZER]) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// It is held, and not let go when the leader looks again.
fn stays_held(server: &ApiServer) -> Result<(), Error> {
    is_held(server)?;
    stays(QUIET, || match server.get("lans", GROUP, "a/one") {
        Some(lan) if lan["metadata"]["finalizers"] == json!([FINALIZER]) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

fn is_free(server: &ApiServer) -> Result<(), Error> {
    eventually(LATER, || match server.get("lans", GROUP, "a/one") {
        Some(lan) if lan["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

fn deleting(server: &ApiServer, dir: &Path, users: &[(&str, &str)], force: bool) -> Result<Node, Stop> {
    let mut object = lan("a", "one", 1);
    if force {
        object["spec"]["deletionPolicy"] = json!("Force");
    }
    server.put("lans", object);
    let node = Node::start(server, dir, "worker1")?;
    node.report(&[("a/one", built(1426, users))]);
    status(server, SOON, |status| status["nodes"] == "1/1" && status["attachments"] == users.len())?;
    if !users.is_empty() && !force {
        is_held(server)?;
    }
    server.delete("lans", GROUP, "a/one");
    Ok(node)
}

/// Whoever deletes a LAN that nobody uses waits for no daemon: there may be none any more.
fn a_lan_is_held_only_while_something_is_attached() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    // As an earlier version left it.
    let mut object = lan("a", "one", 1);
    object["metadata"]["finalizers"] = json!([FINALIZER]);
    server.put("lans", object);
    let one = Node::start(&server, dir.path(), "worker1")?;
    let two = Node::start(&server, dir.path(), "worker2")?;
    let used = |by: &[(&str, &str)]| [("a/one", built(1426, by))];
    for node in [&one, &two] {
        node.report(&used(&[]));
    }
    status(&server, SOON, |status| status["nodes"] == "2/2")?;
    is_free(&server)?;
    for _ in 0..2 {
        one.report(&used(&[("s1", "default/web")]));
        is_held(&server)?;
        two.report(&used(&[("s2", "default/db")]));
        status(&server, SOON, |status| status["attachments"] == 2)?;
        one.report(&used(&[]));
        status(&server, SOON, |status| status["attachments"] == 1)?;
        is_held(&server)?;
        two.report(&used(&[]));
        is_free(&server)?;
    }
    // A node that is not heard may come back with its pods.
    two.report(&used(&[("s2", "default/db")]));
    is_held(&server)?;
    let mut node = server.get("nodes", "v1", "/worker2").unwrap();
    node["status"]["conditions"][0]["status"] = json!("Unknown");
    server.put("nodes", node);
    status(&server, SOON, |status| status["attachments"] == 0)?;
    stays_held(&server)?;
    // One that is gone for good does not.
    drop(two);
    server.delete("nodes", "v1", "/worker2");
    is_free(&server)?;
    drop(one);
    server.delete("lans", GROUP, "a/one");
    check!(server.get("lans", GROUP, "a/one").is_none(), "it waits for a daemon, and there is none");
    Ok(())
}

/// Between a pod's ADD and the leader's answer to the node's report lies a second.
fn a_lan_deleted_before_its_use_is_told_goes_as_by_force() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", built(1426, &[]))]);
    status(&server, SOON, |status| status["nodes"] == "1/1")?;
    let file = dir.path().join("worker1/a.one.yaml");
    check!(file.exists(), "it is not built");
    node.report(&[("a/one", built(1426, &[("s1", "default/web")]))]);
    server.delete("lans", GROUP, "a/one");
    gone(&server, Duration::ZERO)?;
    // To the node that is a LAN that nobody declares: it takes it down, the ports of pods first.
    eventually(SOON, || if file.exists() { Err("its file is still there".into()) } else { Ok(()) })?;
    // Its report is of no LAN any more, and holds none of that name that is made later.
    node.report(&[]);
    eventually(SOON, || match server.keys("lannodes", GROUP) {
        reports if reports.is_empty() => Ok(()),
        reports => Err(format!("{reports:?}")),
    })?;
    Ok(())
}

fn gone(server: &ApiServer, limit: Duration) -> Result<(), Error> {
    eventually(limit, || match server.get("lans", GROUP, "a/one") {
        None => Ok(()),
        Some(lan) => Err(lan.to_string()),
    })
}

fn a_deleted_lan_waits_for_its_last_pod() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    let node = deleting(&server, dir.path(), &[("s1", "default/web")], false)?;
    let found = status(&server, SOON, |status| status["reason"] == "InUse")?;
    check!(found["status"]["waitingFor"] == json!(["default/web on worker1 (spoke s1)"]), "{found}");
    check!(dir.path().join("worker1/a.one.yaml").exists(), "it is built as long as it is used");
    node.report(&[("a/one", built(1426, &[]))]);
    gone(&server, SOON)?;
    eventually(SOON, || match dir.path().join("worker1/a.one.yaml").exists() {
        true => Err("the LAN's file is still there".into()),
        false => Ok(()),
    })?;
    let reports = server.keys("lannodes", GROUP);
    check!(reports.is_empty(), "{reports:?}");
    Ok(())
}

fn force_does_not_wait() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    let _node = deleting(&server, dir.path(), &[("s1", "default/web")], true)?;
    gone(&server, SOON)?;
    Ok(())
}

fn a_dead_node_blocks_nothing() -> Outcome {
    for dies in ["is not heard", "is gone"] {
        let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
        let _node = deleting(&server, dir.path(), &[], false)?;
        gone(&server, SOON)?;
        server.put("lans", lan("a", "one", 1));
        let dead = Node::start(&server, dir.path(), "worker9")?;
        dead.report(&[("a/one", built(1426, &[("s1", "default/web")]))]);
        status(&server, LATER, |status| status["attachments"] == 1)?;
        is_held(&server)?;
        drop(dead);
        server.delete("lans", GROUP, "a/one");
        status(&server, LATER, |status| status["reason"] == "InUse")?;
        if dies == "is gone" {
            server.delete("nodes", "v1", "/worker9");
        } else {
            let mut node = server.get("nodes", "v1", "/worker9").unwrap();
            node["status"]["conditions"][0]["status"] = json!("Unknown");
            server.put("nodes", node);
        }
        gone(&server, LATER)?;
    }
    Ok(())
}

/// By hand, or because the definition or the namespace is deleted before the daemon: the pods are attached as before.
fn a_report_that_is_deleted_frees_no_lan() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    let on = |nodes: Value| status(&server, LATER, |status| status["attachedOn"] == nodes);
    let stays = |what: &str| -> Outcome {
        stays_held(&server)?;
        check!(server.keys("lannodes", GROUP).is_empty(), "{what}: there is a report");
        Ok(())
    };
    server.put("lans", lan("a", "one", 1));
    let used = [("a/one", built(1426, &[("s1", "default/web")]))];
    let one = Node::start(&server, dir.path(), "worker1")?;
    one.report(&used);
    on(json!(["worker1"]))?;
    is_held(&server)?;
    server.delete("lannodes", GROUP, "a/one.worker1");
    status(&server, SOON, |status| status["attachments"] == 0)?;
    stays("it stands")?;
    server.delete("lans", GROUP, "a/one");
    let waits = json!(["what is attached on worker1, whose LANNode object was deleted"]);
    let found = status(&server, SOON, |status| status["waitingFor"] == waits)?;
    check!(condition(&found["status"], "Deleting")["reason"] == "InUse", "{found}");
    stays("it is deleted")?;
    // Neither does another leader, which never saw the report.
    drop(one);
    let two = Node::start(&server, dir.path(), "worker2")?;
    eventually(LATER, || match server.get("leases", LEASES, "k8slan-system/k8slan-leader") {
        Some(lease) if lease["spec"]["holderIdentity"] == "worker2" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    stays("another leads")?;
    // Only who had the pods knows that they are gone, or a person who does not care.
    let one = Node::start(&server, dir.path(), "worker1")?;
    one.report(&used);
    status(&server, LATER, |status| status["waitingFor"] == json!(["default/web on worker1 (spoke s1)"]))?;
    server.delete("lannodes", GROUP, "a/one.worker1");
    status(&server, LATER, |status| status["waitingFor"] == waits)?;
    one.report(&[("a/one", built(1426, &[]))]);
    gone(&server, SOON)?;
    drop((one, two));
    for frees in ["Force", "its node is gone"] {
        server.put("lans", lan("a", "one", 1));
        let one = Node::start(&server, dir.path(), "worker1")?;
        one.report(&used);
        on(json!(["worker1"]))?;
        is_held(&server)?;
        server.delete("lannodes", GROUP, "a/one.worker1");
        server.delete("lans", GROUP, "a/one");
        status(&server, SOON, |status| status["waitingFor"] == waits)?;
        if frees == "Force" {
            let mut lan = server.get("lans", GROUP, "a/one").unwrap();
            lan["spec"]["deletionPolicy"] = json!("Force");
            server.put("lans", lan);
        } else {
            server.delete("nodes", "v1", "/worker1");
        }
        gone(&server, SOON).map_err(|why| Stop::Failed(format!("{frees}: {why}")))?;
        drop(one);
    }
    Ok(())
}

/// Or its pods would hold the LAN for ever, as those of a report that somebody deleted do.
fn a_node_that_loses_its_part_says_first_that_nothing_is_attached() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", built(1426, &[("s1", "default/web")]))]);
    is_held(&server)?;
    let without = |users: &[(&str, &str)]| {
        let attachments = built(1426, users).attachments;
        [("a/one", LanReport { takes_part: false, attachments, ..broken("NoUnderlay", "none") })]
    };
    node.report(&without(&[("s1", "default/web")]));
    status(&server, SOON, |status| status["reason"] == "NoUnderlay")?;
    stays_held(&server)?;
    node.report(&without(&[]));
    is_free(&server)?;
    status(&server, SOON, |status| status["nodes"] == "0/0" && status["attachedOn"].is_null())?;
    let reports = server.keys("lannodes", GROUP);
    check!(reports.is_empty(), "{reports:?}");
    Ok(())
}

fn reports_survive_a_refusing_server() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let node = Node::start(&server, dir.path(), "worker1")?;
    node.report(&[("a/one", built(1426, &[]))]);
    status(&server, SOON, |status| status["nodes"] == "1/1")?;
    server.fault(|faults| faults.errors = vec![("PATCH".into(), 503)]);
    node.report(&[("a/one", broken("UnderlayMissing", "underlay eth1 is missing"))]);
    // A few tries are refused.
    let before = server.requests().len();
    eventually(LATER, || {
        match server.requests()[before..].iter().filter(|line| line.starts_with("PATCH")).count() {
            0..3 => Err("fewer than three tries".to_owned()),
            _ => Ok(()),
        }
    })?;
    server.fault(|faults| faults.errors.clear());
    status(&server, LATER, |status| status["nodes"] == "0/1")?;
    Ok(())
}

fn holder(server: &ApiServer, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String, Error> {
    eventually(limit, || {
        let lease = server.get("leases", LEASES, "k8slan-system/k8slan-leader");
        let lease = lease.unwrap_or_default();
        match lease["spec"]["holderIdentity"].as_str() {
            Some(name) if wanted(name) => Ok(name.to_owned()),
            _ => Err(lease.to_string()),
        }
    })
}

fn another_leads_when_the_leader_dies() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let one = Node::start(&server, dir.path(), "worker1")?;
    holder(&server, SOON, |name| name == "worker1")?;
    let two = Node::start(&server, dir.path(), "worker2")?;
    // Longer than a lease.
    stays(QUICK.lease + QUICK.renew, || {
        holder(&server, Duration::ZERO, |name| name == "worker1").map(drop).map_err(|error| error.to_string())
    })?;
    drop(one);
    holder(&server, LATER, |name| name == "worker2")?;
    two.report(&[("a/one", built(1426, &[]))]);
    status(&server, LATER, |status| status["nodes"] == "1/1")?;
    let lease = server.get("leases", LEASES, "k8slan-system/k8slan-leader").unwrap();
    check!(lease["spec"]["leaseTransitions"] == 1, "{lease}");
    Ok(())
}

fn a_leader_that_stops_gives_the_lease_back() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    let one = Node::start(&server, dir.path(), "worker1")?;
    holder(&server, SOON, |name| name == "worker1")?;
    one.stop();
    let lease = server.get("leases", LEASES, "k8slan-system/k8slan-leader").unwrap();
    check!(lease["spec"]["holderIdentity"].is_null(), "{lease}");
    let _two = Node::start(&server, dir.path(), "worker2")?;
    holder(&server, Duration::from_secs(1), |name| name == "worker2")?;
    Ok(())
}
