use std::fmt;

use testnet::{Error, Node};

use crate::LanFile;

/// All that attachments leave on a node: compared before and after, it shows what was left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    lan_links: Vec<String>,
    node_links: Vec<String>,
    device_nodes: Vec<String>,
    minors: Vec<String>,
}

impl Traces {
    /// What is there now, of this LAN and on the node itself.
    ///
    /// # Errors
    /// If the LAN's namespace is not there.
    pub fn of(node: &Node, lan: &LanFile) -> Result<Self, Error> {
        let mut device_nodes = node.list("/dev");
        // Also hidden ones, on their way to their name.
        device_nodes.retain(|name| name.contains("tap"));
        let mut minors = node.list("/run/k8slan/taps");
        // An empty note is that of a process that died over it: it binds nobody, and is written over.
        minors
            .retain(|name| node.read(&format!("/run/k8slan/taps/{name}")).is_ok_and(|text| !text.is_empty()));
        Ok(Self {
            lan_links: node.netns(&lan.netns())?.link_names()?,
            node_links: node.link_names()?,
            device_nodes,
            minors,
        })
    }
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "links of the LAN {:?}, of the node {:?}, device nodes {:?}, minors {:?}",
            self.lan_links, self.node_links, self.device_nodes, self.minors
        )
    }
}
