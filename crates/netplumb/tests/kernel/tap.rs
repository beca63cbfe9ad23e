use net_types::MacvtapMode;
use netplumb::{Macvtap, tap_device};

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
        macvtap.index = Some(1 << 30);
        macvtap.netns = Some(pod_ns.clone());
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
