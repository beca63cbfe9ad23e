//! The command line.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::standalone;

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
    },
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    log();
    let result = match command {
        Command::Node { lan_dir, node_name } => {
            block_on(standalone::run(standalone::Options { lan_dir, node_name }))
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
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
        let Command::Node { lan_dir, node_name } = ok.command;
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
