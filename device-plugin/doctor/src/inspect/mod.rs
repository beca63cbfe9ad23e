//! `inspect`: what this node has, read from its kernel and from `/run/k8slan`.
//!
//! It needs no daemon and changes nothing. Whether a LAN is accepted and ready, and why, is from the daemon's status
//! file; everything else is the kernel's current state.

mod conditions;
mod daemon_state;
mod host;
mod lans;
mod pod_interface;
mod pools;
#[cfg(test)]
pub mod sample;
mod snapshot_files;
mod svg;
mod tree;
mod view;
mod vms;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use node::NodeConfig;

use crate::output::finish;

pub use snapshot_files::read_files;
pub use svg::svg;
pub use tree::{ExtraLines, tree, tree_of_all};
pub use tree::{pool_line, spoke_line, state_of};
pub use view::{
    AttachmentView, BridgeView, LanView, LinkView, MasterView, NodeView, PodLinkView, PoolView, PortView,
    SpokeState, SpokeView, UnderlayView, VxlanView,
};

/// What to show, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Only the LAN of this name, <namespace>/<name> or the name alone.
    #[arg(long, value_name = "NAME")]
    lan: Option<String>,
    /// Everything as JSON, for programs and for --from.
    #[arg(long, conflicts_with_all = ["svg", "from"])]
    json: bool,
    /// A drawing (SVG) of LANs, nodes, spokes and pods.
    #[arg(long)]
    svg: bool,
    /// Shows what 'inspect --json' wrote to these files, on other nodes for example, instead of this node. '-' is standard
    /// input; a file may have several nodes, one after the other.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
}

/// Prints the view; the exit code is 1 on failure.
#[must_use]
pub fn main(options: &Options) -> ExitCode {
    finish("inspect", run(options))
}

fn run(options: &Options) -> Result<String> {
    let mut nodes = match options.from.as_slice() {
        [] => vec![NodeView::read()?],
        files => read_files(files)?,
    };
    if let Some(lan) = &options.lan {
        let all: Vec<String> = nodes.iter().flat_map(|node| &node.lans).map(|lan| lan.lan.clone()).collect();
        let found: Vec<bool> = nodes.iter_mut().map(|node| node.retain_lan(lan)).collect();
        if !found.contains(&true) {
            let there = if all.is_empty() { "none at all".to_owned() } else { all.join(", ") };
            bail!("there is no LAN {lan}; there is {there}");
        }
    }
    if options.svg {
        return Ok(svg(&nodes));
    }
    if options.json {
        let mut text = serde_json::to_string_pretty(&nodes[0])?;
        text.push('\n');
        return Ok(text);
    }
    view::tell_of_others(&mut nodes);
    Ok(tree_of_all(&nodes))
}

impl NodeView {
    /// Reads the node that the calling thread is on.
    ///
    /// # Errors
    /// Its links cannot be read. Other errors are in the notes.
    pub fn read() -> Result<Self> {
        let mut view = Self::read_without_pools()?;
        pools::fill(&mut view);
        Ok(view)
    }

    /// The same without running `ipam-pool`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_without_pools() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("run it as root: it looks into network namespaces");
        }
        let config = NodeConfig::load()?;
        let paths = config.paths();
        let mut view = Self { daemon: daemon_state::daemon(paths.run()), ..Self::default() };
        let status = daemon_state::status(paths.run(), &mut view.notes);
        view.node = Some(status.node.clone())
            .filter(|node| !node.is_empty())
            .or(config.node_name)
            .unwrap_or_else(host_name);
        view.problems.extend(status.unread.iter().map(|note| format!("{}: {}", note.source, note.message)));
        let host = host::Host::read()?;
        lans::fill(&mut view, &paths, &status, &host);
        host.masters(&mut view, &paths);
        host.bridges(&mut view);
        vms::fill(&mut view, paths.run());
        Ok(view)
    }
}

/// The machine's name, by default the node's.
pub(crate) fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
