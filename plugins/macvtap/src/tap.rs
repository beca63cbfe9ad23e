//! A macvtap's character device: a minor that no live container may still have, and its node.

use attach::{Combined, Undo};
use net_types::{IfName, MacAddr, MacvtapMode};
use netplumb::{DevNum, Link, Macvtap, Netlink, Netns, NewLink, TapWatch, Veth, tap_device};
use sha2::{Digest, Sha256};

use crate::device::{self, Access, DeviceError, node_metadata, node_path};
use crate::lower::Host;
use crate::minors::{Claim, MinorRecord, Minors, Moved};
use crate::pod_interface::PodInterface;
use crate::{Call, Error};

/// How often to try for another minor.
const TRIES: usize = 64;

/// The character device of a macvtap in the pod.
pub(crate) struct Tap {
    device: DevNum,
    given: MinorRecord,
}

impl Tap {
    /// The device of a macvtap that is still on the host, for the pod that it is to be moved into.
    pub(crate) fn on_host(
        call: &Call<'_>,
        host: &Host,
        mac: Option<MacAddr>,
        moved: Moved,
    ) -> Result<Self, Error> {
        let index = host.link.index;
        let mut tap = Self::in_pod(call, index, tap_device(&host.netns, &moved.name, index)?, false)?;
        tap.given.moved = Some(moved);
        tap.given.mac = mac;
        if let Some(lower) = host.link.lower.filter(|_| host.link.lower_netnsid.is_none()) {
            tap.is_on(lower, host.netlink.link_by_index(lower)?.is_some_and(|lower| !lower.up));
        }
        Ok(tap)
    }

    /// The device of the pod's macvtap with this index. `before`: whether the node's path existed before the macvtap
    /// was created, so that the kernel could not create its own.
    fn in_pod(call: &Call<'_>, index: u32, device: Option<DevNum>, before: bool) -> Result<Self, Error> {
        let device = device.ok_or_else(|| Error::NoTap(call.target.ifname.clone()))?;
        let node = node_path(index);
        let right = node_metadata(&node)?.is_some_and(|meta| device::leads_to(&meta) == Some(device));
        let ipam = Some(call.request.ipam_type.clone().unwrap_or_default());
        let (attachment, made) = (call.attachment.clone(), before || !right);
        let given = MinorRecord {
            attachment,
            node,
            made,
            moved: None,
            ipam,
            lower: None,
            lower_was_down: false,
            mac: None,
        };
        Ok(Self { device, given })
    }

    /// Records the link of the node that it is on.
    const fn is_on(&mut self, lower: u32, is_down: bool) {
        (self.given.lower, self.given.lower_was_down) = (Some(lower), is_down);
    }

    /// The device after the move, which may have another minor.
    pub(crate) fn after_move(&self, call: &Call<'_>, index: u32) -> Result<Self, Error> {
        let mut tap = Self::in_pod(call, index, tap_device(&call.netns, &call.target.ifname, index)?, false)?;
        let MinorRecord { moved, lower, lower_was_down, mac, .. } = self.given.clone();
        tap.given = MinorRecord { moved, lower, lower_was_down, mac, ..tap.given };
        Ok(tap)
    }

    /// Whether the other one is the same device.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.device == other.device
    }

    /// Claims the minor for this attachment.
    pub(crate) fn claim(&self, call: &Call<'_>) -> Result<Claim, Error> {
        Ok(Minors::open(&call.node.paths().taps())?.claim(self.device, &self.given)?)
    }

    /// Releases the minor of this attachment.
    pub(crate) fn release(&self, call: &Call<'_>) -> Result<(), DeviceError> {
        Minors::open(&call.node.paths().taps())?.release(self.device, &self.given)
    }

    /// Creates the node for the device.
    pub(crate) fn provide<'a>(self, call: &'a Call<'a>, undo: &mut Undo<'a>) -> Result<(), Error> {
        let config = &call.request.config;
        let access = Access { owner: config.owner, group: config.group };
        let (path, device) = (self.given.node.clone(), self.device);
        undo.push("give the tap's minor back", move || self.release(call));
        device::ensure_node(&path, device, access)?;
        Ok(())
    }
}

/// Creates a macvtap with this index, repeatedly until its minor belongs to no live attachment.
///
/// The kernel uses the lowest free minor, also one whose macvtap was deleted while a container still has the node. A
/// placeholder in a namespace without a name occupies such a minor meanwhile; it disappears with this process in any
/// case. `lower`: the link of the node that the macvtap is on, if it is on one.
pub(crate) fn with_free_minor(
    call: &Call<'_>,
    index: u32,
    lower: Option<&Link>,
    make: impl Fn() -> Result<PodInterface, Error>,
) -> Result<(PodInterface, Tap), Error> {
    let mut placeholders = Vec::new();
    for _ in 0..TRIES {
        let before = node_metadata(&node_path(index))?.is_some();
        let watch = TapWatch::open(&call.netns)?;
        let made = make()?;
        let mut undo = Undo::new();
        undo.push("remove the macvtap", || call.netlink.delete_link(made.index));
        let claim = || -> Result<_, Error> {
            let mut tap = Tap::in_pod(call, index, watch.device(&call.target.ifname, index)?, before)?;
            tap.given.mac = Some(made.mac);
            if let Some(lower) = lower {
                tap.is_on(lower.index, !lower.up);
            }
            Ok((tap.claim(call)?, tap))
        };
        match claim() {
            Ok((Claim::Ours, tap)) => return Ok((made, tap)),
            Ok((Claim::Taken(_), _)) => {
                call.netlink.delete_link(made.index)?;
                placeholders.push(placeholder()?);
            }
            Err(error) => return Err(error.and_failures(undo.roll_back())),
        }
    }
    Err(Error::NoMinor(TRIES))
}

/// Creates a macvtap that only occupies a minor.
fn placeholder() -> Result<Netns, Error> {
    let netns = Netns::new()?;
    let netlink = Netlink::open(&netns)?;
    let name = |text: &str| -> IfName { text.parse().expect("one letter is a link name") };
    let pair = netlink.create_veth(&Veth::new(NewLink::new(name("a")), NewLink::new(name("b"))))?;
    let mut macvtap = Macvtap::new(name("c"), pair.main, MacvtapMode::Passthru);
    // An index that real macvtaps never have: below those on masters and on spokes.
    macvtap.link.index = Some((1 << 28) | (std::process::id() & 0x0fff_ffff));
    netlink.create_macvtap(&macvtap)?;
    Ok(netns)
}

/// A tap index for a macvtap that is not on a spoke: in [2^29, 2^30), derived from container and interface, the first
/// one whose node is free. The kernel's choice would be the same small number in every pod.
pub(crate) fn free_index(call: &Call<'_>) -> Result<u32, Error> {
    for index in indices(call.target.container_id.as_str(), &call.target.ifname) {
        if node_metadata(&node_path(index))?.is_none() {
            return Ok(index);
        }
    }
    Err(Error::NoMinor(INDICES as usize))
}

/// How many indices are tried.
const INDICES: u32 = 1024;

/// The indices that a container's interface may get on a master. No other link has one of them, so they also
/// distinguish our own macvtap from another one in the pod, where an alias could be forged.
pub(crate) fn indices(container_id: &str, ifname: &IfName) -> impl Iterator<Item = u32> + use<> {
    let mut hash = Sha256::new();
    hash.update(container_id);
    hash.update([0]);
    hash.update(ifname.as_str());
    let digest: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, ..] = digest;
    let start = u32::from_be_bytes([a, b, c, d]);
    (0..INDICES).map(move |step| (1 << 29) | (start.wrapping_add(step) & 0x1fff_ffff))
}
