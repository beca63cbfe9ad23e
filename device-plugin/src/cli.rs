//! The command line.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use controller::ClusterUninstallOptions;
use daemon::{Cluster, Node};
use proto::agent_socket;

use doctor::{capture, check_host, import, inspect, leases, overview, why};
use installer::{InstallOptions, UninstallOptions, install, uninstall};

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
    /// A host without Kubernetes, or the privileged part on one with it: the LANs are files in a folder.
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
        /// The LANs are objects of an API server, which `cluster --api-only` beside this process hears: the folder
        /// keeps a file for each over restarts. Of two objects that want the same, the older one wins.
        #[arg(long)]
        mirrored: bool,
        /// Hands the spokes out through the kubelet whose plugin folder this is.
        #[arg(long, value_name = "DIR")]
        kubelet_dir: Option<PathBuf>,
        #[command(flatten)]
        compat: Compat,
        #[command(flatten)]
        common: Common,
    },
    /// Takes what the daemons left out of a cluster: resources in the nodes' status, LANNodes, the leader's lease and
    /// NetworkAttachmentDefinitions, the finalizers of LANs.
    ///
    /// After the DaemonSet is gone: by install/uninstall/uninstall.sh as a Job, or by an administrator (KUBECONFIG).
    ClusterUninstall {
        /// Of this node alone: its resources and LANNodes.
        #[arg(long, value_name = "NAME")]
        node_name: Option<String>,
        /// The namespace of the leader's lease.
        #[arg(long, value_name = "NAMESPACE", default_value = "k8slan-system", env = "POD_NAMESPACE")]
        lease_namespace: String,
        /// Also while a daemon leads.
        #[arg(long)]
        force: bool,
        /// How long to wait for kubelets to let go of the resources, which they do five minutes after the daemon is
        /// gone. Before that they put them back.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u32,
    },
    /// A node of a cluster: the LANs are objects of the API server.
    ///
    /// They are kept in /var/lib/k8slan/lans, so that the node has its LANs before it hears the API server. Who the
    /// API server is comes from KUBECONFIG, or from the pod that this runs in.
    ///
    /// With --api-only, this process only talks to the API server, and needs no privilege but to be root; the LANs are
    /// built by another one, `node --mirrored --lan-dir /var/lib/k8slan/lans`.
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
        /// Leaves links, mounts and the kubelet to a `node --mirrored` beside it.
        #[arg(long)]
        api_only: bool,
        /// Hands the spokes out through the kubelet whose plugin folder this is.
        #[arg(long, value_name = "DIR", default_value = KUBELET_DIR, conflicts_with = "api_only")]
        kubelet_dir: PathBuf,
        #[command(flatten)]
        compat: Compat,
        #[command(flatten)]
        common: Common,
    },
    /// Asks the daemon of this node, through its socket, and prints the answer.
    ///
    /// With readyz and livez it ends with code 1 unless the answer is yes: probes of a container without a port.
    Agent {
        /// What to ask.
        question: Question,
    },
    /// Puts the CNI plugins into this node's CNI folder.
    ///
    /// Each is written beside its place, read back, and takes its name in one step. What another program had put there
    /// is kept beside it and comes back with uninstall; /var/lib/k8slan/install.json says what is ours. Run again, it
    /// puts right whatever a run that was cut off left.
    Install {
        /// The folder that the container runtime takes CNI plugins from.
        #[arg(long, value_name = "DIR", default_value = CNI_BIN_DIR)]
        cni_bin_dir: PathBuf,
        /// The folder that has the plugins to install; without it, the one of this program.
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        #[command(flatten)]
        compat: Compat,
        /// Says what would be done, and does nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Takes the CNI plugins away that install put there, and puts back what they replaced.
    ///
    /// Refuses while pods are attached: without the plugins they could not be taken down.
    Uninstall {
        /// The CNI folder; without it, every one that plugins were put into. Needed outside a container where that knew
        /// the folder by another path.
        #[arg(long, value_name = "DIR")]
        cni_bin_dir: Option<PathBuf>,
        /// The folder that has the plugins; without it, the one of this program.
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Takes everything else of k8slan away, too: LANs, records, leases, all in /run/k8slan and /var/lib/k8slan.
        /// The daemon must not run.
        #[arg(long)]
        purge: bool,
        /// Cuts attached pods off. What they hold falls silent and goes with them: uninstall again then. Also goes on
        /// where none of the plugins is found.
        #[arg(long)]
        force: bool,
        /// Says what would be done, and does nothing.
        #[arg(long)]
        dry_run: bool,
        /// When all is done, waits for SIGTERM: in a DaemonSet, what ends is started again.
        #[arg(long)]
        stay: bool,
    },
    /// Shows what this node has: LANs, spokes, pods, bridges, macvtaps, pools, and what is left over.
    ///
    /// Read from the kernel and from /run/k8slan, as root; no daemon need run, and nothing is changed.
    Inspect(inspect::Options),
    /// Shows the LANs of this node as a table, a line each: ready or not, and why.
    ///
    /// As inspect, it needs root and no daemon.
    Status(overview::Options),
    /// Shows who has which addresses of pools, on this node: leased, kept, resting or in quarantine.
    ///
    /// As inspect, it needs root and no daemon. 'kubectl k8slan leases' asks all nodes.
    Leases(leases::Options),
    /// Says which LANPool takes the place of whereabouts or host-local, and what it must exclude while pods have their addresses.
    ///
    /// It reads what others know, as JSON, one after the other: NetworkAttachmentDefinitions, LANPools, whereabouts' objects,
    /// the nodes' leases of host-local. It changes nothing: 'kubectl k8slan import' collects all that, and has kubectl do what
    /// is said here.
    Import(import::Options),
    /// Prints the leases that host-local has on this node, as JSON, for 'import'.
    #[command(hide = true)]
    HostLocalLeases(import::FileOptions),
    /// Says why a pod does not run, or has no network.
    ///
    /// It reads what others know: the pod, its events, the definitions of its networks, what 'inspect --json' says of its
    /// node, as JSON, one after the other. 'kubectl k8slan why POD' collects it.
    Why(why::Options),
    /// Writes the frames of a pod's interface to standard output, as a pcap file.
    ///
    /// Run as root. They are taken where the pod can change nothing: at the port of the LAN's or the node's bridge. It ends
    /// when the reader does, with the pod's interface, or after --seconds.
    Capture(capture::Options),
    /// Checks whether this node can carry LANs, and says what to do where it cannot.
    ///
    /// Run as root. What the kernel can do is tried in network namespaces of its own; nothing on the node is
    /// changed. The exit code is 0 if all is fine, 1 with a warning, 2 with a failure, 3 if nothing could be looked
    /// at.
    CheckHost(check_host::Options),
}

/// The paths of the agent socket.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Question {
    /// The LANs of this node, in JSON.
    Status,
    /// Metrics, in Prometheus' text format.
    Metrics,
    /// Whether LANs are built and resources registered; if not, why.
    Readyz,
    /// Whether it answers.
    Livez,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Serves /metrics, /livez and /readyz on this address and port.
    #[arg(long, value_name = "ADDRESS")]
    health: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
struct Compat {
    /// Understands the names and types of another project beside our own, for those who come from there.
    ///
    /// k8slan-go: the resources k8slan-mac-<spoke> and k8slan-veth-<spoke>, also with the LAN's name before the spoke's,
    /// their NetworkAttachmentDefinitions, and the CNI type k8slanveth. See docs/migration.md.
    #[arg(long = "compat", value_name = "PROJECT", env = "K8SLAN_COMPAT")]
    project: Option<Project>,
}

/// A project whose names are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Project {
    /// An empty variable switches nothing on.
    #[value(alias = "")]
    None,
    K8slanGo,
}

impl Compat {
    fn k8slan_go(&self) -> bool {
        self.project == Some(Project::K8slanGo)
    }
}

/// The CNI folder of most container runtimes.
const CNI_BIN_DIR: &str = "/opt/cni/bin";

/// The folder of plugins' sockets of every kubelet, whatever its root folder is.
const KUBELET_DIR: &str = "/var/lib/kubelet/device-plugins";

/// The command line, for manual pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    Cli::command()
}

/// Parses the command line and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    log();
    let result = match command {
        Command::Inspect(options) => return inspect::main(&options),
        Command::Status(options) => return overview::main(&options),
        Command::Leases(options) => return leases::main(&options),
        Command::Import(options) => return import::main(&options),
        Command::HostLocalLeases(options) => return import::host_local_leases(&options),
        Command::Why(options) => return why::main(&options),
        Command::Capture(options) => return capture::main(&options),
        Command::CheckHost(options) => return check_host::main(&options),
        Command::Node { lan_dir, node_name, mirrored, kubelet_dir, compat, common: Common { health } } => {
            let k8slan_go = compat.k8slan_go();
            let node = Node { lan_dir, mirrored, node_name, kubelet_dir, k8slan_go };
            block_on(daemon::run_node(node, health))
        }
        Command::ClusterUninstall { node_name, lease_namespace, force, wait } => {
            let wait = std::time::Duration::from_secs(wait.into());
            block_on(uninstall_from_cluster(ClusterUninstallOptions {
                node: node_name,
                lease_namespace,
                force,
                wait,
            }))
        }
        Command::Cluster {
            node_name,
            namespaces,
            lease_namespace,
            api_only,
            kubelet_dir,
            compat,
            common: Common { health },
        } => {
            let cluster = Cluster { node_name, namespaces, lease_namespace, k8slan_go: compat.k8slan_go() };
            match api_only {
                true => block_on(daemon::run_cluster(cluster, health)),
                false => block_on(daemon::run_both(cluster, kubelet_dir, health)),
            }
        }
        Command::Agent { question } => block_on(ask(question)),
        Command::Install { cni_bin_dir, from, compat, dry_run } => {
            install(&InstallOptions { cni_bin_dir, from, k8slan_go: compat.k8slan_go(), dry_run })
        }
        Command::Uninstall { cni_bin_dir, from, purge, force, dry_run, stay } => {
            let done = uninstall(&UninstallOptions { cni_bin_dir, from, purge, force, dry_run });
            if stay { done.and_then(|()| block_on(wait_for_signal())) } else { done }
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

async fn ask(question: Question) -> anyhow::Result<()> {
    let path = match question {
        Question::Status => "/status",
        Question::Metrics => "/metrics",
        Question::Readyz => "/readyz",
        Question::Livez => "/livez",
    };
    let run = node::NodeConfig::load()?.paths().run().to_owned();
    let asked = agent_socket::get_once(&run, path).await;
    let (code, text) = asked.with_context(|| match node::is_root() {
        true => "the daemon of this node does not answer",
        false => "only root may ask the daemon of this node: run it as root, for example with sudo",
    })?;
    match code.is_success() {
        true => print(&text),
        false => anyhow::bail!("{}", text.trim_end()),
    }
}

async fn uninstall_from_cluster(options: ClusterUninstallOptions) -> anyhow::Result<()> {
    let client = kube::Client::try_default().await.context("find the API server")?;
    let done = controller::uninstall(&client, &options).await?;
    let all = if done.is_empty() { "nothing of k8slan is left" } else { "nothing more of k8slan is left" };
    let lines = done.iter().map(String::as_str).chain([all]);
    print(&(lines.collect::<Vec<_>>().join("\n") + "\n"))
}

fn print(text: &str) -> anyhow::Result<()> {
    node::print(text).context("write to standard output")
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

async fn wait_for_signal() -> anyhow::Result<()> {
    tracing::info!("done");
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    terminate.recv().await;
    Ok(())
}

fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // The thread of the LANs ends soon after its work, so that an idle daemon makes no system calls.
    let keep = std::time::Duration::from_secs(1);
    let runtime = tokio::runtime::Builder::new_current_thread().thread_keep_alive(keep).enable_all().build();
    runtime.context("start the runtime")?.block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        let ok = Cli::try_parse_from(["x", "node", "--lan-dir", "/lans", "--node-name", "worker1"]).unwrap();
        let Command::Node { lan_dir, node_name, .. } = ok.command else { panic!("{ok:?}") };
        assert_eq!((lan_dir.to_str(), node_name.as_deref()), (Some("/lans"), Some("worker1")));
        let both = Cli::try_parse_from(["x", "cluster", "--node-name", "a"]).unwrap();
        let Command::Cluster { kubelet_dir, api_only: false, .. } = both.command else { panic!("{both:?}") };
        assert_eq!(kubelet_dir.to_str(), Some(KUBELET_DIR));
        for (value, on) in [("k8slan-go", true), ("none", false), ("", false)] {
            let cli = Cli::try_parse_from(["x", "install", "--compat", value]).unwrap();
            let Command::Install { compat, .. } = cli.command else { panic!("{cli:?}") };
            assert_eq!(compat.k8slan_go(), on, "{value:?}");
        }
        assert!(Cli::try_parse_from(["x", "install", "--compat", "k8slan"]).is_err());
        let api = ["x", "cluster", "--api-only", "--node-name", "a", "--health", "0.0.0.0:9810"];
        assert!(Cli::try_parse_from(api).is_ok());
        assert!(
            Cli::try_parse_from(["x", "cluster", "--api-only", "--node-name", "a", "--kubelet-dir", "/k"])
                .is_err()
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Cli::try_parse_from(["x", "node"]).unwrap_err().to_string();
        assert!(error.contains("--lan-dir <DIR>"), "{error}");
        assert!(Cli::try_parse_from(["x"]).is_err());
        assert!(Cli::try_parse_from(["x", "node", "--lan-dir", "/x", "--nodename", "y"]).is_err());
    }
}
