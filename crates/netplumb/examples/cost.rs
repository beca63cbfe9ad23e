//! What the operations of an attachment cost: median and least wall time in microseconds, and, under
//! `strace`, their system calls. Whatever else the machine does with links holds the same lock, so on a
//! busy one the least is what an operation itself takes.
//!
//! `cargo run -p netplumb --example cost [ROUNDS]`, as root; works in namespaces of its own.

use std::time::{Duration, Instant};

use net_types::{IfName, MacvtapMode, Mtu};
use netplumb::{
    Bridge, LinkChange, Macvtap, Master, Netlink, Netns, NewAddress, NewLink, PortChange, Result, Route,
    TapWatch, Veth, announce_from_now, announce_own, tap_device,
};

const GROUP: u32 = 0x6b38_736c;

struct Costs(Vec<(&'static str, Vec<Duration>)>);

impl Costs {
    fn time<T>(&mut self, what: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        match self.0.iter_mut().find(|(name, _)| *name == what) {
            Some((_, all)) => all.push(took),
            None => self.0.push((what, vec![took])),
        }
        result
    }
}

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(50);
    let name = |text: &str| text.parse::<IfName>().expect("a link name");
    let mut costs = Costs(Vec::new());
    let lan_ns = Netns::new()?;
    let lan = Netlink::open(&lan_ns)?;
    let mut bridge = Bridge::new(name("br2"));
    bridge.link.up = true;
    let bridge = lan.create_bridge(&bridge)?;
    // Kept to the end: the kernel takes namespaces down in the background, with the same locks.
    let mut pods = Vec::new();
    for _ in 0..rounds {
        let pod_ns = costs.time("namespace: make", Netns::new)?;
        costs.time("namespace: enter and leave", || pod_ns.enter(|| ()))?;
        let pod = costs.time("socket in another namespace", || Netlink::open(&pod_ns))?;
        costs.time("link: read by name", || lan.link_by_name(&name("br2")))?;
        let mut veth = Veth::new(NewLink::new(name("pod1")), NewLink::new(name("+4a3b2c1d")));
        for end in [&mut veth.main, &mut veth.peer] {
            end.group = GROUP;
            end.mtu = Mtu::try_from(1426).ok();
        }
        veth.main.up = true;
        let ends = costs.time("veth: create, one end up", || lan.create_veth(&veth))?;
        let spoke = LinkChange { alias: Some("k8slan:attachment x".into()), ..LinkChange::default() };
        costs.time("veth: alias", || lan.set_link(ends.main, &spoke))?;
        let port = LinkChange {
            alias: Some("k8slan:pod x".into()),
            master: Some(Master::Index(bridge)),
            up: Some(true),
            port: Some(PortChange { group_fwd_mask: Some(0xfffd), ..PortChange::default() }),
            ..LinkChange::default()
        };
        costs.time("veth: other end: alias, master, up, port", || lan.set_link(ends.peer, &port))?;
        let index = 1 << 30;
        let mut macvtap = Macvtap::new(name("net1"), ends.main, MacvtapMode::Passthru);
        macvtap.link.index = Some(index);
        macvtap.link.netns = Some(pod_ns.clone());
        let watch = costs.time("macvtap: watch for its device", || TapWatch::open(&pod_ns))?;
        costs.time("macvtap: create in the pod", || lan.create_macvtap(&macvtap))?;
        costs.time("macvtap: up", || {
            pod.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })
        })?;
        costs.time("macvtap: its device, as told", || watch.device(&name("net1"), index))?;
        costs.time("macvtap: stop watching", || drop(watch));
        costs.time("macvtap: its device, from sysfs", || tap_device(&pod_ns, &name("net1"), index))?;
        costs.time("announce: prepare", || announce_from_now(&pod_ns, &name("net1")))?;
        let address = NewAddress::new("10.0.1.5/24".parse().expect("an address"));
        costs.time("address: add", || pod.add_address(index, &address))?;
        let route = Route::new("0.0.0.0/0".parse().expect("all"), "10.0.1.1".parse().ok(), Some(index));
        costs.time("route: add", || pod.add_route(&route))?;
        let mac = pod.link_by_index(index)?.and_then(|link| link.mac).expect("a macvtap has one");
        costs.time("announce: by the kernel", || announce_own(&pod, index, mac))?;
        costs.time("port: wait until operational", || lan.wait_operational(ends.peer, Duration::ZERO))?;
        costs.time("links: read all", || pod.links())?;
        costs.time("veth: delete with all on it", || lan.delete_link(ends.main))?;
        pods.push((pod_ns, pod));
    }
    for (what, mut all) in costs.0 {
        all.sort_unstable();
        let micros = |took: Duration| took.as_secs_f64() * 1e6;
        println!("{:>9.1} {:>9.1} µs  {what}", micros(all[all.len() / 2]), micros(all[0]));
    }
    Ok(())
}
