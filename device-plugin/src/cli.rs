//! The command line.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::daemon::{self, Lans};

/// The node daemon of k8slan: builds this node's part of every LAN, repairs what drifts, and tells the
/// macvtap plugin about the LANs' spokes.
///
/// It runs in the foreground as root and logs to stderr; RUST_LOG sets how much (info by default). When it
/// ends, the LANs stay up.
#[derive(Debug, Parser)]
#[command(name = "k8slan-device-plugin", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A host without Kubernetes: the LANs are files in a folder.
    ///
    /// Every *.yaml and *.yml file of the folder is read, as one would give it to kubectl; documents of other
    /// kinds are ignored. Changes are followed: a new file is a new LAN, a file that goes takes its LANs with
    /// it. What a file with a mistake in it declared before is left as it stands. How things are is in
    /// /run/k8slan/status.json.
    Node {
        /// The folder of LAN files.
        #[arg(long, value_name = "DIR")]
        lan_dir: PathBuf,
        /// The name of this node, by which vxlanDevMap finds its underlay. Without it, nodeName in
        /// /etc/k8slan/node.yaml.
        #[arg(long, value_name = "NAME")]
        node_name: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// A node of a cluster: the LANs are objects of the API server.
    ///
    /// They are kept in /var/lib/k8slan/lans, so that the node has its LANs before it hears the API server. Who the
    /// API server is comes from KUBECONFIG, or from the pod that this runs in.
    Cluster {
        /// The name of this node's Node object.
        #[arg(long, value_name = "NAME", env = "NODE_NAME")]
        node_name: String,
        /// The namespaces to take LANs from; without it, all.
        #[arg(long = "namespace", value_name = "NAMESPACE")]
        namespaces: Vec<String>,
        /// The namespace of the leader's lease.
        #[arg(long, value_name = "NAMESPACE", default_value = "k8slan-system", env = "POD_NAMESPACE")]
        lease_namespace: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Hands the spokes out through the kubelet whose plugin folder this is (with cluster:
    /// /var/lib/kubelet/device-plugins).
    #[arg(long, value_name = "DIR")]
    kubelet_dir: Option<PathBuf>,
    /// Serves /metrics, /livez and /readyz on this address and port.
    #[arg(long, value_name = "ADDRESS")]
    health: Option<SocketAddr>,
}

/// Where every kubelet has its plugins' sockets, whatever its root is.
const KUBELET_DIR: &str = "/var/lib/kubelet/device-plugins";

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    log();
    let result = match command {
        Command::Node { lan_dir, node_name, common: Common { kubelet_dir, health } } => {
            let lans = Lans::Folder(lan_dir);
            block_on(daemon::run(daemon::Options { lans, node_name, kubelet_dir, health }))
        }
        Command::Cluster {
            node_name,
            namespaces,
            lease_namespace,
            common: Common { kubelet_dir, health },
        } => {
            let lans = Lans::Cluster { namespaces, lease_namespace };
            let kubelet_dir = Some(kubelet_dir.unwrap_or_else(|| KUBELET_DIR.into()));
            block_on(daemon::run(daemon::Options { lans, node_name: Some(node_name), kubelet_dir, health }))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("k8slan-device-plugin: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}

fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // The thread that works on the LANs ends soon after its work: an idle daemon is silent.
    let keep = std::time::Duration::from_secs(1);
    let runtime = tokio::runtime::Builder::new_current_thread().thread_keep_alive(keep).enable_all().build();
    runtime.context("start the runtime")?.block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        let ok = Cli::try_parse_from(["x", "node", "--lan-dir", "/lans", "--node-name", "worker1"]).unwrap();
        let Command::Node { lan_dir, node_name, .. } = ok.command else { panic!("{ok:?}") };
        assert_eq!((lan_dir.to_str(), node_name.as_deref()), (Some("/lans"), Some("worker1")));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Cli::try_parse_from(["x", "node"]).unwrap_err().to_string();
        assert!(error.contains("--lan-dir <DIR>"), "{error}");
        assert!(Cli::try_parse_from(["x"]).is_err());
        assert!(Cli::try_parse_from(["x", "node", "--lan-dir", "/x", "--nodename", "y"]).is_err());
    }
}
