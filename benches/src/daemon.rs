//! The daemon with a thousand spokes, with a hundred LANs, and in a storm of events.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use k8slan_tests::kubelet::Kubelet;
use k8slan_tests::{LanFile, Worker, metric};
use netplumb::{LinkChange, Netlink, Netns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proto::kubelet::v1beta1::{AllocateRequest, ContainerAllocateRequest};
use testnet::{Daemon, Node, Switch, eventually, program};

use crate::process::Process;
use crate::report::{Row, Section};
use crate::{Options, Result};

const TIMEOUT: Duration = Duration::from_secs(60);

/// How long the daemon is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(3);

/// How long a storm lasts, and its events in a second.
const STORM: Duration = Duration::from_secs(5);
const EVENTS: u32 = 1000;

pub(crate) fn compare(options: &Options) -> Result<Section> {
    // The kubelet's double has a connection for each spoke in this process.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut rows = many_spokes(options)?;
    rows.extend(many_lans()?);
    Ok(Section {
        title: "The daemon on one node, with a kubelet that knows its spokes".to_owned(),
        rows,
        spreads: BTreeMap::new(),
    })
}

/// A node with LANs as files, on which nothing runs yet.
struct Host {
    node: Node,
    _switch: Switch,
}

impl Host {
    fn new(lans: &[LanFile]) -> Result<Self> {
        let switch = Switch::new()?;
        let mut node = Node::new("bench")?;
        node.connect(&switch, "eth1", 1500)?;
        for lan in lans {
            node.write(&format!("{}/{}.yaml", Worker::LANS, lan.name), lan.yaml())?;
        }
        Ok(Self { node, _switch: switch })
    }

    fn kubelet(&self) -> Result<Kubelet> {
        Ok(Kubelet::start(&self.node.var_lib().join("kubelet/device-plugins"))?)
    }

    fn daemon(&self) -> Result<Daemon> {
        let program = program("k8slan-device-plugin");
        let program = program.to_string_lossy();
        let argv = [&*program, "node", "--lan-dir", Worker::LANS, "--node-name", "bench", "--kubelet-dir"];
        Ok(self.node.spawn_daemon(&[&argv[..], &[Worker::KUBELET]].concat())?)
    }

    /// How many LANs the daemon has built, and how long that took it in all, in seconds.
    fn builds(&self) -> Result<(f64, f64)> {
        let value = |name| metric(&self.node, name).map_err(|error| format!("{error:?}"));
        Ok((value("k8slan_build_seconds_count")?, value("k8slan_build_seconds_sum")?))
    }
}

fn lans(count: u32, spokes: u32) -> Vec<LanFile> {
    let lan = |number: u32| {
        let names: Vec<String> = (0..spokes).map(|spoke| format!("s{number}-{spoke}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        LanFile::new(&format!("lan{number}"), 100 + number, &names)
    };
    (0..count).map(lan).collect()
}

/// A thousand spokes of four LANs.
fn many_spokes(options: &Options) -> Result<Vec<Row>> {
    let host = Host::new(&lans(4, 250))?;
    let kubelet = host.kubelet()?;
    let start = Instant::now();
    let daemon = host.daemon()?;
    let registered = wait(&kubelet, &daemon, 1000, start)?;
    let process = Process(daemon.id());
    sleep(Duration::from_secs(2));
    let (resident, before) = (process.kibibytes("VmRSS")?, process.switches()?);
    sleep(IDLE);
    let woken = process.switches()? - before;
    let allocate = allocate(&kubelet, options.rounds * 10)?;
    let (one, one_whole) = build(&host, 1, options.rounds)?;
    let (ten, ten_whole) = build(&host, 10, options.rounds)?;

    kubelet.kill();
    let start = Instant::now();
    let kubelet = host.kubelet()?;
    let again = wait(&kubelet, &daemon, 1000, start)?;

    Ok(vec![
        Row::alone("1000 spokes: start to registered", "ms", registered).within(2000.0),
        Row::alone("1000 spokes: kubelet's restart to registered", "ms", again).within(2000.0),
        Row::alone("1000 spokes: resident", "KiB", resident).within(40.0 * 1024.0),
        Row::alone("1000 spokes: wake-ups in 3 idle seconds", "", woken as f64).within(0.0),
        Row::alone("Allocate on a built LAN, 99 of 100", "ms", allocate).within(5.0),
        Row::alone("1000 spokes: a new LAN of 1 spoke is built, median", "ms", one).within(20.0),
        Row::alone("1000 spokes: a new LAN of 10 spokes is built, median", "ms", ten).within(20.0),
        Row::alone("the same, from the file on, 1 spoke", "ms", one_whole),
        Row::alone("the same, from the file on, 10 spokes", "ms", ten_whole),
    ])
}

fn wait(kubelet: &Kubelet, daemon: &Daemon, count: usize, start: Instant) -> Result<f64> {
    let waited = kubelet.wait_allocatable(count, TIMEOUT);
    waited.map_err(|what| format!("{what}; the daemon: {}", daemon.log()))?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// The time that 99 of 100 calls do not exceed, in milliseconds.
fn allocate(kubelet: &Kubelet, calls: usize) -> Result<f64> {
    let mut times = Vec::with_capacity(calls);
    for number in 0..calls {
        let id = format!("s{}-{}", number % 4, number / 4 % 250);
        let mut client = kubelet.client(&format!("macvtap.k8slan.io/{id}"))?;
        let container = ContainerAllocateRequest { devices_ids: vec![id] };
        let request = AllocateRequest { container_requests: vec![container] };
        let start = Instant::now();
        kubelet.block_on(client.allocate(request))?;
        times.push(start.elapsed());
    }
    times.sort();
    let nth = (times.len() * 99 / 100).min(times.len().saturating_sub(1));
    Ok(times.get(nth).ok_or("no call was made")?.as_secs_f64() * 1e3)
}

/// What a new LAN with new spokes costs on a node that has a thousand: the medians of the daemon's own time, from its
/// look at what is declared to the records that say that the LAN is built, and of the time from the new file to
/// these records, with the pause in which the daemon collects what comes together. In milliseconds.
fn build(host: &Host, spokes: u32, rounds: usize) -> Result<(f64, f64)> {
    let (mut own, mut whole) = (Vec::new(), Vec::new());
    for round in 0..rounds.min(20) {
        let names: Vec<String> = (0..spokes).map(|spoke| format!("n{round}-{spokes}-{spoke}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let lan = LanFile::new("extra", 50, &names);
        // Beside the folder: what is written in it is heard of, whatever its name.
        let (hidden, path) = (format!("{}.new", Worker::LANS), format!("{}/extra.yaml", Worker::LANS));
        host.node.write(&hidden, lan.yaml())?;
        let before = host.builds()?;
        let start = Instant::now();
        host.node.run(|| std::fs::rename(&hidden, &path))?;
        host.node.run(|| -> Result<()> {
            for spoke in &names {
                while !is_ready(&std::fs::read_to_string(record(spoke)).unwrap_or_default()) {
                    if start.elapsed() > TIMEOUT {
                        return Err("the LAN was not built".into());
                    }
                    sleep(Duration::from_micros(100));
                }
            }
            Ok(())
        })?;
        whole.push(start.elapsed().as_secs_f64());
        own.push(eventually(TIMEOUT, || match host.builds() {
            Ok((count, seconds)) if count == before.0 + 1.0 => Ok(seconds - before.1),
            other => Err(format!("one LAN more is built: {before:?}, {other:?}")),
        })?);
        host.node.run(|| std::fs::remove_file(&path))?;
        eventually(TIMEOUT, || match host.node.read(&record(names[0])) {
            Ok(_) => Err("the record goes".to_owned()),
            Err(_) => Ok(()),
        })?;
        sleep(Duration::from_millis(200));
    }
    Ok((median(own)?, median(whole)?))
}

/// The median of seconds, in milliseconds.
fn median(mut seconds: Vec<f64>) -> Result<f64> {
    seconds.sort_by(f64::total_cmp);
    Ok(seconds.get(seconds.len() / 2).ok_or("nothing was built")? * 1e3)
}

/// The file of a spoke's record.
fn record(spoke: &str) -> String {
    format!("/run/k8slan/spokes/{spoke}.json")
}

fn is_ready(record: &str) -> bool {
    record.contains("\"ready\":true") || record.contains("\"ready\": true")
}

/// A hundred LANs with ten spokes each.
fn many_lans() -> Result<Vec<Row>> {
    let lans = lans(100, 10);
    let host = Host::new(&lans)?;
    let kubelet = host.kubelet()?;
    let start = Instant::now();
    let daemon = host.daemon()?;
    let ready = wait(&kubelet, &daemon, 1000, start)?;
    let process = Process(daemon.id());
    sleep(Duration::from_secs(1));
    let quiet = storm(process, None)?;
    let node = host.node.run(Netlink::open_current)?;
    let on_node = storm(process, Some((&node, "eth1")))?;
    let netns = host.node.run(|| Netns::open(Path::new(&lans[0].netns())))?;
    let in_lan = storm(process, Some((&Netlink::open(&netns)?, "br2")))?;
    let mut said = String::new();
    let _ = write!(said, "{EVENTS} link events/s");
    Ok(vec![
        Row::alone("100 LANs of 10 spokes: start to all registered", "ms", ready).within(3000.0),
        Row::alone("no event: a core's share", "%", quiet),
        Row::alone(format!("{said} of the underlay: a core's share"), "%", on_node).within(5.0),
        Row::alone(format!("{said} in a LAN: a core's share"), "%", in_lan).within(5.0),
    ])
}

/// The share of a core that the daemon takes while the link's alias changes that often.
fn storm(daemon: Process, link: Option<(&Netlink, &str)>) -> Result<f64> {
    let (before, start) = (daemon.processor_time()?, Instant::now());
    match link {
        None => sleep(STORM),
        Some((netlink, name)) => {
            let index = netlink.link_by_name(&name.parse()?)?.ok_or("no such link")?.index;
            let alias = netlink.link_by_index(index)?.and_then(|link| link.alias);
            for number in 0.. {
                let due = start + Duration::from_secs(1) * number / EVENTS;
                if due > start + STORM {
                    break;
                }
                sleep(due.saturating_duration_since(Instant::now()));
                let change =
                    LinkChange { alias: alias.clone().or(Some("storm".into())), ..LinkChange::default() };
                netlink.set_link(index, &change)?;
            }
        }
    }
    Ok((daemon.processor_time()? - before).as_secs_f64() / start.elapsed().as_secs_f64() * 100.0)
}
