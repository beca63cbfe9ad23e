//! Hears multicast groups, and asks others whether they do: `groups hear LINK GROUP…`, `groups ask LINK GROUP…`.

use std::io::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

const PORT: u16 = 5007;
const TRIES: usize = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [verb, link, groups @ ..] if verb == "hear" => hear(link, groups),
        [verb, link, groups @ ..] if verb == "ask" => ask(link, groups),
        _ => Err(Error::other("groups hear|ask LINK GROUP...")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("groups: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(group: &str) -> Result<IpAddr> {
    group.parse().map_err(|_| Error::other(format!("{group} is no address")))
}

/// Joins the groups and answers, for ever, from an address of its own. A socket that is bound to a group gets what was
/// sent to that group alone.
fn hear(link: &str, groups: &[String]) -> Result<()> {
    let index = nix::net::if_::if_nametoindex(link)?;
    let mut threads = Vec::new();
    for group in groups {
        let socket = match parse(group)? {
            IpAddr::V4(group) => {
                let socket = UdpSocket::bind((group, PORT))?;
                socket.join_multicast_v4(&group, &own_address(link)?)?;
                socket
            }
            IpAddr::V6(group) => {
                let socket = UdpSocket::bind(SocketAddrV6::new(group, PORT, 0, index))?;
                socket.join_multicast_v6(&group, index)?;
                socket
            }
        };
        threads.push(thread::spawn(move || -> Result<()> {
            let mut text = [0; 100];
            loop {
                let (length, from) = socket.recv_from(&mut text)?;
                // Early on it has no address that is not still looked for; who asks does so again.
                let _ = unbound(from.ip(), Ipv4Addr::UNSPECIFIED)?.send_to(&text[..length], from);
            }
        }));
    }
    println!("joined");
    threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(Error::other("a panic"))))
}

/// Says `<group> answers` of each that does.
fn ask(link: &str, groups: &[String]) -> Result<()> {
    let index = nix::net::if_::if_nametoindex(link)?;
    for group in groups {
        let to = parse(group)?;
        let socket = unbound(to, own_address(link)?)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let target: SocketAddr = match to {
            IpAddr::V4(_) => (to, PORT).into(),
            IpAddr::V6(to) => SocketAddrV6::new(to, PORT, 0, index).into(),
        };
        for _ in 0..TRIES {
            socket.send_to(group.as_bytes(), target)?;
            let mut text = [0; 100];
            if socket.recv_from(&mut text).is_ok_and(|(length, _)| &text[..length] == group.as_bytes()) {
                println!("{group} answers");
                break;
            }
        }
    }
    Ok(())
}

fn unbound(peer: IpAddr, own: Ipv4Addr) -> Result<UdpSocket> {
    match peer {
        // A group is asked through the link that has this address.
        IpAddr::V4(_) => UdpSocket::bind((own, 0)),
        IpAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

fn own_address(link: &str) -> Result<Ipv4Addr> {
    let all = nix::ifaddrs::getifaddrs()?;
    let of_link = all.filter(|entry| entry.interface_name == link);
    let mut v4 = of_link.filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()));
    v4.next().ok_or_else(|| Error::other(format!("{link} has no IPv4 address")))
}
