//! A thousand pods at once over twenty nodes, with Kubernetes' own API server, beside whereabouts at the same server.
//!
//! Only the IPAM plugins run, as a main plugin would start them. All nodes, the API server and etcd share this machine's
//! processors, so that the times are of the whole cluster's work on them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testnet::CniCall;

use crate::audit::{ADMIN, DAEMON, Requests};
use crate::fleet::{Fleet, Worker, program};
use crate::report::{Row, Section};
use crate::run::{Run, timed_start};
use crate::{Options, Result};

const NODES: usize = 20;
/// On each node.
const PODS: u32 = 50;
/// How many a node starts at the same time where both are compared: a process of whereabouts takes tens of MiB.
const AT_ONCE: usize = 10;
/// Of one wave; the medians are told.
const ROUNDS: usize = 3;
/// How soon the runtime tries again what failed.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a wave may take: whereabouts needs longer for a thousand pods.
const LIMIT: Duration = Duration::from_secs(240);
/// What a wave leads to besides is asked by then.
const SETTLES: Duration = Duration::from_secs(2);

/// What runs on the nodes.
struct Contestant {
    program: PathBuf,
    config: Value,
    user: &'static str,
}

/// One wave of ADDs or DELs.
struct Wave {
    seconds: f64,
    /// Calls that succeeded within the limit.
    done: u32,
    /// Calls that failed and were made again.
    again: u32,
    requests: Requests,
}

/// Something that is counted in a wave.
type Count = fn(&Wave) -> usize;

/// Waves of one kind, a round each.
#[derive(Default)]
struct Waves(Vec<Wave>);

impl Waves {
    fn median(&self, figure: impl Fn(&Wave) -> f64) -> f64 {
        median(self.0.iter().map(figure))
    }

    fn row(&self, what: &str) -> Row {
        Row::alone(what, "s", self.median(|wave| wave.seconds))
    }

    fn rate(&self) -> f64 {
        self.median(|wave| f64::from(wave.done) / wave.seconds)
    }

    /// What was asked of the API server for them.
    fn requests(&self, rows: &mut Vec<Row>) {
        let figures: [(&str, Count); 5] = [
            ("  blocks claimed", claimed),
            ("  writes", |wave| wave.requests.writes),
            ("  lists of addresses", |wave| wave.requests.of("list lanaddresses")),
            ("  conflicts", |wave| wave.requests.conflicts),
            ("  calls that failed and were made again", |wave| wave.again as usize),
        ];
        let figures = figures.map(|(what, of)| Row::alone(what, "", self.median(|wave| of(wave) as f64)));
        rows.extend(figures);
    }

    fn print(&self, name: &str) {
        if let Some(wave) = self.0.first() {
            println!("{name}: {:?}", wave.requests.by_kind);
        }
    }
}

pub(crate) fn compare(options: &Options) -> Result<Section> {
    let title = format!(
        "{} ADDs at once over {NODES} nodes with a real API server, beside whereabouts 0.9.2, {AT_ONCE} at a time on each node",
        NODES as u32 * PODS
    );
    let program = match program() {
        Ok(program) => program,
        Err(why) => return Ok(Section::left_out(&title, &why)),
    };
    let fleet = Fleet::start(&program, NODES)?;
    let whereabouts = whereabouts(&fleet)?;
    let [mut cold, mut warm, mut freed, mut all, mut tight, mut single, mut theirs, mut their_freed]: [Waves;
        8] = Default::default();
    let [mut floor, mut their_floor]: [Vec<f64>; 2] = Default::default();
    for round in 0..options.rounds.div_ceil(20).min(ROUNDS) {
        // Blocks of 32 addresses; without a rest, so that the second wave finds what the first had.
        let wide = fleet_pool(&fleet, &format!("wide{round}"), 100 + round, json!({ "cooldown": "0s" }))?;
        cold.0.push(wave(&fleet, &wide, "ADD", AT_ONCE)?);
        freed.0.push(wave(&fleet, &wide, "DEL", AT_ONCE)?);
        warm.0.push(wave(&fleet, &wide, "ADD", AT_ONCE)?);
        floor.push(starts(&fleet, &wide.program)?);
        let pool = fleet_pool(&fleet, &format!("all{round}"), 110 + round, json!({}))?;
        all.0.push(wave(&fleet, &pool, "ADD", PODS as usize)?);
        // 2,048 addresses in blocks of 16: 80 of 128 are needed.
        let subnet = json!({ "subnets": [format!("10.{}.0.0/21", 120 + round)] });
        let pool = fleet_pool(&fleet, &format!("tight{round}"), 120 + round, subnet)?;
        tight.0.push(wave(&fleet, &pool, "ADD", AT_ONCE)?);
        // As a pool of a few hundred addresses has them, for which a thousand pods are too many.
        let pool = fleet_pool(&fleet, &format!("single{round}"), 130 + round, json!({ "blockSize": 1 }))?;
        single.0.push(wave(&fleet, &pool, "ADD", AT_ONCE)?);
        // Minutes each.
        if let (0, Some(whereabouts)) = (round, &whereabouts) {
            theirs.0.push(wave(&fleet, whereabouts, "ADD", AT_ONCE)?);
            their_freed.0.push(wave(&fleet, whereabouts, "DEL", AT_ONCE)?);
            their_floor.push(starts(&fleet, &whereabouts.program)?);
        }
    }
    let mut rows = vec![cold.row("ADD, no node has a block")];
    cold.requests(&mut rows);
    let latency = |share: f64| cold.median(|wave| wave.requests.latency(share));
    rows.push(Row::alone("  a request at the server, median", "ms", latency(0.5)));
    rows.push(Row::alone("  a request at the server, 99 of 100", "ms", latency(0.99)));
    for (what, waves) in [
        ("ADD, nodes have blocks", &warm),
        ("ADD, 50 at a time on each node, no node has a block", &all),
        ("ADD, 80 of the pool's 128 blocks are needed", &tight),
        ("ADD, blocks of one address", &single),
    ] {
        rows.push(waves.row(what));
        waves.requests(&mut rows);
    }
    rows.push(freed.row("DEL"));
    rows.push(Row::alone("as many starts of the program", "s", median(floor.iter().copied())));
    if !theirs.0.is_empty() {
        let beside =
            |what: &str, ours: f64, theirs: f64| Row::alone(what, "", ours).beside("whereabouts", theirs);
        let done = |waves: &Waves| waves.median(|wave| f64::from(wave.done));
        rows.push(beside("ADDs a second, no node has a block", cold.rate(), theirs.rate()));
        rows.push(beside("ADDs a second, nodes have blocks", warm.rate(), theirs.rate()));
        rows.push(beside("  pods that got an address in time", done(&cold), done(&theirs)));
        rows.push(beside("DELs a second", freed.rate(), their_freed.rate()));
        let starts = |floor: &[f64]| f64::from(NODES as u32 * PODS) / median(floor.iter().copied());
        rows.push(beside("starts of the program a second", starts(&floor), starts(&their_floor)));
        let asked = |waves: &Waves| {
            waves.median(|wave| {
                (wave.requests.writes + wave.requests.reads) as f64 / f64::from(wave.done.max(1))
            })
        };
        rows.push(beside("API requests a pod, no node has a block", asked(&cold), asked(&theirs)));
        let conflicts = |waves: &Waves| waves.median(|wave| wave.requests.conflicts as f64);
        rows.push(beside("conflicts", conflicts(&cold), conflicts(&theirs)));
        let again = |waves: &Waves| waves.median(|wave| f64::from(wave.again));
        rows.push(beside("calls that failed and were made again", again(&cold), again(&theirs)));
    }
    for (name, waves) in
        [("no blocks", &cold), ("blocks", &warm), ("single", &single), ("whereabouts", &theirs)]
    {
        waves.print(name);
    }
    Ok(Section { title, rows, spreads: BTreeMap::new() })
}

/// A pool of the cluster that all nodes know; of a /16 unless `spec` says another subnet.
fn fleet_pool(fleet: &Fleet, name: &str, subnet: usize, mut spec: Value) -> Result<Contestant> {
    if spec.get("subnets").is_none() {
        spec["subnets"] = json!([format!("10.{subnet}.0.0/16")]);
    }
    fleet.make_pool(name, &spec)?;
    Ok(ours(name))
}

/// Creates that were not refused.
fn claimed(wave: &Wave) -> usize {
    wave.requests.of("create lanblocks").saturating_sub(wave.requests.conflicts)
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn ours(pool: &str) -> Contestant {
    let config = json!({ "cniVersion": "1.0.0", "name": pool, "type": "bridge",
        "ipam": { "type": "ipam-pool", "pool": pool } });
    Contestant { program: testnet::program("ipam-pool"), config, user: DAEMON }
}

/// Whereabouts, set up in the cluster and on the nodes; `None` where this machine has it not.
fn whereabouts(fleet: &Fleet) -> Result<Option<Contestant>> {
    let Some(program) = k8slan_tests::go_programs::whereabouts() else {
        println!("whereabouts is left out: tests/packages.sh scale builds it, with Go");
        return Ok(None);
    };
    let admin = fleet.admin()?;
    for (kind, plural) in
        [("IPPool", "ippools"), ("OverlappingRangeIPReservation", "overlappingrangeipreservations")]
    {
        admin.apply(&definition(kind, plural))?;
    }
    let kubeconfig = fleet.admin_file()?;
    let settings = json!({ "datastore": "kubernetes", "kubernetes": { "kubeconfig": kubeconfig } });
    for Worker { node, .. } in &fleet.workers {
        node.write("/etc/cni/net.d/whereabouts.d/whereabouts.conf", settings.to_string())?;
    }
    let config = json!({ "cniVersion": "1.0.0", "name": "peer", "type": "bridge",
        "ipam": { "type": "whereabouts", "range": "10.200.0.0/16" } });
    Ok(Some(Contestant { program, config, user: ADMIN }))
}

/// As whereabouts' own, which has the fields besides.
fn definition(kind: &str, plural: &str) -> Value {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.whereabouts.cni.cncf.io") },
        "spec": {
            "group": "whereabouts.cni.cncf.io", "scope": "Namespaced",
            "names": { "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List") },
            "versions": [{ "name": "v1alpha1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    })
}

/// As many starts of the program, as many at a time, in seconds.
fn starts(fleet: &Fleet, program: &std::path::Path) -> Result<f64> {
    let start = Instant::now();
    on_all(fleet, AT_ONCE, |_, _| timed_start(program).map(drop))?;
    Ok(start.elapsed().as_secs_f64())
}

/// Makes the call for all pods; `at_once` at a time on each node.
fn wave(fleet: &Fleet, contestant: &Contestant, verb: &str, at_once: usize) -> Result<Wave> {
    let before = fleet.server.audit(0).map_err(crate::fleet::failed)?.len();
    let [again, done] = [AtomicU32::new(0), AtomicU32::new(0)];
    let start = Instant::now();
    on_all(fleet, at_once, |worker, number| {
        let pod = format!("{}-{number}", worker.node.name());
        let call = CniCall {
            container: format!("{:064x}", worker.number * 1_000 + number),
            netns: Some(worker.netns.clone()),
            ifname: "net1".to_owned(),
            args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"),
            path: None,
            config: contestant.config.to_string(),
            under: Vec::new(),
        };
        let run = Run::new(&contestant.program, call);
        while start.elapsed() < LIMIT {
            match run.timed(verb) {
                Ok(_) => {
                    done.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                // Code 11: try again later.
                Err(error) if contestant.user == DAEMON && !error.to_string().contains("\"code\":11") => {
                    return Err(error);
                }
                Err(error) => {
                    if again.fetch_add(1, Ordering::Relaxed) == 0 {
                        let error = error.to_string();
                        println!("the first that failed: {}", error.lines().next().unwrap_or_default());
                    }
                    thread::sleep(AGAIN);
                }
            }
        }
        if contestant.user == DAEMON {
            Err(format!("{pod} has no address after {LIMIT:?}").into())
        } else {
            Ok(())
        }
    })?;
    let seconds = start.elapsed().as_secs_f64();
    thread::sleep(SETTLES);
    let counts = |resource: &str| contestant.user == ADMIN || resource != "leases";
    let requests = Requests::read(&fleet.server, before, contestant.user, counts)?;
    Ok(Wave { seconds, done: done.into_inner(), again: again.into_inner(), requests })
}

/// Does it for every pod of every node, `at_once` at a time on each.
fn on_all(fleet: &Fleet, at_once: usize, body: impl Fn(&Worker, u32) -> Result<()> + Sync) -> Result<()> {
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for worker in &fleet.workers {
            let (body, failure) = (&body, &failure);
            scope.spawn(move || {
                worker.node.run(|| {
                    let next = AtomicU32::new(0);
                    thread::scope(|scope| {
                        for _ in 0..at_once {
                            scope.spawn(|| {
                                loop {
                                    let number = next.fetch_add(1, Ordering::Relaxed);
                                    if number >= PODS {
                                        return;
                                    }
                                    if let Err(error) = body(worker, number)
                                        && let Ok(mut failure) = failure.lock()
                                    {
                                        failure.get_or_insert(error);
                                    }
                                }
                            });
                        }
                    });
                });
            });
        }
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok(()),
    }
}
