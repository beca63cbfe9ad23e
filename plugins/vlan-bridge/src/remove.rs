//! DEL and GC: removing everything, going on after failures.

use std::path::PathBuf;

use attach::{Combined, NodeUse, set_up_again};
use cni::{Misconfigured, Request, Target, ValidAttachment};
use net_types::IfName;
use netplumb::{Link, LinkChange, Netlink};
use node::{Attachment, LINK_GROUP, Lock, LockError, Paths};

use crate::bridge::Bridge;
use crate::record::{PortRecord, RecordStore, port_name};
use crate::{Config, Error, guard, host_interface, masquerade, uplink};

/// Detaches the pod. What does not exist any more is success. It needs no configuration: the record has everything.
///
/// # Errors
/// All errors; everything else was done.
pub(crate) fn del(request: &Request<Config>, target: &Target<Option<PathBuf>>) -> Result<(), Error> {
    let port = port_name(target.container_id.as_str(), &target.ifname);
    let removal = |paths: &Paths, errors: &mut Vec<Error>| {
        let recorded = recorded_ipam(&port, paths);
        errors.extend(detach(&port, paths).err());
        recorded
    };
    attach::detach(request, target, |paths| ready(&port, paths), removal)
}

/// The IPAM plugin that ADD recorded.
fn recorded_ipam(port: &IfName, paths: &Paths) -> Option<String> {
    let store = RecordStore::existing(paths).ok().flatten()?;
    store.read(port).ok().flatten()?.ipam
}

/// The same for a configuration that ADD would refuse.
///
/// # Errors
/// As [`del`].
pub(crate) fn del_misconfigured(
    request: &Misconfigured,
    target: &Target<Option<PathBuf>>,
) -> Result<(), Error> {
    let port = port_name(target.container_id.as_str(), &target.ifname);
    let removal = |paths: &Paths, errors: &mut Vec<Error>| errors.extend(detach(&port, paths).err());
    let recorded = |paths: &Paths| recorded_ipam(&port, paths);
    attach::detach_misconfigured(request, target, recorded, |paths| ready(&port, paths), removal)
}

/// Sets the pod's interface up for the IPAM plugin, which may send something on it.
fn ready(port: &IfName, paths: &Paths) {
    // A record that cannot be read is reported when it is to be removed.
    let store = RecordStore::existing(paths).ok().flatten();
    let recorded = store.and_then(|store| store.read(port).ok().flatten());
    let attachment = recorded.and_then(|record| record.attachment()).or_else(|| {
        let link = find_port(&Netlink::open_current().ok()?, port).ok()??;
        link.alias.as_deref().and_then(Attachment::parse_tag)
    });
    attachment.iter().for_each(set_up_again);
}

fn detach(port: &IfName, paths: &Paths) -> Result<(), Error> {
    let host = Netlink::open_current()?;
    let Some(store) = store(&host, port, paths)? else { return Ok(()) };
    with_lock(&host, &store, port, |bridge, lock| take_away(&host, &store, port, bridge, lock))
}

/// The records; `None` if there are none and the node has no such port. If they cannot be used, only the port is
/// removed.
fn store(host: &Netlink, port: &IfName, paths: &Paths) -> Result<Option<RecordStore>, Error> {
    let existing = RecordStore::existing(paths);
    if let Ok(Some(store)) = existing {
        return Ok(Some(store));
    }
    let there = find_port(host, port)?.is_some();
    match existing {
        Ok(_) if !there => Ok(None),
        Ok(_) => RecordStore::open(paths).map(Some),
        Err(error) => Err(error),
    }
    .map_err(|error| without_records(host, port, error))
}

/// Removes only the port, so that the pod is off the network, and reports why the rest stays.
fn without_records(host: &Netlink, port: &IfName, error: Error) -> Error {
    let done =
        find_port(host, port).and_then(|link| link.map_or(Ok(()), |link| Ok(host.delete_link(link.index)?)));
    error.and_failure(done.err())
}

/// Calls a function under the lock of the port's bridge; not at all if there is no trace of the port.
fn with_lock(
    host: &Netlink,
    store: &RecordStore,
    port: &IfName,
    run: impl FnOnce(Option<&IfName>, &Lock) -> Result<(), Error>,
) -> Result<(), Error> {
    // A damaged record must not keep the port: the link's master is the bridge.
    let record = store.read(port).unwrap_or_default();
    let bridge = match record {
        Some(record) => Some(record.bridge),
        None => {
            let Some(link) = find_port(host, port)? else {
                return match host.link_by_name(port)? {
                    Some(_) => Ok(()),
                    None => store.remove(port),
                };
            };
            match link.master {
                Some(master) => host.link_by_index(master)?.and_then(|bridge| bridge.if_name()),
                None => None,
            }
        }
    };
    // A port without a bridge shares nothing with others; its own name serves for the lock.
    match store.lock(bridge.as_ref().unwrap_or(port)) {
        Ok(lock) => run(bridge.as_ref(), &lock),
        Err(held @ Error::Lock(LockError::Held { .. })) => Err(held),
        // If no lock can be acquired, as on a read-only folder, no record can be removed either.
        Err(error) => Err(without_records(host, port, error)),
    }
}

/// The port's link: by its name, or by its tag if somebody renamed it.
fn find_port(host: &Netlink, port: &IfName) -> Result<Option<Link>, Error> {
    if let Some(link) = host.link_by_name(port)?.filter(is_ours) {
        return Ok(Some(link));
    }
    let is_it = |link: &Link| {
        let tagged = link.alias.as_deref().and_then(Attachment::parse_tag);
        tagged.is_some_and(|of| port_name(&of.container_id, &of.ifname) == *port)
    };
    Ok(host.links_in_group(LINK_GROUP)?.into_iter().find(is_it))
}

/// Whether this plugin created a link as a port: it is tagged, or the plugin died before that.
fn is_ours(link: &Link) -> bool {
    link.group == LINK_GROUP
        && link.alias.as_deref().is_none_or(|alias| Attachment::parse_tag(alias).is_some())
}

/// Removes everything of a port, under the lock of its bridge. The record goes last, so that after a kill it still
/// says what is to be done.
///
/// # Errors
/// All errors; everything else was done.
pub(crate) fn take_away(
    host: &Netlink,
    store: &RecordStore,
    port: &IfName,
    bridge: Option<&IfName>,
    _lock: &Lock,
) -> Result<(), Error> {
    let mut errors = Vec::new();
    let record = store.read(port).unwrap_or_default();
    let link = find_port(host, port)?;
    let bridge = match bridge.map(|name| Bridge::read(host, name)).transpose() {
        Ok(bridge) => bridge.flatten(),
        // Another kind of link has the bridge's name by now, so nothing of ours is on it.
        Err(Error::NotABridge { .. }) => None,
        Err(error) => {
            errors.push(error);
            None
        }
    };
    let others = bridge.as_ref().map(|bridge| store.named_others(&bridge.name, port)).transpose();
    let others = others.unwrap_or_else(|error| {
        errors.push(error);
        None
    });
    if let (Some(record), Some(bridge), Some(others)) = (&record, &bridge, &others) {
        let index = link.as_ref().map(|link| link.index);
        let records: Vec<PortRecord> = others.iter().map(|(_, record)| record.clone()).collect();
        // The interfaces first: a VLAN that the bridge itself carries counts as used.
        errors.extend(host_interface::release(host, bridge, record, &records, store.paths()).err());
        errors.extend(uplink::release(host, bridge, record, index, &records).err());
        errors.extend(uplink::leave_to_another(store, record, others).err());
        if record.promisc && !records.iter().any(|other| other.promisc) {
            let off = LinkChange { promisc: Some(false), ..LinkChange::default() };
            errors.extend(host.set_link(bridge.index, &off).err().map(Error::from));
        }
    }
    if let Some(link) = &link {
        errors.extend(host.delete_link(link.index).err().map(Error::from));
    }
    // After the port: it must not send without its guard.
    let guarded = record.as_ref().is_none_or(|record| record.guard.is_some());
    let masqueraded = record.as_ref().is_none_or(|record| !record.masquerade.is_empty());
    let guards = guarded.then(|| guard::remove(store, port));
    let masquerades = masqueraded.then(|| masquerade::remove(store, port));
    for done in [guards, masquerades].into_iter().flatten() {
        // A kernel without netfilter has no rules; a damaged record cannot say whether there are any.
        errors.extend(done.err().filter(|_| record.is_some()));
    }
    let is_last = others.as_ref().is_none_or(Vec::is_empty);
    if is_last && let Some(bridge) = bridge.as_ref().filter(|bridge| bridge.is_ours() && others.is_some()) {
        errors.extend(remove_last(host, store.paths(), bridge, record.as_ref()).err());
    }
    if is_last && let Some(record) = &record {
        errors.extend(uplink::set_down_again(host, record, store.paths()).err());
    }
    if errors.is_empty() {
        store.remove(port)?;
    }
    Error::all(errors)
}

/// Removes a bridge of this plugin's whose last port of this plugin's is gone, unless something else uses it by now.
fn remove_last(
    host: &Netlink,
    paths: &Paths,
    bridge: &Bridge,
    record: Option<&PortRecord>,
) -> Result<(), Error> {
    let ports = host.ports(bridge.index)?;
    let is_uplink = |link: &Link| {
        record.is_some_and(|record| {
            record.uplinks.iter().any(|uplink| uplink.name == *link.name)
                || record.left_uplinks.iter().any(|uplink| uplink.name == *link.name)
        })
    };
    if !ports.iter().all(is_uplink) {
        return Ok(());
    }
    if NodeUse::of_own_link(host, &bridge.link, paths)?.is_some() {
        // Perhaps by what stayed for another plugin's pods, which are gone now.
        host_interface::remove_left(host, bridge, paths)?;
        if NodeUse::of_own_link(host, &bridge.link, paths)?.is_some() {
            return Ok(());
        }
    }
    Ok(host.delete_link(bridge.index)?)
}

/// Frees this network's attachments that are not in the list.
///
/// # Errors
/// All errors; everything else was done.
pub(crate) fn gc<C>(request: &Request<C>, valid: Option<&[ValidAttachment]>) -> Result<(), Error> {
    attach::gc(request, valid, |paths, is_stale, errors| {
        let swept = sweep(request, paths, is_stale, errors);
        errors.extend(swept.err());
        true
    })
}

fn sweep<C>(
    request: &Request<C>,
    paths: &Paths,
    is_stale: &dyn Fn(&Attachment) -> bool,
    errors: &mut Vec<Error>,
) -> Result<(), Error> {
    let host = Netlink::open_current()?;
    let existing = RecordStore::existing(paths)?;
    let records = existing.as_ref().map(RecordStore::all).transpose()?.unwrap_or_default();
    let mut ports: Vec<(IfName, Attachment)> = records
        .into_iter()
        .filter_map(|(port, record)| Some((port, record.attachment().filter(is_stale)?)))
        .collect();
    // Ports whose record is lost.
    for link in host.links_in_group(LINK_GROUP)? {
        let tagged = link.alias.as_deref().and_then(Attachment::parse_tag);
        if let Some(attachment) = tagged.filter(is_stale) {
            let name = port_name(&attachment.container_id, &attachment.ifname);
            if ports.iter().all(|(port, _)| *port != name) {
                ports.push((name, attachment));
            }
        }
    }
    if let Some(store) = &existing {
        let links = host.links()?;
        store.tidy(|bridge| links.iter().any(|link| link.name == bridge));
    }
    if ports.is_empty() {
        return Ok(());
    }
    let store = existing.map_or_else(|| RecordStore::open(paths), Ok)?;
    for (port, attachment) in ports {
        attach::collect(request, paths, &attachment, errors, |errors| {
            let taken =
                with_lock(&host, &store, &port, |bridge, lock| take_away(&host, &store, &port, bridge, lock));
            errors.extend(taken.err());
        });
    }
    Ok(())
}
