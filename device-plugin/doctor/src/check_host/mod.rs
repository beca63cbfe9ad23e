//! `check-host`: whether this node can carry LANs, and what to do where it cannot.
//!
//! A list of small checks, each about one thing. They try things where that leaves no trace (in a network namespace
//! of their own), and read otherwise; nothing on the node is changed.

mod cluster;
mod finding;
mod firewall;
mod folders;
mod host_snapshot;
mod kernel;
mod table;
mod underlay;
mod vxlan;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use net_types::IfName;

pub use finding::{Finding, Level};
use host_snapshot::HostSnapshot;

/// What to check, and how to print the findings.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The findings as JSON.
    #[arg(long)]
    json: bool,
    /// A host without Kubernetes: no kubelet, no Multus, no API server is looked at.
    #[arg(long)]
    single_host: bool,
    /// A device that is to carry LANs; may be given several times. Those of the LANs are looked at anyway.
    #[arg(long = "underlay", value_name = "LINK")]
    underlays: Vec<IfName>,
    /// A folder of LAN files. Without it, the LANs that the daemon of a cluster's node keeps, or, where none has run
    /// yet, those of the API server (KUBECONFIG).
    #[arg(long, value_name = "DIR")]
    lan_dir: Option<PathBuf>,
    /// The name of this node, by which vxlanDevMap finds its underlay. Without it, nodeName in
    /// /etc/k8slan/node.yaml, or the host's name.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// The container runtime's folder of CNI plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    /// The container runtime's folder of CNI configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// The kubelet's folder of device plugins.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/device-plugins")]
    kubelet_dir: PathBuf,
}

type Check = fn(&HostSnapshot<'_>) -> Vec<Finding>;

/// The checks of every node.
const NODE_CHECKS: [Check; 11] = [
    kernel::check,
    underlay::lans,
    underlay::present,
    underlay::ipv6,
    underlay::multicast,
    underlay::mtu,
    underlay::rp_filter,
    vxlan::check,
    firewall::check,
    firewall::bridge_netfilter,
    folders::cni_bin,
];

/// The checks of a cluster's node.
const CLUSTER_CHECKS: [Check; 3] = [folders::cni_conf, folders::kubelet, |_| cluster::check()];

/// The exit code if the checks could not be made.
const NOT_CHECKED: u8 = 3;

/// Runs the checks and prints their findings: the exit code is 0 if everything that was checked is fine, 1 with a
/// warning, 2 with a failure, 3 if nothing could be checked.
#[must_use]
pub fn main(options: &Options) -> ExitCode {
    let shown = run(options).and_then(|findings| {
        let text = if options.json {
            let mut text = serde_json::to_string_pretty(&findings)?;
            text.push('\n');
            text
        } else {
            table::table(&findings)
        };
        // A reader that ended early still wants the exit code.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        Ok(findings)
    });
    match shown {
        Ok(findings) => ExitCode::from(match findings.iter().map(|finding| finding.result).max() {
            Some(Level::Failure) => 2,
            Some(Level::Warning) => 1,
            Some(Level::Fine | Level::NotLookedAt) | None => 0,
        }),
        Err(error) => {
            eprintln!("k8slan-device-plugin check-host: {error:#}");
            ExitCode::from(NOT_CHECKED)
        }
    }
}

fn run(options: &Options) -> Result<Vec<Finding>> {
    let host = HostSnapshot::open(options)?;
    let cluster = if options.single_host { &[] } else { CLUSTER_CHECKS.as_slice() };
    Ok(NODE_CHECKS.iter().chain(cluster).flat_map(|check| check(&host)).collect())
}
