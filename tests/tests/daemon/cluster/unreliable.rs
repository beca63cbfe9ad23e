//! An API server that is slow, refuses, forgets, hangs up and answers with conflicts, while everything changes.

use std::time::Duration;

use controller::LanReport;
use k8slan_tests::apiserver::{ApiServer, Faults};
use serde_json::json;
use testnet::{Outcome, Trial, eventually, tests};

use crate::cluster::check;
use crate::cluster::mirror::lan;
use crate::cluster::status::{Node, built};

const GROUP: &str = "lan.k8slan.io/v1beta1";
const NODES: [&str; 3] = ["worker1", "worker2", "worker3"];
const LANS: u32 = 5;

pub(crate) fn trials() -> Vec<Trial> {
    tests![after_every_fault_everything_is_as_it_should_be]
}

/// Faults one after the other, each for a while: a period of 11 and one of 7 meet in every way.
fn fault(step: usize) -> Faults {
    let errors = |text: &str, code: u16| vec![(text.to_owned(), code)];
    let mut faults = Faults::default();
    match step % 11 {
        0 => faults.refuse = true,
        1 => faults.errors = errors("PATCH", 409),
        2 => faults.errors = errors("GET", 500),
        3 => faults.delay = Duration::from_millis(300),
        4 => faults.errors = errors("lannodes", 503),
        5 => faults.errors = errors("PUT", 409),
        6 => faults.errors = errors("/status", 404),
        7 => faults.errors = errors("watch=true", 410),
        8 => faults.errors = errors("lans", 429),
        9 => faults.errors = errors("/nodes", 403),
        _ => {}
    }
    faults
}

/// How long each fault lasts.
const STEP: Duration = Duration::from_millis(200);

fn after_every_fault_everything_is_as_it_should_be() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    let nodes = NODES.map(|name| Node::start(&server, dir.path(), name));
    let nodes: Vec<Node> = nodes.into_iter().collect::<Result<_, _>>()?;
    let report = |round: usize| -> Vec<(String, LanReport)> {
        let one = |vni| (format!("a/l{vni}"), built(1400 + u32::try_from(round % 5).unwrap(), &[]));
        (1..=LANS).map(one).collect()
    };
    for step in 0..33 {
        server.fault(|faults| *faults = fault(step));
        match step % 7 {
            0 => server.forget_history(),
            1 => server.hang_up(),
            2 => server.delete("lans", GROUP, &format!("a/l{}", 1 + step % 5)),
            _ => {}
        }
        let vni = 1 + u32::try_from(step).unwrap() % LANS;
        let mut object = lan("a", &format!("l{vni}"), vni);
        object["spec"]["spokes"] = json!([format!("s{vni}"), format!("t{step}")]);
        server.put("lans", object);
        for node in &nodes {
            let lans = report(step);
            let lans: Vec<(&str, LanReport)> = lans.iter().map(|(key, lan)| (&**key, lan.clone())).collect();
            node.report(&lans);
        }
        std::thread::sleep(STEP);
    }
    server.fault(|faults| *faults = Faults::default());
    // LANs that were deleted under a leader that did not hear of it, and wait: they are let go, and made again.
    for vni in 1..=LANS {
        let key = format!("a/l{vni}");
        eventually(Duration::from_secs(60), || match server.get("lans", GROUP, &key) {
            Some(lan) if lan["metadata"].get("deletionTimestamp").is_some() => Err(lan.to_string()),
            _ => Ok(()),
        })?;
        server.put("lans", lan("a", &format!("l{vni}"), vni));
    }
    for vni in 1..=LANS {
        eventually(Duration::from_secs(60), || {
            let lan = server.get("lans", GROUP, &format!("a/l{vni}")).unwrap_or_default();
            if lan["status"]["nodes"] == "3/3" { Ok(()) } else { Err(lan.to_string()) }
        })?;
        for name in NODES {
            // What was said last is what stands there.
            eventually(Duration::from_secs(60), || {
                let report = server.get("lannodes", GROUP, &format!("a/l{vni}.{name}")).unwrap_or_default();
                if report["spec"]["room"] == 1402 { Ok(()) } else { Err(report.to_string()) }
            })?;
            let wanted = server.get("lans", GROUP, &format!("a/l{vni}")).unwrap()["spec"]["spokes"].clone();
            eventually(Duration::from_secs(60), || {
                let file = dir.path().join(name).join(format!("a.l{vni}.yaml"));
                let text = std::fs::read_to_string(file).unwrap_or_default();
                let file: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                if file["spec"]["spokes"] == wanted { Ok(()) } else { Err(format!("{wanted} {text}")) }
            })?;
        }
    }
    check!(server.keys("lannodes", GROUP).len() == 3 * LANS as usize, "{:?}", server.keys("lannodes", GROUP));
    Ok(())
}
