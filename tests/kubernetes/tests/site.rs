//! LANs and pods of the trials.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8slan_kubernetes_tests::{Cluster, PodOf, condition, failed};
use serde_json::{Value, json};
use testnet::{Outcome, Ping, Stop};

/// A LAN of one trial; each of its spokes has a network of the same name in the namespace `default`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lan {
    pub(crate) name: &'static str,
    pub(crate) vni: u32,
    pub(crate) spokes: &'static [&'static str],
}

impl Lan {
    pub(crate) fn manifest(&self) -> Value {
        json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN",
            "metadata": { "name": self.name, "namespace": "k8slan-system" },
            "spec": {
                "ns": self.name, "bridge": "br0", "vxlan": "vx0", "vni": self.vni,
                "defaultVxlanDev": "eth0.10", "vxlanDevMap": { "worker1": "eth1", "worker2": "eth2" },
                "spokes": self.spokes, "networkAttachments": { "namespaces": ["default"] },
            },
        })
    }

    pub(crate) fn path(&self) -> String {
        format!("/apis/lan.k8slan.io/v1beta1/namespaces/k8slan-system/lans/{}", self.name)
    }

    /// Applies it and waits until every node can give out every spoke.
    pub(crate) fn apply(&self, cluster: &Cluster) -> Outcome {
        self.apply_as(cluster, &self.manifest())
    }

    pub(crate) fn apply_as(&self, cluster: &Cluster, manifest: &Value) -> Outcome {
        cluster.apply(&manifest.to_string())?;
        let nodes = cluster.workers.len();
        cluster.until(&self.path(), |lan| {
            condition(lan, "Ready") == Some("True") && lan["status"]["nodes"] == format!("{nodes}/{nodes}")
        })?;
        for spoke in self.spokes {
            cluster.until(&format!("{}/{spoke}", definitions("default")), |_| true)?;
            spoke_is(cluster, spoke, "1")?;
        }
        Ok(())
    }

    pub(crate) fn remove(&self, cluster: &Cluster) -> Outcome {
        cluster.kubectl(&format!("-n k8slan-system delete lan {} --timeout=180s", self.name))?;
        cluster.until_gone(&self.path())
    }
}

/// Waits until every node says this number of a spoke.
pub(crate) fn spoke_is(cluster: &Cluster, spoke: &str, number: &str) -> Outcome {
    for worker in &cluster.workers {
        cluster.until(&format!("/api/v1/nodes/{}", worker.name()), |node| {
            node["status"]["allocatable"][format!("macvtap.k8slan.io/{spoke}")] == number
        })?;
    }
    Ok(())
}

/// Where a namespace's networks are.
pub(crate) fn definitions(namespace: &str) -> String {
    format!("/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions")
}

pub(crate) fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

/// Makes a pod and waits until it is Ready.
pub(crate) fn start(cluster: &Cluster, pod: &PodOf) -> Result<Value, Stop> {
    cluster.apply(&pod.manifest())?;
    ready(cluster, &pod.name)
}

/// Waits until a pod is Ready. What the kubelet says about it is told if it does not get so.
pub(crate) fn ready(cluster: &Cluster, name: &str) -> Result<Value, Stop> {
    cluster.until(&pod_path(name), |pod| condition(pod, "Ready") == Some("True")).map_err(|stop| match stop {
        Stop::Failed(why) => failed(format!("{why}\n{}", events(cluster, name).join("\n"))),
        skipped => skipped,
    })
}

/// What the events of a pod say.
pub(crate) fn events(cluster: &Cluster, pod: &str) -> Vec<String> {
    let events = cluster.list("/api/v1/namespaces/default/events").unwrap_or_default();
    let own = events.iter().filter(|event| event["involvedObject"]["name"] == pod);
    own.map(|event| {
        let text = |field: &str| event[field].as_str().unwrap_or_default();
        format!("{}: {}", text("reason"), text("message"))
    })
    .collect()
}

/// Waits for an event of a pod that says all of these words.
pub(crate) fn event(cluster: &Cluster, pod: &str, words: &[&str]) -> Result<String, Stop> {
    Ok(cluster.eventually(|| {
        let said = events(cluster, pod);
        let found = said.iter().find(|text| words.iter().all(|word| text.contains(word)));
        found.cloned().ok_or_else(|| format!("no event of {pod} says {words:?}: {said:#?}"))
    })?)
}

/// A Deployment of pods as this one, of which none is on the node `not_on`.
pub(crate) fn deployment(pod: &PodOf, replicas: usize, not_on: Option<&str>) -> String {
    let labels = json!({ "app": pod.name });
    let mut template = pod.template();
    template["metadata"]["labels"] = labels.clone();
    if let Some(node) = not_on {
        let other = json!({ "key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node] });
        template["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!({ "nodeSelectorTerms": [{ "matchExpressions": [other] }] });
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": pod.name, "namespace": "default" },
        "spec": { "replicas": replicas, "selector": { "matchLabels": labels }, "template": template },
    })
    .to_string()
}

/// Waits for so many ready pods of a Deployment that have none of these containers.
pub(crate) fn ready_pods(
    cluster: &Cluster,
    app: &str,
    number: usize,
    not: &[Value],
) -> Result<Vec<Value>, Stop> {
    let path = format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{app}");
    Ok(cluster.eventually(|| {
        let pods = cluster.list(&path)?;
        let new = |pod: &&Value| {
            condition(pod, "Ready") == Some("True")
                && pod["metadata"]["deletionTimestamp"].is_null()
                && !not.contains(&container(pod))
        };
        let ready: Vec<Value> = pods.iter().filter(new).cloned().collect();
        if ready.len() == number { Ok(ready) } else { Err(format!("{} are ready: {pods:#?}", ready.len())) }
    })?)
}

/// The ID of the sandbox that a pod runs in. Those of earlier pods of its name may still be known.
pub(crate) fn sandbox(cluster: &Cluster, pod: &Value) -> Result<String, Stop> {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let labels = format!(r#"labels."io.kubernetes.pod.uid"=={uid},labels."io.cri-containerd.kind"==sandbox"#);
    let sandboxes = cluster.worker(node_of(pod))?.ctr(&["containers", "ls", "-q", &labels])?;
    sandboxes.lines().next().map(str::to_owned).ok_or_else(|| failed("no sandbox"))
}

/// The ID of a pod's first container.
pub(crate) fn container(pod: &Value) -> Value {
    pod["status"]["containerStatuses"][0]["containerID"].clone()
}

pub(crate) fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

pub(crate) fn delete(cluster: &Cluster, pod: &str) -> Outcome {
    cluster.kubectl(&format!("delete pod {pod} --timeout=180s")).map(drop)
}

/// Gives a pod's link an address of a network of 24 bits.
pub(crate) fn give(cluster: &Cluster, pod: &Value, link: &str, address: Ipv4Addr) -> Outcome {
    cluster.netns(pod)?.ip(&format!("addr add {address}/24 dev {link}"))?;
    Ok(())
}

/// The first answer may take a moment after a link came up; the following ones may not be lost.
pub(crate) fn pings(cluster: &Cluster, from: &Value, link: &str, to: Ipv4Addr) -> Outcome {
    let netns = cluster.netns(from)?;
    cluster.eventually(|| {
        let report = Ping::new(to).on(link).run(&netns).map_err(|error| error.to_string())?;
        report.perfect()
    })?;
    Ping::new(to).on(link).repeated(10, Duration::from_millis(5)).run(&netns)?.perfect().map_err(failed)
}

/// Runs something while a pod pings an address fifty times a second, and some more afterwards: not one answer may be missing or
/// come twice.
pub(crate) fn under_pings(
    cluster: &Cluster,
    from: &Value,
    to: Ipv4Addr,
    what: impl FnOnce() -> Outcome,
) -> Outcome {
    let netns = cluster.netns(from)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| -> Outcome {
            let ping = Ping::new(to).on("net1").repeated(100, Duration::from_millis(20));
            loop {
                let last = done.load(Ordering::Acquire);
                ping.run(&netns)?.perfect().map_err(failed)?;
                if last {
                    return Ok(());
                }
            }
        });
        let outcome = what();
        done.store(true, Ordering::Release);
        let lost = traffic.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.and(lost)
    })
}
