//! Whether a pod can have its spoke: on its node, or on any node while it has none.

use lan::{ACCEPTED, READY};
use serde_json::Value;

use super::diagnosis::Diagnosis;
use crate::inspect::{LanView, NodeView, SpokeState, SpokeView, spoke_line, state_of};
use proto::k8slan_go::leads_to;
use proto::kubelet::RESOURCE_PREFIX;

impl Diagnosis<'_> {
    /// Adds who has a spoke, and the state of its LAN, on the pod's node or on all nodes.
    pub(super) fn spoke(&mut self, spoke: &str) {
        let here = self.node_name().map(str::to_owned);
        let documents = self.documents;
        let on = |node: &&NodeView| here.as_ref().is_none_or(|here| node.node == *here);
        let (mut found, mut usable) = (0, 0);
        let mut problems = Vec::new();
        for node in documents.nodes.iter().filter(on) {
            let Some((lan, view)) = find_spoke(node, spoke) else {
                self.add_line(format!("  {}: no LAN here has spoke {spoke}", node.node));
                continue;
            };
            found += 1;
            self.add_line(format!("  {}: LAN {}: {}", node.node, lan.lan, state_of(lan)));
            self.add_line(format!("    {}", spoke_line(view)));
            match self.unusable(node, lan, view) {
                Some(problem) => problems.push(problem),
                None => usable += 1,
            }
        }
        self.admits(spoke);
        if found == 0 && documents.nodes.iter().any(|node| on(&node)) {
            self.causes.push(format!(
                "no LAN lists spoke {spoke}{}: is it in spec.spokes, and is the LAN accepted?",
                here.map(|node| format!(" on {node}")).unwrap_or_default()
            ));
        } else if usable == 0 || self.insufficient(spoke) {
            self.causes.extend(problems);
        }
    }

    /// Whether the scheduler reported a lack of this spoke: it knows which nodes the pod may use.
    fn insufficient(&self, spoke: &str) -> bool {
        let words = format!("Insufficient {RESOURCE_PREFIX}{spoke}");
        let last = self.documents.events.iter().rev().find(|event| event["reason"] == "FailedScheduling");
        let message = last.and_then(|event| event["message"].as_str()).unwrap_or_default();
        self.node_name().is_none()
            && message.split(", ").any(|part| {
                let part = part.split(". ").next().unwrap_or(part).trim_end_matches('.');
                part.ends_with(&words)
            })
    }

    /// Why the pod cannot have the spoke on this node.
    fn unusable(&self, node: &NodeView, lan: &LanView, spoke: &SpokeView) -> Option<String> {
        if lan.not_true(ACCEPTED).is_some() || lan.not_true(READY).is_some() {
            return Some(format!("LAN {} on {}: {}", lan.lan, node.node, state_of(lan)));
        }
        let own = self.name();
        let holder = spoke.attachment.as_ref().filter(|_| spoke.state == SpokeState::Held);
        if let Some(holder) = holder.filter(|holder| holder.pod.as_deref() != Some(own.as_str())) {
            return Some(format!(
                "spoke {} on {} is in use by {}: wait until it is gone, or use another spoke",
                spoke.name,
                node.node,
                holder.who()
            ));
        }
        spoke
            .reason
            .as_ref()
            .map(|reason| format!("spoke {} on {} takes no pod: {reason}", spoke.name, node.node))
    }

    /// Checks whether the LAN admits the pod's namespace.
    fn admits(&mut self, spoke: &str) {
        let namespace = self.pod()["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let lists = |list: &Value, name: &str| {
            list.as_array().is_some_and(|list| list.iter().any(|entry| entry == name))
        };
        let refusing = self.documents.lans.iter().flatten().find(|lan| {
            let allowed = &lan["spec"]["allowedNamespaces"];
            lists(&lan["spec"]["spokes"], spoke) && allowed.is_array() && !lists(allowed, &namespace)
        });
        if let Some(lan) = refusing {
            let text = |field: &str| lan["metadata"][field].as_str().unwrap_or_default();
            self.causes.push(format!(
                "LAN {}/{} does not admit pods of namespace {namespace:?}: its allowedNamespaces does not list it",
                text("namespace"),
                text("name")
            ));
        }
    }
}

/// The spoke that a resource's name stands for.
fn find_spoke<'a>(node: &'a NodeView, resource: &str) -> Option<(&'a LanView, &'a SpokeView)> {
    let leads = |lan: &LanView, view: &SpokeView| {
        let name = lan.lan.rsplit('/').next().unwrap_or(&lan.lan);
        leads_to(resource, name, &view.name)
    };
    // The spoke's own name has precedence.
    let own = |_: &LanView, view: &SpokeView| view.name == resource;
    let find = |is: &dyn Fn(&LanView, &SpokeView) -> bool| {
        node.lans.iter().find_map(|lan| Some((lan, lan.spokes.iter().find(|view| is(lan, view))?)))
    };
    find(&own).or_else(|| find(&leads))
}
