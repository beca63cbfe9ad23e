//! Finds the link at which a pod's frames can be captured.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::inspect::{AttachmentView, NodeView};

/// A pod, or one of its interfaces: `<namespace>/<pod>[/<interface>]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CaptureTarget {
    pod: String,
    ifname: Option<String>,
}

impl FromStr for CaptureTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (pod, ifname) = match parts.as_slice() {
            [namespace, name] => (format!("{namespace}/{name}"), None),
            [namespace, name, ifname] => (format!("{namespace}/{name}"), Some((*ifname).to_owned())),
            _ => return Err("not <namespace>/<pod> or <namespace>/<pod>/<interface>".to_owned()),
        };
        match parts.iter().any(|part| part.is_empty()) {
            true => Err("a part of it is empty".to_owned()),
            false => Ok(Self { pod, ifname }),
        }
    }
}

/// A link, and the namespace that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CapturePoint {
    /// The path of the namespace; `None`: the node's own.
    pub(super) netns: Option<PathBuf>,
    pub(super) link: String,
    /// The pod and its interface, for messages.
    who: String,
}

impl fmt::Display for CapturePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, on link {}", self.who, self.link)?;
        match &self.netns {
            Some(netns) => write!(f, " in {}", netns.display()),
            None => Ok(()),
        }
    }
}

/// The link at which the frames of an interface pass: the end that no pod can change, if there is one, which is the
/// port of the LAN's or the node's bridge.
///
/// # Errors
/// The pod or the interface is not on this node, or the pod has several interfaces and none is named.
pub(super) fn find(node: &NodeView, wanted: &CaptureTarget) -> Result<CapturePoint> {
    let of_pod = |attachment: &&AttachmentView| {
        attachment.live && attachment.pod.as_deref() == Some(wanted.pod.as_str())
    };
    let mut all: Vec<(&AttachmentView, Option<PathBuf>, String)> = Vec::new();
    for lan in &node.lans {
        let netns = lan.netns.as_ref().map(|name| Path::new(node::NETNS_DIR).join(name));
        for spoke in &lan.spokes {
            if let (Some(attachment), Some(port)) = (spoke.attachment.as_ref().filter(of_pod), &spoke.port) {
                all.push((attachment, netns.clone(), port.name.clone()));
            }
        }
    }
    for port in node.bridges.iter().flat_map(|bridge| &bridge.ports) {
        if let Some(attachment) = port.attachment.as_ref().filter(of_pod) {
            all.push((attachment, None, port.link.name.clone()));
        }
    }
    for attachment in node.masters.iter().flat_map(|master| &master.macvtaps).filter(of_pod) {
        let link = attachment.link.as_ref().map_or(&attachment.ifname, |link| &link.link.name);
        all.push((attachment, Some(attachment.netns.clone()), link.clone()));
    }
    let names = all.iter().map(|(attachment, ..)| attachment.ifname.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(ifname) = &wanted.ifname {
        all.retain(|(attachment, ..)| attachment.ifname == *ifname);
    }
    match (all.as_slice(), names.as_str()) {
        ([(attachment, netns, link)], _) => Ok(CapturePoint {
            netns: netns.clone(),
            link: link.clone(),
            who: format!("{}, interface {}", attachment.who(), attachment.ifname),
        }),
        ([], "") => bail!(
            "pod {} has no interface of k8slan's on {}: is it attached ('why'), and on this node?",
            wanted.pod,
            node.node
        ),
        ([], names) => bail!(
            "pod {} has no interface {} of k8slan's; it has {names}",
            wanted.pod,
            wanted.ifname.as_deref().unwrap_or_default()
        ),
        (_, names) => bail!("pod {} has several interfaces: name one of {names}", wanted.pod),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::sample;

    fn point(text: &str) -> Result<CapturePoint> {
        find(&sample::node("worker1"), &text.parse().unwrap())
    }

    #[test]
    fn a_pods_frames_pass_at_its_port() {
        let spoke = point("default/nginx").unwrap();
        assert_eq!((spoke.netns, &*spoke.link), (Some("/run/netns/knlvrf".into()), "+4a3b2c1d"));
        assert_eq!(point("default/nginx/net1").unwrap().link, "+4a3b2c1d");
        let port = point("default/camera").unwrap();
        assert_eq!((port.netns, &*port.link), (None, "vb0102"));
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let said = |text: &str| point(text).unwrap_err().to_string();
        assert!(said("default/nginx/net2").contains("no interface net2 of k8slan's; it has net1"));
        assert!(said("default/other").contains("no interface of k8slan's on worker1"));
        assert!(said("default/dead").contains("no interface"), "it is gone");
    }

    #[test]
    fn a_pod_with_several_interfaces_needs_a_name() {
        let mut node = sample::node("worker1");
        node.bridges[0].ports[0].attachment.as_mut().unwrap().pod = Some("default/nginx".into());
        node.bridges[0].ports[0].attachment.as_mut().unwrap().ifname = "net2".into();
        let error = find(&node, &"default/nginx".parse().unwrap()).unwrap_err().to_string();
        assert!(error.ends_with("name one of net1, net2"), "{error}");
        assert_eq!(find(&node, &"default/nginx/net2".parse().unwrap()).unwrap().link, "vb0102");
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        for text in ["nginx", "", "a/", "/a", "a/b/", "a/b/c/d"] {
            assert!(text.parse::<CaptureTarget>().is_err(), "{text}");
        }
    }
}
