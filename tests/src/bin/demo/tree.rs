//! The tree of a node as `k8slan-device-plugin inspect` shows it, read from its kernel, with the round-trip times
//! below the pods.

use k8slan_device_plugin::inspect::{AttachmentView, NodeView, tree};
use k8slan_tests::Worker;
use testnet::Stop;

use crate::build::Times;
use crate::show::millis;

/// A node with its LANs.
pub(crate) fn of_node(worker: &Worker, times: &Times) -> Result<String, Stop> {
    let view = worker.run(NodeView::read_without_pools).map_err(|e| Stop::Failed(format!("{e:#}")))?;
    let times = |attachment: &AttachmentView| {
        let name = attachment.pod.as_deref().and_then(|pod| pod.split_once('/')).map(|(_, name)| name);
        let times = name.and_then(|name| times.get(name)).into_iter().flatten();
        times.map(|(to, time)| format!("to {to}: {}", millis(*time))).collect()
    };
    Ok(format!("{}\n", tree(&view, &times)))
}
