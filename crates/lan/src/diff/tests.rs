use net_types::Mtu;

use super::model::{apply, link};
use super::*;
use crate::testing::{desired, key};

/// The LAN of the sample document, complete.
fn built() -> Observed {
    apply(Observed::absent(), &diff(Some(&desired()), &Observed::absent()).steps)
}

/// The same with an attachment on spoke pod1.
fn attached(live: bool) -> Observed {
    let mut lan = built();
    let bridge = lan.link("br2").unwrap().index;
    let alias = Alias::Attachment { live, who: "pod web/nginx".into() };
    let mut end = link(20, "pod1", LinkKind::Veth { peer: Some(21) }, 1426);
    let mut port = link(21, "+40000001", LinkKind::Veth { peer: Some(20) }, 1426);
    for link in [&mut end, &mut port] {
        (link.group, link.alias, link.up) = (true, alias.clone(), true);
    }
    (port.master, port.group_fwd_mask) = (Some(bridge), Some(GROUP_FWD_MASK));
    lan.links.extend([end, port]);
    assert_eq!(diff(Some(&desired()), &lan), Plan::default());
    lan
}

fn steps(desired: &Desired, observed: &Observed) -> Vec<String> {
    diff(Some(desired), observed).steps.iter().map(ToString::to_string).collect()
}

fn edit<'a>(lan: &'a mut Observed, name: &str) -> &'a mut Link {
    lan.links.iter_mut().find(|link| link.name == name).unwrap()
}

#[test]
fn a_lan_is_built_in_the_right_order() {
    let plan = diff(Some(&desired()), &Observed::absent());
    assert_eq!(plan.obstacles, []);
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    let settings: Vec<String> = SETTINGS.iter().map(|s| format!("set {} to {}", s.path, s.value)).collect();
    assert_eq!(steps[0], "make the network namespace of k8slan-system/lan-test");
    assert_eq!(steps[1..=settings.len()], settings);
    assert_eq!(
        steps[1 + settings.len()..],
        [
            "change lo: up",
            "make bridge br2",
            "change br2: mark",
            "make VXLAN device vx2 with VNI 222",
            "change vx2: mark group_fwd_mask 0xfffd up",
        ]
    );
    assert_eq!(diff(Some(&desired()), &built()), Plan::default());
}

#[test]
fn drift_is_repaired_in_place() {
    let mut lan = attached(true);
    edit(&mut lan, "br2").up = false;
    edit(&mut lan, "br2").mtu = 1500;
    edit(&mut lan, "br2").kind = LinkKind::Bridge { stp: true, mcast_snooping: true, max_learned: Some(0) };
    edit(&mut lan, "vx2").master = None;
    edit(&mut lan, "+40000001").group_fwd_mask = Some(0);
    edit(&mut lan, "+40000001").up = false;
    edit(&mut lan, "pod1").mtu = 1500;
    edit(&mut lan, "lo").up = false;
    lan.settings.insert("ipv4/ip_forward", "1".into());
    assert_eq!(
        steps(&desired(), &lan),
        [
            "set ipv4/ip_forward to 0",
            "change lo: up",
            "change br2: MTU 1426 spanning tree off multicast snooping off at most 16384 learned addresses up",
            "change vx2: port of br2 group_fwd_mask 0xfffd",
            "change pod1: MTU 1426",
            "change +40000001: group_fwd_mask 0xfffd up",
        ]
    );
}

#[test]
fn what_a_vxlan_device_cannot_change_recreates_it_alone() {
    let edits: [fn(&mut Desired); 4] = [
        |d| d.vni = 223.try_into().unwrap(),
        |d| d.group = "239.1.1.1".parse().unwrap(),
        |d| d.port = 8472.try_into().unwrap(),
        |d| d.underlay = Some(9),
    ];
    for edit in edits {
        let mut changed = desired();
        edit(&mut changed);
        let vni = changed.vni;
        assert_eq!(
            steps(&changed, &attached(true)),
            [
                "remove vx2".to_owned(),
                format!("make VXLAN device vx2 with VNI {vni}"),
                "change vx2: mark group_fwd_mask 0xfffd up".to_owned()
            ]
        );
    }
}

#[test]
fn without_an_underlay_the_rest_stands() {
    let mut lan = attached(true);
    let vxlan = lan.link("vx2").unwrap().index;
    lan.links.retain(|link| link.index != vxlan);
    let waiting = Desired { underlay: None, mtu: None, ..desired() };
    assert_eq!(diff(Some(&waiting), &lan), Plan::default());
    // A device on another underlay than the LAN's sends frames to the wrong network.
    assert_eq!(steps(&waiting, &attached(true)), ["remove vx2"]);
    // The underlay's MTU is too small now: not ready, but nothing is removed.
    assert_eq!(diff(Some(&Desired { mtu: None, ..desired() }), &attached(true)), Plan::default());
}

#[test]
fn a_new_mtu_reaches_every_link() {
    let changed = Desired { mtu: Some(Mtu::try_from(8926).unwrap()), ..desired() };
    assert_eq!(
        steps(&changed, &attached(true)),
        [
            "change br2: MTU 8926",
            "change vx2: MTU 8926",
            "change pod1: MTU 8926",
            "change +40000001: MTU 8926"
        ]
    );
}

#[test]
fn links_that_were_cut_off_are_finished_or_removed() {
    let mut lan = attached(true);
    edit(&mut lan, "br2").alias = Alias::None;
    edit(&mut lan, "vx2").alias = Alias::None;
    for name in ["pod1", "+40000001"] {
        edit(&mut lan, name).alias = Alias::None;
    }
    assert_eq!(
        steps(&desired(), &lan),
        ["remove pod1 and its other end", "change br2: mark", "change vx2: mark"]
    );
}

#[test]
fn a_spoke_in_use_is_put_down_and_not_removed() {
    let mut without = desired();
    without.spokes.retain(|spoke, _| spoke.as_str() != "pod1");
    let plan = diff(Some(&without), &attached(true));
    assert_eq!(plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>(), ["change +40000001: down"]);
    assert_eq!(plan.obstacles, [Obstacle::Held { spoke: "pod1".into(), who: "pod web/nginx".into() }]);
    let after = apply(attached(true), &plan.steps);
    assert_eq!(diff(Some(&without), &after).steps, []);
    // The spoke is declared again.
    assert_eq!(steps(&desired(), &after), ["change +40000001: up"]);
    // Its pod is gone.
    assert_eq!(steps(&without, &attached(false)), ["remove pod1 and its other end"]);
    // The next ADD removes what is left of a desired spoke whose pod is gone.
    let mut down = attached(false);
    edit(&mut down, "+40000001").up = false;
    assert_eq!(diff(Some(&desired()), &down), Plan::default());
}

#[test]
fn a_spoke_whose_end_is_in_the_pod_is_known_by_its_port() {
    let mut lan = attached(true);
    lan.links.retain(|link| link.name != "pod1");
    edit(&mut lan, "+40000001").kind = LinkKind::Veth { peer: None };
    edit(&mut lan, "+40000001").up = false;
    assert_eq!(steps(&desired(), &lan), ["change +40000001: up"]);
    let mut without = desired();
    without.spokes.clear();
    edit(&mut lan, "+40000001").up = true;
    assert_eq!(steps(&without, &lan), ["change +40000001: down"]);
}

#[test]
fn what_is_not_ours_stays_and_is_told() {
    let mut lan = built();
    for name in ["br2", "vx2", "lo"] {
        edit(&mut lan, name).group = false;
        edit(&mut lan, name).alias = Alias::Other;
    }
    lan.links.push(link(30, "pod2", LinkKind::Other("dummy".into()), 1500));
    let plan = diff(Some(&desired()), &lan);
    let told: Vec<String> = plan.obstacles.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].contains("\"br2\"") && told[0].contains("the LAN's bridge"), "{told:#?}");
    assert!(told[1].contains("\"pod2\"") && told[1].contains("a spoke"), "{told:#?}");
    // The caller found that the namespace is ours, so its lo may be marked again.
    assert_eq!(plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>(), ["change lo: mark"]);

    for (netns, obstacle) in [
        (NetnsState::Foreign, Obstacle::ForeignNetns),
        (NetnsState::Mounted(NetnsOwner::Lan(key("a/b"))), Obstacle::NetnsOf(key("a/b"))),
    ] {
        let plan = diff(Some(&desired()), &Observed { netns, ..built() });
        assert_eq!(plan, Plan { steps: Vec::new(), obstacles: vec![obstacle] });
        assert!(plan.obstacles[0].blocks_lan());
    }
}

#[test]
fn a_namespace_that_lost_its_name_gets_it_back() {
    let owner = NetnsOwner::Lan(desired().lan);
    let lan = Observed { netns: NetnsState::Unmounted(owner), ..attached(true) };
    assert_eq!(steps(&desired(), &lan), ["give the network namespace its name back"]);
}

#[test]
fn renamed_links_are_made_anew() {
    let mut changed = desired();
    changed.bridge = "vx2".parse().unwrap();
    changed.vxlan = "br2".parse().unwrap();
    let after = apply(attached(true), &diff(Some(&changed), &attached(true)).steps);
    assert_eq!(diff(Some(&changed), &after), Plan::default());
    assert!(matches!(after.link("br2").unwrap().kind, LinkKind::Vxlan(_)));
    assert_eq!(after.link("+40000001").unwrap().master, Some(after.link("vx2").unwrap().index));
}

fn removal(lan: &Observed) -> (Vec<String>, Vec<Obstacle>) {
    let plan = diff(None, lan);
    (plan.steps.iter().map(ToString::to_string).collect(), plan.obstacles)
}

#[test]
fn a_lan_goes_vxlan_device_first() {
    let (steps, obstacles) = removal(&attached(false));
    assert_eq!(
        steps,
        ["remove vx2", "remove pod1 and its other end", "remove br2", "remove the network namespace"]
    );
    assert_eq!(obstacles, []);
    assert_eq!(diff(None, &Observed::absent()), Plan::default());
    assert_eq!(diff(None, &Observed { netns: NetnsState::Foreign, ..attached(false) }), Plan::default());
}

#[test]
fn a_lan_in_use_waits() {
    let (steps, obstacles) = removal(&attached(true));
    assert_eq!(steps, ["remove vx2", "change +40000001: down"]);
    assert!(matches!(&obstacles[..], [Obstacle::Held { .. }]));
}

#[test]
fn foreign_links_keep_a_namespace() {
    let mut lan = built();
    lan.links.push(link(30, "sit0", LinkKind::Other("sit".into()), 1480));
    let (steps, _) = removal(&lan);
    assert_eq!(steps.last().unwrap(), "remove the network namespace");
    lan.links.push(link(31, "eth7", LinkKind::Other(String::new()), 1500));
    let (steps, obstacles) = removal(&lan);
    assert_eq!(steps, ["remove vx2", "remove br2"]);
    assert_eq!(obstacles, [Obstacle::ForeignLinks(vec!["eth7".into()])]);
}
