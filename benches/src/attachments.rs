//! ADD and DEL on a LAN's spoke, beside Debian's macvlan and beside the floor.

use std::path::Path;

use net_types::Mtu;

use crate::floor::Floor;
use crate::lab::{self, LAN, Lab};
use crate::report::{Row, Section};
use crate::rounds::interleave;
use crate::run::{Run, timed_start};
use crate::{Options, Result};

pub(crate) fn compare(options: &Options) -> Result<Section> {
    let lab = Lab::new(1)?;
    let [ours, peers, floors] = &lab.pods(3)?[..] else { return Err("three pods were asked for".into()) };
    let mtu = lan_mtu(&lab)?;

    // In a thread on the node: what it starts is started there, without a detour of the bench's.
    let series = lab.node.run(|| {
        let macvtap = Run::ours("macvtap", ours.call("net1", &lab::on_spoke(0)));
        let macvlan = Run::peer("macvlan", peers.call("net1", &lab::macvlan()))?;
        let netns = floors.call("net1", &lab::macvlan()).netns.unwrap_or_default();
        let floor = Floor::new(Path::new(&netns), mtu)?;
        let program = testnet::program("macvtap");
        interleave(
            options.rounds,
            &mut [
                Box::new(|series| {
                    series.add("macvtap ADD", macvtap.timed("ADD")?);
                    series.add("macvtap DEL", macvtap.timed("DEL")?);
                    Ok(())
                }),
                Box::new(|series| {
                    series.add("macvlan ADD", macvlan.timed("ADD")?);
                    series.add("macvlan DEL", macvlan.timed("DEL")?);
                    Ok(())
                }),
                Box::new(|series| {
                    let start = timed_start(&program)?;
                    let (attached, detached) = floor.timed()?;
                    series.add("start", start);
                    series.add("floor ADD", attached);
                    series.add("floor DEL", detached);
                    series.add("floor ADD + start", attached + start);
                    series.add("floor DEL + start", detached + start);
                    Ok(())
                }),
            ],
        )
    })?;

    let of = |name| series.spread(name);
    let (add, del) = (of("macvtap ADD")?, of("macvtap DEL")?);
    let alone = |what, name| -> Result<Row> { Ok(Row::alone(what, "ms", of(name)?.median)) };
    Ok(Section {
        title: "An attachment to a LAN's spoke (veth pair and macvtap) beside Debian's macvlan without IPAM"
            .to_owned(),
        rows: vec![
            Row::times("macvtap ADD", add, "macvlan ADD", of("macvlan ADD")?).at_most(0.6),
            Row::times("macvtap ADD", add, "floor + one start", of("floor ADD + start")?).at_most(1.5),
            Row::times("macvtap DEL", del, "macvlan DEL", of("macvlan DEL")?).at_most(1.1),
            Row::times("macvtap DEL", del, "floor + one start", of("floor DEL + start")?),
            alone("floor: the netlink requests of ADD", "floor ADD")?,
            alone("floor: the netlink requests of DEL", "floor DEL")?,
            alone("one start of a static process", "start")?,
        ],
        spreads: series.spreads(),
    })
}

fn lan_mtu(lab: &Lab) -> Result<Mtu> {
    let bridge = lab.node.netns(LAN)?.link(lab::BRIDGE)?.ok_or("the LAN has no bridge")?;
    Ok(Mtu::try_from(bridge["mtu"].as_u64().unwrap_or_default())?)
}
