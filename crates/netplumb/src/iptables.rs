//! The tables of the legacy iptables (`ip_tables`, `ip6_tables`), as far as STATUS reads them.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use net_types::IfName;
use nix::errno::Errno;

use crate::attrs::{u16_at, u32_at};
use crate::{Dropped, DroppingChain, Error, Result};

/// `IPT_SO_GET_INFO`; `IP6T_SO_GET_INFO` has the same number.
const GET_INFO: i32 = 64;
/// `IPT_SO_GET_ENTRIES`; `IP6T_SO_GET_ENTRIES` has the same number.
const GET_ENTRIES: i32 = 65;
/// The hook `NF_INET_FORWARD`, an index into the entry offsets.
const FORWARD: usize = 2;
/// `struct ipt_getinfo`: name (32), valid hooks, entry per hook, underflow per hook, number of entries, size.
const INFO: usize = 84;
/// `struct ipt_get_entries`: name (32), size, padding.
const ENTRIES: usize = 40;
/// The verdict of a policy of DROP, `-NF_DROP - 1`.
const DROP: u32 = (-1_i32).cast_unsigned();

/// The offsets of fields in `struct ipt_entry` and `struct ip6t_entry`.
struct Layout {
    family: i32,
    level: i32,
    names: &'static str,
    shown: &'static str,
    what: Dropped,
    in_link: usize,
    out_link: usize,
    target_offset: usize,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        family: libc::AF_INET,
        level: libc::IPPROTO_IP,
        names: "/proc/net/ip_tables_names",
        shown: "iptables FORWARD",
        what: Dropped::V4,
        in_link: 16,
        out_link: 32,
        target_offset: 88,
    },
    Layout {
        family: libc::AF_INET6,
        level: libc::IPPROTO_IPV6,
        names: "/proc/net/ip6_tables_names",
        shown: "ip6tables FORWARD",
        what: Dropped::V6,
        in_link: 64,
        out_link: 80,
        target_offset: 140,
    },
];

/// Like [`crate::Nftables::chains_that_drop`], for legacy iptables, in the process's own namespace. It does not
/// create a missing table.
///
/// # Errors
/// The kernel refuses to show a table that it lists.
pub fn legacy_chains_that_drop(bridge: &IfName) -> Result<Vec<DroppingChain>> {
    let mut dropping = Vec::new();
    for layout in &LAYOUTS {
        // The kernel would create a missing table if asked for it.
        let tables = fs::read_to_string(layout.names).unwrap_or_default();
        if !tables.lines().any(|table| table == "filter") {
            continue;
        }
        let failed = |errno| Error::system("read", layout.shown, errno);
        let socket = open_socket(layout.family).map_err(failed)?;
        let info = get(&socket, layout.level, GET_INFO, request(INFO, 0)).map_err(failed)?;
        let number = |at| u32_at(&info, at).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let (first, last, size) = (number(36 + 4 * FORWARD), number(56 + 4 * FORWARD), number(80));
        let all = get(&socket, layout.level, GET_ENTRIES, request(ENTRIES + size, size)).map_err(failed)?;
        if drops(all.get(ENTRIES..).unwrap_or_default(), layout, first, last, bridge.as_str()) {
            dropping.push(DroppingChain { name: layout.shown.to_owned(), what: layout.what });
        }
    }
    Ok(dropping)
}

fn open_socket(family: i32) -> nix::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    #[expect(unsafe_code, reason = "as for every socket here")]
    // SAFETY: socket takes numbers only, and the descriptor was made just now for us alone.
    unsafe {
        let fd = Errno::result(libc::socket(family, kind, libc::IPPROTO_RAW))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A request about table `filter`.
fn request(length: usize, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..6].copy_from_slice(b"filter");
    if size > 0 {
        bytes[32..36].copy_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_ne_bytes());
    }
    bytes
}

fn get(socket: &OwnedFd, level: i32, option: i32, mut bytes: Vec<u8>) -> nix::Result<Vec<u8>> {
    let mut length = libc::socklen_t::try_from(bytes.len()).map_err(|_| Errno::EOVERFLOW)?;
    #[expect(unsafe_code, reason = "nix has no type for these options")]
    // SAFETY: the kernel writes at most `length` bytes, which `bytes` has.
    let code = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, bytes.as_mut_ptr().cast(), &raw mut length)
    };
    Errno::result(code)?;
    Ok(bytes)
}

/// Whether the chain from `first` to its policy at `last` drops what no rule accepts, and no rule names the link.
fn drops(entries: &[u8], layout: &Layout, first: usize, last: usize, link: &str) -> bool {
    let offset = |entry: usize, at| u16_at(entries, entry + at).map(usize::from);
    // struct xt_standard_target: size, name, revision (32 bytes), verdict.
    let verdict = offset(last, layout.target_offset).and_then(|target| u32_at(entries, last + target + 32));
    if verdict != Some(DROP) {
        return false;
    }
    let mut entry = first;
    while entry < last {
        let names = |at: usize| {
            let name = entries.get(entry + at..entry + at + 16).unwrap_or_default();
            name.split(|&byte| byte == 0).next() == Some(link.as_bytes())
        };
        if names(layout.in_link) || names(layout.out_link) {
            return false;
        }
        match offset(entry, layout.target_offset + 2) {
            Some(length @ 1..) => entry += length,
            _ => break,
        }
    }
    true
}
