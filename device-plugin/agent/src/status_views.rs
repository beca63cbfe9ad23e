//! Views of the node's status for operators.

use crate::kubelet;
use proto::health::HealthSummary;
use proto::published::{NodeStatus, holds};

/// The state of the node in numbers, and what readiness waits for.
pub fn health_summary(
    status: &NodeStatus,
    kubelet: Option<&kubelet::Status>,
    waiting: Vec<String>,
) -> HealthSummary {
    let spokes = || status.lans.iter().flat_map(|lan| &lan.spokes);
    HealthSummary {
        lans: status.lans.len(),
        lans_ready: status.lans.iter().filter(|lan| holds(lan, lan::READY)).count(),
        spokes: spokes().count(),
        attachments: spokes().filter(|spoke| spoke.used_by.is_some()).count(),
        resources_wanted: kubelet.map_or(0, |kubelet| kubelet.wanted),
        resources_registered: kubelet.map_or(0, |kubelet| kubelet.registered),
        waiting,
    }
}
