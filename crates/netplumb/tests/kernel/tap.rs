use net_types::MacvtapMode;
use netplumb::{LinkChange, Macvtap, TapWatch, tap_device};

use crate::{name, netns, veth};

#[test]
fn the_device_of_two_macvtaps_with_one_name_and_index() {
    let mut found = Vec::new();
    let mut keep = Vec::new();
    for _ in 0..2 {
        let (lan_ns, lan) = netns();
        let (pod_ns, pod) = netns();
        let spoke = lan.create_veth(&veth("port", "pod1")).unwrap().peer;
        let mut macvtap = Macvtap::new(name("net1"), spoke, MacvtapMode::Passthru);
        macvtap.link.index = Some(1 << 30);
        macvtap.link.netns = Some(pod_ns.clone());
        lan.create_macvtap(&macvtap).unwrap();
        found.push(tap_device(&pod_ns, &name("net1"), 1 << 30).unwrap().unwrap());
        assert_eq!(tap_device(&pod_ns, &name("net1"), 7).unwrap(), None);
        assert_eq!(tap_device(&pod_ns, &name("net2"), 1 << 30).unwrap(), None);
        assert_eq!(tap_device(&lan_ns, &name("pod1"), spoke).unwrap(), None, "it is no macvtap");
        keep.push((lan_ns, pod_ns, pod));
    }
    assert_eq!(found[0].major, found[1].major);
    assert_ne!(found[0].minor, found[1].minor);
    let (_, pod_ns, _) = &keep[0];
    assert_eq!(tap_device(pod_ns, &name("net1"), 1 << 30).unwrap(), Some(found[0]));
}

#[test]
fn the_device_is_told_when_it_is_made() {
    let (_lan_ns, lan) = netns();
    let (pod_ns, pod) = netns();
    let spoke = lan.create_veth(&veth("port", "pod1")).unwrap().peer;
    let watch = TapWatch::open(&pod_ns).unwrap();
    let mut macvtap = Macvtap::new(name("net1"), spoke, MacvtapMode::Bridge);
    macvtap.link.netns = Some(pod_ns.clone());
    macvtap.link.index = Some(1 << 30);
    lan.create_macvtap(&macvtap).unwrap();
    macvtap.link.name = name("net2");
    macvtap.link.index = Some(1 << 30 | 1);
    lan.create_macvtap(&macvtap).unwrap();
    let told = watch.device(&name("net1"), 1 << 30).unwrap();
    assert_eq!(told, tap_device(&pod_ns, &name("net1"), 1 << 30).unwrap());
    assert!(told.is_some());
    // What it was not told of since it was read it finds in sysfs.
    let other = watch.device(&name("net2"), 1 << 30 | 1).unwrap();
    assert!(other.is_some() && other != told);
    assert_eq!(watch.device(&name("net3"), 7).unwrap(), None);
    // Made again meanwhile: the second one counts.
    pod.delete_link(1 << 30).unwrap();
    for _ in 0..2 {
        macvtap.link.name = name("net1");
        macvtap.link.index = Some(1 << 30);
        lan.create_macvtap(&macvtap).unwrap();
        let current = tap_device(&pod_ns, &name("net1"), 1 << 30).unwrap();
        assert_eq!(watch.device(&name("net1"), 1 << 30).unwrap(), current);
        pod.set_link(1 << 30, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        pod.delete_link(1 << 30).unwrap();
    }
}
