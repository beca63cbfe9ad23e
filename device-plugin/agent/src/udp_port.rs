//! Finds which programs have a UDP port.
//!
//! Sockets of the kernel's own, such as those of VXLAN devices, look the same in `/proc/net/udp`, even their inodes
//! (Linux 6.1, 6.18). A program's socket is one that a process has open.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use net_types::UdpPort;
use netplumb::{Link, LinkKind};

/// What keeps VXLAN from using a port (EADDRINUSE).
pub struct PortHolder {
    /// The program or device, in a clause: "nginx (process 7) has it".
    pub who: String,
    pub advice: String,
}

/// Finds what has a port that the kernel refused to VXLAN, from the node's links and from `/proc`.
pub fn find_port_holder(port: UdpPort, v6: bool, links: &[Link]) -> PortHolder {
    let other = "give the LANs another port (vxlanPort), the same on every node";
    let programs: Vec<String> = programs_on_port(port.get(), v6).iter().map(ToString::to_string).collect();
    if !programs.is_empty() {
        return PortHolder {
            who: format!("{} has it", programs.join(", ")),
            advice: format!("end it, or {other}"),
        };
    }
    let device = links
        .iter()
        .find(|link| matches!(&link.kind, LinkKind::Vxlan(vxlan) if vxlan.port == port.get() && link.up));
    let who = match device {
        Some(device) => format!("VXLAN device {} has it, with other options than a LAN's", device.name),
        None => {
            let who = "a program that is not seen from here has it, or a tunnel device with other options than a \
                       LAN's (collect metadata, GBP, GPE)";
            who.to_owned()
        }
    };
    let look = format!(
        "ss -ulnp sport = :{port} and ip -d link show type vxlan, in every network namespace, name it; or {other}"
    );
    PortHolder { who, advice: look }
}

/// A program with a socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Program {
    /// The ID of its process.
    pid: u32,
    /// Its name as `ps` shows it.
    name: String,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// The programs with a socket on this port in the thread's network namespace. A wildcard socket of IPv6 usually takes
/// the port from IPv4 as well, so both families are searched for IPv4.
///
/// Only programs that this process sees in `/proc` are found: in a container that is not all of the node's.
fn programs_on_port(port: u16, v6: bool) -> Vec<Program> {
    let tables: &[&str] = if v6 { &["udp6"] } else { &["udp", "udp6"] };
    let mut inodes = BTreeSet::new();
    for table in tables {
        let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(table)).unwrap_or_default();
        inodes.extend(sockets(&text, port));
    }
    if inodes.is_empty() { Vec::new() } else { find_programs(&inodes) }
}

/// The inodes of the sockets on that port, from the text of `/proc/net/udp`.
fn sockets(table: &str, port: u16) -> impl Iterator<Item = u64> {
    table.lines().skip(1).filter_map(move |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, number) = words.get(1)?.rsplit_once(':')?;
        (u16::from_str_radix(number, 16) == Ok(port)).then(|| words.get(9)?.parse().ok())?
    })
}

/// The processes that have one of these sockets open. Processes that end meanwhile are skipped.
fn find_programs(inodes: &BTreeSet<u64>) -> Vec<Program> {
    let mut programs = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let has_one = |link: &Path| socket(link).is_some_and(|inode| inodes.contains(&inode));
        if open.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| has_one(&link)) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            programs.push(Program { pid, name: name.trim_end().to_owned() });
        }
    }
    programs.sort();
    programs
}

/// The inode of a socket, from the target of the link `/proc/PID/fd/N`.
fn socket(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  123: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 45466 2 0000000000000000 0
  124: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0
  125: 0200007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0
";

    #[test]
    fn sockets_are_found_by_their_port() {
        let of = |port| sockets(TABLE, port).collect::<Vec<_>>();
        assert_eq!((of(4789), of(53), of(54)), (vec![45466], vec![4711, 4712], vec![]));
        assert_eq!(sockets("", 53).count() + sockets("head\n 1: x\n 2:\n\n", 53).count(), 0);
        assert_eq!(socket(Path::new("socket:[4711]")), Some(4711));
        assert_eq!((socket(Path::new("/dev/null")), socket(Path::new("pipe:[4711]"))), (None, None));
    }

    #[test]
    fn a_program_is_named_for_as_long_as_it_has_the_port() {
        for (address, v6) in [("127.0.0.1:0", false), ("[::1]:0", true)] {
            let socket = std::net::UdpSocket::bind(address).unwrap();
            let port = socket.local_addr().unwrap().port();
            let own = |program: &Program| program.pid == std::process::id() && !program.name.is_empty();
            assert!(programs_on_port(port, v6).iter().any(own), "{address}");
            drop(socket);
            assert!(!programs_on_port(port, v6).iter().any(own), "{address}");
        }
    }
}
