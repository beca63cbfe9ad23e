//! The LAN's side of an attachment: the veth pair in the LAN's namespace.

use std::io;
use std::path::Path;
use std::time::Duration;

use attach::{Undo, stable_mac};
use lan::{SpokeReadiness, SpokeRecord};
use net_types::{IfName, Mtu, SpokeName};
use netplumb::{Link, LinkChange, Netlink, Netns, NewLink, PortChange, TxChecksum, Veth};
use node::{Attachment, LINK_GROUP, Lock, Paths, SafeDir, parse_lan_tag};

use crate::{Call, Error};

/// How long a port may take from carrier to forwarding.
const SETTLES: Duration = Duration::from_millis(50);

/// How long ADD waits for another program that works on the same spoke.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// A LAN's namespace on this node, with a netlink socket in it.
pub(crate) struct LanSide {
    netns: Netns,
    netlink: Netlink,
    record: SpokeRecord,
}

/// The record of a spoke; `None` if the daemon wrote none.
///
/// # Errors
/// The record is not trusted or cannot be parsed.
pub(crate) fn read_record(paths: &Paths, spoke: &SpokeName) -> Result<Option<SpokeRecord>, Error> {
    let refused = |source| Error::Record { spoke: spoke.to_string(), source };
    let Some(dir) = SafeDir::open(&paths.spokes()).map_err(refused)? else { return Ok(None) };
    let Some(text) = dir.read(&SpokeRecord::file_name(spoke)).map_err(refused)? else { return Ok(None) };
    SpokeRecord::parse(spoke, &text)
        .map(Some)
        .map_err(|source| Error::RecordText { spoke: spoke.clone(), source })
}

/// Acquires the lock of the spoke, which keeps other programs away until it is dropped.
///
/// # Errors
/// Another program holds it for longer than ten seconds.
pub(crate) fn lock(paths: &Paths, spoke: &SpokeName) -> Result<Lock, Error> {
    let dir = SafeDir::open(&paths.spokes())
        .and_then(|dir| dir.map_or_else(|| SafeDir::create(&paths.spokes()), Ok))
        .map_err(|source| Error::Record { spoke: spoke.to_string(), source })?;
    Ok(Lock::acquire(&dir, &format!("{spoke}.lock"), LOCK_TIMEOUT)?)
}

impl LanSide {
    /// Opens the namespace that a record names, if the LAN is built there.
    ///
    /// # Errors
    /// The LAN is not built, or its namespace is missing or another's.
    pub(crate) fn open(record: SpokeRecord) -> Result<Self, Error> {
        if let SpokeReadiness::NotReady { reason } = &record.state {
            return Err(Error::NotReady {
                spoke: record.spoke.clone(),
                lan: record.lan.to_string(),
                reason: reason.clone(),
            });
        }
        let netns = Netns::open(&record.netns)?;
        let netlink = Netlink::open(&netns)?;
        let mark = mark_of(&netlink)?;
        if !is_mark_of(mark.as_deref(), &record) {
            let mark = mark.map_or_else(|| "no mark".to_owned(), |mark| format!("{mark:?}"));
            return Err(Error::NotTheLan { netns: record.netns, lan: record.lan.to_string(), mark });
        }
        Ok(Self { netns, netlink, record })
    }

    /// Opens the namespace that a record names, whether the LAN is built or not; `None` if the daemon has no such
    /// namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn open_standing(record: SpokeRecord) -> Result<Option<Self>, Error> {
        let Ok(netns) = Netns::open(&record.netns) else { return Ok(None) };
        let netlink = Netlink::open(&netns)?;
        let mark = mark_of(&netlink)?;
        Ok(is_mark_of(mark.as_deref(), &record).then_some(Self { netns, netlink, record }))
    }

    /// The record by which the namespace was found.
    pub(crate) fn record(&self) -> &SpokeRecord {
        &self.record
    }

    /// The LAN's MTU; the largest possible if the LAN is not built.
    pub(crate) fn mtu(&self) -> Mtu {
        match self.record.state {
            SpokeReadiness::Ready { mtu } => mtu,
            SpokeReadiness::NotReady { .. } => Mtu::MAX,
        }
    }

    /// The netlink socket in the LAN's namespace.
    pub(crate) fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Creates the spoke's veth pair: one end is a port of the bridge and tagged with its owner, the other is as
    /// `peer` says. Returns the peer's index. The caller holds the spoke's lock.
    ///
    /// # Errors
    /// The spoke is in use, a foreign link has its name, or the kernel refuses.
    pub(crate) fn create_pair<'a>(
        &'a self,
        call: &Call<'_>,
        peer: NewLink,
        undo: &mut Undo<'a>,
    ) -> Result<u32, Error> {
        let record = &self.record;
        let Some(bridge) = self.netlink.link_by_name(&record.bridge)? else {
            return Err(Error::NoBridge { bridge: record.bridge.clone(), lan: record.lan.to_string() });
        };
        let tag = call.tag.clone();
        let (peer_in_lan, peer_up) = (peer.netns.is_none(), peer.up);
        let mut port = NewLink::new(record.tap_index.port_name());
        port.mac = Some(stable_mac(&[&record.lan.to_string(), record.spoke.as_str(), "port"]));
        port.mtu = Some(self.mtu());
        port.group = LINK_GROUP;
        port.up = true;
        let mut pair = Veth::new(port, peer);
        pair.master = Some(bridge.index);
        let indexes = match self.netlink.create_veth(&pair) {
            Err(error) if error.is_exists() => {
                self.clear(call)?;
                self.netlink.create_veth(&pair)?
            }
            created => created?,
        };
        undo.push("remove the spoke's veth pair", move || self.netlink.delete_link(indexes.main));
        let port = PortChange { group_fwd_mask: Some(lan::GROUP_FWD_MASK), ..PortChange::default() };
        let change = LinkChange { alias: Some(tag.clone()), port: Some(port), ..LinkChange::default() };
        self.netlink.set_link(indexes.main, &change)?;
        if peer_in_lan {
            self.netlink.set_link(indexes.peer, &LinkChange { alias: Some(tag), ..LinkChange::default() })?;
        }
        if peer_up {
            self.forwards(indexes.main)?;
        }
        Ok(indexes.peer)
    }

    /// Waits until the spoke's port passes frames, since earlier ones would be lost. If it does not, the daemon
    /// repairs it; that is no reason to fail.
    fn forwards(&self, port: u32) -> Result<(), Error> {
        self.netlink.wait_operational(port, SETTLES)?;
        Ok(())
    }

    /// Waits for the port of a spoke whose other end was set up after its creation.
    ///
    /// # Errors
    /// The kernel refuses the request.
    pub(crate) fn wait_for_port(&self) -> Result<(), Error> {
        match self.netlink.link_by_name(&self.record.tap_index.port_name())? {
            Some(port) => self.forwards(port.index),
            None => Ok(()),
        }
    }

    /// Makes the kernel compute the checksums of what the spoke's port sends to the pod.
    ///
    /// # Errors
    /// The kernel refuses the change.
    pub(crate) fn complete_checksums(&self) -> Result<(), Error> {
        Ok(TxChecksum::find(&self.netns, &self.record.tap_index.port_name())?.switch_off()?)
    }

    /// Whether the kernel computes those checksums.
    ///
    /// # Errors
    /// The kernel refuses the query.
    pub(crate) fn completes_checksums(&self) -> Result<bool, Error> {
        Ok(!TxChecksum::find(&self.netns, &self.record.tap_index.port_name())?.is_on()?)
    }

    /// Removes what dead attachments left of this spoke.
    fn clear(&self, call: &Call<'_>) -> Result<(), Error> {
        let record = &self.record;
        for name in [&record.tap_index.port_name(), record.spoke.link()] {
            // The kernel deleted it together with its peer.
            let Some(link) = self.netlink.link_by_name(name)? else { continue };
            match owner(&link) {
                Owner::Foreign => {
                    return Err(Error::Foreign { name: link.name, netns: record.netns.clone() });
                }
                Owner::Attachment(other) if other.is(&call.attachment.container_id, &call.target.ifname) => {
                    // A second ADD of a complete attachment is an error; of one that lost its interface, it is a
                    // repair.
                    if call.netlink.link_by_name(&call.target.ifname)?.is_some() {
                        return Err(Error::InterfaceExists(call.target.ifname.clone()));
                    }
                }
                Owner::Attachment(other) if other.is_live() => {
                    return Err(Error::InUse { spoke: record.spoke.clone(), by: other });
                }
                // This program holds the lock, so no other is creating it now.
                Owner::Attachment(_) | Owner::HalfMade => {}
            }
            self.netlink.delete_link(link.index)?;
        }
        Ok(())
    }

    /// Removes links of this spoke that an ADD left when it died before it tagged them. The caller holds the spoke's
    /// lock, so no program is creating them now.
    ///
    /// # Errors
    /// The kernel refuses a removal.
    pub(crate) fn clear_half_made(&self) -> Result<(), Error> {
        for name in [&self.record.tap_index.port_name(), self.record.spoke.link()] {
            if let Some(link) = self.netlink.link_by_name(name)?
                && matches!(owner(&link), Owner::HalfMade)
            {
                self.netlink.delete_link(link.index)?;
            }
        }
        Ok(())
    }

    /// The port of this spoke, if it belongs to the attachment that a call names.
    ///
    /// # Errors
    /// The kernel refuses the request.
    pub(crate) fn port_of(&self, container_id: &str, ifname: &IfName) -> Result<Option<Link>, Error> {
        let link = self.netlink.link_by_name(&self.record.tap_index.port_name())?;
        Ok(link.filter(|link| match owner(link) {
            Owner::Attachment(attachment) => attachment.is(container_id, ifname),
            Owner::HalfMade | Owner::Foreign => false,
        }))
    }
}

/// The owner of a link, from its group and alias.
enum Owner {
    Attachment(Box<Attachment>),
    /// It is ours, from an ADD that died before it tagged it.
    HalfMade,
    Foreign,
}

fn owner(link: &Link) -> Owner {
    match link.alias.as_deref() {
        Some(alias) => {
            Attachment::parse_tag(alias).map_or(Owner::Foreign, |a| Owner::Attachment(Box::new(a)))
        }
        None if link.group == LINK_GROUP => Owner::HalfMade,
        None => Owner::Foreign,
    }
}

fn mark_of(netlink: &Netlink) -> Result<Option<String>, Error> {
    Ok(netlink.link_by_index(netplumb::LO)?.and_then(|lo| lo.alias))
}

fn is_mark_of(mark: Option<&str>, record: &SpokeRecord) -> bool {
    mark.and_then(parse_lan_tag) == Some(&*record.lan.to_string())
}

/// The port of an attachment somewhere on this node.
pub(crate) struct Port {
    /// A socket in the namespace of its LAN.
    pub(crate) netlink: Netlink,
    /// The index of the port in that namespace.
    pub(crate) index: u32,
    /// The owner of the port.
    pub(crate) attachment: Attachment,
}

/// All ports in the LANs' namespaces of this node whose attachment `wanted` selects. An error about one namespace is
/// added to `errors`, and the others are searched nevertheless.
pub(crate) fn find(
    netns_dir: &Path,
    wanted: impl Fn(&Attachment) -> bool,
    errors: &mut Vec<Error>,
) -> Vec<Port> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(netns_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return found,
        Err(source) => {
            errors.push(Error::NetnsFolder { path: netns_dir.to_owned(), source });
            return found;
        }
    };
    for entry in entries.flatten() {
        // Namespaces come and go meanwhile, and there may be ordinary files.
        let Ok(netns) = Netns::open(&entry.path()) else { continue };
        errors.extend(find_in(&netns, &wanted, &mut found).err());
    }
    found
}

fn find_in(netns: &Netns, wanted: impl Fn(&Attachment) -> bool, found: &mut Vec<Port>) -> Result<(), Error> {
    let netlink = Netlink::open(netns)?;
    if mark_of(&netlink)?.is_none_or(|mark| parse_lan_tag(&mark).is_none()) {
        return Ok(());
    }
    for link in netlink.links()? {
        // One end of a pair is enough: the kernel deletes the other with it.
        if !lan::TapIndex::is_port_name(&link.name) {
            continue;
        }
        if let Owner::Attachment(attachment) = owner(&link)
            && wanted(&attachment)
        {
            let netlink = Netlink::open(netns)?;
            found.push(Port { netlink, index: link.index, attachment: *attachment });
        }
    }
    Ok(())
}
