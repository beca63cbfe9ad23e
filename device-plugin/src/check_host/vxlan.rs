//! Who else has the LANs' UDP port.

use std::fs;

use netplumb::LinkKind;

use super::finding::Finding;
use super::scene::Scene;

/// VXLAN devices of others, and programs, on the port.
pub(super) fn check(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for port in scene.ports() {
        let check = format!("UDP port {port}");
        let before = findings.len();
        for link in &scene.links {
            let LinkKind::Vxlan(vxlan) = &link.kind else { continue };
            if vxlan.port != port {
                continue;
            }
            if vxlan.collect_metadata {
                let found = format!(
                    "VXLAN device {} takes packets of every VNI on it (collect metadata, as Open vSwitch and Cilium use it)",
                    link.name
                );
                let advice = "no other VXLAN device can share that port (EADDRINUSE): give the LANs another one \
                              (vxlanPort), the same on every node";
                findings.push(Finding::failure(check.clone(), found, advice));
                continue;
            }
            let same = scene.lans.iter().find(|lan| lan.port.get() == port && lan.vni.get() == vxlan.vni);
            if let Some(lan) = same {
                let found = format!(
                    "VXLAN device {} has VNI {} on it, which LAN {} wants",
                    link.name, vxlan.vni, lan.key
                );
                findings.push(Finding::failure(check.clone(), found, "give the LAN another VNI or port"));
            }
        }
        for table in ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"] {
            let Ok(text) = fs::read_to_string(table) else { continue };
            if has_program(&text, port) {
                let found = format!("a program listens on it ({table})");
                let advice =
                    format!("end it (ss -ulnp sport = :{port} names it), or give the LANs another port");
                findings.push(Finding::failure(check.clone(), found, advice));
                break;
            }
        }
        if findings.len() == before {
            findings.push(Finding::fine(check, "nothing is in the way of VXLAN on it"));
        }
    }
    findings
}

/// Whether a program has a socket on that port, by the text of `/proc/net/udp`. The kernel's own sockets, those of
/// VXLAN devices, have no inode.
fn has_program(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let of_port = words
            .get(1)
            .and_then(|local| local.rsplit_once(':'))
            .is_some_and(|(_, number)| u16::from_str_radix(number, 16) == Ok(port));
        of_port && words.get(9).is_some_and(|inode| *inode != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  123: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000000000000000 0
  124: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0
";

    #[test]
    fn a_programs_socket_has_an_inode() {
        assert!(!has_program(TABLE, 4789), "the kernel's own");
        assert!(has_program(TABLE, 53));
        assert!(!has_program(TABLE, 54));
    }
}
