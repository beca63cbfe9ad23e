//! Changing a trunk while a VM runs: `vlan-bridge trunk …`, run by hand or by the node daemon.

use std::process::ExitCode;

use clap::{FromArgMatches as _, Subcommand};
use cni::Plugin as _;
use net_types::{IfName, VlanSet};
use netplumb::{BridgeMember, BridgeVlans, Netlink};
use node::NodeConfig;

use crate::bridge::Bridge;
use crate::config::Uplink;
use crate::record::{PortRecord, RecordStore, port_name};
use crate::vlans::diff;
use crate::{Error, VlanBridge, uplink};

#[derive(Debug, Subcommand)]
enum Command {
    /// Looks at trunks, and changes the VLANs of one while a VM runs on it
    #[command(subcommand)]
    Trunk(Trunk),
}

#[derive(Debug, Subcommand)]
enum Trunk {
    /// Lists the ports of this node: port, bridge, VLANs, whose
    Show,
    /// Gives a port these tagged VLANs and no others; its untagged VLAN stays as it is
    Set(Change),
    /// Adds tagged VLANs to a port
    Add(Change),
    /// Takes tagged VLANs off a port
    Remove(Change),
}

#[derive(Debug, clap::Args)]
struct Change {
    /// The port, as `trunk show` lists it; or the container's ID, and then the interface
    #[arg(value_name = "PORT | CONTAINER-ID INTERFACE", num_args = 1..=2, required = true)]
    port: Vec<String>,
    /// The VLANs, like 10,20,30-39
    #[arg(value_name = "VLANS")]
    vlans: String,
}

pub(crate) fn command_line() -> clap::Command {
    Command::augment_subcommands(cni::cli::command(VlanBridge::NAME, VlanBridge::ABOUT))
        .subcommand_required(true)
}

/// Runs the command line, when no runtime started the program.
pub(crate) fn command() -> ExitCode {
    let Some(matches) = cni::cli::matches(command_line(), VlanBridge::ABOUT) else {
        return ExitCode::SUCCESS;
    };
    let done = match Command::from_arg_matches(&matches) {
        Err(error) => error.exit(),
        // Only root may read the records of ports, and change bridges.
        Ok(_) if !node::is_root() => Err(Error::NotRoot),
        Ok(Command::Trunk(Trunk::Show)) => show(),
        Ok(Command::Trunk(Trunk::Set(change))) => change.apply(|_, vlans| vlans.clone()),
        Ok(Command::Trunk(Trunk::Add(change))) => change.apply(|tagged, vlans| tagged.union(vlans)),
        Ok(Command::Trunk(Trunk::Remove(change))) => change.apply(|tagged, vlans| tagged.without(vlans)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vlan-bridge: {}", cni::chain(&error));
            ExitCode::FAILURE
        }
    }
}

impl Change {
    fn apply(&self, change: impl FnOnce(&VlanSet, &VlanSet) -> VlanSet) -> Result<(), Error> {
        let port = match self.port.as_slice() {
            [container, interface] => interface.parse().map(|ifname| port_name(container, &ifname)),
            [port] => port.parse(),
            _ => String::new().parse(),
        };
        let port = port.map_err(Error::PortName)?;
        let vlans: VlanSet = self.vlans.parse().map_err(Error::Vlans)?;
        let carried = change_trunk(&port, |tagged| change(tagged, &vlans))?;
        node::print(&format!("{carried}\n")).map_err(Error::Output)
    }
}

fn show() -> Result<(), Error> {
    let store = RecordStore::open(&NodeConfig::load()?.paths())?;
    let mut lines = String::new();
    for (port, record) in store.all()? {
        let Some(vlans) = &record.vlans else { continue };
        let whose = record.attachment().map_or_else(|| "unknown".to_owned(), |a| a.to_string());
        lines.push_str(&format!("{port}\t{}\t{vlans}\t{whose}\n", record.bridge));
    }
    node::print(&lines).map_err(Error::Output)
}

/// Changes the tagged VLANs of a port, and what the uplinks carry for it. The record is written first: after a kill,
/// the same command again, or DEL, does the rest.
///
/// # Errors
/// The port is not a trunk of ours, or the kernel refuses.
pub fn change_trunk(port: &IfName, change: impl FnOnce(&VlanSet) -> VlanSet) -> Result<BridgeVlans, Error> {
    let node = NodeConfig::load()?;
    let store = RecordStore::open(&node.paths())?;
    let unknown = || Error::NoPort(port.clone());
    let bridge = store.read(port)?.ok_or_else(unknown)?.bridge;
    let _lock = store.lock(&bridge)?;
    let mut record = store.read(port)?.ok_or_else(unknown)?;
    let before = record.vlans.take().filter(|vlans| !vlans.tagged.is_empty());
    let mut vlans = before.ok_or_else(|| Error::NotATrunk(port.clone()))?;
    vlans.tagged = change(&vlans.tagged).without(&vlans.untagged);
    if vlans.tagged.is_empty() {
        return Err(Error::EmptyTrunk(port.clone()));
    }
    let host = Netlink::open_current()?;
    let bridge = Bridge::read(&host, &bridge)?.ok_or_else(unknown)?;
    let link = host.link_by_name(port)?.ok_or_else(unknown)?;
    let others = store.others(&bridge.name, port)?;
    // Until everything is done, the record has both the old and the new VLANs.
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
    record.vlans = Some(vlans.clone());
    store.write(port, &record)?;
    diff(&vlans, &host.bridge_vlans(link.index)?).apply(&host, BridgeMember::Port(link.index))?;
    for (up, add) in &adds {
        uplink::apply(&host, up, add)?;
    }
    drop_unneeded(&host, &store, &bridge, port, &mut record, &others)?;
    Ok(vlans)
}

/// Removes VLANs from the uplinks that the port does not need any more, and updates its record.
fn drop_unneeded(
    host: &Netlink,
    store: &RecordStore,
    bridge: &Bridge,
    port: &IfName,
    record: &mut PortRecord,
    others: &[PortRecord],
) -> Result<(), Error> {
    // The port counts as a member of the bridge, so what it still carries is in use.
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
