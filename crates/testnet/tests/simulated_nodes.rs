//! The simulated network itself: what tests of the product take for granted.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use testnet::{Guest, Node, Outcome, PacketSocket, Ping, Stop, Switch, eventually};

fn main() -> ExitCode {
    testnet::main(testnet::tests![
        nodes_see_only_their_own_folders,
        two_nodes_talk_over_a_switch,
        a_reboot_keeps_the_disk_and_nothing_else,
        a_pod_is_mounted_as_a_runtime_does_it,
        tagged_frames_are_seen_as_they_were_sent,
        a_lost_ping_is_counted,
        daemons_end_with_their_node,
        a_guest_runs_on_a_tap,
    ])
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nodes_see_only_their_own_folders() -> Outcome {
    let (one, two) = (Node::new("one")?, Node::new("two")?);
    for folder in ["/run/k8slan", "/var/lib/k8slan", "/etc/k8slan"] {
        one.write(&format!("{folder}/mine"), "1")?;
        check(two.list(folder).is_empty(), format!("{folder} of one node is seen on the other"))?;
        check(!std::path::Path::new(folder).exists(), format!("{folder} is seen outside the nodes"))?;
    }
    check(one.read("/etc/passwd")?.starts_with("root:"), "the node has no /etc/passwd")?;
    check(one.list("/sys/class/net") == ["lo"], "sysfs shows foreign links")?;
    check(one.list("/dev").contains(&"null".to_owned()), "no /dev/null")?;
    one.exec(&["sh", "-c", "echo x >/dev/null && head -c1 /dev/urandom >/dev/null"])?;
    Ok(())
}

fn two_nodes_talk_over_a_switch() -> Outcome {
    let switch = Switch::new()?;
    let (mut one, mut two) = (Node::new("one")?, Node::new("two")?);
    one.connect(&switch, "eth1", 1500)?;
    two.connect(&switch, "eth2", 1500)?;
    one.ip("addr add 192.0.2.1/24 dev eth1")?;
    two.ip("addr add 192.0.2.2/24 dev eth2")?;
    Ping::new(ip("192.0.2.2"))
        .repeated(5, Duration::from_millis(5))
        .run(&one)?
        .perfect()
        .map_err(Stop::Failed)?;
    Ping::new(ip("192.0.2.1")).filling(1500).run(&two)?.perfect().map_err(Stop::Failed)?;
    let all_nodes = Ping::new(ip("ff02::1")).on("eth1").timeout(Duration::from_millis(300)).run(&one)?;
    check(all_nodes.replies.len() == 2, format!("both nodes answer on ff02::1: {all_nodes}"))
}

fn a_reboot_keeps_the_disk_and_nothing_else() -> Outcome {
    let switch = Switch::new()?;
    let mut node = Node::new("one")?;
    node.connect(&switch, "eth1", 1500)?;
    node.write("/var/lib/k8slan/kept", "x")?;
    node.write("/etc/k8slan/node.yaml", "x")?;
    node.write("/run/k8slan/lost", "x")?;
    node.ip("link add left type veth peer name behind")?;
    node.ip("netns add lan")?;
    let sleeper = node.spawn_daemon(&["sleep", "1000"])?;
    node.reboot()?;
    check(node.list("/var/lib/k8slan") == ["kept"], "/var/lib is lost")?;
    check(node.list("/etc/k8slan") == ["node.yaml"], "/etc is lost")?;
    check(node.list("/run").is_empty(), "/run is kept")?;
    check(node.link_names()? == ["eth1"], format!("links: {:?}", node.link_names()?))?;
    let mut sleeper = sleeper;
    sleeper.wait(Duration::from_secs(1))?;
    Ok(())
}

fn a_pod_is_mounted_as_a_runtime_does_it() -> Outcome {
    let node = Node::new("one")?;
    let pod = node.pod("web")?;
    check(pod.path().starts_with("/var/run/netns/cni-"), pod.path())?;
    check(pod.container().len() == 64, pod.container())?;
    pod.ip("link add va type veth peer name vb")?;
    check(pod.link_names()? == ["va", "vb"], "the pod's links")?;
    check(node.link_names()?.is_empty(), "a pod's link is on the node")?;
    check(node.netns(pod.path())?.link_names()? == ["va", "vb"], "the path leads elsewhere")?;
    let path = pod.path().to_owned();
    pod.remove()?;
    check(node.netns(&path).is_err(), "the path is still there")
}

fn tagged_frames_are_seen_as_they_were_sent() -> Outcome {
    let node = Node::new("one")?;
    node.ip("link add va type veth peer name vb")?;
    node.ip("link set va up")?;
    node.ip("link set vb up")?;
    let (a, b) = (PacketSocket::open(&node, "va")?, PacketSocket::open(&node, "vb")?);
    for head in [
        &[0x81, 0x00, 0xe0, 0x0a, 0x88, 0xb5][..],
        &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x88, 0xb5],
        &[0x88, 0xb5],
    ] {
        let mut frame = vec![0xff_u8; 6];
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame.extend_from_slice(head);
        frame.extend_from_slice(&[0x55; 60]);
        a.send(&frame)?;
        let seen = b.find(Duration::from_secs(1), |f| f.bytes == frame)?;
        check(seen.is_some(), format!("a frame with the head {head:x?} did not arrive unchanged"))?;
    }
    Ok(())
}

/// Some pings with the link up, and some with it down.
const SOME: Duration = Duration::from_millis(150);

fn a_lost_ping_is_counted() -> Outcome {
    let switch = Switch::new()?;
    let (mut one, mut two) = (Node::new("one")?, Node::new("two")?);
    one.connect(&switch, "eth1", 1500)?;
    two.connect(&switch, "eth1", 1500)?;
    one.ip("addr add 192.0.2.1/24 dev eth1")?;
    two.ip("addr add 192.0.2.2/24 dev eth1")?;
    let ping = Ping::new(ip("192.0.2.2"))
        .repeated(50, Duration::from_millis(10))
        .timeout(Duration::from_millis(200));
    let report = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| ping.run(&one));
        std::thread::sleep(SOME);
        two.ip("link set eth1 down")?;
        std::thread::sleep(SOME);
        two.ip("link set eth1 up")?;
        pinging.join().unwrap()
    })?;
    check((5..30).contains(&report.lost()), format!("about 15 should be lost: {report}"))
}

fn daemons_end_with_their_node() -> Outcome {
    let node = Node::new("one")?;
    let talker = node.spawn_daemon(&["sh", "-c", "echo started; exec sleep 1000"])?;
    eventually(Duration::from_secs(2), || match talker.log().as_str() {
        "started\n" => Ok(()),
        other => Err(format!("the log is {other:?}")),
    })?;
    let status = talker.terminate()?;
    check(std::os::unix::process::ExitStatusExt::signal(&status) == Some(15), format!("{status}"))?;
    let mut sleeper = node.spawn_daemon(&["sleep", "1000"])?;
    drop(node);
    sleeper.wait(Duration::from_secs(1))?;
    Ok(())
}

fn a_guest_runs_on_a_tap() -> Outcome {
    Guest::needs()?;
    let node = Node::with_host_devices("one")?;
    node.ip("link add va address 02:00:00:00:00:07 type veth peer name vb")?;
    node.ip("addr add 192.0.2.1/24 dev vb")?;
    node.ip("link set va up")?;
    node.ip("link set vb up")?;
    // An index that only this test uses: the machine has one devtmpfs.
    node.ip("link add link va name net1 index 1999999001 type macvtap mode passthru")?;
    node.ip("link set net1 up")?;
    let tap = "/dev/tap1999999001";
    node.exec(&["chown", "107:107", tap])?;
    let guest = Guest {
        tap,
        mac: "02:00:00:00:00:07",
        mtu: 1500,
        script: "ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0; ping -c 3 -i 0.2 192.0.2.1 && echo reached",
        programs: &[],
        qemu: &[],
    };
    let mut vm = guest.boot(&node)?;
    // Emulated: five seconds, many more on a machine that is busy.
    vm.wait(Duration::from_secs(240))?;
    check(vm.log().contains("reached"), vm.log())
}
