//! What many blocks and floating addresses take: bytes in etcd, and memory of the daemon's part that talks to the API server,
//! on the node that leads and on another. The objects are real ones on Kubernetes' own API server; their nodes are not.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use k8slan_tests::real_server::ClusterClient;
use kube::api::{ListParams, PostParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use testnet::eventually;

use crate::fleet::{Fleet, program};
use crate::process::Process;
use crate::report::{Row, Section};
use crate::{Options, Result};

/// Blocks of 64 in a pool of 2^20 addresses, and floating addresses: how many there are in each step.
const STEPS: [(u32, u32); 5] = [(0, 0), (5_000, 0), (15_000, 0), (15_000, 10_000), (15_000, 20_000)];
/// Nodes that have the blocks.
const GHOSTS: u32 = 100;
/// Creates at the same time.
const AT_ONCE: usize = 32;
/// How long the leader may take to count what is new.
const LIMIT: Duration = Duration::from_secs(120);
/// As the daemon asks for lists.
const PAGE: u32 = 500;

const BLOCKS: &str = "lan.k8slan.io/v1beta1 LANBlock";
const ADDRESSES: &str = "lan.k8slan.io/v1beta1 LANAddress";
/// The keys of the objects in etcd, from and to: `/registry/lan.k8slan.io/lanblocks/` and `…/lanblocks0`, in base64.
const BLOCK_KEYS: [&str; 2] =
    ["L3JlZ2lzdHJ5L2xhbi5rOHNsYW4uaW8vbGFuYmxvY2tzLw==", "L3JlZ2lzdHJ5L2xhbi5rOHNsYW4uaW8vbGFuYmxvY2tzMA=="];
/// The same of addresses.
const ADDRESS_KEYS: [&str; 2] = [
    "L3JlZ2lzdHJ5L2xhbi5rOHNsYW4uaW8vbGFuYWRkcmVzc2VzLw==",
    "L3JlZ2lzdHJ5L2xhbi5rOHNsYW4uaW8vbGFuYWRkcmVzc2VzMA==",
];

pub(crate) fn compare(_: &Options) -> Result<Section> {
    let title =
        "Many blocks and floating addresses on a real API server, with the daemon on two nodes".to_owned();
    let program = match program() {
        Ok(program) => program,
        Err(why) => return Ok(Section::left_out(&title, &why)),
    };
    let fleet = Fleet::start(&program, 2)?;
    fleet.make_pool("big", &json!({ "subnets": ["10.0.0.0/12"] }))?;
    let admin = fleet.admin()?;
    let ghosts = (0..GHOSTS).map(|number| ghost(&admin, number)).collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    let (mut blocks, mut addresses) = (0, 0);
    for (next_blocks, next_addresses) in STEPS {
        let start = Instant::now();
        create(&admin, BLOCKS, (blocks..next_blocks).map(|number| block(number, &ghosts)))?;
        create(&admin, ADDRESSES, (addresses..next_addresses).map(|number| address(number, &ghosts)))?;
        let created = (next_blocks - blocks) + (next_addresses - addresses);
        if created > 0 {
            println!("{created} objects were created in {:?}", start.elapsed());
        }
        (blocks, addresses) = (next_blocks, next_addresses);
        counted(&admin, u64::from(blocks) * 64 + u64::from(addresses))?;
        let (leader, other) = leader_and_other(&fleet, &admin)?;
        let of = format!("{blocks} blocks and {addresses} addresses");
        rows.push(Row::alone(format!("{of}: the leader's memory"), "KiB", leader.kibibytes("VmRSS")?));
        rows.push(Row::alone(format!("{of}: at most"), "KiB", leader.kibibytes("VmHWM")?));
        rows.push(Row::alone(format!("{of}: another's memory"), "KiB", other.kibibytes("VmRSS")?));
    }
    rows.push(Row::alone("a LANBlock in etcd", "bytes", stored(&fleet, BLOCK_KEYS)?));
    rows.push(Row::alone("a LANAddress in etcd", "bytes", stored(&fleet, ADDRESS_KEYS)?));
    let start = Instant::now();
    let bytes = read_all(&admin)?;
    rows.push(Row::alone(
        format!("one list of {addresses} addresses, by {PAGE}"),
        "ms",
        start.elapsed().as_secs_f64() * 1e3,
    ));
    rows.push(Row::alone("the same", "MB", bytes as f64 / 1e6));
    Ok(Section { title, rows, spreads: BTreeMap::new() })
}

/// A node without a machine: its name and UID.
fn ghost(admin: &ClusterClient<'_>, number: u32) -> Result<(String, String)> {
    let name = format!("ghost-{number:03}.example.net");
    let made = admin.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } }))?;
    Ok((name, made.metadata.uid.unwrap_or_default()))
}

/// Blocks from the pool's end, so that floating addresses are in none.
fn block(number: u32, ghosts: &[(String, String)]) -> Value {
    let first = Ipv4Addr::from_bits(Ipv4Addr::new(10, 15, 255, 192).to_bits() - number * 64);
    let (node, uid) = &ghosts[number as usize % ghosts.len()];
    json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANBlock",
        "metadata": { "name": format!("big.{:08x}", first.to_bits()), "labels": { "lan.k8slan.io/node": node } },
        "spec": {
            "pool": "big", "prefix": format!("{first}/26"),
            "holder": { "node": node, "uid": uid, "term": 0, "fenced": false },
        },
    })
}

/// A machine's that runs.
fn address(number: u32, ghosts: &[(String, String)]) -> Value {
    let (node, uid) = &ghosts[number as usize % ghosts.len()];
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 2).to_bits() + number);
    let owner =
        json!({ "kind": "VirtualMachine", "namespace": "tenant-1", "name": format!("machine-{number:05}") });
    json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANAddress",
        "metadata": { "name": format!("big.{address}") },
        "spec": {
            "pool": "big", "address": address.to_string(), "owner": owner,
            "holders": [{ "node": node, "uid": uid, "term": 1, "fenced": false }],
        },
    })
}

fn create(admin: &ClusterClient<'_>, kind: &str, objects: impl Iterator<Item = Value>) -> Result<()> {
    let api = admin.api(kind, None);
    let objects: Vec<DynamicObject> =
        objects.map(serde_json::from_value).collect::<std::result::Result<_, _>>()?;
    let parameters =
        PostParams { field_manager: Some("k8slan-device-plugin".into()), ..PostParams::default() };
    let made = admin.ask(async {
        let (api, parameters) = (&api, &parameters);
        let made = stream::iter(objects).map(async move |object| api.create(parameters, &object).await);
        made.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await
    });
    made.into_iter().try_for_each(|made| Ok(made.map(drop)?))
}

/// Waits until the leader has counted that many addresses.
fn counted(admin: &ClusterClient<'_>, used: u64) -> Result<()> {
    Ok(eventually(LIMIT, || {
        let pool = admin.get("lan.k8slan.io/v1beta1 LANPool", "", "big")?.unwrap_or_default();
        let said = pool["status"]["used"].as_str().and_then(|used| used.parse::<u64>().ok());
        // The gateway, and the network's first and last address, are not handed out.
        match said.is_some_and(|said| said.abs_diff(used) <= 3) {
            true => Ok(()),
            false => Err(format!("{used} are used, the status is {}", pool["status"])),
        }
    })?)
}

/// The processes that talk to the API server: the leader's, and the other's.
fn leader_and_other(fleet: &Fleet, admin: &ClusterClient<'_>) -> Result<(Process, Process)> {
    let lease =
        admin.get("coordination.k8s.io/v1 Lease", "k8slan-system", "k8slan-leader")?.unwrap_or_default();
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let [first, second] = &fleet.workers[..] else { return Err("two nodes were asked for".into()) };
    let [first_id, second_id] = [first, second].map(|worker| Process(worker.daemons[0].id()));
    Ok(if holder.starts_with(first.node.name()) { (first_id, second_id) } else { (second_id, first_id) })
}

/// The bytes that objects of a kind have in etcd on average, by a thousand of them.
fn stored(fleet: &Fleet, [from, to]: [&str; 2]) -> Result<f64> {
    let question = json!({ "key": from, "range_end": to, "limit": "1000" }).to_string();
    let address = fleet.server.etcd_url().trim_start_matches("http://").to_owned();
    let answer = fleet.control().run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&*address)?;
        let length = question.len();
        let head = format!("POST /v3/kv/range HTTP/1.0\r\nhost: etcd\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{question}").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("etcd does not speak HTTP")?;
    let found: Value = serde_json::from_str(body)?;
    let values = found["kvs"].as_array().into_iter().flatten().filter_map(|pair| pair["value"].as_str());
    let lengths: Vec<usize> = values.map(|text| text.len() / 4 * 3 - text.matches('=').count()).collect();
    Ok(lengths.iter().sum::<usize>() as f64 / lengths.len().max(1) as f64)
}

/// Reads all floating addresses as the daemon does; how many bytes they are as JSON.
fn read_all(admin: &ClusterClient<'_>) -> Result<usize> {
    let api = admin.api(ADDRESSES, None);
    let mut parameters = ListParams::default().limit(PAGE);
    let mut bytes = 0;
    loop {
        let page = admin.ask(async { api.list(&parameters).await })?;
        bytes += serde_json::to_vec(&page.items)?.len();
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(bytes),
        }
    }
}
