//! Two hundred nodes: what they ask the API server for, counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller::{Election, LanNodeWriter, LanReport, Leader, Reports, Timing};
use k8slan_tests::apiserver::ApiServer;
use serde_json::json;
use testnet::{Outcome, Stop, Trial, eventually, tests};
use tokio::sync::watch;

use crate::cluster::mirror::lan;
use crate::cluster::mirrored::mirrored;
use crate::cluster::site::kubernetes_node;
use crate::cluster::status::{broken, built, status};
use crate::cluster::{Background, check};

const GROUP: &str = "lan.k8slan.io/v1beta1";
const NODES: usize = 200;
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    tests![two_hundred_nodes_leave_each_other_alone]
}

/// The cluster's side of every node's daemon, on one runtime.
struct Cluster {
    reports: Vec<watch::Sender<Arc<Reports>>>,
    _background: Background,
}

impl Cluster {
    fn start(server: &ApiServer, dir: &Path) -> Result<Self, Stop> {
        let background = Background::new();
        let mut reports = Vec::new();
        for number in 0..NODES {
            let name = format!("worker{number:03}");
            server.put("nodes", kubernetes_node(&name, &name));
            let client = background.client(&server.url());
            let (mirror, folder) = mirrored(client.clone(), &name, Vec::new(), &dir.join(&name))?;
            let (sender, receiver) = watch::channel(Arc::new(Reports::new()));
            let reporter = LanNodeWriter::new(client.clone(), name.clone(), receiver, mirror.state());
            reports.push(sender);
            background.runtime().spawn(async move {
                let election =
                    Election::new(client.clone(), "k8slan-system", "k8slan-leader", &name, Timing::default());
                let leader = Leader::new(client, &name);
                tokio::join!(
                    mirror.run(),
                    folder,
                    reporter.run(),
                    election.run(|| leader.run(), std::future::pending())
                )
                .0
            });
        }
        Ok(Self { reports, _background: background })
    }

    fn report(&self, number: usize, report: LanReport) {
        self.reports[number].send_replace(Arc::new(BTreeMap::from([("a/one".parse().unwrap(), report)])));
    }
}

/// Requests since `before`, by what they are; the lease's apart.
fn requests(server: &ApiServer, before: usize) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for line in &server.requests()[before..] {
        let kind = match line {
            line if line.contains("/leases") => "lease",
            line if line.starts_with("GET ") && line.contains("watch=true") => "watch",
            line if line.starts_with("GET ") => "list or get",
            line if line.contains("/lannodes") => "write of a LANNode",
            line if line.contains("/status") => "write of a LAN's status",
            line if line.contains("/events") => "event",
            line if line.contains("/lans/") => "write of a LAN's finalizer",
            _ => "other write",
        };
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

/// Longer than reports and summaries are collected before they are written.
const BETWEEN: Duration = Duration::from_millis(700);

fn quiet(server: &ApiServer) -> Result<usize, Stop> {
    let mut last = 0;
    let count = eventually(LIMIT, || {
        std::thread::sleep(BETWEEN);
        let lines = server.requests();
        let now = lines.iter().filter(|line| !line.contains("/leases")).count();
        let settled = now == last;
        last = now;
        if settled { Ok(lines.len()) } else { Err(format!("{now} requests, and more")) }
    })?;
    Ok(count)
}

fn two_hundred_nodes_leave_each_other_alone() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let start = Instant::now();
    let cluster = Cluster::start(&server, dir.path())?;
    for number in 0..NODES {
        cluster.report(number, built(1426, &[]));
    }
    status(&server, LIMIT, |status| status["nodes"] == "200/200")?;
    println!("{NODES} nodes start and report: {:?}, {:?}", start.elapsed(), requests(&server, 0));

    // One pod is attached on one node.
    let before = quiet(&server)?;
    cluster.report(7, built(1426, &[("s1", "default/web")]));
    status(&server, LIMIT, |status| status["attachments"] == 1)?;
    quiet(&server)?;
    let mut counts = requests(&server, before);
    println!("one attachment: {counts:?}");
    counts.remove("lease");
    // It is the LAN's first.
    let wanted = BTreeMap::from([
        ("write of a LANNode", 1),
        ("write of a LAN's finalizer", 1),
        ("write of a LAN's status", 1),
    ]);
    check!(counts == wanted, "{counts:?}");

    // One node has less room: the leader says so once, every node hears it, and nobody else writes.
    let before = quiet(&server)?;
    cluster.report(9, built(1300, &[]));
    status(&server, LIMIT, |status| status["mtu"] == 1300)?;
    quiet(&server)?;
    let mut counts = requests(&server, before);
    println!("one smaller MTU: {counts:?}");
    counts.remove("lease");
    let wanted = BTreeMap::from([("write of a LANNode", 1), ("write of a LAN's status", 1), ("event", 1)]);
    check!(counts == wanted, "{counts:?}");
    eventually(LIMIT, || {
        let file = dir.path().join("worker199/a.one.yaml");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.contains(r#""lan.k8slan.io/mtu": "1300""#) { Ok(()) } else { Err(text) }
    })?;

    // Heartbeats of all nodes' kubelets.
    let before = quiet(&server)?;
    for number in 0..NODES {
        let key = format!("/worker{number:03}");
        let mut node = server.get("nodes", "v1", &key).unwrap();
        node["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-11-21T09:00:00Z");
        server.put("nodes", node);
    }
    quiet(&server)?;
    let mut counts = requests(&server, before);
    counts.remove("lease");
    check!(counts.is_empty(), "heartbeats led to {counts:?}");

    // All lose their underlay, one after the other.
    let before = quiet(&server)?;
    for number in 0..NODES {
        cluster.report(number, broken("UnderlayMissing", "underlay eth1 does not exist"));
    }
    status(&server, LIMIT, |status| status["nodes"] == "0/200")?;
    quiet(&server)?;
    let counts = requests(&server, before);
    println!("all lose their underlay: {counts:?}");
    check!(counts["write of a LANNode"] == NODES && counts["event"] == 1, "{counts:?}");
    check!(counts["write of a LAN's status"] <= 10, "{counts:?}");
    check!(server.keys("lannodes", GROUP).len() == NODES, "reports");
    Ok(())
}
