//! Addresses: ipam-pool beside Debian's host-local, with few leases and with many, and many at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testnet::{CniCall, Node, Pod};

use crate::report::{Row, Section};
use crate::rounds::{Series, interleave};
use crate::run::Run;
use crate::{Options, Result};

const FEW: u32 = 100;
const MANY: u32 = 60_000;
const PROCESSES: u32 = 16;
const SLICE: Duration = Duration::from_millis(500);

/// One plugin with one pool.
struct Contestant<'a> {
    plugin: &'static str,
    network: &'static str,
    pod: &'a Pod<'a>,
    number: AtomicU32,
}

impl Contestant<'_> {
    /// A run for a container that is not there yet.
    fn next(&self) -> Result<Run> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let call = CniCall {
            container: format!("{number:064x}"),
            ..self.pod.call("net1", &config(self.plugin, self.network))
        };
        if self.plugin == "ipam-pool" {
            Ok(Run::ours(self.plugin, call))
        } else {
            Run::peer(self.plugin, call)
        }
    }

    fn measure(&self, series: &mut Series, add: &'static str, del: &'static str) -> Result<()> {
        let run = self.next()?;
        series.add(add, run.timed("ADD")?);
        series.add(del, run.timed("DEL")?);
        Ok(())
    }

    /// How many pairs of ADD and DEL are done in a second by that many at once.
    fn throughput(&self) -> Result<f64> {
        let start = Instant::now();
        let one = || -> Result<u32> {
            let mut done = 0;
            while start.elapsed() < SLICE {
                let run = self.next()?;
                run.timed("ADD")?;
                run.timed("DEL")?;
                done += 1;
            }
            Ok(done)
        };
        let done: u32 = thread::scope(|scope| {
            let threads: Vec<_> = (0..PROCESSES).map(|_| scope.spawn(one)).collect();
            let done = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread of the bench panicked".into())));
            done.sum::<Result<u32>>()
        })?;
        Ok(f64::from(done) / start.elapsed().as_secs_f64())
    }
}

fn config(plugin: &str, network: &str) -> Value {
    let subnet = if network == "few" { "10.1.0.0/16" } else { "10.2.0.0/16" };
    json!({ "cniVersion": "1.0.0", "name": network, "type": "bridge",
        "ipam": { "type": plugin, "ranges": [[{ "subnet": subnet }]] } })
}

/// Leases as host-local keeps them; ipam-pool takes over a copy.
fn lease(node: &Node, network: &str, second: u8, count: u32) -> Result<()> {
    let folder = PathBuf::from("/var/lib/cni/networks").join(network);
    node.run(|| -> Result<()> {
        fs::create_dir_all(&folder)?;
        for number in 2..count + 2 {
            let address = format!("10.{second}.{}.{}", number >> 8, number & 255);
            fs::write(folder.join(&address), format!("{:064x}\r\nnet1", u64::from(number) << 32))?;
            if number == count + 1 {
                fs::write(folder.join("last_reserved_ip.0"), address)?;
            }
        }
        Ok(())
    })?;
    let program = testnet::program("ipam-pool");
    node.exec(&[&program.to_string_lossy(), "import-host-local", &folder.to_string_lossy()])?;
    Ok(())
}

pub(crate) fn compare(options: &Options) -> Result<Section> {
    let node = Node::new("bench")?;
    let pod = node.pod("pod")?;
    lease(&node, "few", 1, FEW)?;
    lease(&node, "many", 2, MANY)?;
    let contestant = |plugin, network| Contestant { plugin, network, pod: &pod, number: AtomicU32::new(1) };
    let (few, many) = (contestant("ipam-pool", "few"), contestant("ipam-pool", "many"));
    let (peer_few, peer_many) = (contestant("host-local", "few"), contestant("host-local", "many"));
    let (few, many, peer_few, peer_many) = (&few, &many, &peer_few, &peer_many);
    let (series, slow, rates) = node.run(|| -> Result<_> {
        let series = interleave(
            options.rounds,
            &mut [
                Box::new(|series| few.measure(series, "ipam-pool ADD", "ipam-pool DEL")),
                Box::new(|series| many.measure(series, "ipam-pool ADD, 60000", "ipam-pool DEL, 60000")),
                Box::new(|series| peer_few.measure(series, "host-local ADD", "host-local DEL")),
            ],
        )?;
        // A second for each: not as often.
        let slow = interleave(
            options.rounds / 20 + 1,
            &mut [Box::new(|series| {
                peer_many.measure(series, "host-local ADD, 60000", "host-local DEL, 60000")
            })],
        )?;
        let mut rates = [0.0; 2];
        const SLICES: usize = 4;
        for slice in 0..SLICES {
            for turn in 0..2 {
                let index = (slice + turn) % 2;
                if let Some(rate) = rates.get_mut(index) {
                    *rate += [few, peer_few][index].throughput()? / SLICES as f64;
                }
            }
        }
        Ok((series, slow, rates))
    })?;
    let mut rows = Vec::new();
    for verb in ["ADD", "DEL"] {
        let [own, own_many, peer] =
            [format!("ipam-pool {verb}"), format!("ipam-pool {verb}, 60000"), format!("host-local {verb}")];
        let (at_few, at_many) = (series.spread(&own)?, series.spread(&own_many)?);
        let many = format!("{own}, {MANY} leases in a /16");
        rows.push(
            Row::times(format!("{own}, {FEW} leases"), at_few, &peer, series.spread(&peer)?).at_most(0.35),
        );
        rows.push(Row::times(&many, at_many, format!("its own at {FEW}"), at_few).at_most(1.3));
        let peer_many = slow.spread(&format!("{peer}, 60000"))?;
        rows.push(Row::times(&many, at_many, format!("{peer}, {MANY}"), peer_many));
    }
    let [our_rate, peer_rate] = rates;
    rows.push(
        Row::alone(format!("ADD and DEL, {PROCESSES} processes"), "pairs/s", our_rate)
            .beside("host-local", peer_rate),
    );
    let mut spreads: BTreeMap<_, _> = series.spreads();
    spreads.extend(slow.spreads());
    Ok(Section { title: "Addresses: ipam-pool beside Debian's host-local".to_owned(), rows, spreads })
}
