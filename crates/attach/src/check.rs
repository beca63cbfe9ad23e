//! Steps of CHECK that are the same in every main plugin.

use cni::{AddResult, Interface};
use netplumb::{BridgePort, Conf, Link, Sysctl};

use crate::{Call, PodError, PodLink};

/// A difference that CHECK found.
#[derive(Debug, thiserror::Error)]
#[error("{what} is {found}, but {promised} was promised: delete the pod, so that it is attached anew")]
pub struct Mismatch {
    what: String,
    found: String,
    promised: String,
}

impl Mismatch {
    /// What is different, what was found and what ADD promised.
    #[must_use]
    pub fn new(what: impl Into<String>, found: impl ToString, promised: impl ToString) -> Self {
        Self { what: what.into(), found: found.to_string(), promised: promised.to_string() }
    }
}

/// Compares two values; `what` is their name in the message.
///
/// # Errors
/// They differ.
pub fn same<A: PartialEq<B> + ToString, B: ToString>(
    what: &str,
    found: A,
    promised: B,
) -> Result<(), Mismatch> {
    if found == promised { Ok(()) } else { Err(Mismatch::new(what, found, promised)) }
}

/// Compares an MTU with one that a later plugin of the chain may have made smaller (`tuning`), as a LAN's MTU falls with
/// its smallest node (decision 79); if it is larger, frames are lost.
///
/// # Errors
/// It is larger.
pub fn at_most(what: &str, found: u32, promised: Option<u32>) -> Result<(), Mismatch> {
    match promised {
        Some(promised) if found > promised => Err(Mismatch::new(what, found, promised)),
        _ => Ok(()),
    }
}

/// A flag's value, for messages.
#[must_use]
pub fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

impl<C> Call<'_, C> {
    /// Compares the pod's interface with its part of the promised result, and returns that part.
    ///
    /// # Errors
    /// It has another MAC address or a larger MTU.
    pub fn check_interface<'p>(
        &self,
        link: &Link,
        promised: &'p AddResult,
    ) -> Result<Option<&'p Interface>, Mismatch> {
        let ifname = &self.target.ifname;
        let is_it = |one: &&Interface| one.sandbox.is_some() && one.name == ifname.as_str();
        let promise = promised.interfaces.iter().find(is_it);
        if let Some(mac) = promise.and_then(|interface| interface.mac.as_ref()) {
            let have = link.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            same(&format!("MAC address of interface {ifname}"), have, mac.to_lowercase())?;
        }
        let mtu = promise.and_then(|interface| interface.mtu);
        at_most(&format!("MTU of interface {ifname}"), link.mtu, mtu)?;
        Ok(promise)
    }

    /// Verifies that the launcher pod's stack is silent on its guest's interface ([`PodLink::set_up_silently`]). `hears`:
    /// whether ADD made it accept every multicast.
    ///
    /// # Errors
    /// It is not silent.
    pub fn check_silence<E: From<Mismatch> + From<netplumb::Error>>(
        &self,
        link: &Link,
        hears: bool,
    ) -> Result<(), E> {
        let ifname = &self.target.ifname;
        let of = |what: &str| format!("{what} of interface {ifname}");
        same(&of("ARP"), on_or_off(!link.noarp), "off")?;
        if hears {
            same(&of("allmulticast"), on_or_off(link.allmulti), "on")?;
        }
        // A kernel without IPv6 has no such file.
        if let Some(value) = self.netns.sysctl_get(&Sysctl::ipv6(Conf::Link(ifname), "disable_ipv6"))? {
            same(&of("disable_ipv6"), value, "1")?;
        }
        Ok(())
    }

    /// Verifies the addresses and routes of the pod's interface, or of a guest's that has a veth; `own` is the interface's
    /// part of the promised result.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_addresses(&self, link: &Link, own: &AddResult, guest: bool) -> Result<(), PodError> {
        let Some(mac) = link.mac else { return Ok(()) };
        let pod_link = self.pod_link(link.index, mac);
        if guest { pod_link.verify(&PodLink::of_guest(own)) } else { pod_link.verify(own) }
    }
}

/// A bridge port that is up, as the kernel creates it without a spanning tree: it forwards, learns and floods, and
/// exchanges frames with all others.
#[must_use]
pub fn plain_port() -> BridgePort {
    BridgePort {
        learning: true,
        unicast_flood: true,
        multicast_flood: true,
        broadcast_flood: true,
        state: FORWARDING,
        ..BridgePort::default()
    }
}

const FORWARDING: u8 = 3;

/// Compares how a bridge treats a port with how it was created; `port` is its name in the message.
///
/// `spanning_tree`: whether the protocol decides which ports forward. A port whose carrier the bridge has not
/// processed yet does not forward yet; that is not a difference.
///
/// # Errors
/// The first difference.
pub fn check_port(port: &str, link: &Link, made: &BridgePort, spanning_tree: bool) -> Result<(), Mismatch> {
    let have = link.port.clone().unwrap_or_default();
    let forwards = have.state == made.state || !link.operational || spanning_tree && have.state != 0;
    if !forwards {
        let what = format!("spanning tree state of {port}");
        return Err(Mismatch::new(what, state(have.state), state(made.state)));
    }
    [
        ("isolation", have.isolated, made.isolated),
        ("hairpin mode", have.hairpin, made.hairpin),
        ("learning", have.learning, made.learning),
        ("flooding of unknown addresses", have.unicast_flood, made.unicast_flood),
        ("flooding of multicast", have.multicast_flood, made.multicast_flood),
        ("flooding of broadcast", have.broadcast_flood, made.broadcast_flood),
        ("lock", have.locked, made.locked),
        ("suppression of neighbour discovery", have.neigh_suppress, made.neigh_suppress),
    ]
    .into_iter()
    .try_for_each(|(what, have, made)| same(&format!("{what} of {port}"), have, made))
}

fn state(state: u8) -> &'static str {
    match state {
        0 => "disabled",
        1 => "listening",
        2 => "learning",
        FORWARDING => "forwarding",
        4 => "blocking",
        _ => "unknown",
    }
}
