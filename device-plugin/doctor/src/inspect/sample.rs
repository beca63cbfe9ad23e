//! A sample node for tests.

use lan::{ACCEPTED, Condition, READY};

use super::view::{
    AttachmentView, BridgeView, LanView, LinkView, NodeView, PodLinkView, PoolView, PortView, SpokeState,
    SpokeView, UnderlayView, VxlanView,
};

fn link(name: &str, mtu: u32) -> LinkView {
    LinkView { name: name.into(), up: true, carrier: true, mtu, mac: None }
}

fn attachment(pod: &str, live: bool, link: Option<PodLinkView>) -> AttachmentView {
    AttachmentView {
        pod: Some(format!("default/{pod}")),
        container: "c".into(),
        ifname: "net1".into(),
        netns: "/run/netns/c".into(),
        live,
        link,
        ..AttachmentView::default()
    }
}

/// The daemon says that something is not so.
pub fn deny(lan: &mut LanView, kind: &str, reason: &str, message: &str) {
    lan.conditions.retain(|condition| condition.kind != kind);
    lan.conditions.push(Condition::new(kind, false, reason, message));
}

/// A node with one of everything.
pub fn node(name: &str) -> NodeView {
    let net1 = PodLinkView {
        kind: "macvtap".into(),
        mode: Some("passthru".into()),
        index: 1_245_789_213,
        link: LinkView { mac: Some("02:00:00:00:00:01".into()), ..link("net1", 1426) },
        addresses: vec!["10.44.0.2/24".into()],
    };
    let held = SpokeView {
        name: "pod1".into(),
        state: SpokeState::Held,
        port: Some(link("+4a3b2c1d", 1426)),
        attachment: Some(attachment("nginx", true, Some(net1))),
        ..SpokeView::default()
    };
    let free = SpokeView {
        name: "pod2".into(),
        attach: Some("macvtap".into()),
        mode: Some("passthru".into()),
        tap_index: Some(1_073_741_825),
        ..SpokeView::default()
    };
    let left = SpokeView {
        name: "pod3".into(),
        state: SpokeState::LeftOver,
        port: Some(LinkView { up: false, ..link("+4a3b2c1e", 1426) }),
        attachment: Some(attachment("dead", false, None)),
        ..SpokeView::default()
    };
    let lan = LanView {
        lan: "k8slan-system/lan-test".into(),
        conditions: vec![
            Condition::new(ACCEPTED, true, "Accepted", ""),
            Condition::new(READY, true, "Built", "built, MTU 1426"),
        ],
        netns: Some("knlvrf".into()),
        stands: true,
        bridge: Some(link("br2", 1426)),
        vxlan: Some(VxlanView {
            link: link("vx2", 1426),
            vni: 222,
            group: Some("ff02::14".into()),
            port: 4789,
        }),
        underlay: Some(UnderlayView {
            name: "eth1".into(),
            link: Some(link("eth1", 1500)),
            addresses: vec!["fe80::1/64".into()],
        }),
        spokes: vec![held, free, left],
    };
    let uplink = PortView { link: link("eth2", 1500), tagged: "10,20-30".into(), ..PortView::default() };
    let port = PortView {
        link: link("vb0102", 1500),
        untagged: "10".into(),
        pvid: Some(10),
        attachment: Some(attachment("camera", true, None)),
        ..PortView::default()
    };
    let bridge = BridgeView {
        link: link("br0", 1500),
        vlan_filtering: true,
        ports: vec![port],
        uplinks: vec![uplink],
    };
    NodeView {
        node: name.into(),
        daemon: Some(42),
        lans: vec![lan],
        bridges: vec![bridge],
        pools: vec![PoolView {
            pool: Some("iot".into()),
            network: None,
            ranges: "10.0.0.0/24".into(),
            leased: 3,
            free: Some(250.into()),
            more: [("kept".to_owned(), 1.into()), ("notes".to_owned(), serde_json::json!([]))].into(),
        }],
        problems: vec!["spoke pod3 in namespace knlvrf is left over: its pod is gone".into()],
        notes: vec!["something was not looked at".into()],
        ..NodeView::default()
    }
}
