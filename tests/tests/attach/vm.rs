//! A real virtual machine on a spoke: QEMU on `/dev/tapN`, with a pod on another node.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8slan_tests::{LanFile, TaggedHost, Worker, joined, on_spoke};
use testnet::{Guest, Namespaces, Outcome, PacketSocket, Ping, Stop, Switch, eventually};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![a_vm_talks_to_a_pod_on_another_node]
}

/// Untagged, with the largest packets, tagged, then as a server that sends eight megabytes.
const SCRIPT: &str = "
ip link set eth0 up
ip addr add 10.0.0.1/24 dev eth0
ip link add link eth0 name eth0.10 type vlan id 10 || vconfig add eth0 10
ip link set eth0.10 up
ip addr add 10.10.0.1/24 dev eth0.10
echo mtu $(cat /sys/class/net/eth0/mtu)
ping -c 5 -i 0.2 -W 5 10.0.0.2 && echo untagged-ok
ping -c 3 -i 0.2 -W 5 -s 1398 10.0.0.2 && echo largest-ok
ping -c 5 -i 0.2 -W 5 10.10.0.2 && echo tagged-ok
ping -c 3 -i 0.2 -W 5 -s 1398 10.10.0.2 && echo largest-tagged-ok
echo listening
dd if=/dev/zero bs=1M count=8 2>/dev/null | nc -l -p 7777
";

fn a_vm_talks_to_a_pod_on_another_node() -> Outcome {
    Guest::needs()?;
    let switch = Switch::new()?;
    let (one, two) = (Worker::new("worker1", &switch, 1500)?, Worker::new("worker2", &switch, 1500)?);
    let lan = LanFile::new("lan1", 7, &["vm", "pod"]);
    one.put(&lan)?;
    two.put(&lan)?;
    let pod = joined(&two, "pod", "10.0.0.2/24")?;
    let host = TaggedHost {
        socket: PacketSocket::open(&pod, "net1")?,
        mac: mac_of(&pod),
        address: Ipv4Addr::new(10, 10, 0, 2),
        vlan: 10,
    };

    // As KubeVirt does: the pod of the VM has a network interface of its own name, and QEMU gets what the link says.
    one.ready("vm")?;
    let launcher = one.pod("virt-launcher-testvm-1-abcde")?;
    launcher.add("macvtap", "pod37a8eec1ce1", &on_spoke("vm"))?;
    let link = launcher.link("pod37a8eec1ce1")?.unwrap();
    let (mac, tap) = (link["address"].as_str().unwrap(), format!("/dev/tap{}", link["ifindex"]));
    let guest = Guest {
        tap: &tap,
        mac,
        mtu: link["mtu"].as_u64().unwrap(),
        script: SCRIPT,
        programs: &[],
        qemu: &[],
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Outcome {
        let tagged = scope.spawn(|| host.serve(&stop));
        let result = run(&guest, &launcher, &pod);
        stop.store(true, Ordering::Relaxed);
        let echoes = tagged.join().unwrap()?;
        result?;
        assert!(echoes >= 8, "{echoes} tagged echo requests reached the pod");
        Ok(())
    })
}

fn run(guest: &Guest<'_>, launcher: &Namespaces, pod: &Namespaces) -> Outcome {
    let mut vm = guest.boot(launcher)?;
    eventually(Duration::from_secs(90), || match vm.log().contains("listening") {
        true => Ok(()),
        false => Err(format!("the guest listens: {}", vm.log())),
    })?;
    let log = vm.log();
    for word in ["mtu 1426", "untagged-ok", "largest-ok", "tagged-ok", "largest-tagged-ok"] {
        assert!(log.lines().any(|line| line.trim_end() == word), "no {word:?}: {log}");
    }
    // And from the pod to the VM: an echo, then a stream with whatever offloads the two ends agree on.
    let to: IpAddr = "10.0.0.1".parse().unwrap();
    Ping::new(to).repeated(5, Duration::from_millis(20)).run(pod)?.perfect().map_err(Stop::Failed)?;
    let received = pod.run(|| -> std::io::Result<usize> {
        let mut stream = TcpStream::connect_timeout(&(to, 7777).into(), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)
    })?;
    assert_eq!(received, 8 << 20);
    vm.wait(Duration::from_secs(20))?;
    Ok(())
}

fn mac_of(pod: &Namespaces) -> [u8; 6] {
    let link = pod.link("net1").unwrap().unwrap();
    let bytes =
        link["address"].as_str().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    bytes.collect::<Vec<_>>().try_into().unwrap()
}
