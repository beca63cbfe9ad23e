//! What several tests start from.

use crate::{LanKey, LanSpec};

/// The specification of the LAN in the document that k8slan was made for.
pub(crate) fn document() -> LanSpec {
    serde_json::from_value(serde_json::json!({
        "ns": "knlvrf",
        "bridge": "br2",
        "vxlan": "vx2",
        "vni": 222,
        "defaultVxlanDev": "eth0.10",
        "vxlanDevMap": { "worker1": "eth1", "worker2": "eth2" },
        "spokes": ["pod1", "pod2"],
    }))
    .unwrap()
}

pub(crate) fn key(text: &str) -> LanKey {
    text.parse().unwrap()
}
