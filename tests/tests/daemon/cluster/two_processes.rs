//! The node's part and the cluster's part as two processes, each of which may die at any moment.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use k8slan_tests::kubelet::Kubelet;
use serde_json::{Value, json};
use testnet::{Outcome, Trial, eventually, finish, stays, tests};

use crate::cluster::check;
use crate::cluster::site::{GROUP, SOON, Site, document, failed};
use crate::cluster::status::condition;

/// Between two answers of a node's part that is played: often enough that each question finds one.
const ANSWER_INTERVAL: Duration = Duration::from_millis(10);

const CHILD: &str = "K8SLAN_TEST_CONNECT_TO_AGENT";
const SOCKET: &str = "/run/k8slan/agent.sock";
/// The one for the cluster's part.
pub(crate) const LINK: &str = "/run/k8slan/controller/link.sock";

/// What is not heard of would have been by then: either part tells the other within milliseconds.
const UNHEARD: Duration = Duration::from_millis(700);

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        each_part_lives_and_dies_by_itself,
        killed_at_any_moment_they_converge,
        a_nodes_part_that_stays_away_is_told,
        lans_that_never_stood_hold_no_upgrade_back,
        an_upgrade_that_loses_a_lan_is_not_ready,
        the_agent_socket_is_roots,
        a_socket_of_another_owner_is_neither_asked_nor_replaced,
        each_part_runs_once,
        another_version_is_named,
    ]
}

fn spokes(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("pod{n}")).collect()
}

fn put(site: &Site, count: usize) {
    let names = spokes(count);
    site.server.put("lans", document(&names.iter().map(String::as_str).collect::<Vec<_>>()));
}

fn each_part_lives_and_dies_by_itself() -> Outcome {
    let site = Site::new()?;
    put(&site, 2);
    let kubelet = Kubelet::start(&site.kubelet_dir)?;

    // As after a boot, in the less lucky order: the folder is there, nobody builds.
    let cluster = site.cluster_part()?;
    eventually(SOON, || match site.get("/readyz") {
        text if text.starts_with("HTTP/1.1 503") && text.contains("is away: look at") => Ok(()),
        text => Err(format!("{text}\n{}", cluster.log())),
    })?;
    check!(site.get("/livez").starts_with("HTTP/1.1 200"), "{}", site.get("/livez"));
    check!(site.get("/metrics").contains("k8slan_node_up 0"), "{}", site.get("/metrics"));

    let node = site.node_part()?;
    let log = || format!("node:\n{}\ncluster:\n{}", node.log(), cluster.log());
    kubelet.wait_allocatable(2, SOON).map_err(|what| failed(format!("{what}\n{}", log())))?;
    kubelet.admit("uid-1", "vm", "macvtap.k8slan.io/pod1", 1).map_err(failed)?;
    eventually(SOON, || match site.report() {
        report if ready(&report)["status"] == "True" && report["spec"]["observedGeneration"] == 1 => Ok(()),
        report => Err(format!("{report}\n{}", log())),
    })?;
    eventually(SOON, || match site.get("/readyz") {
        text if text.starts_with("HTTP/1.1 200") => Ok(()),
        text => Err(format!("{text}\n{}", log())),
    })?;
    let metrics = site.get("/metrics");
    for line in
        ["k8slan_lans_ready 1", "k8slan_allocations_total 1", "k8slan_node_up 1", "k8slan_api_errors_total 0"]
    {
        check!(metrics.contains(line), "{line} in {metrics}");
    }
    for (question, words) in
        [("livez", "ok"), ("readyz", "ok"), ("status", "\"lan-test"), ("metrics", "k8slan_spokes 2")]
    {
        let answer = site.agent(question)?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        let words = if question == "status" { "k8slan-system/lan-test" } else { words };
        check!(answer.status.success() && text.contains(words), "{question}: {answer:?}");
    }

    // The node's part dies: that is said, nothing is claimed that it did not see, and what stands stands.
    node.kill()?;
    eventually(SOON, || match site.get("/readyz") {
        text if text.starts_with("HTTP/1.1 503") && text.contains("is away") => Ok(()),
        text => Err(text),
    })?;
    let answer = site.agent("readyz")?;
    check!(!answer.status.success(), "{answer:?}");
    put(&site, 3);
    stays(UNHEARD, || match site.report() {
        report if report["spec"]["observedGeneration"] == 1 && ready(&report)["status"] == "True" => Ok(()),
        report => Err(report.to_string()),
    })?;
    let node = site.node_part()?;
    kubelet.wait_allocatable(3, SOON).map_err(|what| failed(format!("{what}\n{}", node.log())))?;
    eventually(SOON, || match (site.get("/readyz"), site.report()) {
        (text, report) if text.starts_with("HTTP/1.1 200") && report["spec"]["observedGeneration"] == 2 => {
            Ok(())
        }
        other => Err(format!("{other:?}\n{}", cluster.log())),
    })?;

    // The cluster's part dies: the node goes on, and what it missed is made up for.
    cluster.kill()?;
    kubelet.admit("uid-2", "vm", "macvtap.k8slan.io/pod3", 1).map_err(failed)?;
    put(&site, 4);
    let cluster = site.cluster_part()?;
    kubelet.wait_allocatable(4, SOON).map_err(|what| failed(format!("{what}\n{}", cluster.log())))?;
    for part in [cluster, node] {
        let status = part.terminate()?;
        check!(status.success(), "{status}");
    }
    for socket in [SOCKET, LINK] {
        check!(!site.node.run(|| std::path::Path::new(socket).exists()), "{socket} is left");
    }
    Ok(())
}

/// What a node's report says of whether the LAN is built there.
fn ready(report: &Value) -> &Value {
    condition(&report["status"], "Ready")
}

fn killed_at_any_moment_they_converge() -> Outcome {
    let site = Site::new()?;
    put(&site, 1);
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let (mut node, mut cluster) = (site.node_part()?, site.cluster_part()?);
    for round in 0..12_u64 {
        let count = usize::try_from(1 + round * 5 % 7)?;
        put(&site, count);
        // From before the object is heard to after everything is done.
        std::thread::sleep(Duration::from_millis(round * 11 % 60));
        if round % 3 != 1 {
            node.kill()?;
            node = site.node_part()?;
        }
        if round % 3 != 0 {
            cluster.kill()?;
            cluster = site.cluster_part()?;
        }
    }
    put(&site, 3);
    let log = || format!("node:\n{}\ncluster:\n{}", node.log(), cluster.log());
    kubelet.wait_allocatable(3, SOON).map_err(|what| failed(format!("{what}\n{}", log())))?;
    let generation = site.server.get("lans", GROUP, "k8slan-system/lan-test").unwrap_or_default();
    let generation = &generation["metadata"]["generation"];
    eventually(SOON, || match site.report() {
        report
            if report["spec"]["observedGeneration"] == *generation && ready(&report)["status"] == "True" =>
        {
            Ok(())
        }
        report => Err(format!("{report}\n{}", log())),
    })?;
    let answer = site.agent("readyz")?;
    check!(answer.status.success(), "{answer:?}");
    Ok(())
}

/// The node's part is away for longer than a restart takes: what stands is no longer called ready, what is attached still
/// holds a deleted LAN, and all is as before when the part is back.
fn a_nodes_part_that_stays_away_is_told() -> Outcome {
    let site = Site::new()?;
    put(&site, 1);
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let (node, cluster) = (site.node_part()?, site.cluster_part()?);
    kubelet.wait_allocatable(1, SOON).map_err(|what| failed(format!("{what}\n{}", cluster.log())))?;
    let attach = site.node.pod("web")?;
    attach.add(
        "macvtap",
        "net1",
        &json!({ "cniVersion": "1.0.0", "name": "lan", "type": "macvtap", "deviceID": "pod1" }),
    )?;
    let used = |report: &Value| report["spec"]["attachments"].as_array().is_some_and(|list| list.len() == 1);
    eventually(SOON, || match site.report() {
        report if used(&report) && ready(&report)["status"] == "True" => Ok(()),
        report => Err(format!("{report}\n{}", cluster.log())),
    })?;
    node.kill()?;
    let since = Instant::now();
    let away = eventually(Site::AWAY + SOON, || match site.report() {
        report if ready(&report)["status"] == "False" => Ok(report),
        report => Err(format!("{report}\n{}", cluster.log())),
    })?;
    check!(since.elapsed() >= Site::AWAY, "a restart would have been told: {:?}", since.elapsed());
    check!(ready(&away)["reason"] == "NodePartAway" && used(&away), "{away}");
    check!(
        condition(&away["status"], "Accepted")["status"] == "True" && away["spec"]["mtu"] == 1426,
        "{away}"
    );
    site.condition("k8slan-system/lan-test", "Ready", "False", "does not run here")?;
    let readyz = site.get("/readyz");
    check!(readyz.starts_with("HTTP/1.1 503") && readyz.contains("is away"), "{readyz}");
    let node = site.node_part()?;
    site.condition("k8slan-system/lan-test", "Ready", "True", "")?;
    check!(used(&site.report()), "{}", site.report());
    for part in [cluster, node] {
        check!(part.terminate()?.success(), "it ends well");
    }
    Ok(())
}

/// In the child: asks, and says how that went.
pub(crate) fn child() -> Option<ExitCode> {
    use std::io::{Read, Write};
    let path = std::env::var_os(CHILD)?;
    let attempt = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    match attempt() {
        Ok(text) if text.is_empty() => println!("closed"),
        Ok(text) => println!("{}", text.lines().next().unwrap_or_default()),
        Err(error) => println!("{}", error.kind()),
    }
    Some(ExitCode::SUCCESS)
}

fn ask_as(site: &Site, user: u32) -> Result<String, testnet::Error> {
    // Through the link, since an unprivileged user may not be able to walk to the file itself.
    let output = site.node.run(|| finish(Command::new("/proc/self/exe").uid(user).env(CHILD, SOCKET)))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn the_agent_socket_is_roots() -> Outcome {
    let site = Site::new()?;
    // What a daemon that was killed left.
    site.node.run(|| -> std::io::Result<()> {
        std::fs::create_dir_all("/run/k8slan")?;
        drop(UnixListener::bind(SOCKET)?);
        Ok(())
    })?;
    let node = site.node_part()?;
    eventually(SOON, || match site.agent("livez") {
        Ok(answer) if answer.status.success() => Ok(()),
        other => Err(format!("{other:?}\n{}", node.log())),
    })?;
    let mode = site.node.run(|| std::fs::symlink_metadata(SOCKET))?.permissions().mode();
    check!(mode & 0o777 == 0o600, "{mode:o}");
    let asked = ask_as(&site, 0)?;
    check!(asked == "HTTP/1.1 200 OK", "root: {asked}");
    let asked = ask_as(&site, 1000)?;
    check!(asked == "permission denied", "a user: {asked}");
    for folder in ["/run/k8slan", "/var/lib/k8slan"] {
        let mode = site.node.run(|| std::fs::symlink_metadata(folder))?.permissions().mode();
        check!(mode & 0o777 == 0o700, "{folder}: {mode:o}");
    }
    site.node.run(|| std::fs::set_permissions("/run/k8slan", PermissionsExt::from_mode(0o711)))?;
    let asked = ask_as(&site, 1000)?;
    check!(asked == "permission denied", "a user who finds the folder open: {asked}");
    // Whoever loosens the mode opens nothing, and our own programs do not trust it any more.
    site.node.run(|| std::fs::set_permissions(SOCKET, PermissionsExt::from_mode(0o666)))?;
    let asked = ask_as(&site, 1000)?;
    check!(["closed", "connection reset", "broken pipe"].contains(&asked.as_str()), "a user: {asked}");
    check!(node.log().contains("refused a connection"), "{}", node.log());
    let answer = site.agent("livez")?;
    let text = String::from_utf8_lossy(&answer.stderr).into_owned();
    check!(!answer.status.success() && text.contains("mode 0666"), "{text}");
    Ok(())
}

fn a_socket_of_another_owner_is_neither_asked_nor_replaced() -> Outcome {
    let site = Site::new()?;
    let _listener = site.node.run(|| -> std::io::Result<UnixListener> {
        std::fs::create_dir_all("/run/k8slan")?;
        let listener = UnixListener::bind(SOCKET)?;
        std::os::unix::fs::chown(SOCKET, Some(1000), Some(1000))?;
        Ok(listener)
    })?;
    let answer = site.agent("livez")?;
    let text = String::from_utf8_lossy(&answer.stderr).into_owned();
    check!(!answer.status.success() && text.contains("belongs to user 1000"), "{text}");
    let mut node = site.node_part()?;
    let status = node.wait(SOON)?;
    check!(!status.success() && node.log().contains("not a socket that root owns"), "{}", node.log());
    check!(site.node.run(|| std::path::Path::new(SOCKET).exists()), "it was removed");
    Ok(())
}

/// A node's part of another version, as far as it is heard: what it says, each with its length before it.
fn answer_as_another_version(mut stream: UnixStream) -> std::io::Result<()> {
    use std::io::{Read, Write};
    let mut say = |text: &str| -> std::io::Result<()> {
        let length = u32::try_from(text.len()).map_err(std::io::Error::other)?;
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(text.as_bytes())
    };
    say(r#"{"hello":{"version":"9.9.9","more":true}}"#)?;
    for number in 1..1000 {
        say(&format!(r#"{{"answer":{{"number":{number},"waiting":["being built"],"metrics":""}}}}"#))?;
        std::thread::sleep(ANSWER_INTERVAL);
    }
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn another_version_is_named() -> Outcome {
    let site = Site::new()?;
    let listener = site.node.run(|| -> std::io::Result<UnixListener> {
        std::fs::create_dir_all("/run/k8slan/controller")?;
        let listener = UnixListener::bind(LINK)?;
        std::fs::set_permissions(LINK, PermissionsExt::from_mode(0o600))?;
        Ok(listener)
    })?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer_as_another_version(stream));
        }
    });
    let cluster = site.cluster_part()?;
    eventually(SOON, || match cluster.log() {
        log if log.contains("version 9.9.9") => Ok(()),
        log => Err(log),
    })?;
    let text = site.get("/readyz");
    check!(text.starts_with("HTTP/1.1 503") && text.contains("being built"), "{text}");
    Ok(())
}

/// Anybody who may create a LAN could stop every rollout otherwise.
fn lans_that_never_stood_hold_no_upgrade_back() -> Outcome {
    let site = Site::new()?;
    put(&site, 1);
    let mut elsewhere = document(&["far"]);
    elsewhere["metadata"]["name"] = json!("elsewhere");
    elsewhere["spec"]["ns"] = json!("knlfar");
    elsewhere["spec"]["vni"] = json!(223);
    elsewhere["spec"]["defaultVxlanDev"] = json!("missing0");
    elsewhere["spec"]["vxlanDevMap"] = json!({});
    let mut refused = document(&["pod1"]);
    refused["metadata"]["name"] = json!("refused");
    site.server.put("lans", elsewhere);
    site.server.put("lans", refused);
    // The port is taken: no LAN can be built at all.
    let port = site.node.run(|| std::net::UdpSocket::bind("[::]:4789"))?;
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let (node, cluster) = (site.node_part()?, site.cluster_part()?);
    let log = || format!("node:\n{}\ncluster:\n{}", node.log(), cluster.log());
    eventually(SOON, || match site.get("/readyz") {
        text if text.starts_with("HTTP/1.1 200") => Ok(()),
        text => Err(format!("{text}\n{}", log())),
    })?;
    site.condition("k8slan-system/lan-test", "Ready", "False", "UDP port 4789")?;
    site.condition("k8slan-system/elsewhere", "Ready", "False", "missing0")?;
    let metrics = site.get("/metrics");
    check!(metrics.contains("k8slan_lans_ready 0"), "{metrics}");

    // A kubelet that ends, and is away, is no daemon that does not work.
    drop(port);
    kubelet.wait_allocatable(1, SOON).map_err(|what| failed(format!("{what}\n{}", log())))?;
    drop(kubelet);
    stays(UNHEARD, || match site.get("/readyz") {
        text if text.starts_with("HTTP/1.1 200") => Ok(()),
        text => Err(text),
    })?;
    Ok(())
}

/// A version that breaks what stood must not roll on to the next node.
fn an_upgrade_that_loses_a_lan_is_not_ready() -> Outcome {
    let site = Site::new()?;
    put(&site, 1);
    let kubelet = Kubelet::start(&site.kubelet_dir)?;
    let (node, cluster) = (site.node_part()?, site.cluster_part()?);
    kubelet.wait_allocatable(1, SOON).map_err(failed)?;
    eventually(SOON, || match site.get("/readyz") {
        text if text.starts_with("HTTP/1.1 200") => Ok(()),
        text => Err(format!("{text}\n{}", cluster.log())),
    })?;
    node.kill()?;
    // What the next version does to it: it cannot build its VXLAN again.
    finish(site.node.command("ip").args(["-n", "knlvrf", "link", "del", "vx2"]))?;
    let port = site.node.run(|| std::net::UdpSocket::bind("[::]:4789"))?;
    let next = site.node_part()?;
    let lost = "LAN k8slan-system/lan-test stood when this daemon started, and does not any more: ";
    eventually(SOON, || match site.get("/readyz") {
        text if text.starts_with("HTTP/1.1 503") && text.contains(lost) => Ok(()),
        text => Err(format!("{text}\n{}", next.log())),
    })?;
    drop(port);
    eventually(4 * SOON, || match site.get("/readyz") {
        text if text.starts_with("HTTP/1.1 200") => Ok(()),
        text => Err(format!("{text}\n{}", next.log())),
    })?;
    Ok(())
}

fn each_part_runs_once() -> Outcome {
    let site = Site::new()?;
    let (node, cluster) = (site.node_part()?, site.cluster_part()?);
    eventually(SOON, || match site.agent("livez") {
        Ok(answer) if answer.status.success() => Ok(()),
        other => Err(format!("{other:?}\n{}", node.log())),
    })?;
    // The first ones have what the second ones are refused.
    eventually(SOON, || match site.get("/livez") {
        text if text.starts_with("HTTP/1.1 200") => Ok(()),
        text => Err(format!("{text}\n{}", cluster.log())),
    })?;
    let (mut second_node, mut second_cluster) = (site.node_part()?, site.cluster_part()?);
    for second in [&mut second_node, &mut second_cluster] {
        let status = second.wait(Duration::from_secs(8))?;
        check!(!status.success(), "{status}");
        check!(second.log().contains("another k8slan-device-plugin runs on this node"), "{}", second.log());
    }
    let answer = site.agent("livez")?;
    check!(answer.status.success(), "the first one's socket is still there: {answer:?}");
    for part in [cluster, node] {
        check!(part.terminate()?.success(), "it ends well");
    }
    Ok(())
}
