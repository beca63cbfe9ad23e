//! What the node uses itself, no attachment takes: the underlays of LANs, links with others or addresses on them, the
//! node's own networks. And what a LAN says whose underlay was taken by somebody else all the same.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::time::Duration;

use k8slan_tests::{LanFile, Worker, joined};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testnet::{CniError, Node, Outcome, Ping, Pod, Stop, Switch, eventually};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        a_lans_underlay_is_no_uplink,
        a_lans_underlay_is_recorded_while_it_carries_one,
        a_declared_underlay_is_kept_before_it_is_built_on,
        a_lans_underlay_is_no_master,
        what_the_node_has_on_a_link_makes_it_the_nodes,
        the_policy_gives_uplinks,
        a_lan_says_who_took_its_underlay_and_what_it_lost,
        an_ipv4_lan_says_that_its_address_is_gone,
        a_lan_that_cannot_be_built_says_what_is_in_the_way,
        a_group_that_the_kernel_forgot_is_joined_again,
        a_link_taken_in_the_very_moment_goes_back,
    ]
}

fn ensure(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn uplink(name: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": "t", "type": "vlan-bridge", "bridge": "br0", "uplinks": [{"name": name}]})
}

fn master(name: &str, mode: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": "m", "type": "macvtap", "master": name, "mode": mode})
}

fn refused(result: Result<Value, CniError>, code: u64, says: &str) -> Outcome {
    match result {
        Err(error) if error.code == code && error.text().contains(says) => Ok(()),
        other => Err(Stop::Failed(format!("code {code} and {says:?} expected: {other:?}"))),
    }
}

/// That the node's links are these.
fn links(node: &Node, wanted: &[&str]) -> Outcome {
    let mut names = node.link_names()?;
    names.sort();
    ensure(names == wanted, format!("{names:?}, not {wanted:?}"))
}

/// A worker whose eth1 carries a LAN.
fn worker() -> Result<(Switch, Worker), Stop> {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.put(&LanFile::new("lan1", 7, &["a", "b"]))?;
    worker.ready("a")?;
    Ok((switch, worker))
}

fn policy(node: &Node, entry: &str) -> Outcome {
    Ok(node.write("/etc/k8slan/node.yaml", format!("policy: {{default: {entry}}}\n"))?)
}

fn a_lans_underlay_is_no_uplink() -> Outcome {
    let (_switch, worker) = worker()?;
    let pod = worker.pod("x")?;
    let says = "uplink eth1 is used by the node: it is the underlay of LAN k8slan-system/lan1";
    refused(pod.add("vlan-bridge", "net1", &uplink("eth1")), 123, says)?;
    links(&worker, &["eth1"])?;
    // STATUS says so before a pod comes.
    refused(
        worker.cni(
            "vlan-bridge",
            "STATUS",
            &pod.call("net1", &{
                let mut status = uplink("eth1");
                status["cniVersion"] = "1.1.0".into();
                status
            }),
        ),
        50,
        says,
    )?;
    // A policy that speaks of bridges alone gives no link away; nor does one that lets masters be shared.
    policy(&worker, "{bridges: {br0: ''}}")?;
    refused(pod.add("vlan-bridge", "net1", &uplink("eth1")), 101, "may not use master \"eth1\"")?;
    policy(&worker, "{bridges: {br0: ''}, masters: [eth1]}")?;
    refused(pod.add("vlan-bridge", "net1", &uplink("eth1")), 123, says)?;
    links(&worker, &["eth1"])?;
    // Another of its names takes it no more than its own.
    worker.ip("link property add dev eth1 altname trunk")?;
    policy(&worker, "{bridges: {br0: ''}, masters: [eth1, trunk]}")?;
    let other_name = "trunk is another name of the link eth1";
    refused(pod.add("vlan-bridge", "net1", &uplink("trunk")), 122, other_name)?;
    links(&worker, &["eth1"])?;
    policy(&worker, "{bridges: {br0: ''}, masters: [eth1], usedLinks: [eth1]}")?;
    pod.add("vlan-bridge", "net1", &uplink("eth1"))?;
    ensure(worker.link("eth1")?.unwrap()["master"] == "br0", "the administrator's word did not count")?;
    // And the LAN says what became of it.
    worker
        .status(|status| status.contains("\"UnderlayTaken\"") && status.contains("eth1 is a port of br0"))?;
    pod.del("vlan-bridge", "net1", &uplink("eth1"))?;
    worker.status(|status| status.contains("\"Built\""))?;
    Ok(())
}

fn a_lans_underlay_is_recorded_while_it_carries_one() -> Outcome {
    let (switch, worker) = worker()?;
    let record = || worker.read("/run/k8slan/underlays.json").unwrap_or_default();
    ensure(record().contains("eth1"), record())?;
    let pod = worker.pod("x")?;
    let is_kept = |what: &str| {
        refused(pod.add("vlan-bridge", "net1", &uplink("eth1")), 123, "underlay of LAN")
            .map_err(|stop| Stop::Failed(format!("{what}: {stop:?}")))
    };
    // Whoever writes it anew: a damaged record lets nobody through, and the daemon puts it right.
    worker.stop_daemon()?;
    is_kept("the daemon is away")?;
    worker.write("/run/k8slan/underlays.json", "[{")?;
    refused(pod.add("vlan-bridge", "net1", &uplink("eth1")), 104, "underlays is damaged")?;
    worker.start_daemon()?;
    eventually(Duration::from_secs(10), || {
        if record().contains("eth1") { Ok(()) } else { Err(format!("the record is {}", record())) }
    })?;
    is_kept("after a restart")?;
    // A LAN that is gone from its folder, but stands as long as a pod is on it.
    let lan = LanFile::new("lan1", 7, &["a", "b"]);
    let a = joined(&worker, "a", "10.0.0.1/24")?;
    worker.kill_daemon()?;
    worker.remove(&lan)?;
    worker.start_daemon()?;
    worker.status(|status| status.contains("NotDeclared"))?;
    ensure(worker.read("/run/k8slan/underlays.json").is_ok(), "there is no record")?;
    a.remove()?;
    eventually(Duration::from_secs(20), || match record().contains("lan1") {
        false => Ok(()),
        true => Err(format!("the LAN is gone, and the record is {}", record())),
    })?;
    pod.add("vlan-bridge", "net1", &uplink("eth1"))?;
    drop(switch);
    Ok(())
}

fn a_declared_underlay_is_kept_before_it_is_built_on() -> Outcome {
    let worker = Worker::on(Node::new("worker1")?)?;
    worker.put(&LanFile::new("lan1", 7, &["a"]))?;
    worker.not_ready("a", "eth1")?;
    // Nothing is heard between the link's coming and the plugin's call.
    kill(Pid::from_raw(worker.daemon_id().unwrap().cast_signed()), Signal::SIGSTOP).unwrap();
    worker.ip("link add eth1 type veth peer name cable")?;
    let pod = worker.pod("x")?;
    let result = refused(pod.add("vlan-bridge", "net1", &uplink("eth1")), 123, "underlay of LAN");
    kill(Pid::from_raw(worker.daemon_id().unwrap().cast_signed()), Signal::SIGCONT).unwrap();
    result?;
    worker.ip("link set cable up")?;
    worker.ip("link set eth1 up")?;
    worker.ready("a")?;
    Ok(())
}

fn a_lans_underlay_is_no_master() -> Outcome {
    let (_switch, worker) = worker()?;
    let pod = worker.pod("x")?;
    let says = "link eth1 is used by the node: it is the underlay of LAN k8slan-system/lan1";
    refused(pod.add("macvtap", "net1", &master("eth1", "passthru")), 101, says)?;
    ensure(pod.link_names()?.is_empty(), "something stays in the pod")?;
    // What leaves the node its own is shared as any other master; with a policy by an administrator's word, and alone by
    // another.
    for mode in ["bridge", "private", "vepa"] {
        pod.add("macvtap", "net1", &master("eth1", mode))?;
        pod.del("macvtap", "net1", &master("eth1", mode))?;
    }
    policy(&worker, "{masters: []}")?;
    refused(pod.add("macvtap", "net1", &master("eth1", "bridge")), 101, "may not use master \"eth1\"")?;
    policy(&worker, "{masters: [eth1]}")?;
    pod.add("macvtap", "net1", &master("eth1", "bridge"))?;
    pod.del("macvtap", "net1", &master("eth1", "bridge"))?;
    refused(pod.add("macvtap", "net1", &master("eth1", "passthru")), 101, says)?;
    policy(&worker, "{masters: [eth1], usedLinks: [eth1]}")?;
    pod.add("macvtap", "net1", &master("eth1", "passthru"))?;
    Ok(())
}

fn what_the_node_has_on_a_link_makes_it_the_nodes() -> Outcome {
    let switch = Switch::new()?;
    let mut node = Node::new("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    let pod = node.pod("x")?;
    // The address that IPv6 makes by itself is nobody's.
    eventually(Duration::from_secs(5), || match node.ip("-6 addr show dev eth1 scope link") {
        Ok(shown) if shown.contains("fe80::") => Ok(()),
        other => Err(format!("eth1 has {other:?}")),
    })?;
    pod.add("vlan-bridge", "net1", &uplink("eth1"))?;
    pod.del("vlan-bridge", "net1", &uplink("eth1"))?;
    for (make, unmake, how) in [
        ("addr add 192.0.2.1/24 dev eth1", "addr del 192.0.2.1/24 dev eth1", "it has address 192.0.2.1/24"),
        (
            "addr add 169.254.7.7/16 dev eth1",
            "addr del 169.254.7.7/16 dev eth1",
            "it has address 169.254.7.7/16",
        ),
        (
            "addr add 2001:db8::1/64 dev eth1",
            "addr del 2001:db8::1/64 dev eth1",
            "it has address 2001:db8::1/64",
        ),
        ("addr add fe80::1/64 dev eth1", "addr del fe80::1/64 dev eth1", "it has address fe80::1/64"),
        ("link add mv0 link eth1 type macvlan mode bridge", "link del mv0", "link mv0 is on it"),
        ("link add mt0 link eth1 type macvtap mode bridge", "link del mt0", "link mt0 is on it"),
        (
            "link add vx0 type vxlan id 5 dev eth1 group 239.1.1.1 dstport 4790",
            "link del vx0",
            "link vx0 is on it",
        ),
        (
            "route add 198.51.100.0/24 dev eth1",
            "route del 198.51.100.0/24 dev eth1",
            "the route to 198.51.100.0/24",
        ),
        ("route add 239.0.0.0/8 dev eth1", "route del 239.0.0.0/8 dev eth1", "the route to 239.0.0.0/8"),
        (
            "-6 route add ff05::/16 dev eth1 table local",
            "-6 route del ff05::/16 dev eth1 table local",
            "the route to ff05::/16",
        ),
        (
            "-6 route add multicast ff05::/16 dev eth1 table local",
            "-6 route del multicast ff05::/16 dev eth1 table local",
            "the route to ff05::/16",
        ),
    ] {
        node.ip(make)?;
        let failed = |stop| Stop::Failed(format!("{make}: {stop:?}"));
        let before = node.link_names()?;
        refused(pod.add("vlan-bridge", "net1", &uplink("eth1")), 123, how).map_err(failed)?;
        if !make.contains("macv") {
            refused(pod.add("macvtap", "net1", &master("eth1", "passthru")), 101, how).map_err(failed)?;
            // Which it shares as ever.
            pod.add("macvtap", "net1", &master("eth1", "bridge")).map_err(|error| failed(error.into()))?;
            pod.del("macvtap", "net1", &master("eth1", "bridge"))?;
        }
        ensure(node.link_names()? == before, format!("{make}: a refusal made something"))?;
        node.ip(unmake)?;
    }
    // A macvtap of the host goes into a pod unless the node has something on it.
    node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
    node.ip("link set mv0 up")?;
    let device = json!({"cniVersion": "1.0.0", "name": "d", "type": "macvtap", "deviceID": "mv0"});
    node.ip("addr add 192.0.2.9/24 dev mv0")?;
    refused(
        pod.add("macvtap", "net1", &device),
        101,
        "link mv0 is used by the node: it has address 192.0.2.9/24",
    )?;
    node.ip("addr flush dev mv0")?;
    pod.add("macvtap", "net1", &device)?;
    Ok(())
}

fn the_policy_gives_uplinks() -> Outcome {
    let switch = Switch::new()?;
    let mut node = Node::new("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    let (pod, other) = (node.pod("x")?, node.pod("y")?);
    policy(&node, "{bridges: {br0: '', br1: ''}}")?;
    refused(pod.add("vlan-bridge", "net1", &uplink("eth1")), 101, "may not use master \"eth1\"")?;
    links(&node, &["eth1"])?;
    policy(&node, "{bridges: {br0: '', br1: ''}, masters: [eth1]}")?;
    let result = pod.add("vlan-bridge", "net1", &uplink("eth1"))?;
    // Another pod's port is no uplink, whoever asks.
    let port = result["interfaces"][1]["name"].as_str().unwrap();
    node.write("/etc/k8slan/node.yaml", "")?;
    refused(
        other.add("vlan-bridge", "net1", &uplink(port)),
        123,
        "was made by k8slan for another attachment",
    )?;
    Ok(())
}

/// What a LAN's `Ready` says on a worker: its reason and message.
fn ready(worker: &Worker) -> (String, String) {
    let text = worker.read("/run/k8slan/status.json").unwrap_or_default();
    let status: Value = serde_json::from_str(&text).unwrap_or_default();
    let conditions = status["lans"][0]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default();
    let word = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
    (word("reason"), word("message"))
}

fn says(worker: &Worker, reason: &str, message: &str, why: &str) -> Outcome {
    eventually(Duration::from_secs(3), || {
        let now = ready(worker);
        if now.0 == reason && now.1.contains(message) {
            Ok(())
        } else {
            Err(format!("{why}: {now:?}, not {reason} and {message:?}"))
        }
    })?;
    Ok(())
}

fn a_lan_says_who_took_its_underlay_and_what_it_lost() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.put(&LanFile::new("lan1", 7, &["a", "b"]).with("mtu: 1400"))?;
    says(&worker, "Built", "built", "at first")?;
    worker.ip("link add br9 type bridge")?;
    worker.ip("link set br9 up")?;
    let lost = [
        ("link set eth1 master br9", "link set eth1 nomaster", "UnderlayTaken", "eth1 is a port of br9"),
        (
            "link add mv0 link eth1 type macvlan mode passthru",
            "link del mv0",
            "UnderlayTaken",
            "mv0 on underlay eth1 is in mode passthru",
        ),
        (
            "link set eth1 multicast off",
            "link set eth1 multicast on",
            "NoMulticast",
            "eth1 takes no multicast",
        ),
        ("link set eth1 mtu 1320", "link set eth1 mtu 1500", "NoRoom", "underlay eth1"),
        ("link set eth1 down", "link set eth1 up", "UnderlayDown", "eth1 is down"),
    ];
    for (damage, repair, reason, message) in lost {
        worker.ip(damage)?;
        says(&worker, reason, message, damage)?;
        // Also for a daemon that comes later.
        worker.stop_daemon()?;
        worker.start_daemon()?;
        says(&worker, reason, message, &format!("{damage}, then a new daemon"))?;
        worker.ip(repair)?;
        says(&worker, "Built", "built", repair)?;
    }
    // IPv6 leaves the link, and comes back.
    worker.ip("addr flush dev eth1 scope link")?;
    says(&worker, "NoLinkLocal", "eth1 has no IPv6 link-local address", "flush")?;
    worker.ip("addr add fe80::7/64 dev eth1 nodad")?;
    says(&worker, "Built", "built", "an address by hand")?;
    worker.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth1/disable_ipv6", "1")).unwrap();
    says(&worker, "NoLinkLocal", "eth1 has no IPv6 link-local address", "disable_ipv6")?;
    worker.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth1/disable_ipv6", "0")).unwrap();
    says(&worker, "Built", "built", "IPv6 is on again")?;
    // Pods of this node talk all the while.
    worker.ip("link set eth1 master br9")?;
    let (a, b) = (joined(&worker, "a", "10.0.0.1/24")?, joined(&worker, "b", "10.0.0.2/24")?);
    Ping::new([10, 0, 0, 2]).run(&a)?.perfect().map_err(Stop::Failed)?;
    drop::<Pod<'_>>(b);
    Ok(())
}

fn an_ipv4_lan_says_that_its_address_is_gone() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.ip("addr add 192.0.2.1/24 dev eth1")?;
    worker.put(&LanFile::new("lan1", 7, &["a"]).with("vxlanGrp: 239.1.1.1"))?;
    worker.ready("a")?;
    says(&worker, "Built", "built", "at first")?;
    worker.ip("addr del 192.0.2.1/24 dev eth1")?;
    says(&worker, "NoAddress", "eth1 has no IPv4 address", "without")?;
    worker.ip("addr add 192.0.2.1/24 dev eth1")?;
    says(&worker, "Built", "built", "again")
}

fn v6(worker: &Worker, on: bool) -> Outcome {
    let path = "/proc/sys/net/ipv6/conf/eth1/disable_ipv6";
    Ok(worker.run(|| std::fs::write(path, if on { "0" } else { "1" }))?)
}

/// What the kernel says of it is a number, or five words.
fn a_lan_that_cannot_be_built_says_what_is_in_the_way() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    let lan = LanFile::new("lan1", 7, &["a"]);
    v6(&worker, false)?;
    worker.put(&lan)?;
    says(&worker, "BuildFailed", "switch IPv6 on there (net.ipv6.conf.eth1.disable_ipv6", "IPv6 is off")?;
    let (_, message) = ready(&worker);
    ensure(message.contains("IPv6 support disabled by administrator"), message.clone())?;
    ensure(!message.contains("root"), message)?;
    v6(&worker, true)?;
    says(&worker, "Built", "built", "IPv6 is on")?;
    worker.remove(&lan)?;
    worker.status(|status| !status.contains("lan1"))?;

    let socket = worker.run(|| std::net::UdpSocket::bind("[::]:4789"))?;
    worker.put(&lan)?;
    says(&worker, "BuildFailed", "UDP port 4789 is taken: ", "a program has the port")?;
    let (_, message) = ready(&worker);
    let own = format!("(process {}) has it; end it, or give the LANs another port", std::process::id());
    ensure(message.contains(&own), message)?;
    drop(socket);
    eventually(Duration::from_secs(40), || match ready(&worker).0 == "Built" {
        true => Ok(()),
        false => Err("the port is free, and the LAN is not built".to_owned()),
    })?;
    worker.remove(&lan)?;
    worker.status(|status| !status.contains("lan1"))?;
    worker.ip("link add ovs type vxlan dstport 4789 external")?;
    worker.ip("link set ovs up")?;
    worker.put(&lan)?;
    says(&worker, "BuildFailed", "VXLAN device ovs has it", "Open vSwitch has the port")?;
    worker.put(&lan.with("vxlanPort: 4790"))?;
    says(&worker, "Built", "built", "on another port")
}

/// With an MTU below 1280 a link loses IPv6, and every group that it was in.
fn a_group_that_the_kernel_forgot_is_joined_again() -> Outcome {
    let switch = Switch::new()?;
    let (one, two) = (Worker::new("worker1", &switch, 1500)?, Worker::new("worker2", &switch, 1500)?);
    // Two LANs share the group, which the kernel leaves and joins with the last and the first.
    let lans = [LanFile::new("lan1", 7, &["a", "b"]), LanFile::new("lan2", 8, &["c", "d"])];
    for worker in [&one, &two] {
        lans.iter().try_for_each(|lan| worker.put(lan))?;
        worker.ready("a")?;
        worker.ready("c")?;
    }
    let pairs = [
        (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?),
        (joined(&one, "c", "10.0.0.1/24")?, joined(&two, "d", "10.0.0.2/24")?),
    ];
    let heal = |when: &str| {
        for (here, there) in &pairs {
            for (from, to) in [(here, [10, 0, 0, 2]), (there, [10, 0, 0, 1])] {
                // Not what was learned before: the neighbour's request goes to the group.
                from.ip("neigh flush all")?;
                eventually(Duration::from_secs(10), || {
                    let ping = Ping::new(to).run(from).map_err(|error| error.to_string())?;
                    ping.perfect().map_err(|why| format!("{when}: {why}"))
                })?;
            }
        }
        Ok::<(), Stop>(())
    };
    heal("at first")?;
    one.ip("link set eth1 mtu 1000")?;
    says(&one, "NoLinkLocal", "an MTU of 1280 at least", "mtu 1000")?;
    one.ip("link set eth1 mtu 1500")?;
    says(&one, "Built", "built", "mtu 1500")?;
    heal("after the MTU was 1000")?;
    ensure(one.log().contains("repaired: underlay eth1 had left group"), one.log())?;
    // Also while no daemon looks.
    one.stop_daemon()?;
    one.ip("link set eth1 mtu 1000")?;
    one.ip("link set eth1 mtu 1500")?;
    one.start_daemon()?;
    says(&one, "Built", "built", "a new daemon")?;
    heal("after a new daemon came")?;
    // A device of somebody else's that is in the group keeps the kernel from joining again: the LAN says so.
    one.ip("link add other type vxlan id 99 dstport 4789 dev eth1 group ff02::14")?;
    one.ip("link set other up")?;
    one.ip("link set eth1 mtu 1000")?;
    says(&one, "NoLinkLocal", "an MTU of 1280 at least", "mtu 1000")?;
    one.ip("link set eth1 mtu 1500")?;
    says(&one, "NotJoined", "eth1 is not in group ff02::14", "with another device in the group")?;
    one.ip("link del other")?;
    one.stop_daemon()?;
    one.start_daemon()?;
    says(&one, "Built", "built", "the other device is gone")?;
    heal("after the other device was gone")
}

/// The daemon and the plugin at once: whichever comes first, the link is the LAN's in the end, or the LAN says who has it.
fn a_link_taken_in_the_very_moment_goes_back() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    let lan = LanFile::new("lan1", 7, &["a"]);
    let (mut taken, mut kept) = (0, 0);
    for round in 0..12_u64 {
        let pod = worker.pod(&format!("x{round}"))?;
        let put = || {
            std::thread::sleep(Duration::from_millis(round * 25));
            pod.add("vlan-bridge", "net1", &uplink("eth1"))
        };
        let (declared, added) = std::thread::scope(|scope| {
            let daemon = scope.spawn(|| worker.put(&lan));
            (daemon.join().unwrap(), put())
        });
        declared?;
        worker.ready("a")?;
        match added {
            Ok(_) => {
                taken += 1;
                says(&worker, "UnderlayTaken", "eth1 is a port of br0", "it was taken first")?;
                pod.del("vlan-bridge", "net1", &uplink("eth1"))?;
            }
            Err(error) => {
                kept += 1;
                ensure(error.code == 123, format!("{error}"))?;
                ensure(worker.link("eth1")?.unwrap().get("master").is_none(), "it stays a port")?;
                ensure(worker.link("br0")?.is_none(), "the bridge stays")?;
            }
        }
        says(&worker, "Built", "built", "in the end")?;
        worker.remove(&lan)?;
        eventually(Duration::from_secs(5), || match worker.read("/run/k8slan/underlays.json") {
            Ok(text) if text == "[]" => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
    }
    ensure(kept > 0, format!("never refused: {taken} taken, {kept} kept"))
}
