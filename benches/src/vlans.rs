//! Ports of a VLAN-aware bridge beside Debian's `bridge`, in the user-mode kernel that has VLANs.
//!
//! The machine's own kernel may have none, so this program starts itself once more: that process boots the kernel,
//! measures inside, and hands the figures out as a line of JSON.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use net_types::{VlanId, VlanSet};
use netplumb::{BridgeMember, BridgeVlans, Netlink};
use serde_json::{Value, json};
use testnet::{Node, Pod, vlan_kernel};

use crate::report::{Row, Section};
use crate::rounds::{Series, Spread, interleave};
use crate::run::{Run, timed_start};
use crate::{Options, Result, chain};

/// The argument with which this program measures in the other kernel.
pub(crate) const INSIDE: &str = "--in-vlan-kernel";
/// The prefix of the line with the figures.
const FIGURES: &str = "figures: ";

const ADD: &str = "vlan-bridge ADD, access";
const DEL: &str = "vlan-bridge DEL, access";
const PEER_ADD: &str = "bridge ADD, access";
const PEER_DEL: &str = "bridge DEL, access";
const FIRST_ADD: &str = "vlan-bridge ADD that makes the bridge";
const PEER_FIRST_ADD: &str = "bridge ADD that makes the bridge";
const TRUNK_ADD: &str = "vlan-bridge ADD, trunk 1-4094";
const TRUNK_DEL: &str = "vlan-bridge DEL, trunk 1-4094";
const LOOP_ADD: &str = "bridge ADD + VIDs one by one";
const START: &str = "start in the VLAN kernel";
const NAMES: [&str; 10] =
    [ADD, DEL, PEER_ADD, PEER_DEL, FIRST_ADD, PEER_FIRST_ADD, TRUNK_ADD, TRUNK_DEL, LOOP_ADD, START];

pub(crate) fn compare(options: &Options) -> Result<Section> {
    let output = Command::new(std::env::current_exe()?)
        .args([INSIDE, &options.rounds.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.lines().find_map(|line| line.strip_prefix(FIGURES));
    let figures = figures.ok_or_else(|| format!("no figures from the VLAN kernel: {text}"))?;
    let mut all: BTreeMap<String, Spread> = serde_json::from_str(figures)?;
    let spreads: BTreeMap<&'static str, Spread> =
        NAMES.into_iter().filter_map(|name| Some((name, all.remove(name)?))).collect();
    let of = |name: &str| -> Result<Spread> {
        Ok(*spreads.get(name).ok_or_else(|| format!("{name} was not measured"))?)
    };
    let beside = |name, peer| -> Result<Row> { Ok(Row::times(name, of(name)?, peer, of(peer)?)) };
    let rows = vec![
        beside(ADD, PEER_ADD)?.at_most(0.5),
        beside(DEL, PEER_DEL)?.at_most(1.0),
        beside(FIRST_ADD, PEER_FIRST_ADD)?,
        beside(TRUNK_ADD, LOOP_ADD)?.at_most(0.1),
        Row::alone(TRUNK_DEL, "ms", of(TRUNK_DEL)?.median),
        Row::alone("one start of a static process there", "ms", of(START)?.median),
    ];
    Ok(Section {
        title: "A port of a VLAN-aware bridge beside Debian's bridge without IPAM, in user-mode Linux"
            .to_owned(),
        rows,
        spreads,
    })
}

/// The whole program, when it was started for the other kernel.
pub(crate) fn main(rounds: &str) -> ExitCode {
    vlan_kernel::run(|| {
        testnet::isolated(|| {
            let figures = rounds.parse().map_err(Into::into).and_then(measure);
            match figures.and_then(|figures| Ok(serde_json::to_string(&figures.spreads())?)) {
                Ok(figures) => {
                    println!("{FIGURES}{figures}");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    println!("bench in the VLAN kernel: {}", chain(&*error));
                    ExitCode::FAILURE
                }
            }
        })
    })
}

fn config(plugin: &str, bridge: &str, fields: &Value) -> Value {
    let mut config = json!({"cniVersion": "1.0.0", "name": "bench", "type": plugin, "bridge": bridge});
    for (key, value) in fields.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

fn ours(pod: &Pod<'_>, ifname: &str, bridge: &str, fields: &Value) -> Run {
    Run::ours("vlan-bridge", pod.call(ifname, &config("vlan-bridge", bridge, fields)))
}

fn peer(pod: &Pod<'_>, ifname: &str, bridge: &str) -> Result<Run> {
    Run::peer("bridge", pod.call(ifname, &config("bridge", bridge, &json!({"vlan": 10}))))
}

fn measure(rounds: usize) -> Result<Series> {
    let node = Node::new("bench")?;
    let pods =
        (0..4).map(|number| node.pod(&format!("pod{number}"))).collect::<std::result::Result<Vec<_>, _>>()?;
    let [stays, own, theirs, first] = &pods[..] else { return Err("four pods were asked for".into()) };
    let access = json!({"vlan": 10});
    node.run(|| -> Result<Series> {
        // Both bridges have a port that stays, so that neither is made or removed in a round.
        ours(stays, "net1", "br0", &access).timed("ADD")?;
        peer(stays, "net2", "br1")?.timed("ADD")?;
        let host = Netlink::open_current()?;
        let program = testnet::program("vlan-bridge");
        let (port, trunk) =
            (ours(own, "net1", "br0", &access), ours(own, "net1", "br0", &json!({"trunk": "1-4094"})));
        let (peers, loops) = (peer(theirs, "net1", "br1")?, peer(theirs, "net1", "br1")?);
        let (makes, peer_makes) = (ours(first, "net1", "br2", &access), peer(first, "net1", "br3")?);
        let mut series = interleave(
            rounds,
            &mut [
                Box::new(|series| {
                    series.add(ADD, port.timed("ADD")?);
                    series.add(DEL, port.timed("DEL")?);
                    Ok(())
                }),
                Box::new(|series| {
                    series.add(PEER_ADD, peers.timed("ADD")?);
                    series.add(PEER_DEL, peers.timed("DEL")?);
                    Ok(())
                }),
                Box::new(|series| {
                    series.add(FIRST_ADD, makes.timed("ADD")?);
                    makes.timed("DEL")?;
                    series.add(PEER_FIRST_ADD, peer_makes.timed("ADD")?);
                    peer_makes.timed("DEL")?;
                    // The reference plugin leaves its bridge behind.
                    delete(&host, "br3")
                }),
                Box::new(|series| {
                    series.add(TRUNK_ADD, trunk.timed("ADD")?);
                    series.add(TRUNK_DEL, trunk.timed("DEL")?);
                    series.add(START, timed_start(&program)?);
                    Ok(())
                }),
            ],
        )?;
        // Seconds for each: not as often.
        series.join(interleave(
            rounds / 20 + 1,
            &mut [Box::new(|series| {
                let attached = loops.timed("ADD")?;
                series.add(LOOP_ADD, attached + one_by_one(&host, "br1")?);
                loops.timed("DEL")?;
                Ok(())
            })],
        )?);
        Ok(series)
    })
}

fn delete(host: &Netlink, bridge: &str) -> Result<()> {
    match host.link_by_name(&bridge.parse()?)? {
        Some(link) => Ok(host.delete_link(link.index)?),
        None => Err(format!("{bridge} is not there").into()),
    }
}

/// Makes the newest port of a bridge carry all VLANs as the reference plugin does it, a message for each; without the
/// start of a process for them.
fn one_by_one(host: &Netlink, bridge: &str) -> Result<Duration> {
    let bridge = host.link_by_name(&bridge.parse()?)?.ok_or("the bridge is gone")?;
    let port =
        host.ports(bridge.index)?.iter().map(|port| port.index).max().ok_or("the bridge has no port")?;
    let start = Instant::now();
    for id in VlanSet::all().iter().collect::<Vec<VlanId>>() {
        let vlans = BridgeVlans::trunk(&VlanSet::from(id), None);
        host.add_bridge_vlans(BridgeMember::Port(port), &vlans)?;
    }
    Ok(start.elapsed())
}
