//! However LANs were edited, a node ends as a fresh one that is given the last files.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8slan_tests::{LanFile, Worker, joined, underlay};
use serde_json::{Value, json};
use testnet::{Node, Outcome, Ping, Pod, Stop, Switch, eventually};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![a_thousand_edits_end_as_a_fresh_start]
}

const EDITS: usize = 1000;
const LANS: usize = 6;
/// The spokes of all LANs; the first two have pods on them all the time.
const SPOKES: usize = 24;
const SETTLED: Duration = Duration::from_secs(20);

/// Sebastiano Vigna's splitmix64: a seed tells a whole run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

fn seed() -> u64 {
    let given = std::env::var("K8SLAN_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    })
}

/// A LAN as it might be written. `good`: it keeps to what is its own and can be built or says why not, whatever
/// was before it; otherwise it may also reach for what others have, or be nonsense.
fn lan(random: &mut Random, number: usize, good: bool) -> LanFile {
    let own = SPOKES / LANS;
    // Pods are to be attached to it.
    let buildable = good && number == 0;
    let mut spokes: BTreeSet<String> =
        (0..own).filter(|_| random.one_in(2)).map(|n| format!("s{}", number * own + n)).collect();
    if number == 0 && (good || !random.one_in(4)) {
        spokes.extend(["s0".to_owned(), "s1".to_owned()]);
    }
    let mut vni = u32::try_from(100 + number).unwrap();
    if !good && random.one_in(8) {
        spokes.insert(format!("s{}", random.below(SPOKES)));
    }
    if !good && random.one_in(12) {
        vni = u32::try_from(100 + random.below(LANS)).unwrap();
    }
    let names: Vec<&str> = spokes.iter().map(String::as_str).collect();
    let mut lan = LanFile::new(&format!("lan{number}"), vni, &names);
    let devices: &[&str] = if buildable { &["eth1", "eth2"] } else { &["eth1", "eth1", "eth2", "eth9"] };
    lan.dev = random.of(devices).to_owned();
    if random.one_in(3) {
        let dev = random.of(&["eth1", "eth2"]);
        lan = lan.with(&format!("vxlanDevMap: {{worker1: {dev}, fresh: {dev}, other: eth9}}"));
    }
    if random.one_in(2) {
        let mtus: &[u32] = if buildable { &[1280, 1400] } else { &[1280, 1300, 1400, 9000] };
        lan = lan.with(&format!("mtu: {}", random.of(mtus)));
    }
    if random.one_in(2) {
        let groups: &[&str] =
            if good { &["ff02::15", "239.1.1.1"] } else { &["ff02::15", "239.1.1.1", "10.0.0.1"] };
        lan = lan.with(&format!("vxlanGrp: \"{}\"", random.of(groups)));
    }
    if random.one_in(2) {
        lan = lan.with(&format!("vxlanPort: {}", random.of(&[4789, 4790])));
    }
    lan
}

/// Everything that the daemon makes of LANs, without what differs between two nodes that are alike.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    /// By namespace and link.
    links: BTreeMap<String, Value>,
    records: BTreeMap<String, Value>,
    status: BTreeMap<String, Value>,
    node: BTreeSet<String>,
}

impl State {
    fn of(worker: &Worker) -> Result<Self, String> {
        let mut state = Self::default();
        let text = |error: testnet::Error| error.to_string();
        for name in worker.list("/run/netns").into_iter().filter(|name| !name.starts_with("cni-")) {
            let inside = worker.netns(&format!("/run/netns/{name}")).map_err(text)?;
            for link in inside.ip_json("-details link show").map_err(text)? {
                let name = format!("{name}/{}", link["ifname"].as_str().unwrap_or_default());
                let info = &link["linkinfo"];
                let (data, port) = (&info["info_data"], &info["info_slave_data"]);
                let alias = link["ifalias"].as_str().filter(|alias| alias.starts_with("k8slan:lan"));
                let up = link["flags"].as_array().is_some_and(|flags| flags.contains(&"UP".into()));
                let below = match info["info_kind"] == "vxlan" {
                    true => underlay(worker, &inside, &link).map_err(text)?,
                    false => None,
                };
                let group = data.get("group6").or(data.get("group"));
                state.links.insert(
                    name,
                    json!({
                        "kind": info["info_kind"], "up": up, "mtu": link["mtu"], "master": link["master"],
                        "group": link["group"], "alias": alias, "underlay": below,
                        "vxlan": [data["id"], group, data["port"]],
                        "bridge": [data["stp_state"], data["mcast_snooping"]],
                        "fwd": port["group_fwd_mask"],
                    }),
                );
            }
        }
        for file in worker.list("/run/k8slan/spokes").into_iter().filter(|file| file.ends_with(".json")) {
            let text = worker.read(&format!("/run/k8slan/spokes/{file}")).map_err(text)?;
            state.records.insert(file, serde_json::from_str(&text).map_err(|error| error.to_string())?);
        }
        let text = worker.read("/run/k8slan/status.json").map_err(text)?.replace(worker.name(), "NODE");
        let status: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        for lan in status["lans"].as_array().into_iter().flatten() {
            let mut lan = lan.clone();
            for spoke in lan["spokes"].as_array_mut().into_iter().flatten() {
                spoke["usedBy"] = spoke["usedBy"].is_string().into();
            }
            // Since when it is so differs.
            for condition in lan["conditions"].as_array_mut().into_iter().flatten() {
                condition.as_object_mut().map(|condition| condition.remove("lastTransitionTime"));
            }
            // What has no room on its underlay has no MTU, and what stands of it keeps the one that it had.
            let unknown =
                lan["mtu"].is_null().then(|| format!("{}/", lan["netns"].as_str().unwrap_or_default()));
            for (_, link) in state
                .links
                .iter_mut()
                .filter(|(name, _)| unknown.as_ref().is_some_and(|of| name.starts_with(of)))
            {
                link["mtu"] = Value::Null;
            }
            state.status.insert(lan["lan"].as_str().unwrap_or_default().to_owned(), lan);
        }
        state.node = worker.link_names().map_err(|error| error.to_string())?.into_iter().collect();
        Ok(state)
    }
}

fn difference<T: PartialEq + std::fmt::Debug>(
    what: &str,
    a: &BTreeMap<String, T>,
    b: &BTreeMap<String, T>,
) -> String {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let unlike = keys.into_iter().filter(|key| a.get(*key) != b.get(*key));
    unlike
        .map(|key| format!("{what} {key}:\n  edited {:?}\n  fresh  {:?}\n", a.get(key), b.get(key)))
        .collect()
}

fn node(name: &str, switches: &[Switch; 2]) -> Result<Worker, Stop> {
    let mut node = Node::new(name)?;
    node.connect(&switches[0], "eth1", 1500)?;
    node.connect(&switches[1], "eth2", 2000)?;
    Ok(Worker::on(node)?)
}

fn pings(from: &Pod<'_>) -> Result<(), String> {
    let to: std::net::IpAddr = "10.0.0.2".parse().unwrap();
    match Ping::new(to).timeout(Duration::from_millis(200)).run(from) {
        Ok(report) if report.lost() == 0 => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn a_thousand_edits_end_as_a_fresh_start() -> Outcome {
    let seed = seed();
    println!("K8SLAN_SEED={seed}");
    let mut random = Random(seed);
    let switches = [Switch::new()?, Switch::new()?];
    let worker = node("worker1", &switches)?;
    let mut lans: [Option<LanFile>; LANS] = std::array::from_fn(|_| None);
    lans[0] = Some(LanFile::new("lan0", 100, &["s0", "s1"]));
    worker.put(lans[0].as_ref().unwrap())?;
    // These live through all of it.
    let (a, b) = (joined(&worker, "s0", "10.0.0.1/24")?, joined(&worker, "s1", "10.0.0.2/24")?);
    let mut built = BTreeSet::new();
    for edit in 0..EDITS {
        let last = EDITS - edit <= LANS;
        let number = if last { EDITS - edit - 1 } else { random.below(LANS) };
        // The first LAN is there at the end, since its pods are.
        let gone = random.one_in(4) && !(last && number == 0);
        let next = (!gone).then(|| lan(&mut random, number, last));
        match (&lans[number], &next) {
            (_, Some(next)) => worker.put(next)?,
            (Some(before), None) => worker.remove(before)?,
            (None, None) => {}
        }
        lans[number] = next;
        if random.one_in(200) {
            worker.kill_daemon()?;
            worker.start_daemon()?;
        }
        // Edits come alone and in bursts.
        let pause = if random.one_in(3) { random.below(40) } else { 0 };
        std::thread::sleep(Duration::from_millis(u64::try_from(pause).unwrap()));
        built.extend(worker.list("/run/netns"));
    }
    let lans_built = built.iter().filter(|name| !name.starts_with("cni-")).count();
    assert!(lans_built >= LANS, "seed {seed}: too little was built meanwhile: {built:?}");

    let fresh = node("fresh", &switches)?;
    for lan in lans.iter().flatten() {
        fresh.put(lan)?;
    }
    let _pods = [joined(&fresh, "s0", "10.0.0.1/24")?, joined(&fresh, "s1", "10.0.0.2/24")?];
    eventually(SETTLED, || {
        let (edited, fresh) = (State::of(&worker)?, State::of(&fresh)?);
        let mut unlike = difference("record", &edited.records, &fresh.records);
        unlike += &difference("link", &edited.links, &fresh.links);
        unlike += &difference("status", &edited.status, &fresh.status);
        if edited.node != fresh.node {
            unlike += &format!("links of the node: {:?} {:?}", edited.node, fresh.node);
        }
        if unlike.is_empty() { Ok(()) } else { Err(format!("seed {seed}: {unlike}\n{lans:#?}")) }
    })?;
    eventually(Duration::from_secs(3), || pings(&a))?;
    drop(b);
    Ok(())
}
