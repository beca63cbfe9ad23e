//! Finds what is wrong with a pod, and lists what was examined. Pure.

use std::fmt::Write as _;

use node::one_line;
use serde_json::Value;

use super::documents::Documents;
use super::networks::{Definition, Network, resources, selected};
use super::plugin_message::plugin_message;
use crate::inspect::pool_line;
use proto::kubelet::RESOURCE_PREFIX;

/// A diagnosis in progress.
pub(super) struct Diagnosis<'a> {
    pub(super) documents: &'a Documents,
    /// Causes, the most certain first.
    pub(super) causes: Vec<String>,
    /// The lines about what was examined.
    lines: String,
}

/// The diagnosis as text: the pod, the causes, and what was examined.
pub(super) fn diagnose(documents: &Documents) -> String {
    let mut diagnosis = Diagnosis { documents, causes: Vec::new(), lines: String::new() };
    diagnosis.nodes();
    diagnosis.add_last_events();
    diagnosis.networks();
    let mut text = diagnosis.heading();
    diagnosis.causes.dedup();
    for cause in &diagnosis.causes {
        let _ = writeln!(text, "WHY {}", one_line(cause));
    }
    if diagnosis.causes.is_empty() {
        text.push_str(match diagnosis.runs() {
            true => "nothing is wrong that can be seen from here\n",
            false => "nothing of k8slan's is wrong that can be seen from here; what else it waits for, its events say\n",
        });
    }
    text + &diagnosis.lines
}

impl Diagnosis<'_> {
    pub(super) fn pod(&self) -> &Value {
        &self.documents.pod
    }

    pub(super) fn name(&self) -> String {
        let metadata = &self.pod()["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default();
        format!("{}/{}", text("namespace"), text("name"))
    }

    pub(super) fn node_name(&self) -> Option<&str> {
        self.pod()["spec"]["nodeName"].as_str()
    }

    pub(super) fn runs(&self) -> bool {
        self.pod()["status"]["phase"] == "Running"
    }

    pub(super) fn add_line(&mut self, line: impl AsRef<str>) {
        let words = line.as_ref().trim_start_matches(' ');
        let indent = line.as_ref().len() - words.len();
        let _ = writeln!(self.lines, "{:indent$}{}", "", one_line(words));
    }

    fn heading(&self) -> String {
        let status = &self.pod()["status"];
        let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
        let mut line = format!("pod {}", self.name());
        match self.node_name() {
            Some(node) => line.push_str(&format!(" on {node}")),
            None => line.push_str(", on no node yet"),
        }
        line.push_str(&format!(": {}", text(&status["phase"])));
        for part in [&status["reason"], &status["message"]].map(text).iter().filter(|part| !part.is_empty()) {
            line.push_str(&format!(", {part}"));
        }
        one_line(&line) + "\n"
    }

    /// Checks whether the pod's node has answered.
    fn nodes(&mut self) {
        let Some(node) = self.node_name().map(str::to_owned) else { return };
        match self.documents.node(&node) {
            None => self.causes.push(format!(
                "no k8slan answers on {node}: does the DaemonSet k8slan-ds run there? kubectl -n k8slan-system get pods -o wide"
            )),
            Some(view) if view.daemon.is_none() => {
                self.causes.push(format!("no daemon is seen on {node}: look at the log of its pod"));
            }
            Some(_) => {}
        }
    }

    /// Adds the latest messages of plugin, kubelet and scheduler.
    fn add_last_events(&mut self) {
        let rejected = self.pod()["status"]["reason"] == "UnexpectedAdmissionError";
        if rejected {
            self.causes.push(
                "the kubelet rejected it, because the spoke's resource was not there when it looked, as after a reboot; it \
                 stays so: delete it, and its controller makes a new one"
                    .to_owned(),
            );
        }
        for (reason, plugin) in [("FailedCreatePodSandBox", true), ("FailedScheduling", false)] {
            let last = self.documents.events.iter().rev().find(|event| event["reason"] == reason);
            let Some(event) = last.filter(|_| !self.runs()) else { continue };
            let message = event["message"].as_str().unwrap_or_default().trim();
            let words = plugin_message(message);
            let when = ["lastTimestamp", "eventTime"].iter().find_map(|field| event[*field].as_str());
            let when = when.unwrap_or("some time");
            match words.filter(|_| plugin) {
                Some(words) => {
                    let words = words.to_owned();
                    self.add_line(format!("the plugin said at {when}: {words}"));
                    self.causes.push(words);
                }
                None if plugin => self.add_line(format!("the runtime said at {when}: {message}")),
                // Only while it has no node.
                None if self.node_name().is_none() => {
                    self.add_line(format!("the scheduler said at {when}: {message}"));
                }
                None => {}
            }
        }
    }

    fn networks(&mut self) {
        let asked = resources(self.pod());
        let networks = match selected(self.pod()) {
            Ok(networks) => networks,
            Err(problem) => return self.causes.push(problem),
        };
        if networks.is_empty() {
            match asked.as_slice() {
                [] => self.causes.push(
                    "it asks for no network: it has no annotation k8s.v1.cni.cncf.io/networks, and no resource of a spoke in its \
                     limits"
                        .to_owned(),
                ),
                asked => self.causes.push(format!(
                    "it asks for {}, and for no network: name its definition in the annotation k8s.v1.cni.cncf.io/networks",
                    asked.join(", ")
                )),
            }
        }
        let mut wanted = Vec::new();
        for (number, network) in networks.iter().enumerate() {
            let interface = network.interface.clone().unwrap_or_else(|| format!("net{}", number + 1));
            if let Some(definition) = self.definition(network, &interface) {
                self.resource(network, &definition, &asked);
                wanted.extend(definition.spoke().map(str::to_owned));
                self.pools(&definition);
            }
        }
        wanted.extend(asked.iter().filter_map(|name| name.strip_prefix(RESOURCE_PREFIX)).map(str::to_owned));
        let mut seen: Vec<String> = Vec::new();
        for spoke in wanted {
            if !seen.contains(&spoke) {
                self.spoke(&spoke);
                seen.push(spoke);
            }
        }
    }

    /// The definition of a network; `None` if it does not exist, or may not be read.
    fn definition(&mut self, network: &Network, interface: &str) -> Option<Definition> {
        let title = format!("network {}/{} as {interface}", network.namespace, network.name);
        let Some(all) = &self.documents.definitions else {
            self.add_line(format!("{title}: its definition was not read"));
            return None;
        };
        let is = |of: &Value, field: &str, name: &str| of["metadata"][field] == name;
        let object = all
            .iter()
            .find(|object| is(object, "name", &network.name) && is(object, "namespace", &network.namespace));
        let Some(object) = object else {
            self.causes.push(format!(
                "there is no NetworkAttachmentDefinition {}/{}, which its annotation names",
                network.namespace, network.name
            ));
            return None;
        };
        let definition = Definition::read(object);
        let mut line = format!("{title}: {}", definition.types.join(", "));
        if let Some(resource) = &definition.resource {
            line.push_str(&format!(", {resource}"));
        }
        self.add_line(line);
        if let Some(problem) = &definition.unreadable {
            self.causes.push(format!(
                "NetworkAttachmentDefinition {}/{}: {problem}",
                network.namespace, network.name
            ));
        } else if !definition.is_ours() {
            self.add_line("  no plugin of k8slan's makes its interface");
        }
        Some(definition)
    }

    /// Checks whether definition and pod name the same resource.
    fn resource(&mut self, network: &Network, definition: &Definition, asked: &[String]) {
        let Network { namespace, name, .. } = network;
        match &definition.resource {
            Some(resource) if resource.starts_with(RESOURCE_PREFIX) && !asked.contains(resource) => {
                self.causes.push(format!(
                    "network {namespace}/{name} takes its device from {resource}, which the pod does not ask for: add \
                     {resource}: 1 to the limits of a container (of a virtual machine: domain.resources.limits in its template)"
                ));
            }
            None if definition.types.iter().any(|plugin| plugin == "macvtap") && !asked.is_empty() => {
                self.causes.push(format!(
                    "network {namespace}/{name} has no annotation k8s.v1.cni.cncf.io/resourceName, so that it gets no device: \
                     the pod asks for {}",
                    asked.join(", ")
                ));
            }
            _ => {}
        }
    }

    fn pools(&mut self, definition: &Definition) {
        let Some(node) = self.node_name().and_then(|node| self.documents.node(node)) else { return };
        for name in &definition.pools {
            match node.pools.iter().find(|pool| pool.pool.as_ref() == Some(name)) {
                Some(pool) => {
                    let none = pool.free.as_ref().and_then(serde_json::Number::as_u64) == Some(0);
                    if none && !self.runs() {
                        self.causes.push(format!("no address is free in pool {name} on {}", node.node));
                    }
                    let line = format!("  {}", pool_line(pool));
                    self.add_line(line);
                }
                None => self.causes.push(format!(
                    "there is no pool {name} on {}: neither a LANPool of that name, nor a file in /var/lib/k8slan/pools.d there",
                    node.node
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lan::READY;
    use serde_json::json;

    use super::*;
    use crate::inspect::{SpokeState, sample};

    /// A pod `default/web` on worker1 that asks for spoke pod2 by network vlan44.
    fn documents() -> Documents {
        Documents {
            pod: json!({
                "kind": "Pod",
                "metadata": {
                    "namespace": "default", "name": "web",
                    "annotations": { "k8s.v1.cni.cncf.io/networks": "vlan44" },
                },
                "spec": {
                    "nodeName": "worker1",
                    "containers": [{ "resources": { "limits": { "macvtap.k8slan.io/pod2": "1" } } }],
                },
                "status": { "phase": "Pending" },
            }),
            definitions: Some(vec![json!({
                "metadata": {
                    "namespace": "default", "name": "vlan44",
                    "annotations": { "k8s.v1.cni.cncf.io/resourceName": "macvtap.k8slan.io/pod2" },
                },
                "spec": { "config": r#"{"type": "macvtap", "ipam": {"type": "ipam-pool", "pool": "iot"}}"# },
            })]),
            nodes: ["worker1", "worker2"].map(sample::node).to_vec(),
            ..Documents::default()
        }
    }

    /// The causes, after `edit`.
    fn causes(edit: impl FnOnce(&mut Documents)) -> Vec<String> {
        let mut documents = documents();
        edit(&mut documents);
        let text = diagnose(&documents);
        text.lines().filter_map(|line| line.strip_prefix("WHY ")).map(str::to_owned).collect()
    }

    fn one(edit: impl FnOnce(&mut Documents), words: &str) {
        let causes = causes(edit);
        assert!(causes.len() == 1 && causes[0].contains(words), "{causes:#?}");
    }

    #[test]
    fn what_is_well_says_what_was_looked_at() {
        let text = diagnose(&documents());
        let expected = "\
pod default/web on worker1: Pending
nothing of k8slan's is wrong that can be seen from here; what else it waits for, its events say
network default/vlan44 as net1: macvtap, macvtap.k8slan.io/pod2
  pool iot, 10.0.0.0/24: 3 leased, 1 kept, 250 free
  worker1: LAN k8slan-system/lan-test: ready, built, MTU 1426
    spoke pod2: free, macvtap passthru, /dev/tap1073741825
";
        assert_eq!(text, expected, "\n{text}");
    }

    /// Text of users who may write events or definitions must not control the terminal of the caller.
    #[test]
    fn what_others_wrote_is_one_line() {
        let mut documents = documents();
        documents.pod["status"]["message"] = json!("x\nWHY all is well");
        let words = "plugin type=\"macvtap\" failed (add): x\nWHY all is well \u{1b}[2J\u{9b}2J";
        documents.events = vec![json!({ "reason": "FailedCreatePodSandBox", "message": words })];
        documents.definitions.as_mut().unwrap()[0]["spec"]["config"] =
            json!("{\"type\": \"a\\n\\u001b[2JWHY all is well\"}");
        let text = diagnose(&documents);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.lines().all(|line| !line.starts_with("WHY all")), "{text}");
    }

    #[test]
    fn the_usual_mistakes_are_told() {
        let limits = "/spec/containers/0/resources/limits";
        one(
            |documents| *documents.pod.pointer_mut(limits).unwrap() = json!({}),
            "which the pod does not ask for: add",
        );
        one(
            |documents| documents.definitions = Some(Vec::new()),
            "no NetworkAttachmentDefinition default/vlan44",
        );
        one(
            |documents| documents.definitions.as_mut().unwrap()[0]["metadata"]["annotations"] = json!({}),
            "has no annotation k8s.v1.cni.cncf.io/resourceName",
        );
        one(|documents| documents.pod["metadata"]["annotations"] = json!({}), "and for no network");
        one(
            |documents| {
                documents.pod["metadata"]["annotations"] = json!({});
                *documents.pod.pointer_mut(limits).unwrap() = json!({});
            },
            "asks for no network",
        );
        one(|documents| documents.nodes[0].lans[0].spokes.truncate(1), "no LAN lists spoke pod2 on worker1");
        one(|documents| drop(documents.nodes.remove(0)), "no k8slan answers on worker1");
        one(|documents| documents.nodes[0].daemon = None, "no daemon is seen on worker1");
        one(|documents| documents.nodes[0].pools.clear(), "there is no pool iot on worker1");
        one(
            |documents| documents.nodes[0].pools[0].free = Some(0.into()),
            "no address is free in pool iot on worker1",
        );
        one(
            |documents| {
                documents.pod["status"] = json!({ "phase": "Failed", "reason": "UnexpectedAdmissionError" })
            },
            "delete it, and its controller makes a new one",
        );
        one(
            |documents| {
                let lan = &mut documents.nodes[0].lans[0];
                sample::deny(lan, READY, "UnderlayMissing", "underlay eth1 does not exist");
            },
            "LAN k8slan-system/lan-test on worker1: not ready (UnderlayMissing): underlay eth1 does not exist",
        );
        one(
            |documents| {
                documents.lans = Some(vec![json!({
                    "metadata": { "namespace": "k8slan-system", "name": "lan-test" },
                    "spec": { "spokes": ["pod2"], "allowedNamespaces": ["shop"] },
                })]);
            },
            "does not admit pods of namespace \"default\"",
        );
    }

    #[test]
    fn the_names_of_k8slan_in_go_lead_to_the_spoke() {
        for name in ["k8slan-mac-pod2", "k8slan-mac-lan-test-pod2", "k8slan-veth-lan-test-pod2"] {
            let asked = format!("macvtap.k8slan.io/{name}");
            let text = diagnose(&{
                let mut documents = documents();
                documents.definitions.as_mut().unwrap()[0]["metadata"]["annotations"] =
                    json!({ "k8s.v1.cni.cncf.io/resourceName": asked });
                let limits = json!({ asked.as_str(): "1" });
                *documents.pod.pointer_mut("/spec/containers/0/resources/limits").unwrap() = limits;
                documents
            });
            assert!(!text.contains("WHY ") && text.contains("    spoke pod2: free"), "{text}");
        }
    }

    #[test]
    fn a_spoke_that_another_pod_has_is_told_with_the_pod() {
        let held = |documents: &mut Documents, node: usize| {
            let other = documents.nodes[node].lans[0].spokes[0].attachment.clone();
            let spoke = &mut documents.nodes[node].lans[0].spokes[1];
            (spoke.state, spoke.attachment) = (SpokeState::Held, other);
        };
        one(|documents| held(documents, 0), "spoke pod2 on worker1 is in use by pod default/nginx");
        // Without a node, a spoke that is free on one of them is not the cause.
        let nowhere = |documents: &mut Documents| documents.pod["spec"]["nodeName"] = Value::Null;
        let some = |documents: &mut Documents| {
            nowhere(documents);
            held(documents, 0);
        };
        assert_eq!(causes(some), Vec::<String>::new());
        // The scheduler knows that the pod may use only that node.
        let scheduler = json!({
            "reason": "FailedScheduling", "lastTimestamp": "2026-11-29T12:00:00Z",
            "message": "0/3 nodes are available: 1 Insufficient macvtap.k8slan.io/pod2, 2 node(s) didn't match Pod's node \
                        affinity/selector. preemption: 0/3 nodes are available",
        });
        one(
            |documents| {
                some(documents);
                documents.events.push(scheduler.clone());
            },
            "spoke pod2 on worker1 is in use by pod default/nginx",
        );
        let all = causes(|documents| {
            nowhere(documents);
            held(documents, 0);
            held(documents, 1);
        });
        assert!(all.len() == 2 && all[1].contains("on worker2"), "{all:?}");
    }

    #[test]
    fn the_plugins_last_words_come_first() {
        let message = "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox \
                       \"x\": plugin type=\"multus\" name=\"multus\" failed (add): [default/web:vlan44]: error adding container to \
                       network \"vlan44\": plugin type=\"macvtap\" failed (add): spoke pod2 is in use by a/b";
        let event = |time: &str, message: &str| {
            json!({
                "reason": "FailedCreatePodSandBox", "lastTimestamp": time, "message": message,
            })
        };
        let events =
            vec![event("2026-11-29T12:00:00Z", "an older one"), event("2026-11-29T12:01:00Z", message)];
        let told = causes(|documents| documents.events = events.clone());
        assert_eq!(told, ["spoke pod2 is in use by a/b"]);
        // The pod runs by now.
        let runs = causes(|documents| {
            documents.events = events;
            documents.pod["status"]["phase"] = json!("Running");
        });
        assert_eq!(runs, Vec::<String>::new());
    }
}
