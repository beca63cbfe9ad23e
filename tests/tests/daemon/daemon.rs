//! The daemon as a program on its node: alone, silent, hard to disturb, and mortal.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8slan_tests::{LanFile, Worker, addresses, joined, on_spoke};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testnet::{Daemon, Error, Node, Outcome, Ping, Stop, Switch, eventually, needs, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        a_second_daemon_is_refused,
        what_it_cannot_run_with_is_told,
        an_idle_daemon_makes_no_system_call,
        records_are_put_back,
        a_namespace_that_loses_its_name_keeps_its_pods,
        the_mtu_follows_the_underlay,
        an_underlay_is_known_by_its_name,
        a_spoke_in_use_does_not_go_to_another_lan,
        a_pod_cannot_pass_for_a_lan,
        a_file_of_many_lans_is_built_at_once,
        a_file_that_is_being_written_takes_nothing_down,
        what_is_no_file_is_named_and_waited_for_by_nobody,
        a_storm_of_changes_settles,
        a_large_folder_stalls_no_probe,
        tap_indices_are_on_disk_before_records_name_them,
        killed_anywhere_while_it_takes_down,
        the_plugins_know_the_nodes_name_from_it,
        what_killed_programs_left_goes_when_a_daemon_starts,
    ]
}

const SECOND: Duration = Duration::from_secs(1);

fn lan() -> LanFile {
    LanFile::new("lan1", 7, &["a", "b"])
}

fn one_worker() -> Result<(Switch, Worker), Stop> {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    Ok((switch, worker))
}

fn argv<'a>(path: &'a str, node: &'a Node) -> [&'a str; 6] {
    [path, "node", "--lan-dir", Worker::LANS, "--node-name", node.name()]
}

fn a_second_daemon_is_refused() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    let path = program("k8slan-device-plugin");
    let output = worker.output(&argv(&path.to_string_lossy(), &worker))?;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("another k8slan-device-plugin runs on this node"), "{said}");
    assert!(said.contains("/run/k8slan/daemon.lock"), "{said}");
    worker.ready("a")?;
    Ok(())
}

fn what_it_cannot_run_with_is_told() -> Outcome {
    let node = Node::new("worker1")?;
    let path = program("k8slan-device-plugin");
    let path = path.to_string_lossy();
    node.write("/var/lib/k8slan/taps.json", "{")?;
    std::fs::create_dir_all("/run/lans").unwrap();
    node.run(|| std::fs::create_dir_all("/run/lans")).unwrap();
    for (argv, words) in [
        (&["node"][..], "--lan-dir <DIR>"),
        (&["node", "--lan-dir", "/none", "--node-name", "x"], "/none is not a folder"),
        (&["node", "--lan-dir", "/run/lans"], "--node-name"),
        (&["node", "--lan-dir", "/run/lans", "--node-name", "x"], "/var/lib/k8slan/taps.json does not read"),
    ] {
        let output = node.output(&[&[&*path], argv].concat())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{argv:?}: {said}");
    }
    Ok(())
}

/// What the daemon did last is heard of once more, half a second later; threads that wait for more work end after a second.
const REST: Duration = Duration::from_millis(1500);

fn an_idle_daemon_makes_no_system_call() -> Outcome {
    needs("strace")?;
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    let pid = worker.daemon_id().unwrap().to_string();
    let switches = || -> std::io::Result<BTreeMap<String, String>> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?;
        tasks
            .map(|task| {
                let path = task?.path();
                let text = std::fs::read_to_string(path.join("status"))?;
                let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
                Ok((path.display().to_string(), lines.collect()))
            })
            .collect()
    };
    eventually(30 * SECOND, || {
        let before = switches().map_err(|error| error.to_string())?;
        std::thread::sleep(REST);
        match switches() {
            Ok(now) if now == before => Ok(()),
            now => Err(format!("it comes to rest: {before:?} {now:?}")),
        }
    })?;
    let trace = ["timeout", "3", "strace", "-f", "-qqq", "-o", "/run/trace", "-p", &pid];
    let _ = worker.output(&trace)?;
    let trace = worker.read("/run/trace")?;
    let calls: Vec<&str> = trace.lines().filter(|line| line.contains(") = ")).collect();
    assert_eq!(calls, [""; 0], "an idle daemon did something");
    assert!(!trace.is_empty(), "strace saw no thread");
    Ok(())
}

fn records_are_put_back() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    let good = worker.ready("a")?;
    let forged = good.to_string().replace("/run/netns/lan1", "/proc/1/ns/net");
    let damage: [(&str, &(dyn Fn() -> std::io::Result<()> + Sync)); 6] = [
        ("deleted", &|| std::fs::remove_file("/run/k8slan/spokes/a.json")),
        ("forged", &|| std::fs::write("/run/k8slan/spokes/a.json", &forged)),
        ("emptied", &|| std::fs::write("/run/k8slan/spokes/a.json", "")),
        ("a link", &|| {
            std::fs::write("/run/forged", &forged)?;
            std::fs::remove_file("/run/k8slan/spokes/a.json")?;
            std::os::unix::fs::symlink("/run/forged", "/run/k8slan/spokes/a.json")
        }),
        ("of no LAN", &|| {
            std::fs::write("/run/k8slan/spokes/z.json", good.to_string().replace("\"a\"", "\"z\""))
        }),
        ("all gone", &|| std::fs::remove_dir_all("/run/k8slan/spokes")),
    ];
    for (what, damage) in damage {
        worker.run(damage).unwrap();
        eventually(SECOND, || {
            let is_file = worker.run(|| {
                std::fs::symlink_metadata("/run/k8slan/spokes/a.json").is_ok_and(|meta| meta.is_file())
            });
            let right = is_file && worker.record("a").as_ref() == Some(&good) && worker.record("z").is_none();
            if right { Ok(()) } else { Err(format!("{what}: the record is put back")) }
        })?;
    }
    Ok(())
}

fn a_namespace_that_loses_its_name_keeps_its_pods() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    let (a, b) = (joined(&worker, "a", "10.0.0.1/24")?, joined(&worker, "b", "10.0.0.2/24")?);
    let to: IpAddr = "10.0.0.2".parse().unwrap();
    Ping::new(to).repeated(3, Duration::from_millis(10)).run(&a)?.perfect().map_err(Stop::Failed)?;
    let inode = || worker.exec(&["stat", "-Lc", "%i", "/run/netns/lan1"]);
    let before = inode()?;
    for how in [&["umount", "/run/netns/lan1"][..], &["ip", "netns", "del", "lan1"]] {
        worker.exec(how)?;
        let report = Ping::new(to).repeated(60, Duration::from_millis(10)).run(&a)?;
        assert_eq!(report.lost(), 0, "{how:?}");
        eventually(SECOND, || {
            let now = inode().map_err(|error| error.to_string())?;
            if now == before {
                Ok(())
            } else {
                Err(format!("{how:?}: the same namespace has its name again"))
            }
        })?;
    }
    let c = worker.pod("again")?;
    b.del("macvtap", "net1", &on_spoke("b"))?;
    c.add("macvtap", "net1", &on_spoke("b"))?;
    Ok(())
}

/// The MTU of a link in the LAN's namespace.
fn mtu(worker: &Worker, link: &str) -> Result<Value, Error> {
    let link = worker.netns("/run/netns/lan1")?.link(link)?;
    Ok(link.map(|link| link["mtu"].clone()).unwrap_or_default())
}

fn the_mtu_follows_the_underlay() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    let a = joined(&worker, "a", "10.0.0.1/24")?;
    for (underlay, wanted, pod) in [(1400, 1326, 1326), (1500, 1426, 1326), (1300, 1226, 1226)] {
        worker.ip(&format!("link set eth1 mtu {underlay}"))?;
        eventually(SECOND, || {
            let record = worker.record("a").ok_or("no record")?;
            let links = ["br2", "vx2", "a"].map(|link| mtu(&worker, link).unwrap_or_default());
            if links.iter().chain([&record["mtu"]]).all(|mtu| *mtu == wanted) {
                Ok(())
            } else {
                Err(format!("{links:?} and the record {record} have MTU {wanted}"))
            }
        })?;
        // A macvtap shrinks with what is below it; to grow again is the pod's own affair.
        assert_eq!(a.link("net1")?.unwrap()["mtu"], pod);
    }
    Ok(())
}

fn an_underlay_is_known_by_its_name() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    worker.ip("link set eth1 down")?;
    worker.ip("link set eth1 name other")?;
    worker.not_ready("a", "eth1 does not exist")?;
    worker.ip("link set other name eth1")?;
    worker.status(|status| status.contains("underlay eth1 is down"))?;
    worker.ip("link set eth1 up")?;
    worker.ready("a")?;
    worker.status(|status| !status.contains("eth1 is down"))?;
    Ok(())
}

fn a_spoke_in_use_does_not_go_to_another_lan() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    let other = LanFile::new("lan2", 8, &["c"]);
    worker.put(&other)?;
    let a = joined(&worker, "a", "10.0.0.1/24")?;
    worker.ready("c")?;
    let index = worker.record("a").unwrap()["tapIndex"].clone();
    // Two macvtaps of one index would give the second pod the first one's LAN.
    worker.put(&LanFile::new("lan1", 7, &["b"]))?;
    worker.put(&LanFile::new("lan2", 8, &["c", "a"]))?;
    let record = worker.not_ready("a", "still used")?;
    assert_eq!((&record["lan"], &record["tapIndex"]), (&"k8slan-system/lan1".into(), &index));
    let late = worker.pod("late")?;
    let error = late.add("macvtap", "net1", &on_spoke("a")).unwrap_err();
    assert_eq!(error.code, 11, "{error}");
    assert!(a.link("net1")?.is_some(), "the macvtap was taken from a live pod");
    a.del("macvtap", "net1", &on_spoke("a"))?;
    let record = worker.ready("a")?;
    assert_eq!((&record["lan"], &record["tapIndex"]), (&"k8slan-system/lan2".into(), &index));
    late.add("macvtap", "net1", &on_spoke("a"))?;
    Ok(())
}

fn a_pod_cannot_pass_for_a_lan() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    let a = joined(&worker, "a", "10.0.0.1/24")?;
    let inside = worker.netns("/run/netns/lan1")?;
    let port = inside.link_names()?.into_iter().find(|name| name.starts_with('+')).unwrap();
    let alias = inside.link(&port)?.unwrap()["ifalias"].as_str().unwrap().to_owned();
    // A pod that may change its own links gives them the marks of a LAN, and says that it uses a spoke.
    let group = u32::from_be_bytes(*b"k8sl").to_string();
    for lan in ["k8slan-system/lan1", "k8slan-system/gone"] {
        a.exec(&["ip", "link", "set", "dev", "lo", "alias", &format!("k8slan:lan {lan}"), "group", &group])?;
        let _ = a.ip("link add name b type veth peer name +40000001");
        for link in ["b", "+40000001"] {
            a.exec(&["ip", "link", "set", "dev", link, "alias", &alias, "group", &group, "up"])?;
        }
        for restarted in [false, true] {
            if restarted {
                worker.stop_daemon()?;
                worker.start_daemon()?;
            }
            worker.put(&LanFile::new("lan1", 7, &["a", "b", if restarted { "c" } else { "d" }]))?;
            worker.ready(if restarted { "c" } else { "d" })?;
            worker.ready("b")?;
            assert!(a.link("net1")?.is_some() && a.link("b")?.is_some(), "{lan}: a pod's links were touched");
            let status = worker.status(|_| true)?;
            assert!(!status.contains("gone"), "{status}");
        }
    }
    worker.pod("b")?.add("macvtap", "net1", &on_spoke("b"))?;
    Ok(())
}

fn a_file_of_many_lans_is_built_at_once() -> Outcome {
    const LANS: u32 = 50;
    let (_switch, worker) = one_worker()?;
    let lans: Vec<LanFile> =
        (1..=LANS).map(|n| LanFile::new(&format!("lan{n}"), n, &[&format!("s{n}")])).collect();
    let mut text = "apiVersion: v1\nkind: Pod\nmetadata: {name: nginx}\n".to_owned();
    for lan in &lans {
        text.push_str("---\n");
        text.push_str(&lan.yaml());
    }
    let start = Instant::now();
    worker.put_text("all.yaml", &text)?;
    eventually(10 * SECOND, || {
        let missing =
            (1..=LANS).filter(|n| worker.record(&format!("s{n}")).is_none_or(|r| r["ready"] != true));
        match missing.count() {
            0 => Ok(()),
            missing => Err(format!("{missing} of {LANS} LANs are missing")),
        }
    })?;
    println!("{LANS} LANs in {:?}", start.elapsed());
    assert!(start.elapsed() < LANS * Duration::from_millis(100), "{:?}", start.elapsed());
    worker.status(|status| status.contains("v1 Pod"))?;
    worker.run(|| std::fs::remove_file(format!("{}/all.yaml", Worker::LANS))).unwrap();
    eventually(20 * SECOND, || match worker.list("/run/netns").len() {
        0 => Ok(()),
        left => Err(format!("{left} LANs are still there")),
    })?;
    Ok(())
}

/// Reading a pipe or a terminal waits, and `/dev/zero` never ends: neither is opened.
fn what_is_no_file_is_named_and_waited_for_by_nobody() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let links = [("zero", "/dev/zero"), ("terminal", "/dev/ptmx"), ("pipe", "/run/pipe")];
    worker.exec(&["mkfifo", "/run/pipe", &format!("{}/fifo.yaml", Worker::LANS)])?;
    for (name, to) in links {
        worker.exec(&["ln", "-s", to, &format!("{}/{name}.yaml", Worker::LANS)])?;
    }
    worker.put(&lan())?;
    worker.ready("a")?;
    for name in links.map(|(name, _)| name).into_iter().chain(["fifo"]) {
        worker.status(|status| status.contains(&format!("{name}.yaml\\\" is not a regular file")))?;
    }
    let start = Instant::now();
    worker.stop_daemon()?;
    assert!(start.elapsed() < 2 * SECOND, "SIGTERM took {:?}", start.elapsed());
    Ok(())
}

fn a_file_that_is_being_written_takes_nothing_down() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    let inode = || worker.exec(&["stat", "-Lc", "%i", "/run/netns/lan1"]);
    let before = inode()?;
    let text = lan().yaml();
    for part in ["", &text[..text.len() / 2], "apiVersion: v1\nkind: [\n"] {
        worker.write(&format!("{}/lan1.yaml", Worker::LANS), part)?;
        worker.status(|status| status.contains("lan1.yaml"))?;
        // Another file changes meanwhile.
        worker.put(&LanFile::new("lan2", 8, &["c"]))?;
        worker.ready("c")?;
        worker.put(&LanFile::new("lan2", 8, &["d"]))?;
        worker.ready("d")?;
        assert_eq!(inode()?, before, "{part:?}");
        assert!(worker.netns("/run/netns/lan1")?.link("vx2")?.is_some(), "{part:?}");
        worker.not_ready("a", "stands")?;
    }
    // The other LAN's file goes; it might stand in the one that cannot be read.
    worker.remove(&LanFile::new("lan2", 8, &["d"]))?;
    worker.status(|status| status.contains("it may be in lan1.yaml"))?;
    worker.write(&format!("{}/lan1.yaml", Worker::LANS), &text)?;
    worker.ready("a")?;
    worker.status(|status| !status.contains("lan2"))?;
    assert_eq!(inode()?, before);
    Ok(())
}

fn a_storm_of_changes_settles() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    let inside = worker.netns("/run/netns/lan1")?;
    let storm = "for i in $(seq 200); do ip link set br2 down; ip link set vx2 mtu 1300; ip link set vx2 nomaster; done";
    let start = Instant::now();
    inside.exec(&["sh", "-c", storm])?;
    println!("the storm took {:?}", start.elapsed());
    eventually(SECOND, || {
        let (bridge, vxlan) = (inside.link("br2").unwrap().unwrap(), inside.link("vx2").unwrap().unwrap());
        let seen =
            (&vxlan["mtu"], &vxlan["master"], bridge["flags"].as_array().unwrap().contains(&"UP".into()));
        if seen == (&1426.into(), &"br2".into(), true) {
            Ok(())
        } else {
            Err(format!("{seen:?} after the storm"))
        }
    })?;
    worker.ready("a")?;
    Ok(())
}

/// Probes and Allocate come in while the daemon reads what was declared.
fn a_large_folder_stalls_no_probe() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    // Of other kinds: nothing is built, all is parsed.
    let document = format!(
        "kind: ConfigMap\napiVersion: v1\nmetadata: {{name: a}}\ndata: {{{}}}\n---\n",
        "k: [1, 2], ".repeat(40)
    );
    let text = document.repeat((400 << 10) / document.len());
    let agent = program("k8slan-device-plugin");
    let agent = agent.to_string_lossy();
    let probe = || -> Result<Duration, Stop> {
        let start = Instant::now();
        worker.exec(&[&agent, "agent", "livez"])?;
        Ok(start.elapsed())
    };
    let usual = probe()?.max(probe()?);
    let start = Instant::now();
    worker.put_text("large.yaml", &text)?;
    let (mut worst, mut answers) = (Duration::ZERO, 0);
    while !worker.read("/run/k8slan/status.json").unwrap_or_default().contains("large.yaml") {
        worst = worst.max(probe()?);
        answers += 1;
        assert!(start.elapsed() < Duration::from_secs(60), "the folder is never read");
    }
    let took = start.elapsed();
    println!(
        "read in {took:?}, {answers} probes answered meanwhile, the slowest in {worst:?}, usually {usual:?}"
    );
    assert!(took > 8 * usual, "too small to tell anything: {took:?}, a probe takes {usual:?}");
    assert!(worst < took / 2, "a probe waited {worst:?} of the {took:?} that reading took");
    Ok(())
}

fn tap_indices_are_on_disk_before_records_name_them() -> Outcome {
    needs("strace")?;
    let (_switch, node) = node()?;
    node.write(&format!("{}/lan1.yaml", Worker::LANS), lan().yaml())?;
    let path = program("k8slan-device-plugin");
    let path = path.to_string_lossy();
    let trace = "trace=fsync,fdatasync,rename,renameat,renameat2";
    let daemon = node.spawn_daemon(
        &[&["strace", "-D", "-f", "-y", "-qqq", "-o", "/run/trace", "-e", trace], &argv(&path, &node)[..]]
            .concat(),
    )?;
    eventually(5 * SECOND, || ready(&node, "a"))?;
    daemon.terminate()?;
    let trace = node.read("/run/trace")?;
    let place = |needle: &[&str]| {
        trace
            .lines()
            .position(|line| needle.iter().all(|word| line.contains(word)))
            .ok_or_else(|| Stop::Failed(format!("no {needle:?} in:\n{trace}")))
    };
    let file = place(&["sync(", ".taps.json"])?;
    let name = place(&["rename", "\"taps.json\""])?;
    let folder = place(&["sync(", "/var/lib/k8slan>"])?;
    let record = place(&["rename", "a.json"])?;
    assert!(file < name && name < folder && folder < record, "{trace}");
    Ok(())
}

fn node() -> Result<(Switch, Node), Stop> {
    let switch = Switch::new()?;
    let mut node = Node::new("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    node.run(|| std::fs::create_dir_all(Worker::LANS)).unwrap();
    Ok((switch, node))
}

fn ready(node: &Node, spoke: &str) -> Result<(), String> {
    let text = node.read(&format!("/run/k8slan/spokes/{spoke}.json")).map_err(|error| error.to_string())?;
    let record: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if record["ready"] == true { Ok(()) } else { Err(text) }
}

fn gone(node: &Node) -> Result<(), String> {
    let mut left = node.list("/run/netns");
    left.extend(node.list("/run/k8slan/spokes").into_iter().filter(|name| name.ends_with(".json")));
    if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are left")) }
}

/// The system calls that leave something behind.
const CHANGING: &[&str] =
    &["mount", "openat", "renameat", "sendto", "umount2", "unlink", "unlinkat", "unshare", "write"];

/// Starts daemons that die before their first, second, third … call of each name, until `done` says that one lived;
/// after each death `check` starts another one. Answers how many died.
fn die_everywhere(
    node: &Node,
    prepare: impl Fn() -> Outcome,
    done: impl Fn() -> Result<(), String>,
    check: impl Fn() -> Outcome,
) -> Result<u32, Stop> {
    let path = program("k8slan-device-plugin");
    let path = path.to_string_lossy();
    let mut deaths = 0;
    for name in CHANGING {
        // Of the files that are opened most are only read.
        let step = if *name == "openat" { 7 } else { 1 };
        for number in (1_u32..).step_by(step) {
            let told = |stop: Stop| Stop::Failed(format!("killed at {name} number {number}: {stop:?}"));
            prepare().map_err(told)?;
            let (trace, inject) =
                (format!("trace={name}"), format!("inject={name}:signal=KILL:when={number}"));
            let strace = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let mut daemon = node.spawn_daemon(&[&strace, &argv(&path, node)[..]].concat())?;
            let lived = lives(&mut daemon, &done).map_err(told)?;
            if lived {
                daemon.terminate()?;
            } else {
                deaths += 1;
            }
            check().map_err(told)?;
            if lived {
                break;
            }
        }
    }
    Ok(deaths)
}

/// Waits until the daemon has done its work, or is dead.
fn lives(daemon: &mut Daemon, done: &impl Fn() -> Result<(), String>) -> Result<bool, Stop> {
    Ok(eventually(10 * SECOND, || {
        if done().is_ok() {
            // It may still have died over what comes last.
            return Ok(daemon.wait(Duration::from_millis(150)).is_err());
        }
        match daemon.wait(Duration::from_millis(5)) {
            Ok(_) => Ok(false),
            Err(_) => Err("the daemon does its work".to_owned()),
        }
    })?)
}

fn killed_anywhere_while_it_takes_down() -> Outcome {
    needs("strace")?;
    let (_switch, node) = node()?;
    let (path, file) = (program("k8slan-device-plugin"), format!("{}/lan1.yaml", Worker::LANS));
    let path = path.to_string_lossy();
    let deaths = die_everywhere(
        &node,
        || {
            node.write(&file, lan().yaml())?;
            let daemon = node.spawn_daemon(&argv(&path, &node))?;
            eventually(5 * SECOND, || ready(&node, "a").and_then(|()| ready(&node, "b")))?;
            daemon.signal(Signal::SIGKILL)?;
            drop(daemon);
            node.run(|| std::fs::remove_file(&file)).unwrap();
            Ok(())
        },
        || gone(&node),
        || {
            let daemon = node.spawn_daemon(&argv(&path, &node))?;
            eventually(5 * SECOND, || gone(&node))?;
            eventually(5 * SECOND, || match hidden(&node) {
                Ok(left) if left.is_empty() => Ok(()),
                other => Err(format!("temporary files stay: {other:?}")),
            })?;
            daemon.terminate()?;
            Ok(())
        },
    )?;
    println!("{deaths} deaths");
    assert!(deaths > 10, "only {deaths} deaths: is the list of system calls right?");
    Ok(())
}

/// The files below k8slan's folders whose names begin with a dot.
fn hidden(node: &Node) -> Result<Vec<String>, Stop> {
    let found = node.exec(&["find", "/run/k8slan", "/var/lib/k8slan", "-name", ".*", "-type", "f"])?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// Temporary files go where nobody can be at work on them; locks, with what they were for.
fn what_killed_programs_left_goes_when_a_daemon_starts() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    worker.ip("link add br0 type bridge")?;
    // The store of a network that is gone, which nothing is in.
    let gone = json!({"cniVersion": "1.0.0", "name": "gone", "type": "bridge",
        "ipam": {"type": "ipam-pool", "subnet": "10.9.0.0/24"}});
    let pod = worker.pod("x")?;
    pod.add("ipam-pool", "net1", &gone)?;
    pod.del("ipam-pool", "net1", &gone)?;
    assert!(worker.list("/run/k8slan/ipam/networks").contains(&"gone.mdb".to_owned()));
    worker.kill_daemon()?;
    let own = [
        "/run/k8slan/.status.json.77",
        "/run/k8slan/.underlays.json.1",
        "/run/k8slan/.live.json.1",
        // What the two parts of the version before told each other.
        "/run/k8slan/told/.status.json.1",
        "/run/k8slan/cluster/.pods.json.1",
        "/run/k8slan/netns/.knl1.4711",
        "/run/k8slan/spokes/.a.json.12",
        "/run/k8slan/taps/.241:7.5",
        "/var/lib/k8slan/.taps.json.9",
    ];
    let young = ["/run/k8slan/ports/.vb01.json.5", "/run/k8slan/ipam/pools/.p.journal.new"];
    let old = [
        "/run/k8slan/ports/.vb02.json.6",
        "/run/k8slan/ipam/pools/.q.journal.new",
        "/run/k8slan/ipam/networks/.n.mdb.new",
        "/var/lib/k8slan/ipam/pools/.q.journal.new",
    ];
    // Another program's, which has locks of its own.
    let others = ["/var/lib/k8slan/.install.json.5", "/var/lib/k8slan/.notes"];
    for path in own.iter().chain(&young).chain(&old).chain(&others) {
        worker.write(path, "cut o")?;
    }
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    worker.run(|| {
        old.iter()
            .chain(&others)
            .try_for_each(|path| std::fs::File::options().write(true).open(path)?.set_modified(hour_ago))
    })?;
    for lock in ["bridges/br0", "bridges/gone", "bridges/guards:", "spokes/nobody"] {
        worker.write(&format!("/run/k8slan/{lock}.lock"), "")?;
    }
    worker.start_daemon()?;
    worker.ready("a")?;
    let mut expected: Vec<&str> = young.into_iter().chain(others).collect();
    expected.sort_unstable();
    eventually(5 * SECOND, || {
        let mut left = hidden(&worker).unwrap_or_default();
        left.sort();
        if left == expected { Ok(()) } else { Err(format!("{left:?}, not {expected:?}")) }
    })?;
    worker.status(|status| status.contains("lan1"))?;
    eventually(5 * SECOND, || {
        let (mut bridges, spokes) = (worker.list("/run/k8slan/bridges"), worker.list("/run/k8slan/spokes"));
        bridges.sort();
        match bridges == ["br0.lock", "guards:.lock"] && !spokes.contains(&"nobody.lock".to_owned()) {
            true => Ok(()),
            false => Err(format!("{bridges:?} {spokes:?}")),
        }
    })?;
    let stores = worker.list("/run/k8slan/ipam/networks");
    assert!(!stores.iter().any(|file| file.starts_with("gone.")), "{stores:?}");
    let log = worker.log();
    assert!(log.contains("removed what killed programs left"), "{log}");
    Ok(())
}

/// A node without node.yaml has its own part of a pool all the same.
fn the_plugins_know_the_nodes_name_from_it() -> Outcome {
    let node = Node::new("worker2")?;
    node.write(
        "/var/lib/k8slan/pools.d/lab.yaml",
        "apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata: {name: lab}\nspec: {ranges: [{subnet: 10.0.20.0/24}], \
         nodes: {worker1: [10.0.20.64-10.0.20.127], worker2: [10.0.20.128-10.0.20.191]}}\n",
    )?;
    let network = json!({"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "ipam": {"type": "ipam-pool", "pool": "lab"}});
    let lease = |node: &Node, name: &str| {
        let pod = node.pod(name).unwrap();
        node.cni("ipam-pool", "ADD", &pod.call("net1", &network)).map(|result| addresses(&result)[0])
    };
    let error = lease(&node, "early").unwrap_err();
    assert!(error.code == 172 && error.text().contains("start k8slan-device-plugin"), "{error}");
    let worker = Worker::on(node)?;
    worker.status(|status| status.contains("worker2"))?;
    assert_eq!(lease(&worker, "a")?, IpAddr::from([10, 0, 20, 128]));
    let shown = worker.tool(&program("ipam-pool").to_string_lossy(), "pools")?;
    assert!(shown.contains("lab"), "{shown}");
    // It stands while the daemon is away; what an administrator writes counts more.
    worker.stop_daemon()?;
    assert_eq!(lease(&worker, "b")?, IpAddr::from([10, 0, 20, 129]));
    worker.write("/etc/k8slan/node.yaml", "nodeName: worker1\n")?;
    assert_eq!(lease(&worker, "c")?, IpAddr::from([10, 0, 20, 64]));
    Ok(())
}
