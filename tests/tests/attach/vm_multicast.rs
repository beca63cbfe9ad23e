//! Virtual machines hear the multicast that they ask for, on every kind of macvtap: neighbours over IPv6, the groups
//! of routers and of DHCP servers, VRRP between two of them, and all that after a live migration, too.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use k8slan_tests::{LanFile, Worker, joined, on_spoke};
use serde_json::{Value, json};
use testnet::{
    Daemon, Guest, Namespaces, Node, Outcome, PacketSocket, Pod, Stop, Switch, eventually, needs, workspace,
};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        two_router_vms_hear_each_other,
        every_kind_of_macvtap_takes_the_groups_of_its_guest,
        a_migrated_vm_still_hears_its_groups,
    ]
}

/// As KubeVirt calls the interface of a guest.
const IFNAME: &str = "pod37a8eec1ce1";

/// Groups that a router VM or a server joins, and what they are for.
const GROUPS: &[(&str, &str)] = &[
    ("239.1.1.1", "an application"),
    ("224.0.0.5", "OSPF"),
    ("224.0.0.251", "mDNS"),
    ("ff02::5", "OSPFv3"),
    ("ff02::1:2", "DHCPv6"),
    ("ff05::1:3", "DHCPv6 servers of the site"),
];

/// Joins groups, or asks whether somebody did.
const TOOL: &str = env!("CARGO_BIN_EXE_groups");

/// It speaks VRRP; `make test` unpacks it.
fn keepalived() -> String {
    workspace().join("target/keepalived/usr/sbin/keepalived").display().to_string()
}

fn tools() -> Outcome {
    Guest::needs()?;
    needs(&keepalived())?;
    Ok(())
}

/// What every guest begins with: an address of each family.
fn start(number: u8) -> String {
    format!(
        "mkdir -p /run /tmp /etc\nip link set lo up\nip link set eth0 up\nip addr add 10.0.0.{number}/24 dev eth0\n\
         ip addr add fd00::{number}/64 dev eth0\nip route add default dev eth0\n"
    )
}

/// A command of [`TOOL`] for all groups on a link.
fn groups(verb: &str, link: &str) -> String {
    let groups: Vec<_> = GROUPS.iter().map(|(group, _)| *group).collect();
    format!("{TOOL} {verb} {link} {}", groups.join(" "))
}

/// keepalived on virtual router 51, whose MAC address is 00:00:5e:00:01:33, for 10.0.0.100.
fn vrrp(state: &str, priority: u8) -> String {
    let config = format!(
        "vrrp_instance v {{\nstate {state}\ninterface eth0\nuse_vmac vrrp51\nvirtual_router_id 51\npriority {priority}\n\
         advert_int 1\nvirtual_ipaddress {{\n10.0.0.100/24\n}}\n}}\n"
    );
    format!(
        "mkdir -p /etc/keepalived /var/run\ncat > /etc/keepalived/keepalived.conf <<'END'\n{config}END\n\
         {} -n -l -D -P &\n",
        keepalived()
    )
}

struct Launcher<'a> {
    pod: Pod<'a>,
    mac: String,
    mtu: u64,
    tap: String,
}

impl<'a> Launcher<'a> {
    fn attach(pod: Pod<'a>, config: &Value) -> Result<Self, Stop> {
        pod.add("macvtap", IFNAME, config)?;
        let link = pod.link(IFNAME)?.unwrap();
        let (mac, mtu) = (link["address"].as_str().unwrap().to_owned(), link["mtu"].as_u64().unwrap());
        Ok(Self { pod, mac, mtu, tap: format!("/dev/tap{}", link["ifindex"]) })
    }

    fn boot(&self, mac: &str, script: &str, qemu: &[&str]) -> Result<Daemon, Stop> {
        let programs = &[TOOL, &keepalived()];
        let guest = Guest { tap: &self.tap, mac, mtu: self.mtu, script, programs, qemu };
        Ok(guest.boot(&self.pod)?)
    }
}

fn says(vm: &Daemon, words: &str) -> Outcome {
    Ok(eventually(Duration::from_secs(120), || {
        let log = vm.log();
        match log.lines().any(|line| line.contains(words)) {
            true => Ok(()),
            false => Err(format!("the guest says {words:?}: {log}")),
        }
    })?)
}

fn all_groups_answer(log: &str) {
    for (group, of) in GROUPS {
        let answers = format!("{group} answers");
        assert!(log.lines().any(|line| line.trim_end() == answers), "no {group} ({of}): {log}");
    }
}

/// One has 10.0.0.100 while it lives; the other stays silent as long as it hears it, then takes over.
fn two_router_vms_hear_each_other() -> Outcome {
    tools()?;
    let switch = Switch::new()?;
    let workers = (Worker::new("worker1", &switch, 1500)?, Worker::new("worker2", &switch, 1500)?);
    let lan = LanFile::new("lan1", 7, &["one", "two"]);
    workers.0.put(&lan)?;
    workers.1.put(&lan)?;
    workers.0.ready("one")?;
    workers.1.ready("two")?;
    let one = Launcher::attach(workers.0.pod("virt-launcher-one-abcde")?, &on_spoke("one"))?;
    let two = Launcher::attach(workers.1.pod("virt-launcher-two-abcde")?, &on_spoke("two"))?;
    let first = format!(
        "{}{}until ping -c 1 -W 1 10.0.0.2 >/dev/null; do sleep 1; done\nping6 -c 5 -W 2 fd00::2 && echo v6-ok\n{}\n\
         {}ip addr\necho first-done\nsleep 300",
        start(1),
        vrrp("MASTER", 150),
        groups("ask", "eth0"),
        "until ip addr | grep -q 10.0.0.100; do sleep 1; done\n"
    );
    // The peer's second advertisement lost would make it speak up: three are waited for (RFC 5798, 6.1).
    let second = format!(
        "{}{} &\nuntil ping -c 1 -W 1 10.0.0.1 >/dev/null; do sleep 1; done\nping6 -c 5 -W 2 fd00::1 && echo v6-ok\n\
         until ping -c 1 -W 1 10.0.0.100 >/dev/null; do sleep 1; done\n{}echo second-starts\nsleep 12\n\
         ip addr | grep -q 10.0.0.100 || echo stays-backup\n\
         ping -c 3 -W 2 10.0.0.100 && echo virtual-router-answers\n\
         ip neigh | grep 10.0.0.100\necho second-done\nsleep 300",
        start(2),
        groups("hear", "eth0"),
        vrrp("BACKUP", 100)
    );
    let first = one.boot(&one.mac, &first, &[])?;
    let second = two.boot(&two.mac, &second, &[])?;
    says(&first, "first-done")?;
    says(&second, "second-done")?;
    all_groups_answer(&first.log());
    let log = second.log();
    for words in ["v6-ok", "stays-backup", "virtual-router-answers"] {
        assert!(log.lines().any(|line| line.trim_end() == words), "no {words:?}: {log}");
    }
    assert!(first.log().lines().any(|line| line.trim_end() == "v6-ok"), "{}", first.log());
    assert!(
        log.contains("00:00:5e:00:01:33"),
        "frames to the virtual router's own MAC address arrive: {log}"
    );
    assert!(!log.contains("MASTER STATE"), "two speak for one address: {log}");
    first.kill()?;
    says(&second, "MASTER STATE")
}

/// Destinations of VRRP over IPv4 and of OSPFv3.
const OF_GROUPS: [[u8; 6]; 2] = [[1, 0, 0x5e, 0, 0, 0x12], [0x33, 0x33, 0, 0, 0, 5]];
/// The MAC address of virtual router 51.
const OF_ROUTER: [u8; 6] = [0, 0, 0x5e, 0, 1, 0x33];

/// How often the tap is looked at: it is read without waiting, so that one that gets nothing has an end.
const INTERVAL: Duration = Duration::from_millis(5);

/// Whether a frame to each of these reaches the guest on a tap.
fn reach(from: &PacketSocket, tap: &str, destinations: &[[u8; 6]]) -> Result<Vec<bool>, Stop> {
    let failed = |error: std::io::Error| Stop::Failed(format!("{tap}: {error}"));
    let mut guest = File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(tap)
        .map_err(failed)?;
    let mut answers = Vec::new();
    for (number, destination) in (1_u8..).zip(destinations) {
        let frame = [&destination[..], &[2, 0, 0, 0, 0, 9], &[0x88, 0xb5], &[number; 50]].concat();
        from.send(&frame)?;
        let end = Instant::now() + Duration::from_millis(400);
        let mut reached = false;
        while !reached && Instant::now() < end {
            let mut bytes = vec![0; 2000];
            match guest.read(&mut bytes) {
                // A header of virtio comes first.
                Ok(read) => reached = bytes[..read].windows(frame.len()).any(|window| window == frame),
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(INTERVAL),
                Err(error) => return Err(failed(error)),
            }
        }
        answers.push(reached);
    }
    Ok(answers)
}

/// What holds for a guest's link wherever it stands; `all`: whether it takes frames to other MAC addresses.
fn takes_groups(pod: &Pod<'_>, config: &Value, peer: &PacketSocket, all: bool) -> Outcome {
    let result = pod.add("macvtap", IFNAME, config)?;
    let tap = format!("/dev/tap{}", pod.link(IFNAME)?.unwrap()["ifindex"]);
    let reached = pod.run(|| reach(peer, &tap, &[OF_GROUPS[0], OF_GROUPS[1], OF_ROUTER]))?;
    assert_eq!(reached, [true, true, all], "{config}");
    pod.ip(&format!("link set {IFNAME} promisc on"))?;
    let reached = pod.run(|| reach(peer, &tap, &[OF_ROUTER]))?;
    assert_eq!(reached, [all], "promiscuous, {config}");
    pod.ip(&format!("link set {IFNAME} promisc off"))?;
    let mut checked = config.clone();
    checked["prevResult"] = result;
    let check = || pod.node().cni("macvtap", "CHECK", &pod.call(IFNAME, &checked));
    check()?;
    pod.ip(&format!("link set {IFNAME} allmulticast off"))?;
    let error = check().unwrap_err();
    assert!(error.code == 110 && error.text().contains("allmulticast"), "{error}");
    pod.del("macvtap", IFNAME, config)?;
    Ok(())
}

fn every_kind_of_macvtap_takes_the_groups_of_its_guest() -> Outcome {
    const MODES: [&str; 4] = ["passthru", "bridge", "private", "vepa"];
    let switch = Switch::new()?;
    let (mut one, mut other) = (Node::new("worker1")?, Node::new("worker2")?);
    one.connect(&switch, "eth1", 1500)?;
    one.connect(&switch, "eth2", 1500)?;
    other.connect(&switch, "eth1", 1500)?;
    other.connect(&switch, "eth2", 1500)?;
    let wire = PacketSocket::open(&other, "eth2")?;
    let (one, other) = (Worker::on(one)?, Worker::on(other)?);
    let overrides: Vec<_> = MODES.iter().map(|mode| format!("{mode}: {{mode: {mode}}}")).collect();
    let lan = LanFile::new("lan1", 7, &[&MODES[..], &["peer"]].concat())
        .with(&format!("spokeOverrides: {{{}}}", overrides.join(", ")));
    one.put(&lan)?;
    other.put(&lan)?;
    let peer = joined(&other, "peer", "10.0.0.9/24")?;
    let peer = PacketSocket::open(&peer, "net1")?;
    for mode in MODES {
        let all = mode == "passthru";
        one.ready(mode)?;
        takes_groups(&one.pod(&format!("on-spoke-{mode}"))?, &on_spoke(mode), &peer, all)?;
        let config =
            json!({ "cniVersion": "1.0.0", "name": "m", "type": "macvtap", "master": "eth2", "mode": mode });
        takes_groups(&one.pod(&format!("on-master-{mode}"))?, &config, &wire, all)?;
    }
    // One that the administrator made, and finds again as it was.
    one.ip("link add link eth2 name mine index 1999999002 type macvtap mode passthru")?;
    let config = json!({ "cniVersion": "1.0.0", "name": "m", "type": "macvtap", "deviceID": "mine" });
    takes_groups(&one.pod("moved")?, &config, &wire, true)?;
    let flags = one.link("mine")?.unwrap()["flags"].to_string();
    assert!(!flags.contains("ALLMULTI") && !flags.contains("NOARP"), "{flags}");
    // Who has a stack of its own joins its groups itself.
    let pod = one.pod("ordinary")?;
    pod.add("macvtap", "net1", &on_spoke("bridge"))?;
    let flags = pod.link("net1")?.unwrap()["flags"].to_string();
    assert!(!flags.contains("ALLMULTI"), "{flags}");
    Ok(())
}

/// QEMU's monitor and the state of a machine that leaves, where QEMU's user may write them.
const MONITOR: &str = "/tmp/move/monitor";
const STATE: &str = "/tmp/move/state";

fn monitor(place: &Namespaces, command: &str) -> Result<String, Stop> {
    let answer = place.run(|| -> std::io::Result<String> {
        let mut stream = UnixStream::connect(MONITOR)?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        stream.write_all(command.as_bytes())?;
        stream.write_all(b"\n")?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    });
    answer.map_err(|error| Stop::Failed(format!("{command}: {error}")))
}

/// As KubeVirt does it: a second launcher pod on another node, attached while the first runs, takes the guest over.
fn a_migrated_vm_still_hears_its_groups() -> Outcome {
    tools()?;
    let switch = Switch::new()?;
    let workers = (Worker::new("worker1", &switch, 1500)?, Worker::new("worker2", &switch, 1500)?);
    let lan = LanFile::new("lan1", 7, &["vm", "peer"]);
    workers.0.put(&lan)?;
    workers.1.put(&lan)?;
    let peer = joined(&workers.0, "peer", "10.0.0.9/24")?;
    peer.ip("addr add fd00::9/64 dev net1 nodad")?;
    peer.ip("route add default dev net1")?;
    workers.0.ready("vm")?;
    workers.1.ready("vm")?;
    let source = Launcher::attach(workers.0.pod("virt-launcher-vm-abcde")?, &on_spoke("vm"))?;
    let script = format!("{}{}\n", start(1), groups("hear", "eth0"));
    for worker in [&workers.0, &workers.1] {
        worker.exec(&["install", "-d", "-m", "777", "/tmp/move"])?;
    }
    let runs = source.boot(&source.mac, &script, &["-monitor", &format!("unix:{MONITOR},server,nowait")])?;
    says(&runs, "joined")?;
    let hears_all = || -> Outcome {
        let ask = groups("ask", "net1");
        let answers = peer.exec(&ask.split(' ').collect::<Vec<_>>())?;
        all_groups_answer(&answers);
        Ok(())
    };
    hears_all()?;
    let target = Launcher::attach(workers.1.pod("virt-launcher-vm-fghij")?, &on_spoke("vm"))?;
    assert_eq!(target.mac, source.mac, "a VM has one MAC address");
    monitor(&source.pod, &format!("migrate \"exec:cat > {STATE}\""))?;
    eventually(Duration::from_secs(60), || match monitor(&source.pod, "info migrate") {
        Ok(status) if status.contains("Migration status: completed") => Ok(()),
        status => Err(format!("the machine is saved: {status:?}")),
    })?;
    runs.kill()?;
    let state = source.pod.run(|| std::fs::read(STATE)).map_err(|error| Stop::Failed(error.to_string()))?;
    target.pod.run(|| std::fs::write(STATE, state)).map_err(|error| Stop::Failed(error.to_string()))?;
    source.pod.del("macvtap", IFNAME, &on_spoke("vm"))?;
    let _moved = target.boot(&source.mac, &script, &["-incoming", &format!("exec:cat {STATE}")])?;
    let reached = || peer.exec(&["/bin/busybox", "ping", "-c", "1", "-W", "1", "10.0.0.1"]).map(drop);
    eventually(Duration::from_secs(60), || reached().map_err(|error| format!("the guest goes on: {error}")))?;
    hears_all()?;
    // Neighbour discovery, with nothing known from before.
    peer.ip("neigh flush dev net1")?;
    peer.exec(&["/bin/busybox", "ping6", "-c", "3", "-W", "5", "fd00::1"])?;
    Ok(())
}
