//! A pool of the cluster beside a pool with a file: what the object and the grants cost an ADD, once the node has its blocks.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use net_types::AddrSet;
use node::{BlockLength, ClusterPool, Grant, Grants, NodeConfig, SafeDir};
use serde_json::{Value, json};
use testnet::{CniCall, Node, Pod};

use crate::report::{Row, Section};
use crate::rounds::{Series, interleave};
use crate::run::Run;
use crate::{Options, Result};

const OBJECT: &str = "object";
const FILE: &str = "file";
/// As many as the other comparison of few leases has.
const LEASES: u32 = 100;
/// Of 64 addresses each.
const BLOCKS: u32 = 8;

/// One of the two pools, and containers that are not there yet.
struct Pool<'a> {
    name: &'static str,
    pod: &'a Pod<'a>,
    number: AtomicU32,
}

impl Pool<'_> {
    fn next(&self) -> Run {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let config = json!({ "cniVersion": "1.0.0", "name": self.name, "type": "bridge",
            "ipam": { "type": "ipam-pool", "pool": self.name } });
        let call = CniCall { container: format!("{number:064x}"), ..self.pod.call("net1", &config) };
        Run::ours("ipam-pool", call)
    }

    fn measure(&self, series: &mut Series, add: &'static str, del: &'static str) -> Result<()> {
        let run = self.next();
        series.add(add, run.timed("ADD")?);
        series.add(del, run.timed("DEL")?);
        Ok(())
    }

    fn fill(&self) -> Result<()> {
        (0..LEASES).try_for_each(|_| self.next().timed("ADD").map(drop))
    }
}

pub(crate) fn compare(options: &Options) -> Result<Section> {
    let node = Node::new("bench")?;
    node.write("/var/lib/k8slan/pools.d/file.yaml", file_pool().to_string())?;
    node.run(give_blocks)?;
    let pod = node.pod("pod")?;
    let of = |name| Pool { name, pod: &pod, number: AtomicU32::new(1) };
    let (object, file) = (&of(OBJECT), &of(FILE));
    let series = node.run(|| {
        object.fill()?;
        file.fill()?;
        interleave(
            options.rounds,
            &mut [
                Box::new(|series| object.measure(series, "ADD, object", "DEL, object")),
                Box::new(|series| file.measure(series, "ADD, file", "DEL, file")),
            ],
        )
    })?;
    let row = |verb: &str| -> Result<Row> {
        let [own, other] = [OBJECT, FILE].map(|pool| format!("{verb}, {pool}"));
        let (here, there) = (series.spread(&own)?, series.spread(&other)?);
        Ok(Row::times(format!("ipam-pool {verb}, the cluster's pool"), here, "the same with a file", there))
    };
    Ok(Section {
        title: format!(
            "A pool of the cluster of which this node has {BLOCKS} blocks, beside one with a file, {LEASES} leases each"
        ),
        rows: vec![row("ADD")?.at_most(1.1), row("DEL")?],
        spreads: series.spreads(),
    })
}

/// JSON is YAML.
fn file_pool() -> Value {
    json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": FILE },
        "spec": { "ranges": [{ "subnet": "10.4.0.0/16" }], "scope": "host", "cooldown": "1m" },
    })
}

/// What the daemon has on the node's disk once it claimed blocks.
fn give_blocks() -> Result<()> {
    let paths = NodeConfig::load()?.paths();
    let pool = ClusterPool {
        name: OBJECT.to_owned(),
        spec: json!({ "subnets": ["10.3.0.0/16"] }),
        blocks: Some(BlockLength { v4: 26, v6: 122 }),
        ..ClusterPool::default()
    };
    pool.write(&SafeDir::create(&paths.cluster_pools())?)?;
    let blocks = (0..BLOCKS).map(|number| -> Result<Grant> {
        // Nodes' blocks are far from one another.
        let addresses = AddrSet::union([format!("10.3.{0}.64-10.3.{0}.127", 16 * number).parse()?]);
        Ok(Grant { addresses, until: u64::MAX })
    });
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let grants = Grants { boot_id, grants: blocks.collect::<Result<_>>()?, ..Grants::default() };
    let program = testnet::program("ipam-pool");
    let mut grant = Command::new(program)
        .args(["blocks", "grant", OBJECT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    grant.stdin.take().ok_or("no standard input")?.write_all(&serde_json::to_vec(&grants)?)?;
    let status = grant.wait()?;
    if status.success() { Ok(()) } else { Err(format!("ipam-pool blocks grant: {status}").into()) }
}
