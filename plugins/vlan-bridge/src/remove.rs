//! DEL and GC: taking away, going on after failures.

use std::path::PathBuf;

use cni::{Request, Target, ValidAttachment};
use net_types::IfName;
use netplumb::{Link, Netlink};
use node::{Attachment, LINK_GROUP, Lock, NetworkId, NodeConfig};

use crate::bridge::Bridge;
use crate::record::{PortRecord, RecordStore, port_name};
use crate::{Config, Error, guard, leg, masquerade, uplink};

/// Detaches the pod. What is gone already is success. The configuration is not needed: the record says all.
///
/// # Errors
/// All that went wrong; everything else was done.
pub(crate) fn del<C>(request: &Request<C>, target: &Target<Option<PathBuf>>) -> Result<(), Error> {
    let mut errors = Vec::new();
    let port = port_name(target.container_id.as_str(), &target.ifname);
    errors.extend(detach(&port).err());
    // After the interface: an address that is free may be another pod's at once.
    if let Some(ipam) = request.ipam() {
        errors.extend(ipam.del().err().map(Error::from));
    }
    Error::all(errors)
}

fn detach(port: &IfName) -> Result<(), Error> {
    let node = NodeConfig::load()?;
    let host = Netlink::open_current()?;
    let store = RecordStore::open(&node.paths())?;
    with_lock(&host, &store, port, |bridge, lock| take_away(&host, &store, port, bridge, lock))
}

/// Runs something under the lock of the bridge that a port belongs to; not at all if there is no trace of it.
fn with_lock(
    host: &Netlink,
    store: &RecordStore,
    port: &IfName,
    run: impl FnOnce(Option<&IfName>, &Lock) -> Result<(), Error>,
) -> Result<(), Error> {
    // A damaged record must not keep the port: the link says which bridge it is.
    let record = store.read(port).unwrap_or_default();
    let bridge = match record {
        Some(record) => Some(record.bridge),
        None => {
            let Some(link) = host.link_by_name(port)? else { return store.remove(port) };
            if !is_ours(&link) {
                return Ok(());
            }
            match link.master {
                Some(master) => host.link_by_index(master)?.and_then(|bridge| bridge.if_name()),
                None => None,
            }
        }
    };
    // A port without a bridge is nobody's neighbour; its own name serves as the lock's.
    let lock = store.lock(bridge.as_ref().unwrap_or(port))?;
    run(bridge.as_ref(), &lock)
}

/// Whether a link is a port that this plugin made: tagged, or cut off before it was.
fn is_ours(link: &Link) -> bool {
    link.group == LINK_GROUP
        && link.alias.as_deref().is_none_or(|alias| Attachment::parse_tag(alias).is_some())
}

/// Takes away everything of a port, under the lock of its bridge. The record goes last, so that a kill leaves
/// it to say what is still to be done.
///
/// # Errors
/// All that went wrong; everything else was done.
pub(crate) fn take_away(
    host: &Netlink,
    store: &RecordStore,
    port: &IfName,
    bridge: Option<&IfName>,
    _lock: &Lock,
) -> Result<(), Error> {
    let mut errors = Vec::new();
    let record = store.read(port).unwrap_or_default();
    let link = host.link_by_name(port)?.filter(is_ours);
    let bridge = match bridge.map(|name| Bridge::look(host, name)).transpose() {
        Ok(bridge) => bridge.flatten(),
        // Another kind of link has the bridge's name by now: nothing of ours hangs on it.
        Err(Error::NotABridge { .. }) => None,
        Err(error) => return Err(error),
    };
    if let (Some(record), Some(bridge)) = (&record, &bridge) {
        let others = store.others(&record.bridge, port)?;
        let index = link.as_ref().map(|link| link.index);
        // First the legs: a VLAN that the bridge itself carries is in use.
        errors.extend(leg::release(host, bridge, record, &others).err());
        errors.extend(uplink::release(host, bridge, record, index, &others).err());
    }
    if let Some(link) = &link {
        errors.extend(host.delete_link(link.index).err().map(Error::from));
    }
    // After the port: without its guard it must not send.
    let guarded = record.as_ref().is_none_or(|record| record.guard.is_some());
    let masqueraded = record.as_ref().is_none_or(|record| !record.masquerade.is_empty());
    let guards = guarded.then(|| guard::remove(store, port));
    let masquerades = masqueraded.then(|| masquerade::remove(store, port));
    for done in [guards, masquerades].into_iter().flatten() {
        // A kernel without netfilter has no rules; a damaged record could not say that there were none.
        errors.extend(done.err().filter(|_| record.is_some()));
    }
    if let Some(bridge) = bridge.filter(Bridge::is_ours) {
        errors.extend(remove_if_last(host, store, &bridge, port, record.as_ref()).err());
    }
    if errors.is_empty() {
        store.remove(port)?;
    }
    Error::all(errors)
}

/// Removes a bridge that this plugin made when its last port is gone.
fn remove_if_last(
    host: &Netlink,
    store: &RecordStore,
    bridge: &Bridge,
    port: &IfName,
    record: Option<&PortRecord>,
) -> Result<(), Error> {
    if !store.others(&bridge.name, port)?.is_empty() {
        return Ok(());
    }
    let ports = host.ports(bridge.index)?;
    let is_uplink = |link: &Link| {
        record.is_some_and(|record| record.uplinks.iter().any(|uplink| uplink.name == *link.name))
    };
    if ports.iter().all(is_uplink) {
        host.delete_link(bridge.index)?;
    }
    Ok(())
}

/// Frees this network's attachments that are not in the list.
///
/// # Errors
/// All that went wrong; everything else was done.
pub(crate) fn gc(request: &Request<Config>, valid: Option<&[ValidAttachment]>) -> Result<(), Error> {
    let mut errors = Vec::new();
    // A runtime that gives no list says nothing about what is valid.
    if let Some(valid) = valid {
        errors.extend(sweep(NetworkId::of(request.network.as_str()), valid).err());
    }
    if let Some(ipam) = request.ipam() {
        errors.extend(ipam.gc().err().map(Error::from));
    }
    Error::all(errors)
}

fn sweep(network: NetworkId, valid: &[ValidAttachment]) -> Result<(), Error> {
    let node = NodeConfig::load()?;
    let host = Netlink::open_current()?;
    let store = RecordStore::open(&node.paths())?;
    let stale = |attachment: &Attachment| {
        attachment.network == network
            && !valid
                .iter()
                .any(|v| v.container_id == attachment.container_id && v.ifname == attachment.ifname.as_str())
    };
    let mut ports: Vec<IfName> = store
        .all()?
        .into_iter()
        .filter(|(_, record)| record.attachment().is_some_and(|attachment| stale(&attachment)))
        .map(|(port, _)| port)
        .collect();
    // Ports whose record was lost.
    for link in host.links_in_group(LINK_GROUP)? {
        let Some(name) = link.if_name().filter(|name| !ports.contains(name)) else { continue };
        let tagged = link.alias.as_deref().and_then(Attachment::parse_tag);
        let own = tagged.filter(|a| name == port_name(&a.container_id, &a.ifname));
        if own.is_some_and(|attachment| stale(&attachment)) {
            ports.push(name);
        }
    }
    let mut errors = Vec::new();
    for port in ports {
        let done =
            with_lock(&host, &store, &port, |bridge, lock| take_away(&host, &store, &port, bridge, lock));
        errors.extend(done.err());
    }
    Error::all(errors)
}
