//! A node as `k8slan-device-plugin inspect` shows it, read from its kernel: as a tree, with the round-trip times below the
//! pods, and all nodes as one drawing.

use std::path::{Path, PathBuf};

use doctor::inspect::{AttachmentView, NodeView, svg, tree};
use k8slan_tests::Worker;
use testnet::Stop;

use crate::build::Times;
use crate::show::millis;

/// What the node's kernel has.
pub(crate) fn read(worker: &Worker) -> Result<NodeView, Stop> {
    worker.run(NodeView::read_without_pools).map_err(|e| Stop::Failed(format!("{e:#}")))
}

/// A node with its LANs.
pub(crate) fn of_node(view: &NodeView, times: &Times) -> String {
    let times = |attachment: &AttachmentView| {
        let name = attachment.pod.as_deref().and_then(|pod| pod.split_once('/')).map(|(_, name)| name);
        let times = name.and_then(|name| times.get(name)).into_iter().flatten();
        times.map(|(to, time)| format!("to {to}: {}", millis(*time))).collect()
    };
    format!("{}\n", tree(view, &times))
}

/// Draws all nodes into a file beside the programs that were built; its path within the project.
pub(crate) fn draw(views: &[NodeView]) -> Result<PathBuf, Stop> {
    let path = Path::new("target/demo.svg");
    std::fs::write(testnet::workspace().join(path), svg(views))?;
    Ok(path.to_owned())
}
