//! Samples for several tests.

use crate::{LanKey, LanSpec};

/// The specification of the LAN in the sample document.
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

/// What a node whose underlay has index 7 and an MTU of 1500 should have of the document's LAN.
pub(crate) fn desired() -> crate::Desired {
    let lan = crate::Lan::new(key("k8slan-system/lan-test"), &document()).unwrap();
    crate::Desired {
        lan: lan.key,
        bridge: lan.bridge,
        vxlan: lan.vxlan,
        vni: lan.vni,
        group: lan.group,
        port: lan.port,
        underlay: Some(7),
        mtu: Some(1426.try_into().unwrap()),
        spokes: [("pod1", "+40000001"), ("pod2", "+40000002")]
            .map(|(spoke, port)| (spoke.parse().unwrap(), port.parse().unwrap()))
            .into(),
    }
}
