//! Once a node has blocks, pods come and go without a request to the API server: counted by the server itself.

use std::time::Duration;

use k8slan_tests::real_server::{ADMIN, ClusterClient, Place, Program, RealServer};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, eventually, stays, tests};

use crate::cluster::check;
use crate::cluster::site::{Site, failed, kubernetes_node};

const LIMIT: Duration = Duration::from_secs(60);
const PODS: usize = 200;
/// Longer than the leader waits until it writes what changed, and than the node waits until it looks at a new block's leases.
const SETTLES: Duration = Duration::from_secs(3);

pub(super) fn trials() -> Vec<Trial> {
    tests![
        pods_come_and_go_without_a_request_to_the_double,
        pods_come_and_go_without_a_request_by_its_audit_log
    ]
}

fn pods_come_and_go_without_a_request_to_the_double() -> Outcome {
    let site = Site::without_kubelet()?;
    let admin = ClusterClient::of_file(&site.node, site.kubeconfig())?;
    come_and_go(&site, &admin, site.kubeconfig(), &|| {
        let lines = site.server.requests();
        Ok(lines.into_iter().filter(|line| !line.contains("/leases")).collect())
    })
}

fn pods_come_and_go_without_a_request_by_its_audit_log() -> Outcome {
    let program = Program::whole()?;
    let dir = tempfile::tempdir()?;
    let site = Site::without_kubelet()?;
    let place = Place { audit: Some("- level: Metadata\n"), ..Place::on_loopback(dir.path()) };
    let server = RealServer::start(&program, place, |program| site.node.command(program))?;
    let admin = ClusterClient::new(&site.node, &server.kubeconfig(ADMIN))?;
    admin.install()?;
    let mut node = kubernetes_node("worker1", "worker1");
    node.as_object_mut().unwrap().remove("status");
    admin.apply(&node).map_err(failed)?;
    let kubeconfig = dir.path().join("kubeconfig.daemon");
    std::fs::write(&kubeconfig, server.kubeconfig_of_token(&admin.daemon_token("worker1")?).to_string())?;
    come_and_go(&site, &admin, &kubeconfig, &|| requests(&server))
}

/// The daemon's requests by the server's audit log, but for its lease. Those that have not ended are not there: watches.
fn requests(server: &RealServer) -> Result<Vec<String>, Stop> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = server.audit(0)?;
    let of_daemon = all.iter().filter(|event| {
        event["user"]["username"] == "system:serviceaccount:k8slan-system:k8slan"
            && event["objectRef"]["resource"] != "leases"
            && event["verb"] != "watch"
    });
    Ok(of_daemon.map(|event| format!("{} {}", text(&event["verb"]), text(&event["requestURI"]))).collect())
}

/// What the daemon has asked since it started, but for its lease.
type Asked<'a> = &'a dyn Fn() -> Result<Vec<String>, Stop>;

fn come_and_go(
    site: &Site,
    admin: &ClusterClient<'_>,
    kubeconfig: &std::path::Path,
    asked: Asked<'_>,
) -> Outcome {
    let pool = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": "office" },
        // Blocks of 16 addresses. One pod after the other: without a rest, one block is enough for all.
        "spec": { "subnets": ["10.9.0.0/22"], "cooldown": "0s" },
    });
    eventually(LIMIT, || admin.apply(&pool).map(drop))?;
    let daemon = site.whole_with(kubeconfig)?;
    let path = "/var/lib/k8slan/blocks/pools/office.json";
    eventually(LIMIT, || match site.node.read(path) {
        Ok(text) if text.contains("\"blocks\"") => Ok(()),
        other => Err(format!("{other:?}\n{}", daemon.log())),
    })?;
    let pod = site.node.pod("pod")?;
    let config = json!({
        "cniVersion": "1.0.0", "name": "office", "type": "bridge", "ipam": { "type": "ipam-pool", "pool": "office" },
    });
    let mut number = 0;
    let mut come_and_go = || -> Result<(), Stop> {
        number += 1;
        let call = testnet::CniCall { container: format!("{number:064x}"), ..pod.call("net1", &config) };
        site.node.cni("ipam-pool", "ADD", &call).map_err(failed)?;
        site.node.cni("ipam-pool", "DEL", &call).map_err(failed)?;
        Ok(())
    };
    // The first pod costs a claim. What it leads to is over when nothing more is asked.
    come_and_go()?;
    check!(asked()?.iter().any(|line| line.contains("/lanblocks")), "no claim: {:?}", asked()?);
    let before = eventually(LIMIT, || {
        let before = asked().map_err(|error| format!("{error:?}"))?.len();
        let more = || {
            let later = asked().map_err(|error| format!("{error:?}"))?.split_off(before);
            if later.is_empty() { Ok(()) } else { Err(format!("it still asks {later:?}")) }
        };
        stays(SETTLES, more).map_err(|error| error.to_string())?;
        Ok(before)
    })?;
    for _ in 0..PODS {
        come_and_go()?;
    }
    let later = asked()?.split_off(before);
    println!("{PODS} pods came and went; the daemon asked {later:?}");
    let about_blocks =
        later.iter().filter(|line| line.contains("/lanblocks") || line.contains("/lanaddresses"));
    check!(about_blocks.count() == 0, "{later:?}");
    // Once a minute the leader lists the pools.
    check!(later.len() <= 2, "{later:?}");
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}
