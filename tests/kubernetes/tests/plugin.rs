//! `kubectl k8slan`, as somebody calls it who can reach nothing but the API server.

use std::io::Read as _;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use k8slan_kubernetes_tests::{Cluster, PodOf, failed};
use k8slan_tests::pcap;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testnet::{Outcome, Ping, Stop, Trial, finish};

use crate::check;
use crate::shared::beside;
use crate::site::{Lan, delete, event, give, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("plugin_status_and_inspect_of_all_nodes", status_and_inspect_of_all_nodes),
        beside("plugin_why_of_the_usual_mistakes", why_of_the_usual_mistakes),
        beside("plugin_capture_shows_a_ping", capture_shows_a_ping),
        beside("plugin_capture_ends_with_kubectl", capture_ends_with_kubectl),
        beside("plugin_check_host_leaves_no_pod", check_host_leaves_no_pod),
        beside("plugin_has_no_rights_of_its_own", it_has_no_rights_of_its_own),
    ]
}

fn run(cluster: &Cluster, arguments: &[&str]) -> Result<Output, Stop> {
    Ok(finish(&mut cluster.plugin(arguments)?)?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it says where all is well.
fn says(cluster: &Cluster, arguments: &[&str]) -> Result<String, Stop> {
    let output = run(cluster, arguments)?;
    check!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

fn status_and_inspect_of_all_nodes(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "shown", vni: 1201, spokes: &["shown1", "shown2"] };
    LAN.apply(cluster)?;
    start(cluster, &PodOf::on("shown", "shown1").at("worker2"))?;
    let table = says(cluster, &["status"])?;
    for (worker, underlay, held) in
        [("worker1", "eth1", "0/2"), ("worker2", "eth2", "1/2"), ("worker3", "eth0.10", "0/2")]
    {
        let row = table.lines().find(|line| line.starts_with(worker) && line.contains("/shown "));
        let columns: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
        let expected = [worker, "k8slan-system/shown", "True", underlay, "1426", held, "-"];
        check!(columns == expected, "{columns:?} in\n{table}");
    }
    check!(table.starts_with("NODE ") && table.matches("NODE ").count() == 1, "{table}");

    let tree = says(cluster, &["inspect", "--all"])?;
    for words in [
        "worker1, daemon ",
        "worker3, daemon ",
        "spoke shown1: pod default/shown",
        "spoke shown1: free here, used on worker2",
    ] {
        check!(tree.contains(words), "{words:?} is not in\n{tree}");
    }
    let one = says(cluster, &["inspect", "worker2", "--lan", "shown"])?;
    check!(one.contains("spoke shown1: pod default/shown") && !one.contains("worker1"), "{one}");
    let drawing = says(cluster, &["inspect", "--all", "--svg"])?;
    check!(drawing.starts_with("<svg") && drawing.trim_end().ends_with("</svg>"), "{drawing:.300}");
    check!(
        ["worker1", "worker2", "worker3", "default/shown"].iter().all(|word| drawing.contains(word)),
        "{drawing:.300}"
    );
    let all = says(cluster, &["inspect", "--all", "--json"])?;
    let nodes: Vec<Value> = serde_json::Deserializer::from_str(&all).into_iter().collect::<Result<_, _>>()?;
    check!(nodes.len() == 3 && nodes.iter().all(|node| node["node"].is_string()), "{all:.300}");

    let none = run(cluster, &["inspect", "worker9"])?;
    check!(!none.status.success() && text(&none.stderr).contains("worker9"), "{}", text(&none.stderr));
    delete(cluster, "shown")?;
    LAN.remove(cluster)
}

/// Waits until it says so: events come late.
fn why(cluster: &Cluster, pod: &str, words: &[&str]) -> Outcome {
    cluster.eventually(|| {
        let output = run(cluster, &["why", pod]).map_err(|stop| format!("{stop:?}"))?;
        let said = text(&output.stdout) + &text(&output.stderr);
        match output.status.success() && words.iter().all(|word| said.contains(word)) {
            true => Ok(()),
            false => Err(format!("why {pod} does not say {words:?}:\n{said}")),
        }
    })?;
    Ok(())
}

fn why_of_the_usual_mistakes(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "asked", vni: 1202, spokes: &["asked1", "asked2"] };
    const LOST: Lan = Lan { name: "lost", vni: 1203, spokes: &["lost1"] };
    LAN.apply(cluster)?;
    let mut lost = LOST.manifest();
    lost["spec"]["vxlanDevMap"] = json!({ "worker1": "eth7", "worker2": "eth2" });
    cluster.apply(&lost.to_string())?;
    start(cluster, &PodOf::on("why-fine", "asked1").at("worker1"))?;
    why(
        cluster,
        "why-fine",
        &[
            "pod default/why-fine on worker1: Running\nnothing is wrong that can be seen from here\n",
            "network default/asked1 as net1: macvtap, macvtap.k8slan.io/asked1",
            "worker1: LAN k8slan-system/asked: ready, built, MTU 1426",
            "spoke asked1: pod default/why-fine, port +",
        ],
    )?;
    let make = |pod: PodOf| cluster.apply(&pod.manifest()).map(drop);
    let not_asked = PodOf { spokes: Vec::new(), ..PodOf::on("why-limits", "asked2") };
    make(not_asked.at("worker1"))?;
    make(PodOf::on("why-held", "asked1").at("worker1"))?;
    make(PodOf::on("why-lost", "lost1").at("worker1"))?;
    make(PodOf { networks: "nowhere".to_owned(), ..PodOf::on("why-nad", "asked2") }.at("worker2"))?;
    make(PodOf::on("why-spoke", "nobodys9"))?;
    make(PodOf { spokes: Vec::new(), ..PodOf::on("why-none", "") }.at("worker2"))?;
    let pool = json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {
            "name": "asked-pool", "namespace": "default",
            "annotations": { "k8s.v1.cni.cncf.io/resourceName": "macvtap.k8slan.io/asked2" },
        },
        "spec": { "config": r#"{"cniVersion":"1.0.0","type":"macvtap","ipam":{"type":"ipam-pool","pool":"nobodys"}}"# },
    });
    cluster.apply(&pool.to_string())?;
    make(PodOf { networks: "asked-pool".to_owned(), ..PodOf::on("why-pool", "asked2") }.at("worker3"))?;
    why(
        cluster,
        "why-limits",
        &[
            "WHY nothing to attach to: the configuration has no deviceID, spoke or master.",
            "WHY network default/asked2 takes its device from macvtap.k8slan.io/asked2, which the pod does not ask for: add",
        ],
    )?;
    why(cluster, "why-held", &["WHY spoke asked1 on worker1 is in use by pod default/why-fine"])?;
    why(
        cluster,
        "why-lost",
        &[
            "WHY LAN k8slan-system/lost on worker1: not ready (",
            "eth7",
            "Insufficient macvtap.k8slan.io/lost1",
        ],
    )?;
    why(
        cluster,
        "why-nad",
        &["WHY there is no NetworkAttachmentDefinition default/nowhere, which its annotation names"],
    )?;
    why(
        cluster,
        "why-spoke",
        &["WHY no LAN lists spoke nobodys9: is it in spec.spokes, and is the LAN accepted?"],
    )?;
    why(cluster, "why-none", &["pod default/why-none on worker2", "WHY it asks for no network"])?;
    why(cluster, "why-pool", &["WHY there is no pool nobodys on worker3", "the plugin said at "])?;
    // The plugin's words are an event of the pod, too.
    event(cluster, "why-limits", &["FailedCreatePodSandBox", "nothing to attach to"])?;
    let none = run(cluster, &["why", "why-not-there"])?;
    check!(!none.status.success() && text(&none.stderr).contains("not found"), "{}", text(&none.stderr));
    for pod in ["fine", "limits", "held", "lost", "nad", "spoke", "none", "pool"] {
        delete(cluster, &format!("why-{pod}"))?;
    }
    cluster.kubectl("delete net-attach-def asked-pool")?;
    LOST.remove(cluster)?;
    LAN.remove(cluster)
}

/// Starts a capture, and waits for the head of its file.
fn capturing(cluster: &Cluster, arguments: &[&str]) -> Result<(Child, Vec<u8>), Stop> {
    let mut command: Command = cluster.plugin(&[&["capture"], arguments].concat())?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut head = [0; 24];
    if child.stdout.as_mut().is_none_or(|stdout| stdout.read_exact(&mut head).is_err()) {
        let output = child.wait_with_output()?;
        return Err(failed(text(&output.stderr)));
    }
    Ok((child, head.to_vec()))
}

fn capture_shows_a_ping(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "taken", vni: 1204, spokes: &["taken1", "taken2"] };
    LAN.apply(cluster)?;
    let one = start(cluster, &PodOf::on("taken-one", "taken1").at("worker1"))?;
    let two = start(cluster, &PodOf::on("taken-two", "taken2").at("worker2"))?;
    let (own, peer) = (Ipv4Addr::new(10, 112, 0, 1), Ipv4Addr::new(10, 112, 0, 2));
    give(cluster, &one, "net1", own)?;
    give(cluster, &two, "net1", peer)?;
    crate::site::pings(cluster, &one, "net1", peer)?;
    for pod in ["taken-one", "taken-two/net1"] {
        let (child, mut file) = capturing(cluster, &[pod, "--seconds", "4"])?;
        let netns = cluster.netns(&one)?;
        Ping::new(peer)
            .on("net1")
            .repeated(3, Duration::from_millis(50))
            .run(&netns)?
            .perfect()
            .map_err(failed)?;
        let output = child.wait_with_output()?;
        file.extend(&output.stdout);
        let said = text(&output.stderr);
        check!(output.status.success(), "{said}");
        let pings = pcap::read(&file).map_err(failed)?.icmp();
        let of = |kind: u8| pings.iter().filter(|ping| ping.2 == kind).copied().collect::<Vec<_>>();
        check!(of(8) == [(own, peer, 8); 3] && of(0) == [(peer, own, 0); 3], "{pod}: {pings:?}; {said}");
    }
    let none = run(cluster, &["capture", "taken-one/net7"])?;
    check!(!none.status.success() && text(&none.stderr).contains("it has net1"), "{}", text(&none.stderr));
    delete(cluster, "taken-one")?;
    delete(cluster, "taken-two")?;
    LAN.remove(cluster)
}

/// The captures that run on a node.
fn captures(cluster: &Cluster, worker: &str) -> Result<String, Stop> {
    let script = "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file 2>/dev/null; echo; done | grep '^k8slan-device-plugin capture' || true";
    Ok(cluster.worker(worker)?.exec(&["sh", "-c", script])?)
}

fn capture_ends_with_kubectl(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "left", vni: 1205, spokes: &["left1"] };
    LAN.apply(cluster)?;
    start(cluster, &PodOf::on("left", "left1").at("worker1"))?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let (mut child, _) = capturing(cluster, &["left"])?;
        check!(captures(cluster, "worker1")?.contains("default/left"), "{}", captures(cluster, "worker1")?);
        // kubectl became the plugin.
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        cluster.eventually(|| match child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("after {signal}: {other:?}")),
        })?;
        cluster.eventually(|| {
            let left = captures(cluster, "worker1").map_err(|stop| format!("{stop:?}"))?;
            if left.contains("default/left") { Err(format!("after {signal}: {left}")) } else { Ok(()) }
        })?;
    }
    delete(cluster, "left")?;
    LAN.remove(cluster)
}

/// The pods that check-host made and that are there.
fn checks(cluster: &Cluster) -> Result<Vec<Value>, String> {
    let path =
        "/api/v1/namespaces/k8slan-system/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dcheck-host";
    cluster.list(path)
}

fn all_checks_are_gone(cluster: &Cluster) -> Outcome {
    cluster.eventually(|| {
        let pods = checks(cluster)?;
        if pods.is_empty() { Ok(()) } else { Err(format!("{pods:#?}")) }
    })?;
    Ok(())
}

fn check_host_leaves_no_pod(cluster: &Cluster) -> Outcome {
    // Beside trials in which another node lacks a LAN's underlay.
    let output = run(cluster, &["check-host", "worker3", "--", "--underlay", "eth0.10"])?;
    let said = text(&output.stdout);
    check!(
        matches!(output.status.code(), Some(0 | 1)),
        "{:?}: {said}{}",
        output.status,
        text(&output.stderr)
    );
    for words in ["eth0.10", "/host/opt/cni/bin"] {
        check!(said.contains(words), "{words:?} is not in\n{said}");
    }
    all_checks_are_gone(cluster)?;
    // The code is that of the program: an underlay that is not there is a failure.
    let bad = run(cluster, &["check-host", "worker2", "--", "--underlay=eth77"])?;
    check!(
        bad.status.code() == Some(2) && text(&bad.stdout).contains("eth77"),
        "{:?} {}",
        bad.status,
        text(&bad.stdout)
    );
    // A cluster without k8slan has its image, and a namespace that admits such pods.
    let mut before = cluster.plugin(&["check-host", "worker3", "--image", "localhost/k8slan:0.1.0"])?;
    let before = finish(before.env("K8SLAN_NAMESPACE", "kube-system"))?;
    check!(matches!(before.status.code(), Some(0 | 1)), "{:?} {}", before.status, text(&before.stderr));
    let left = || cluster.list("/apis/batch/v1/namespaces/kube-system/jobs");
    cluster.eventually(|| match left()? {
        jobs if jobs.is_empty() => Ok(()),
        jobs => Err(format!("{jobs:#?}")),
    })?;
    let none = run(cluster, &["check-host", "worker9"])?;
    check!(!none.status.success() && text(&none.stderr).contains("worker9"), "{}", text(&none.stderr));
    all_checks_are_gone(cluster)?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut child = cluster
            .plugin(&["check-host", "worker1"])?
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        cluster
            .eventually(|| if checks(cluster)?.is_empty() { Err("no pod yet".to_owned()) } else { Ok(()) })?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        child.wait()?;
        all_checks_are_gone(cluster)?;
    }
    cluster.eventually(|| {
        let jobs = cluster.list("/apis/batch/v1/namespaces/k8slan-system/jobs")?;
        if jobs.is_empty() { Ok(()) } else { Err(format!("{jobs:#?}")) }
    })?;
    Ok(())
}

/// Somebody who may see pods and not use `exec` sees nothing of k8slan.
fn it_has_no_rights_of_its_own(cluster: &Cluster) -> Outcome {
    cluster.kubectl("create clusterrole plugin-reader --verb=get,list --resource=pods")?;
    cluster.kubectl("create clusterrolebinding plugin-reader --clusterrole=plugin-reader --user=reader")?;
    let output = run(cluster, &["status", "--as", "reader"])?;
    let said = text(&output.stderr);
    check!(!output.status.success(), "{}", text(&output.stdout));
    check!(
        said.contains("cannot create resource \"pods/exec\"")
            || said.contains("cannot get resource \"pods/exec\""),
        "{said}"
    );
    cluster.kubectl("delete clusterrolebinding,clusterrole plugin-reader")?;
    Ok(())
}
