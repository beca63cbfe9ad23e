//! Pools of the cluster at scale, simulated with the protocol's own state machines (`pool-blocks`): one for each node, and a model
//! of the API server. Nothing else of the product runs here, and no time is measured: a request takes 10 ms.

mod api;
mod machine;
mod world;

use std::collections::BTreeMap;

use crate::report::{Row, Section};
use crate::{Options, Result};
use api::Asked;
use world::{DAY, ROUND_TRIP, Size, World};

/// The trend: addresses and floating ones grow with the nodes.
const SIZES: [Size; 3] = [
    Size { nodes: 1_000, addresses: 100_000, floating: 2_000 },
    Size { nodes: 3_000, addresses: 300_000, floating: 6_000 },
    Size { nodes: 10_000, addresses: 1_000_000, floating: 20_000 },
];
/// What a `LANBlock` and a `LANAddress` take in etcd, as the section `objects` measures it.
const BLOCK_BYTES: f64 = 760.0;
const ADDRESS_BYTES: f64 = 840.0;
/// How many pods nodes have on average, from and to, of 100 addresses for each.
const FEW: [f64; 2] = [20.0, 40.0];
/// How long a start of all nodes may take.
const MINUTE: u64 = 60_000;

pub(crate) fn compare(_: &Options) -> Result<Section> {
    let mut rows = Vec::new();
    for size in SIZES {
        rows.extend(trend(size));
    }
    Ok(Section {
        title: format!(
            "Simulated: pools of the cluster at scale, {ROUND_TRIP} ms a request, 20 to 40 pods a node, blocks of 64"
        ),
        rows,
        spreads: BTreeMap::new(),
    })
}

fn trend(size: Size) -> Vec<Row> {
    println!("simulating {} nodes", size.nodes);
    let nodes = size.nodes as f64;
    let mut rows = Vec::new();
    let mut say = |what: &str, unit: &'static str, value: f64| {
        let row = Row::alone(format!("{} nodes: {what}", size.nodes), unit, value);
        row.print();
        rows.push(row);
    };
    let starts =
        |asked: &Asked| (asked.requests() as f64 / nodes, f64::from(asked.peak()), read_bytes(asked));

    let mut world = World::new(size, FEW);
    world.start_all(MINUTE);
    world.run(2 * MINUTE);
    let (asked, waits) = world.take();
    let (each, peak, bytes) = starts(&asked);
    say("first start of all within a minute: requests a node", "", each);
    say("the same: requests a second at most", "", peak);
    say("the same: read by all", "MB", bytes);
    say("the same: creates that another was before", "", asked.refused as f64);
    say("the same: the longest wait of a pod for a block", "ms", longest(&waits));

    let mut at_once = World::new(size, FEW);
    at_once.start_all(0);
    at_once.run(2 * MINUTE);
    let (asked, waits) = at_once.take();
    say("first start of all at one moment: requests in the first second", "", f64::from(asked.peak()));
    say("the same: the longest wait of a pod for a block", "ms", longest(&waits));

    world.reboot_all();
    world.start_all(MINUTE);
    world.run(2 * MINUTE);
    let (each, peak, bytes) = starts(&world.take().0);
    say("all boot again within a minute: requests a node", "", each);
    say("the same: requests a second at most", "", peak);
    say("the same: read by all", "MB", bytes);

    world.churn();
    world.run(DAY / 4);
    world.take();
    let before = world.api.blocks();
    world.run(DAY);
    let started = world.pods_started;
    let (asked, waits) = world.take();
    say("a day: pods started", "", started as f64);
    say("a day: requests a second", "", asked.requests() as f64 / (DAY / 1_000) as f64);
    say("a day: requests a second at most", "", f64::from(asked.peak()));
    say("a day: read in a second", "MB", read_bytes(&asked) / (DAY / 1_000) as f64);
    say("a day: blocks claimed or returned", "", (asked.writes - asked.refused) as f64);
    say("a day: writes of the pool's status", "", asked.status_writes() as f64);
    say("a day: pods that waited for a block", "", waits.len() as f64);
    say("a day: the longest wait of one", "ms", longest(&waits));
    say("blocks before that day", "", before as f64);
    say("blocks after it", "", world.api.blocks() as f64);
    let objects = world.api.blocks() + size.floating;
    let bytes = world.api.blocks() as f64 * BLOCK_BYTES + size.floating as f64 * ADDRESS_BYTES;
    say("objects", "", objects as f64);
    say("objects in etcd", "MB", bytes / 1e6);
    say("a day: pods that were refused", "", world.take_refused() as f64);
    say("addresses in blocks", "%", world.api.blocks() as f64 / world.block_count() as f64 * 100.0);
    say("addresses that pods have", "%", world.pods() as f64 / f64::from(size.addresses) * 100.0);

    let mut full = World::new(size, FEW);
    full.give_away(95);
    // So that all have read what they hold.
    full.start_idle();
    full.run(2 * MINUTE);
    full.take();
    full.claim_on(size.nodes / 50, MINUTE);
    full.run(2 * MINUTE);
    let (asked, waits) = full.take();
    say("95 % full: claims", "", waits.len() as f64);
    say(
        "95 % full: creates that another was before, for each",
        "",
        asked.refused as f64 / waits.len().max(1) as f64,
    );
    say("95 % full: the median wait of a claim", "ms", at(&waits, 0.5));
    say("95 % full: the longest wait of a claim", "ms", longest(&waits));
    rows
}

fn read_bytes(asked: &Asked) -> f64 {
    asked.objects_read as f64 * ADDRESS_BYTES / 1e6
}

fn longest(waits: &[u64]) -> f64 {
    waits.last().copied().unwrap_or_default() as f64
}

fn at(waits: &[u64], share: f64) -> f64 {
    waits.get((waits.len() as f64 * share) as usize).copied().unwrap_or_default() as f64
}
