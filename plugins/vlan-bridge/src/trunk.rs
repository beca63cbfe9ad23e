//! Changing a trunk while a VM runs: `vlan-bridge trunk …`, started by hand or by the node daemon.

use std::ffi::OsString;
use std::process::ExitCode;

use cni::Plugin;
use net_types::{IfName, VlanSet};
use netplumb::{BridgeMember, BridgeVlans, Netlink};
use node::NodeConfig;

use crate::bridge::Bridge;
use crate::config::Uplink;
use crate::record::{PortRecord, RecordStore, port_name};
use crate::vlans::diff;
use crate::{Error, VlanBridge, uplink};

const USAGE: &str = "\
usage: vlan-bridge trunk show
       vlan-bridge trunk set|add|remove PORT VLANS
       vlan-bridge trunk set|add|remove CONTAINER-ID INTERFACE VLANS
VLANS is like 10,20,30-39. The port's untagged VLAN stays as it is.";

/// What to do with a trunk's tagged VLANs.
#[derive(Clone, Copy)]
enum Action {
    Set,
    Add,
    Remove,
}

/// The command line, when no runtime started the program.
pub(crate) fn command() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let done = match words.as_slice() {
        [] => {
            eprintln!(
                "{}: CNI plugin, {}; a container runtime runs it\n{USAGE}",
                VlanBridge::NAME,
                VlanBridge::ABOUT
            );
            return ExitCode::SUCCESS;
        }
        ["trunk", "show"] => show(),
        ["trunk", action, port, vlans] => on(action, port.parse().map_err(Error::PortName), vlans),
        ["trunk", action, container, interface, vlans] => {
            let port = interface.parse().map(|ifname| port_name(container, &ifname));
            on(action, port.map_err(Error::PortName), vlans)
        }
        _ => Err(Error::Usage(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vlan-bridge: {}", attach::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn on(action: &str, port: Result<IfName, Error>, vlans: &str) -> Result<(), Error> {
    let action = match action {
        "set" => Action::Set,
        "add" => Action::Add,
        "remove" => Action::Remove,
        _ => return Err(Error::Usage(USAGE)),
    };
    let vlans: VlanSet = vlans.parse().map_err(Error::Vlans)?;
    let carried = change_trunk(&port?, |tagged| match action {
        Action::Set => vlans.clone(),
        Action::Add => tagged.union(&vlans),
        Action::Remove => tagged.without(&vlans),
    })?;
    println!("{carried}");
    Ok(())
}

fn show() -> Result<(), Error> {
    let store = RecordStore::open(&NodeConfig::load()?.paths())?;
    for (port, record) in store.all()? {
        let Some(vlans) = &record.vlans else { continue };
        let whose = record.attachment().map_or_else(|| "unknown".to_owned(), |a| a.to_string());
        println!("{port}\t{}\t{}\t{whose}", record.bridge, BridgeVlans::from(vlans));
    }
    Ok(())
}

/// Changes the tagged VLANs of a port that stands, and what the uplinks carry for it. The record is written
/// first: if this is killed, the same call again, or DEL, does the rest.
///
/// # Errors
/// The port is not a trunk of ours, or the kernel refused.
pub fn change_trunk(port: &IfName, change: impl FnOnce(&VlanSet) -> VlanSet) -> Result<BridgeVlans, Error> {
    let node = NodeConfig::load()?;
    let store = RecordStore::open(&node.paths())?;
    let unknown = || Error::NoPort(port.clone());
    let bridge = store.read(port)?.ok_or_else(unknown)?.bridge;
    let _lock = store.lock(&bridge)?;
    let mut record = store.read(port)?.ok_or_else(unknown)?;
    let Some(recorded) = &record.vlans else { return Err(Error::NotATrunk(port.clone())) };
    let before = BridgeVlans::from(recorded);
    if before.tagged.is_empty() {
        return Err(Error::NotATrunk(port.clone()));
    }
    let mut vlans = before.clone();
    vlans.tagged = change(&before.tagged).without(&before.untagged);
    if vlans.tagged.is_empty() {
        return Err(Error::EmptyTrunk(port.clone()));
    }
    let host = Netlink::open_current()?;
    let bridge = Bridge::look(&host, &bridge)?.ok_or_else(unknown)?;
    let link = host.link_by_name(port)?.ok_or_else(unknown)?;
    let others = store.others(&bridge.name, port)?;
    // Until everything is done, the record claims both what was and what will be.
    let mut adds = Vec::new();
    for entry in record.uplinks.iter_mut().filter(|entry| entry.follow) {
        let up = host.link_by_name(&entry.name)?.ok_or_else(|| Error::NoUplink(entry.name.clone()))?;
        let observed = host.bridge_vlans(up.index)?;
        let wanted = Uplink {
            name: entry.name.clone(),
            tagged: VlanSet::EMPTY,
            untagged: None,
            follow: true,
            mtu: None,
        };
        let (add, joined) = uplink::join(&wanted, &vlans, &observed, &others, bridge.is_ours())?;
        entry.added = entry.added.union(&joined.added);
        adds.push((up, add));
    }
    record.vlans = Some((&vlans).into());
    store.write(port, &record)?;
    diff(&vlans, &host.bridge_vlans(link.index)?).apply(&host, BridgeMember::Port(link.index))?;
    for (up, add) in &adds {
        uplink::apply(&host, up, add)?;
    }
    drop_unneeded(&host, &store, &bridge, port, &mut record, &others)?;
    Ok(vlans)
}

/// Takes off the uplinks what the port needs no more, and says so in its record.
fn drop_unneeded(
    host: &Netlink,
    store: &RecordStore,
    bridge: &Bridge,
    port: &IfName,
    record: &mut PortRecord,
    others: &[PortRecord],
) -> Result<(), Error> {
    // With the port counted among the bridge's members, what it still carries is in use.
    uplink::release(host, bridge, record, None, others)?;
    let needed = record.all_vlans();
    let before = record.clone();
    for entry in record.uplinks.iter_mut().filter(|entry| entry.follow) {
        entry.added = entry.added.intersection(&needed);
    }
    if *record != before {
        store.write(port, record)?;
    }
    Ok(())
}
