//! The kernel that can filter VLANs: what tests of the product take for granted.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::process::ExitCode;
use std::time::Duration;

use testnet::{Node, Outcome, PacketSocket, Stop, vlan_kernel};

fn main() -> ExitCode {
    vlan_kernel::main(testnet::tests![a_bridge_filters_vlans, nodes_work_there_too])
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn a_bridge_filters_vlans() -> Outcome {
    let node = Node::new("one")?;
    node.ip("link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    for (port, end) in [("p1", "a"), ("p2", "b"), ("p3", "c")] {
        node.ip(&format!("link add {port} type veth peer name {end}"))?;
        for link in [port, end] {
            node.ip(&format!("link set dev {link} up"))?;
        }
        node.ip(&format!("link set {port} master br0"))?;
    }
    node.ip("link set br0 up")?;
    for arguments in ["vid 10 pvid untagged dev p1", "vid 10 dev p2", "vid 20 pvid untagged dev p3"] {
        let argv: Vec<&str> = "bridge vlan add".split(' ').chain(arguments.split(' ')).collect();
        node.exec(&argv)?;
    }
    let (a, b, c) =
        (PacketSocket::open(&node, "a")?, PacketSocket::open(&node, "b")?, PacketSocket::open(&node, "c")?);
    let mut untagged = vec![0xff_u8; 6];
    untagged.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    untagged.resize(60, 0x55);
    let mut tagged = untagged.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x0a]);
    a.send(&untagged)?;
    check(b.find(Duration::from_secs(1), |f| f.bytes == tagged)?.is_some(), "no tagged frame on the trunk")?;
    check(
        c.find(Duration::from_millis(100), |f| f.bytes[12..14] == [0x88, 0xb5])?.is_none(),
        "VLAN 20 saw VLAN 10",
    )
}

fn nodes_work_there_too() -> Outcome {
    let node = Node::new("one")?;
    let pod = node.pod("web")?;
    check(vlan_kernel::inside(), "not in the VLAN kernel")?;
    check(pod.link_names()?.is_empty(), "a new pod has links")?;
    // The machine's files are seen and cannot be changed.
    check(node.read("/etc/passwd")?.starts_with("root:"), "no /etc/passwd")?;
    check(std::fs::write("/usr/k8slan-was-here", "").is_err(), "the machine's files can be written")?;
    check(std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().contains('.'), "no /proc")
}
