//! `k8slan-device-plugin capture`: the frames of pods, as a pcap file.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::io::Read as _;
use std::net::Ipv4Addr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use k8slan_tests::pcap::{Pcap, read};
use k8slan_tests::{LanFile, Worker, joined, on_spoke};
use serde_json::json;
use testnet::{Namespaces, Node, Outcome, PacketSocket, Ping, Stop, Switch, eventually, program, stays};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        a_ping_is_seen_both_ways,
        a_tag_stands_where_it_was,
        it_ends_with_its_reader,
        it_ends_with_its_input,
        it_ends_with_the_pod_and_with_the_time,
        a_port_of_the_nodes_own_bridge_and_a_link_of_the_node,
        a_pod_that_is_not_here_is_told,
    ]
}

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

fn capture(worker: &Namespaces, arguments: &[&str]) -> Command {
    let mut command = worker.command(program("k8slan-device-plugin"));
    command.arg("capture").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts one, and waits until it captures: the file's head says so.
fn started(mut command: Command) -> Result<(Child, Vec<u8>), Stop> {
    let mut child = command.spawn()?;
    let mut head = [0; 24];
    if child.stdout.as_mut().unwrap().read_exact(&mut head).is_err() {
        let output = child.wait_with_output()?;
        return Err(Stop::Failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok((child, head.to_vec()))
}

/// All that it wrote after the head, and what it said.
fn finished((child, mut file): (Child, Vec<u8>)) -> Result<(Pcap, String, ExitStatus), Stop> {
    let output = child.wait_with_output()?;
    file.extend(output.stdout);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((read(&file).map_err(Stop::Failed)?, said, output.status))
}

fn ends(child: &mut Child) -> Result<ExitStatus, Stop> {
    Ok(eventually(Duration::from_secs(10), || {
        child.try_wait().unwrap().ok_or_else(|| "it goes on".to_owned())
    })?)
}

fn worker() -> Result<(Switch, Worker, LanFile), Stop> {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    let lan = LanFile::new("lan1", 222, &["pod1", "pod2"]);
    worker.put(&lan)?;
    Ok((switch, worker, lan))
}

fn a_ping_is_seen_both_ways() -> Outcome {
    let (_switch, worker, _) = worker()?;
    let (one, _two) = (joined(&worker, "pod1", "10.0.0.1/24")?, joined(&worker, "pod2", "10.0.0.2/24")?);
    for pod in ["default/pod1", "default/pod1/net1", "default/pod2"] {
        let running = started(capture(&worker, &[pod, "--until-input-ends", "--seconds=30"]).stdin_open())?;
        Ping::new(PEER).on("net1").repeated(3, Duration::from_millis(20)).run(&one)?.perfect().unwrap();
        let (pcap, said, status) = finished(close_input(running))?;
        assert!(status.success(), "{said}");
        let pings = pcap.icmp();
        let (there, back) = (vec![(OWN, PEER, 8); 3], vec![(PEER, OWN, 0); 3]);
        let of_kind = |kind: u8| pings.iter().filter(|ping| ping.2 == kind).copied().collect::<Vec<_>>();
        assert_eq!((of_kind(8), of_kind(0)), (there, back), "{said}");
        let (first, last) = (pcap.frames[0].time, pcap.frames.last().unwrap().time);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(first < last && last < now && now - first < Duration::from_secs(60), "{first:?} {last:?}");
        assert!(said.contains("frames, 0 lost") && said.contains(" in /run/netns/"), "{said}");
    }
    Ok(())
}

/// The kernel takes tags off and tells them beside the frame.
/// Frames are written by then: nothing says so outside of the file, which is read at its end.
const WRITTEN: Duration = Duration::from_millis(200);

fn a_tag_stands_where_it_was() -> Outcome {
    let (_switch, worker, _) = worker()?;
    let one = joined(&worker, "pod1", "10.0.0.1/24")?;
    let socket = PacketSocket::open(&one, "net1")?;
    let frame = |tag: &[u8]| [&[0xff; 6][..], &[2, 9, 9, 9, 9, 9], tag, &[0x88, 0xb5], &[0x55; 50]].concat();
    let frames = [frame(&[0x81, 0, 0x60, 20]), frame(&[]), frame(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9])];
    let running = started(capture(&worker, &["default/pod1", "--until-input-ends"]).stdin_open())?;
    for frame in &frames {
        socket.send(frame)?;
    }
    std::thread::sleep(WRITTEN);
    let (pcap, said, _) = finished(close_input(running))?;
    let seen: Vec<_> = pcap.frames.iter().filter(|seen| seen.bytes.ends_with(&[0x55; 50])).collect();
    assert_eq!(
        seen.iter().map(|seen| &seen.bytes).collect::<Vec<_>>(),
        frames.iter().collect::<Vec<_>>(),
        "{said}"
    );
    assert!(seen.iter().all(|seen| seen.length == seen.bytes.len()));
    Ok(())
}

fn it_ends_with_its_reader() -> Outcome {
    let (_switch, worker, _) = worker()?;
    let _one = joined(&worker, "pod1", "10.0.0.1/24")?;
    let (mut child, _) = started(capture(&worker, &["default/pod1"]))?;
    // No frame need come for it to be noticed.
    drop(child.stdout.take());
    assert!(ends(&mut child)?.success());
    Ok(())
}

/// One that ends with an open input does so at its start.
const ENDED: Duration = Duration::from_millis(300);

fn goes_on(child: &mut Child) -> Result<(), testnet::Error> {
    stays(ENDED, || match child.try_wait() {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

fn it_ends_with_its_input() -> Outcome {
    let (_switch, worker, _) = worker()?;
    let _one = joined(&worker, "pod1", "10.0.0.1/24")?;
    let (mut child, _) = started(capture(&worker, &["default/pod1", "--until-input-ends"]).stdin_open())?;
    goes_on(&mut child)?;
    drop(child.stdin.take());
    assert!(ends(&mut child)?.success());
    // An input that never was there is no reason to end, where nobody says so.
    let (mut child, _) = started(capture(&worker, &["default/pod1"]))?;
    goes_on(&mut child)?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn it_ends_with_the_pod_and_with_the_time() -> Outcome {
    let (_switch, worker, _) = worker()?;
    let one = joined(&worker, "pod1", "10.0.0.1/24")?;
    let start = Instant::now();
    let (pcap, said, status) = finished(started(capture(&worker, &["default/pod1", "--seconds=1"]))?)?;
    assert!(status.success() && start.elapsed() < Duration::from_secs(8), "{said} {}", pcap.frames.len());
    let (mut child, _) = started(capture(&worker, &["default/pod1"]))?;
    one.del("macvtap", "net1", &on_spoke("pod1"))?;
    one.remove()?;
    assert!(!ends(&mut child)?.success());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said)?;
    assert!(said.contains("Network is down"), "{said}");
    let _two = joined(&worker, "pod2", "10.0.0.2/24")?;
    let running = started(capture(&worker, &["default/pod2", "--count=2", "--seconds=30"]))?;
    let _one = joined(&worker, "pod1", "10.0.0.1/24")?;
    Ping::new(PEER).on("net1").run(&_one)?.perfect().map_err(Stop::Failed)?;
    assert_eq!(finished(running)?.0.frames.len(), 2);
    Ok(())
}

fn a_port_of_the_nodes_own_bridge_and_a_link_of_the_node() -> Outcome {
    let switch = Switch::new()?;
    let mut worker = Node::new("worker1")?;
    worker.connect(&switch, "eth1", 1500)?;
    worker.connect(&switch, "eth2", 1500)?;
    for line in ["link add br0 type bridge", "link set br0 up", "link set eth2 master br0"] {
        worker.ip(line)?;
    }
    let (flat, bridged) = (worker.pod("flat")?, worker.pod("bridged")?);
    let config = |name: &str, kind: &str, key: &str, value: &str| json!({ "cniVersion": "1.1.0", "name": name, "type": kind, key: value });
    flat.add("macvtap", "net1", &config("f", "macvtap", "master", "eth1"))?;
    bridged.add("vlan-bridge", "net2", &config("b", "vlan-bridge", "bridge", "br0"))?;
    flat.ip("addr add 10.0.0.1/24 dev net1")?;
    bridged.ip("addr add 10.0.0.2/24 dev net2")?;
    for pod in ["default/flat/net1", "default/bridged/net2"] {
        let running = started(capture(&worker, &[pod, "--until-input-ends"]).stdin_open())?;
        Ping::new(PEER).on("net1").run(&flat)?.perfect().map_err(Stop::Failed)?;
        let (pcap, said, _) = finished(close_input(running))?;
        assert_eq!(pcap.icmp(), [(OWN, PEER, 8), (PEER, OWN, 0)], "{pod}: {said}");
    }
    Ok(())
}

fn a_pod_that_is_not_here_is_told() -> Outcome {
    let (_switch, worker, _) = worker()?;
    let _one = joined(&worker, "pod1", "10.0.0.1/24")?;
    let refused = |pod: &str| match started(capture(&worker, &[pod])) {
        Err(Stop::Failed(said)) => said,
        other => panic!("{other:?}"),
    };
    assert!(refused("default/pod2").contains("pod default/pod2 has no interface of k8slan's on worker1"));
    assert!(refused("shop/pod1").contains("no interface"), "a pod of another namespace");
    assert!(refused("default/pod1/net7").contains("it has net1"));
    assert!(refused("pod1").contains("not <namespace>/<pod>"));
    Ok(())
}

fn close_input((mut child, head): (Child, Vec<u8>)) -> (Child, Vec<u8>) {
    drop(child.stdin.take());
    (child, head)
}

trait StdinOpen {
    /// The same with an input that ends when the caller says so.
    fn stdin_open(self) -> Self;
}

impl StdinOpen for Command {
    fn stdin_open(mut self) -> Self {
        self.stdin(Stdio::piped());
        self
    }
}
