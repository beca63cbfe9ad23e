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
                    let (attached, detached) = floor.timed()?;
                    series.add("floor ADD", attached);
                    series.add("floor DEL", detached);
                    Ok(())
                }),
                Box::new(|series| {
                    series.add("start", timed_start(&program)?);
                    Ok(())
                }),
            ],
        )
    })?;

    let figure = |name| series.median(name);
    let (add, del, start) = (figure("macvtap ADD")?, figure("macvtap DEL")?, figure("start")?);
    Ok(Section {
        title: "An attachment to a LAN's spoke (veth pair and macvtap) beside Debian's macvlan without IPAM"
            .to_owned(),
        rows: vec![
            Row::alone("macvtap ADD", "ms", add).beside("macvlan ADD", figure("macvlan ADD")?).at_most(0.6),
            Row::alone("macvtap ADD", "ms", add)
                .beside("floor + one start", figure("floor ADD")? + start)
                .at_most(1.5),
            Row::alone("macvtap DEL", "ms", del).beside("macvlan DEL", figure("macvlan DEL")?).at_most(1.1),
            Row::alone("macvtap DEL", "ms", del).beside("floor + one start", figure("floor DEL")? + start),
            Row::alone("floor: the netlink requests of ADD", "ms", figure("floor ADD")?),
            Row::alone("floor: the netlink requests of DEL", "ms", figure("floor DEL")?),
            Row::alone("one start of a static process", "ms", start),
        ],
        spreads: series.spreads(),
    })
}

fn lan_mtu(lab: &Lab) -> Result<Mtu> {
    let bridge = lab.node.netns(LAN)?.link(lab::BRIDGE)?.ok_or("the LAN has no bridge")?;
    Ok(Mtu::try_from(bridge["mtu"].as_u64().unwrap_or_default())?)
}
