//! Parts of the cluster end, by themselves or by force, while pods talk.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8slan_kubernetes_tests::{CONTAINERD, Cluster, KUBELET, PodOf, failed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testnet::{Outcome, Stop, Trial};

use crate::check;
use crate::shared::alone;
use crate::site::{Lan, delete, give, pings, pod_path, ready, sandbox, spoke_is, start, under_pings};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        alone("the_daemons_containers_die_under_traffic", the_daemons_containers_die_under_traffic),
        alone("the_kubelet_is_restarted_and_killed", the_kubelet_is_restarted_and_killed),
        alone("containerd_is_restarted_and_killed", containerd_is_restarted_and_killed),
        alone("the_api_server_is_away", the_api_server_is_away),
        alone(
            "a_sandbox_that_died_is_attached_without_allocate",
            a_sandbox_that_died_is_attached_without_allocate,
        ),
    ]
}

const ONE: Ipv4Addr = Ipv4Addr::new(10, 120, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 120, 0, 2);

/// How long a kubelet or containerd is down: a hundred pings.
const DOWN: Duration = Duration::from_secs(2);
/// How long the API server is away: the daemon has tried a few times by then, each after a longer pause.
const AWAY: Duration = Duration::from_secs(3);

/// A LAN of a trial with a pod on `worker1` and one on `worker2`, which reach one another.
pub(crate) struct Pair {
    lan: Lan,
    one: Value,
    two: Value,
}

impl Pair {
    pub(crate) fn start(cluster: &Cluster, lan: Lan) -> Result<Self, Stop> {
        lan.apply(cluster)?;
        let one = start(cluster, &PodOf::on("one", lan.spokes[0]).at("worker1"))?;
        let two = start(cluster, &PodOf::on("two", lan.spokes[1]).at("worker2"))?;
        give(cluster, &one, "net1", ONE)?;
        give(cluster, &two, "net1", TWO)?;
        pings(cluster, &one, "net1", TWO)?;
        Ok(Self { lan, one, two })
    }

    /// Runs something while one pod pings the other.
    pub(crate) fn under_traffic(&self, cluster: &Cluster, what: impl FnOnce() -> Outcome) -> Outcome {
        under_pings(cluster, &self.one, TWO, what)
    }

    /// The pods are the same and were not restarted.
    pub(crate) fn untouched(&self, cluster: &Cluster) -> Outcome {
        for (name, before) in [("one", &self.one), ("two", &self.two)] {
            let pod = ready(cluster, name)?;
            check!(pod["metadata"]["uid"] == before["metadata"]["uid"], "{name} is another pod");
            let container = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
            check!(container(&pod) == container(before), "{name} has another container: {pod:#}");
        }
        Ok(())
    }

    /// A pod that starts now gets its interface.
    pub(crate) fn one_more(&self, cluster: &Cluster, name: &str) -> Outcome {
        spoke_is(cluster, self.lan.spokes[2], "1")?;
        let pod = start(cluster, &PodOf::on(name, self.lan.spokes[2]).at("worker1"))?;
        give(cluster, &pod, "net1", Ipv4Addr::new(10, 120, 0, 3))?;
        pings(cluster, &pod, "net1", TWO)?;
        delete(cluster, name)
    }

    pub(crate) fn end(self, cluster: &Cluster) -> Outcome {
        delete(cluster, "one")?;
        delete(cluster, "two")?;
        self.lan.remove(cluster)
    }
}

/// The containers of the daemon on a node, by name, with their processes.
pub(crate) fn daemon_on(cluster: &Cluster, node: &str) -> Result<Vec<(String, i32)>, Stop> {
    let worker = cluster.worker(node)?;
    let path = format!("/api/v1/namespaces/k8slan-system/pods?fieldSelector=spec.nodeName%3D{node}");
    let pods = cluster.list(&path).map_err(failed)?;
    let statuses = pods.iter().filter_map(|pod| pod["status"]["containerStatuses"].as_array()).flatten();
    let tasks = worker.ctr(&["tasks", "ls"])?;
    let mut found = Vec::new();
    for status in statuses {
        let id = status["containerID"].as_str().unwrap_or_default().trim_start_matches("containerd://");
        let line =
            tasks.lines().find(|line| !id.is_empty() && line.starts_with(id) && line.contains("RUNNING"));
        if let Some(process) = line.and_then(|line| line.split_whitespace().nth(1)) {
            found.push((status["name"].as_str().unwrap_or_default().to_owned(), process.parse()?));
        }
    }
    Ok(found)
}

fn the_daemons_containers_die_under_traffic(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "killed", vni: 1021, spokes: &["killed1", "killed2", "killed3"] };
    let cluster = &*cluster;
    let pair = Pair::start(cluster, LAN)?;
    pair.under_traffic(cluster, || {
        let mut killed = 0;
        for node in ["worker1", "worker2"] {
            let daemon = daemon_on(cluster, node)?;
            check!(daemon.len() == 2, "the daemon's containers on {node}: {daemon:?}");
            for (_, process) in daemon {
                kill(Pid::from_raw(process), Signal::SIGKILL)?;
                killed += 1;
            }
        }
        check!(killed == 4, "{killed}");
        // Until all of them are back.
        cluster.eventually(|| {
            let pods = cluster.list("/api/v1/namespaces/k8slan-system/pods")?;
            let statuses =
                pods.iter().filter_map(|pod| pod["status"]["containerStatuses"].as_array()).flatten();
            let back =
                statuses.filter(|status| status["restartCount"] != 0 && status["ready"] == true).count();
            if back == killed {
                Ok(())
            } else {
                Err(format!("{back} of {killed} containers are back: {pods:#?}"))
            }
        })?;
        Ok(())
    })?;
    pair.untouched(cluster)?;
    pair.one_more(cluster, "after-daemon")?;
    pair.end(cluster)
}

/// The kubelet or containerd, ended first as a service manager does it and then by force.
fn program_dies(cluster: &Cluster, lan: Lan, program: &'static str) -> Outcome {
    let pair = Pair::start(cluster, lan)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let outcome = pair.under_traffic(cluster, || {
            let worker = cluster.worker("worker1")?;
            worker.stop_program(program, signal)?;
            std::thread::sleep(DOWN);
            worker.start_program(program)
        });
        outcome.map_err(|why| failed(format!("{program}, {signal}: {why:?}")))?;
        cluster.nodes_are_ready()?;
        pair.untouched(cluster)?;
        pair.one_more(cluster, &format!("after-{}", signal.as_str().to_lowercase()))?;
    }
    pair.end(cluster)
}

fn the_kubelet_is_restarted_and_killed(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "kubelet", vni: 1022, spokes: &["kubelet1", "kubelet2", "kubelet3"] };
    program_dies(cluster, LAN, KUBELET)
}

fn containerd_is_restarted_and_killed(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "runtime", vni: 1023, spokes: &["runtime1", "runtime2", "runtime3"] };
    program_dies(cluster, LAN, CONTAINERD)
}

fn the_api_server_is_away(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "server", vni: 1024, spokes: &["server1", "server2", "server3"] };
    const NEXT: Lan = Lan { name: "server-next", vni: 1025, spokes: &["servernext1"] };
    let cluster = &*cluster;
    let pair = Pair::start(cluster, LAN)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let outcome = pair.under_traffic(cluster, || {
            cluster.stop_server(signal)?;
            std::thread::sleep(AWAY);
            cluster.start_server()
        });
        outcome.map_err(|why| failed(format!("{signal}: {why:?}")))?;
        cluster.nodes_are_ready()?;
        pair.untouched(cluster)?;
        pair.one_more(cluster, &format!("after-{}", signal.as_str().to_lowercase()))?;
        // What is applied afterwards is heard of.
        NEXT.apply(cluster)?;
        NEXT.remove(cluster)?;
        // A kubelet that loses the API server again within two minutes pauses for longer each time, up to minutes, before it
        // lists pods: that is its own affair, and a new one has not lost it yet.
        for worker in &cluster.workers {
            worker.stop_program(KUBELET, Signal::SIGTERM)?;
            worker.start_program(KUBELET)?;
        }
        cluster.nodes_are_ready()?;
    }
    pair.end(cluster)
}

/// The kubelet makes a new sandbox for the same pod: ADD without another Allocate.
fn a_sandbox_that_died_is_attached_without_allocate(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "pause", vni: 1026, spokes: &["pause1", "pause2", "pause3"] };
    let cluster = &*cluster;
    let pair = Pair::start(cluster, LAN)?;
    let worker = cluster.worker("worker1")?;
    let index = |pod: &Value| -> Result<u64, Stop> {
        let link = cluster.netns(pod)?.link("net1")?.ok_or_else(|| failed("no net1"))?;
        Ok(link["ifindex"].as_u64().unwrap_or_default())
    };
    let before = index(&pair.one)?;
    let sandbox = sandbox(cluster, &pair.one)?;
    worker.ctr(&["tasks", "kill", "-s", "SIGKILL", &sandbox])?;
    let container = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    cluster.until(&pod_path("one"), |pod| {
        container(pod) != container(&pair.one) && pod["status"]["containerStatuses"][0]["ready"] == true
    })?;
    let again = ready(cluster, "one")?;
    check!(again["metadata"]["uid"] == pair.one["metadata"]["uid"], "it is another pod");
    check!(index(&again)? == before, "the index was {before} and is {}", index(&again)?);
    give(cluster, &again, "net1", ONE)?;
    pings(cluster, &again, "net1", TWO)?;
    pair.end(cluster)
}
