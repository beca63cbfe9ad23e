//! Multus on a node, played or real.

use std::path::{Path, PathBuf};

use serde_json::json;
use testnet::{Node, Stop};

use crate::multus::{DAEMON, SHIM};

/// Which Multus a node has.
#[derive(Clone, Debug)]
pub enum Multus {
    /// The program is the plugin that the runtime runs.
    Thin(PathBuf),
    /// The same program is plugin and daemon, as its name says.
    Thick(PathBuf),
    /// The real thick one: a folder with `image.tar` and the repository's own `multus-daemonset-thick.yml`, which puts its
    /// plugin and its configuration onto the nodes itself.
    Deployed(PathBuf),
}

impl Multus {
    /// Its plugin and its configuration.
    pub(crate) fn install(&self, node: &Node) -> Result<(), Stop> {
        let (program, name) = match self {
            Self::Thin(program) => (program, "multus"),
            Self::Thick(program) => (program, SHIM),
            Self::Deployed(_) => return Ok(()),
        };
        node.exec(&["install", "-m", "755", &program.to_string_lossy(), &format!("/opt/cni/bin/{name}")])?;
        let configuration = json!({
            "cniVersion": "0.3.1", "name": "multus-cni-network", "type": name,
            "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
            "clusterNetwork": "/etc/cni/net.d/10-cluster.conf",
        });
        node.write("/etc/cni/net.d/00-multus.conf", configuration.to_string())?;
        Ok(())
    }

    /// The daemon's program on the node, where it is no pod.
    pub(crate) fn daemon(&self, node: &Node) -> Result<Option<String>, Stop> {
        let Self::Thick(program) = self else { return Ok(None) };
        let path = format!("/run/{DAEMON}");
        node.exec(&["ln", "-sfn", &program.to_string_lossy(), &path])?;
        Ok(Some(path))
    }

    /// The archive of its image.
    pub(crate) fn image(&self) -> Option<PathBuf> {
        self.folder().map(|folder| folder.join("image.tar"))
    }

    /// What puts it into a cluster.
    pub(crate) fn manifest(&self) -> Option<PathBuf> {
        self.folder().map(|folder| folder.join("multus-daemonset-thick.yml"))
    }

    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Deployed(folder) => Some(folder),
            Self::Thin(_) | Self::Thick(_) => None,
        }
    }
}
