//! ipam-pool when things go wrong: killed anywhere, many at once, also from other PID namespaces, damaged and
//! copied stores, a full disk, a folder that cannot be written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8slan_tests::{asked_again, at_once};
use serde_json::{Value, json};
use testnet::{CniCall, CniError, Node, Outcome, Stop, eventually, needs, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        add_killed_anywhere,
        del_killed_anywhere,
        a_removal_killed_anywhere,
        many_at_once,
        adds_beside_those_who_remove,
        many_at_once_from_other_pid_namespaces,
        a_copy_of_every_moment_opens,
        copies_beside_writers,
        a_backup_restores_what_is_kept,
        damage_is_reported,
        a_cut_off_store_is_reported,
        leases_come_back_whatever_pods_did_to_their_interfaces,
        a_page_that_leads_astray_gives_no_address_twice,
        pages_that_lead_in_a_circle_are_read_once,
        a_full_disk_loses_nothing,
        a_full_disk_takes_thousands_back,
        a_full_disk_keeps_an_owner_and_hinders_nobody,
        what_is_answered_again_is_synced,
        what_could_not_be_kept_hinders_nobody_else,
        a_lost_journal_on_a_full_disk_hinders_nobody_else,
        a_read_only_folder_is_named,
    ]
}

const INDEX: &str = "/run/k8slan/ipam/networks/net.mdb";
const JOURNAL: &str = "/run/k8slan/ipam/networks/net.journal";
const KEPT: &str = "/var/lib/k8slan/ipam/networks/net.journal";

/// How long processes compete, and after how many ADDs that is enough: as many as two busy processors make in half a minute, in
/// continuous integration; a tenth otherwise; or as long as `K8SLAN_IPAM_SECONDS` says. What 64 of them do wrong at once shows
/// in the first few hundred: more is for whoever has the time.
fn competition(adds: u32) -> (Duration, u32) {
    let given = std::env::var("K8SLAN_IPAM_SECONDS").ok().and_then(|text| text.parse().ok());
    match given {
        Some(seconds) => (Duration::from_secs(seconds), u32::MAX),
        None if std::env::var_os("CI").is_some() => (Duration::from_secs(30), adds),
        None => (Duration::from_secs(6), adds / 5),
    }
}

fn config(subnet: &str, sticky: &str) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "type": "bridge",
        "ipam": { "type": "ipam-pool", "ranges": [[{ "subnet": subnet }]], "sticky": sticky } })
}

/// A call for container `c<number>`; all of them share a namespace, which is nothing that IPAM minds.
fn call(netns: &str, number: u32, config: &Value) -> CniCall {
    CniCall {
        container: format!("c{number}"),
        netns: Some(netns.to_owned()),
        ifname: "net1".to_owned(),
        args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p{number}"),
        path: None,
        config: config.to_string(),
        under: Vec::new(),
    }
}

fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap_or_default().to_owned()
}

fn by_hand(node: &Node, arguments: &str) -> Result<String, Stop> {
    let program = program("ipam-pool");
    let argv: Vec<&str> =
        std::iter::once(program.to_str().unwrap_or_default()).chain(arguments.split_whitespace()).collect();
    Ok(node.exec(&argv)?)
}

/// The leased addresses and the containers that hold them; the store has to be in order.
fn leases(node: &Node) -> Result<BTreeMap<String, Vec<String>>, Stop> {
    let said = by_hand(node, "check")?;
    assert!(said.contains("are in order"), "{said}");
    let rows: Vec<Value> = serde_json::from_str(&by_hand(node, "leases --json")?)?;
    let leased = rows.iter().filter(|row| row["state"] == "leased" || row["state"] == "kept");
    Ok(leased
        .map(|row| {
            let holders = row["holders"].as_array().cloned().unwrap_or_default();
            let containers = holders.iter().filter_map(|h| h["attachment"]["container"].as_str());
            (row["address"].as_str().unwrap_or_default().to_owned(), containers.map(str::to_owned).collect())
        })
        .collect())
}

/// The system calls with which the program changes something outside itself.
const CHANGING: &[&str] = &[
    "fallocate",
    "fdatasync",
    "flock",
    "fsync",
    "ftruncate",
    "mkdir",
    "openat",
    "pwrite64",
    "pwritev",
    "rename",
    "unlink",
    "write",
    "writev",
];

fn killed_at(call: &CniCall, name: &str, number: u32) -> CniCall {
    let inject = format!("inject={name}:signal=KILL:when={number}");
    let argv = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={name}"), "-e", &inject];
    CniCall { under: argv.map(str::to_owned).to_vec(), ..call.clone() }
}

/// Runs `attempt` for the first, second, third … call of each name until it says that the plugin lived.
fn everywhere(mut attempt: impl FnMut(&str, u32) -> Result<bool, Stop>) -> Result<u32, Stop> {
    let mut deaths = 0;
    for name in CHANGING {
        let mut number = 1;
        while !attempt(name, number)
            .map_err(|stop| Stop::Failed(format!("killed at {name} number {number}: {stop:?}")))?
        {
            (number, deaths) = (number + 1, deaths + 1);
        }
    }
    Ok(deaths)
}

fn died(answer: Result<Value, CniError>) -> Result<Option<Value>, Stop> {
    match answer {
        Ok(result) => Ok(Some(result)),
        Err(error) if error.code == 0 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn add_killed_anywhere() -> Outcome {
    needs("strace")?;
    let total = AtomicU32::new(0);
    // The first ADD makes the stores, later ones find them; a sticky one writes two. What is missing is made again.
    let variants = [
        ("none", ["/run/k8slan", "/var/lib/k8slan"].as_slice()),
        ("none", &[]),
        ("pod", &["/run/k8slan", "/var/lib/k8slan"]),
        ("pod", &[]),
        ("pod", &[INDEX]),
        ("pod", &[JOURNAL]),
        ("pod", &[KEPT]),
    ];
    at_once(variants, |(sticky, missing)| {
        let node = Node::new("n")?;
        let netns = node.pod("x")?.path().to_owned();
        let config = config("10.0.0.0/24", sticky);
        let mut next = 100;
        let deaths = everywhere(|name, number| {
            let fresh = missing.iter().any(|path| Path::new(path).extension().is_none());
            if !fresh {
                node.cni("ipam-pool", "ADD", &call(&netns, 1, &config))?;
            }
            let before = if fresh { BTreeMap::new() } else { leases(&node)? };
            for path in missing {
                node.exec(&["rm", "-rf", path])?;
            }
            next += 1;
            let victim = call(&netns, next, &config);
            let answer = died(node.cni("ipam-pool", "ADD", &killed_at(&victim, name, number)))?;
            let lives = answer.is_some();
            // Whatever it did, nobody lost anything, and the victim has at most one address.
            let after = leases(&node)?;
            assert!(before.iter().all(|(address, holders)| after.get(address) == Some(holders)), "{after:?}");
            assert!(after.len() <= before.len() + 1, "{after:?}");
            // The runtime asks again, and gives it back.
            let got = address(&node.cni("ipam-pool", "ADD", &victim)?);
            assert_eq!(leases(&node)?.len(), before.len() + 1);
            if let Some(answer) = answer {
                assert_eq!(address(&answer), got);
            }
            if sticky == "pod" {
                assert!(node.read(KEPT).is_ok() || node.run(|| fs::metadata(KEPT).is_ok()), "it is kept");
            }
            node.cni("ipam-pool", "DEL", &victim)?;
            if sticky == "pod" {
                by_hand(&node, &format!("release default/p{next}"))?;
            }
            assert_eq!(leases(&node)?, before);
            Ok(lives)
        })?;
        total.fetch_add(deaths, Ordering::Relaxed);
        Ok(())
    })?;
    let total = total.into_inner();
    assert!(total > 40, "only {total} deaths: is the list of system calls right?");
    Ok(())
}

fn del_killed_anywhere() -> Outcome {
    needs("strace")?;
    let mut total = 0;
    for sticky in ["none", "pod"] {
        let node = Node::new("n")?;
        let netns = node.pod("x")?.path().to_owned();
        let config = config("10.0.0.0/24", sticky);
        node.cni("ipam-pool", "ADD", &call(&netns, 1, &config))?;
        total += everywhere(|name, number| {
            let victim = call(&netns, 2, &config);
            let had = address(&node.cni("ipam-pool", "ADD", &victim)?);
            let before = leases(&node)?;
            let lives = died(node.cni("ipam-pool", "DEL", &killed_at(&victim, name, number)))?.is_some();
            let between = leases(&node)?;
            assert!(between.len() == before.len() || between.len() + 1 == before.len(), "{between:?}");
            node.cni("ipam-pool", "DEL", &victim)?;
            let after = leases(&node)?;
            let holders = |address: &str| after.get(address.split('/').next().unwrap_or_default()).cloned();
            assert_eq!(holders(&had), (sticky == "pod").then(Vec::new));
            Ok(lives)
        })?;
    }
    assert!(total > 8, "only {total} deaths: is the list of system calls right?");
    Ok(())
}

/// Who removes stores that have nothing in them is killed at any system call: what others have is untouched, and the next
/// one finishes.
fn a_removal_killed_anywhere() -> Outcome {
    needs("strace")?;
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let named = |name: &str, subnet: &str, sticky: &str| {
        let mut config = config(subnet, sticky);
        config["name"] = json!(name);
        config
    };
    let (empty, held) = (named("net", "10.0.0.0/24", "pod"), named("held", "10.5.0.0/24", "none"));
    node.cni("ipam-pool", "ADD", &call(&netns, 1, &held))?;
    let program = program("ipam-pool");
    let mut total = 0;
    for gc in [false, true] {
        total += everywhere(|name, number| {
            // All three files, and nothing in any of them.
            let victim = call(&netns, 2, &empty);
            node.cni("ipam-pool", "ADD", &victim)?;
            node.cni("ipam-pool", "DEL", &victim)?;
            by_hand(&node, "release default/p2")?;
            let before = leases(&node)?;
            assert_eq!(before.len(), 1, "{before:?}");
            let lives = if gc {
                let mut gc = named("other", "10.6.0.0/24", "none");
                gc["cniVersion"] = json!("1.1.0");
                gc["cni.dev/valid-attachments"] = json!([]);
                died(node.cni("ipam-pool", "GC", &killed_at(&call(&netns, 9, &gc), name, number)))?.is_some()
            } else {
                let under = killed_at(&victim, name, number).under;
                let mut argv: Vec<&str> = under.iter().map(String::as_str).collect();
                argv.extend([program.to_str().unwrap_or_default(), "sweep"]);
                node.output(&argv)?.status.success()
            };
            assert_eq!(leases(&node)?, before);
            if number % 2 == 0 {
                // Somebody uses the name again.
                let got = address(&node.cni("ipam-pool", "ADD", &victim)?);
                assert!(got.starts_with("10.0.0."), "{got}");
                assert_eq!(leases(&node)?.len(), 2);
                node.cni("ipam-pool", "DEL", &victim)?;
                by_hand(&node, "release default/p2")?;
            }
            by_hand(&node, "sweep")?;
            let names =
                node.exec(&["sh", "-c", "ls -A /run/k8slan/ipam/networks /var/lib/k8slan/ipam/networks"])?;
            assert!(!names.contains("net."), "{names}");
            assert_eq!(leases(&node)?, before);
            Ok(lives)
        })?;
    }
    assert!(total > 12, "only {total} deaths: is the list of system calls right?");
    Ok(())
}

/// Networks that are empty most of the time, and three who remove the stores of such: no address is given twice, and none
/// is lost.
fn adds_beside_those_who_remove() -> Outcome {
    const WORKERS: u32 = 6;
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let held: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());
    let poisoned = |_| Stop::Failed("poisoned".to_owned());
    let (rounds, removed) = (AtomicU32::new(0), AtomicU32::new(0));
    let failed = AtomicBool::new(false);
    let (time, most) = competition(1500);
    let (end, limit) = (Instant::now() + time, Instant::now() + Duration::from_secs(120));
    // On a machine that is busy, some hundreds take longer.
    let enough = || rounds.load(Ordering::Relaxed) >= 300 && removed.load(Ordering::Relaxed) >= 30;
    let goes_on = || {
        let now = Instant::now();
        let wanted = (now < end && rounds.load(Ordering::Relaxed) < most) || !enough();
        now < limit && wanted && !failed.load(Ordering::Relaxed)
    };
    let worker = |worker: u32| -> Outcome {
        let mut config = config("10.0.0.0/28", "none");
        // Three for one network, two for another, one for itself.
        let name = ["one", "two", "one", "three", "two", "one"][usize::try_from(worker)?];
        config["name"] = json!(name);
        let mut number = worker * WRITER;
        while goes_on() {
            number += 1;
            let call = call(&netns, number, &config);
            let address = format!("{name} {}", address(&node.cni("ipam-pool", "ADD", &call)?));
            if let Some(other) = held.lock().map_err(poisoned)?.insert(address.clone(), number) {
                return Err(Stop::Failed(format!("{address} for c{number}, but c{other} has it")));
            }
            if number.is_multiple_of(3) {
                // It still has it.
                let again = format!("{name} {}", self::address(&node.cni("ipam-pool", "ADD", &call)?));
                assert_eq!(again, address, "what c{number} had was lost");
            }
            held.lock().map_err(poisoned)?.remove(&address);
            node.cni("ipam-pool", "DEL", &call)?;
            rounds.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let remover = || -> Outcome {
        let program = program("ipam-pool");
        while goes_on() {
            let said = node.output(&[program.to_str().unwrap_or_default(), "sweep"])?;
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(!said.contains("stays") && !said.contains("cannot"), "{said}");
            let count = said.matches("removed the store of").count();
            removed.fetch_add(u32::try_from(count)?, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let failed = &failed;
        let fails = move |result: &Outcome| failed.fetch_or(result.is_err(), Ordering::Relaxed);
        let mut threads = Vec::new();
        for i in 0..WORKERS {
            let worker = &worker;
            threads.push(scope.spawn(move || {
                let result = worker(i);
                fails(&result);
                result
            }));
        }
        for _ in 0..3 {
            let remover = &remover;
            threads.push(scope.spawn(move || {
                let result = remover();
                fails(&result);
                result
            }));
        }
        let results =
            threads.into_iter().map(|w| w.join().unwrap_or_else(|_| Err(Stop::Failed("panic".to_owned()))));
        results.collect::<Result<Vec<()>, Stop>>()
    })?;
    let (rounds, removed) = (rounds.load(Ordering::Relaxed), removed.load(Ordering::Relaxed));
    eprintln!("{rounds} rounds of ADD and DEL, {removed} stores were removed meanwhile");
    assert!(rounds >= 300 && removed >= 30, "{rounds} rounds, {removed} stores were removed");
    assert_eq!(leases(&node)?, BTreeMap::new());
    by_hand(&node, "sweep")?;
    assert_eq!(node.exec(&["ls", "-A", "/run/k8slan/ipam/networks"])?, "");
    Ok(())
}

/// 64 runtimes that attach and detach as fast as they can, some of them in a pool that has room for fewer.
fn compete(under: &(dyn Fn(u32) -> Vec<String> + Sync), subnet: &str, enough: u32) -> Outcome {
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let config = config(subnet, "none");
    let held: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());
    let (adds, full) = (AtomicU32::new(0), AtomicU32::new(0));
    let failed = AtomicBool::new(false);
    let (time, enough) = competition(enough);
    let end = Instant::now() + time;
    let worker = |worker: u32| -> Outcome {
        let mut mine: Vec<(u32, String)> = Vec::new();
        let mut number = worker * 100_000;
        while Instant::now() < end && adds.load(Ordering::Relaxed) < enough && !failed.load(Ordering::Relaxed)
        {
            number += 1;
            let call = CniCall { under: under(worker), ..call(&netns, number, &config) };
            match asked_again(|| node.cni("ipam-pool", "ADD", &call)) {
                Ok(result) => {
                    let address = address(&result);
                    adds.fetch_add(1, Ordering::Relaxed);
                    let mut held = held.lock().map_err(|_| Stop::Failed("poisoned".to_owned()))?;
                    if let Some(other) = held.insert(address.clone(), number) {
                        return Err(Stop::Failed(format!("{address} for c{number}, but c{other} has it")));
                    }
                    mine.push((number, address));
                }
                Err(error) if error.code == 130 => {
                    full.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
            // Keep up to four, so that the pool is nearly full all the time.
            while mine.len() > 3 || (!mine.is_empty() && number.is_multiple_of(3)) {
                let (number, address) = mine.remove(0);
                // From the moment that DEL begins, another one may get it.
                held.lock().map_err(|_| Stop::Failed("poisoned".to_owned()))?.remove(&address);
                let call = CniCall { under: under(worker), ..self::call(&netns, number, &config) };
                asked_again(|| node.cni("ipam-pool", "DEL", &call))?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..64)
            .map(|i| {
                let (worker, failed) = (&worker, &failed);
                scope.spawn(move || worker(i).inspect_err(|_| failed.store(true, Ordering::Relaxed)))
            })
            .collect();
        let results =
            workers.into_iter().map(|w| w.join().unwrap_or_else(|_| Err(Stop::Failed("panic".to_owned()))));
        results.collect::<Result<Vec<()>, Stop>>()
    })?;
    let held = held.into_inner().map_err(|_| Stop::Failed("poisoned".to_owned()))?;
    let expected: BTreeMap<String, Vec<String>> = held
        .iter()
        .map(|(address, number)| {
            (address.split('/').next().unwrap_or_default().to_owned(), vec![format!("c{number}")])
        })
        .collect();
    assert_eq!(leases(&node)?, expected, "none lost, none twice");
    let (adds, full) = (adds.into_inner(), full.into_inner());
    assert!(adds > 100, "only {adds} ADDs");
    eprintln!("{adds} ADDs, {full} times full, {} left", expected.len());
    Ok(())
}

fn many_at_once() -> Outcome {
    compete(&|_| Vec::new(), "10.0.0.0/26", 3000)
}

fn many_at_once_from_other_pid_namespaces() -> Outcome {
    needs("unshare")?;
    let under = |worker: u32| match worker % 2 {
        0 => Vec::new(),
        _ => ["unshare", "--pid", "--fork", "--kill-child"].map(str::to_owned).to_vec(),
    };
    compete(&under, "10.0.0.0/26", 1000)
}

/// A node that looks at copies of another one's store: file names and what is in them.
struct Desk(Node);

type Copy = Vec<(&'static str, Vec<u8>)>;

impl Desk {
    fn new() -> Result<Self, Stop> {
        Ok(Self(Node::new("copy")?))
    }

    /// What `check` says about a copy.
    fn says(&self, copy: &Copy) -> Result<String, Stop> {
        let _ = self.0.run(|| (fs::remove_dir_all("/run/k8slan"), fs::remove_dir_all("/var/lib/k8slan")));
        for (file, bytes) in copy {
            self.0.write(file, bytes)?;
            self.0.exec(&["chmod", "0600", file])?;
        }
        self.0.exec(&["sh", "-c", "chmod -R go= /run/k8slan /var/lib/k8slan 2>/dev/null || true"])?;
        let said = self.0.output(&[program("ipam-pool").to_str().unwrap_or_default(), "check"])?;
        Ok(String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
    }
}

/// Copies files as `cp` would, with a pause after each piece: on a slow disk or a long way.
fn copy_slowly(files: &[&'static str], pause: Duration) -> Result<Copy, Stop> {
    let mut copy = Copy::new();
    for name in files {
        let mut file = match fs::File::open(name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let (mut bytes, mut piece) = (Vec::new(), vec![0; 4096]);
        loop {
            match file.read(&mut piece)? {
                0 => break,
                len => bytes.extend_from_slice(&piece[..len]),
            }
            std::thread::sleep(pause);
        }
        copy.push((name, bytes));
    }
    Ok(copy)
}

/// Writer `i` attaches the containers `i * WRITER + 1`, `+ 2` and so on, one after the other.
const WRITER: u32 = 100_000;

/// How far each writer had come in a store; it has to be one that was, so nothing in between may be missing.
fn progress(node: &Node, writers: u32) -> Result<Vec<u32>, Stop> {
    let mut seen: Vec<Vec<u32>> = vec![Vec::new(); usize::try_from(writers)? + 1];
    for container in leases(node)?.into_values().flatten() {
        let number: u32 = container.trim_start_matches('c').parse()?;
        seen[usize::try_from(number / WRITER)?].push(number % WRITER);
    }
    seen.into_iter()
        .map(|mut of_one| {
            of_one.sort_unstable();
            let count = u32::try_from(of_one.len())?;
            assert!(of_one.iter().copied().eq(1..=count), "not what one moment had: {of_one:?}");
            Ok(count)
        })
        .collect()
}

/// Ends those who work until it is set, also where a test fails.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a kill at any system call leaves is whole, and so is a copy of it.
fn a_copy_of_every_moment_opens() -> Outcome {
    needs("strace")?;
    let node = Node::new("n")?;
    let desk = Desk::new()?;
    let netns = node.pod("x")?.path().to_owned();
    let config = config("10.0.0.0/16", "pod");
    for number in 0..40 {
        node.cni("ipam-pool", "ADD", &call(&netns, number, &config))?;
    }
    let deaths = everywhere(|name, number| {
        let victim = call(&netns, 1000, &config);
        let lives = died(node.cni("ipam-pool", "ADD", &killed_at(&victim, name, number)))?.is_some();
        for files in [&[INDEX, JOURNAL, KEPT][..], &[INDEX, KEPT], &[JOURNAL, KEPT], &[KEPT]] {
            let copy = node.run(|| copy_slowly(files, Duration::ZERO))?;
            let said = desk.says(&copy)?;
            assert!(said.contains("are in order"), "{said}");
        }
        node.cni("ipam-pool", "DEL", &victim)?;
        if leases(&node)?.len() > 40 {
            by_hand(&node, "release default/p1000")?;
        }
        Ok(lives)
    })?;
    assert!(deaths > 4, "only {deaths} deaths: is the list of system calls right?");
    Ok(())
}

/// Beside 16 writers, half of them sticky: a backup and every plain copy, however slow and in whatever order of its files,
/// opens, is a state that was, and has all that was answered before it began.
fn copies_beside_writers() -> Outcome {
    const WRITERS: u32 = 16;
    /// An index alone, without its journal, is no copy of a store.
    const ORDERS: &[&[&str]] = &[&[INDEX, JOURNAL, KEPT], &[KEPT, JOURNAL, INDEX], &[JOURNAL, INDEX, KEPT]];
    let node = Node::new("n")?;
    let desk = Desk::new()?;
    let netns = node.pod("x")?.path().to_owned();
    let configs = ["none", "pod"].map(|sticky| config("10.0.0.0/16", sticky));
    let done = AtomicBool::new(false);
    let answered: Vec<AtomicU32> = (0..=WRITERS).map(|_| AtomicU32::new(0)).collect();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=WRITERS)
            .map(|i| {
                let (done, node, netns, answered) = (&done, &node, &netns, &answered);
                let config = &configs[usize::from(i % 2 == 0)];
                scope.spawn(move || -> Outcome {
                    for number in 1..WRITER {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        node.cni("ipam-pool", "ADD", &call(netns, i * WRITER + number, config))?;
                        if let Some(count) = answered.get(usize::try_from(i)?) {
                            count.store(number, Ordering::Relaxed);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let stop = Stopper(&done);
        let result = (|| -> Outcome {
            eventually(Duration::from_secs(60), || {
                let one = answered.iter().any(|count| count.load(Ordering::Relaxed) > 0);
                match one || writers.iter().any(std::thread::ScopedJoinHandle::is_finished) {
                    true => Ok(()),
                    false => Err("no writer has an address".to_owned()),
                }
            })?;
            let end = Instant::now() + Duration::from_secs(6);
            let (mut copies, mut torn, mut backups) = (0, 0, 0);
            let holds = |before: &[u32]| -> Outcome {
                let got = progress(&desk.0, WRITERS)?;
                assert!(
                    got.iter().zip(before).all(|(got, before)| got >= before),
                    "{got:?} after {before:?}"
                );
                Ok(())
            };
            let answered =
                || answered.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<u32>>();
            while Instant::now() < end {
                let before = answered();
                let rows: Vec<Value> = serde_json::from_str(&by_hand(&node, "backup /run/backup --json")?)?;
                assert!(rows.iter().all(|row| row.get("problem").is_none()) && !rows.is_empty(), "{rows:?}");
                let (run, state) =
                    ("/run/backup/run/networks/net.journal", "/run/backup/state/networks/net.journal");
                let backup = node.run(|| copy_slowly(&[run, state], Duration::ZERO))?;
                let name = |file| if file == run { JOURNAL } else { KEPT };
                let backup = backup.into_iter().map(|(file, bytes)| (name(file), bytes)).collect();
                let said = desk.says(&backup)?;
                assert!(said.contains("are in order"), "{said}");
                holds(&before)?;
                backups += 1;
                for (order, pause) in ORDERS.iter().zip([0, 0, 1]) {
                    let before = answered();
                    let copy = node.run(|| copy_slowly(order, Duration::from_millis(pause)))?;
                    let said = desk.says(&copy)?;
                    assert!(said.contains("are in order"), "{said}");
                    holds(&before)?;
                    copies += 1;
                    // The index alone shows what would be without the journal.
                    let alone: Copy = copy.into_iter().filter(|(name, _)| *name != JOURNAL).collect();
                    torn += i32::from(!desk.says(&alone)?.contains("are in order"));
                }
            }
            assert!(torn > 0, "no index was torn: this proves nothing");
            eprintln!("{backups} backups and {copies} copies are whole, {torn} of them with a torn index");
            Ok(())
        })();
        drop(stop);
        for writer in writers {
            writer.join().unwrap_or_else(|_| Err(Stop::Failed("panic".to_owned())))?;
        }
        result
    })
}

/// With the very lines of `ipam-pool backup --help`.
fn a_backup_restores_what_is_kept() -> Outcome {
    let mut node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let (sticky, ephemeral) = (config("10.0.0.0/24", "pod"), config("10.0.0.0/24", "none"));
    let mut given = Vec::new();
    for number in 0..5 {
        given.push(address(&node.cni("ipam-pool", "ADD", &call(&netns, number, &sticky))?));
    }
    node.cni("ipam-pool", "ADD", &call(&netns, 10, &ephemeral))?;
    let said = by_hand(&node, "backup /var/lib/backup")?;
    assert!(said.contains("kept") && said.contains("/var/lib/backup/state/networks/net.journal"), "{said}");
    // A new node, or a new disk.
    node.exec(&["rm", "-rf", "/var/lib/k8slan"])?;
    node.reboot()?;
    let help = by_hand(&node, "backup --help")?;
    let commands: Vec<&str> = help
        .lines()
        .map(str::trim)
        .filter(|line| ["mkdir", "rm", "ipam-pool check"].iter().any(|start| line.starts_with(start)))
        .collect();
    assert_eq!(commands.len(), 3, "{help}");
    let program = program("ipam-pool");
    let script = commands
        .join("\n")
        .replace("DIR", "/var/lib/backup")
        .replace("ipam-pool ", &format!("{} ", program.display()));
    let said = node.exec(&["sh", "-e", "-c", &script])?;
    assert!(said.contains("are in order"), "{said}");
    let netns = node.pod("y")?.path().to_owned();
    for (number, had) in (0..5).zip(given) {
        assert_eq!(address(&node.cni("ipam-pool", "ADD", &call(&netns, number, &sticky))?), had);
    }
    assert_eq!(leases(&node)?.len(), 5, "the ephemeral one is gone");
    // A copy that is none is not restored in silence.
    let kept = node.run(|| fs::read("/var/lib/backup/state/networks/net.journal"))?;
    let mut torn = kept.clone();
    for at in (0..kept.len()).filter(|at| kept[*at..].starts_with(b"default")) {
        torn[at] = b'D';
    }
    node.run(|| fs::write("/var/lib/backup/state/networks/net.journal", &torn))?;
    node.exec(&["sh", "-e", "-c", "cp -r /var/lib/backup/state/. /var/lib/k8slan/ipam/"])?;
    assert!(by_hand(&node, "check").is_err(), "check reads what is kept as well");
    node.reboot()?;
    let netns = node.pod("z")?.path().to_owned();
    match node.cni("ipam-pool", "ADD", &call(&netns, 0, &sticky)) {
        Err(error) => assert_eq!(error.code, 140, "{error}"),
        Ok(result) => return Err(Stop::Failed(format!("from a torn copy: {result}"))),
    }
    Ok(())
}

/// A node with leases, and a way to damage its store and to see what ADD says.
fn damaged(
    damage: &(dyn Fn(&mut fs::File, u64) -> std::io::Result<()> + Sync),
) -> Result<Option<CniError>, Stop> {
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let config = config("10.0.0.0/24", "none");
    let mut given = Vec::new();
    for number in 0..60 {
        given.push(address(&node.cni("ipam-pool", "ADD", &call(&netns, number, &config))?));
    }
    node.run(|| -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).read(true).open(INDEX)?;
        let len = file.metadata()?.len();
        damage(&mut file, len)
    })?;
    let before = node.run(|| (fs::read(INDEX), fs::read(JOURNAL)));
    match node.cni("ipam-pool", "ADD", &call(&netns, 1000, &config)) {
        Ok(result) => {
            // It may not have touched the damage; then what it did is right.
            assert!(!given.contains(&address(&result)), "{} twice", address(&result));
            Ok(None)
        }
        Err(error) => {
            let (index, journal) = node.run(|| (fs::read(INDEX), fs::read(JOURNAL)));
            assert_eq!((index?, journal?), (before.0?, before.1?), "a damaged store was changed");
            // The error says what to do, and that helps.
            assert!(error.text().contains("remove this file"), "{error}");
            node.exec(&["rm", INDEX])?;
            let held = leases(&node)?;
            assert_eq!(held.len(), given.len());
            assert!(
                given.iter().all(|address| held.contains_key(address.split('/').next().unwrap_or_default()))
            );
            Ok(Some(error))
        }
    }
}

fn damage_is_reported() -> Outcome {
    let mut reported = 0;
    for page in 0..8u64 {
        for fill in [0x00, 0xff, 0x5a] {
            let answer = damaged(&|file, len| {
                if page * 4096 >= len {
                    return Ok(());
                }
                file.seek(SeekFrom::Start(page * 4096))?;
                file.write_all(&[fill; 4096])
            })?;
            if let Some(error) = answer {
                assert_eq!(error.code, 140, "page {page} filled with {fill:02x}: {error}");
                assert!(
                    error.msg.contains("are damaged") && error.msg.contains("ipam-pool check"),
                    "{error}"
                );
                reported += 1;
            }
        }
    }
    assert!(reported >= 6, "only {reported} of 24 damages were noticed");
    Ok(())
}

/// The page numbers in a branch page decide which records are found. Two that are exchanged lead to pages that
/// are sound: no checksum sees it.
fn a_page_that_leads_astray_gives_no_address_twice() -> Outcome {
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let config = config("10.0.0.0/24", "none");
    let mut held = BTreeSet::new();
    for number in 0..60 {
        held.insert(address(&node.cni("ipam-pool", "ADD", &call(&netns, number, &config))?));
    }
    let sound = node.run(|| fs::read(INDEX))?;
    let journal = node.run(|| fs::read(JOURNAL))?;
    let (mut noticed, mut pair) = (0, 0);
    loop {
        let mut bytes = sound.clone();
        if !exchange(&mut bytes, pair).ok_or_else(|| Stop::Failed("not a tree of two levels".to_owned()))? {
            break;
        }
        node.run(|| fs::write(INDEX, &bytes).and_then(|()| fs::write(JOURNAL, &journal)))?;
        let said = node.output(&[program("ipam-pool").to_str().unwrap_or_default(), "check"])?;
        assert!(!said.status.success(), "pair {pair}: check sees nothing");
        let mut given = held.clone();
        for number in 100..120 {
            match node.cni("ipam-pool", "ADD", &call(&netns, number, &config)) {
                Ok(result) => {
                    let address = address(&result);
                    assert!(given.insert(address.clone()), "pair {pair}: {address} twice");
                }
                Err(error) => {
                    assert_eq!(error.code, 140, "pair {pair}: {error}");
                    noticed += 1;
                    break;
                }
            }
        }
        pair += 1;
    }
    assert!(pair > 4 && noticed > 0, "{noticed} of {pair} exchanges were noticed by ADD");
    eprintln!("{noticed} of {pair} exchanges are noticed by ADD, all by check");
    Ok(())
}

/// Pages that lead to one another in a circle: whoever reads them all must come to an end.
fn pages_that_lead_in_a_circle_are_read_once() -> Outcome {
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let config = config("10.0.0.0/24", "none");
    for number in 0..60 {
        node.cni("ipam-pool", "ADD", &call(&netns, number, &config))?;
    }
    let mut bytes = node.run(|| fs::read(INDEX))?;
    let nodes = root(&bytes).ok_or_else(|| Stop::Failed("not a tree of two levels".to_owned()))?;
    // What follows the third page is the second one again.
    let pages: Vec<_> = nodes.iter().map(|&at| bytes[at..at + PAGE_NUMBER].to_vec()).collect();
    for (at, page) in nodes.iter().zip([1, 2, 0, 1]) {
        bytes[*at..at + PAGE_NUMBER].copy_from_slice(&pages[page]);
    }
    node.run(|| fs::write(INDEX, &bytes))?;
    let said = node.output(&["timeout", "20", &program("ipam-pool").to_string_lossy(), "check"])?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    assert!(!said.status.success() && text.contains("damaged"), "{:?}: {text}", said.status);
    Ok(())
}

/// Of the eight bytes before a node's key, the last two are the key's length.
const PAGE_NUMBER: usize = 6;

/// Where the nodes of the tree's root stand, each of which begins with a page number (struct MDB_meta, MDB_page
/// and MDB_node of LMDB's mdb.c).
fn root(store: &[u8]) -> Option<Vec<usize>> {
    let word =
        |at: usize| -> Option<u64> { Some(u64::from_ne_bytes(store.get(at..at + 8)?.try_into().ok()?)) };
    let half = |at: usize| -> Option<usize> {
        Some(u16::from_ne_bytes(store.get(at..at + 2)?.try_into().ok()?).into())
    };
    const ROOT: usize = 128;
    const TXN: usize = 144;
    let newest = if word(TXN)? > word(4096 + TXN)? { 0 } else { 4096 };
    let root = usize::try_from(word(newest + ROOT)?).ok()? * 4096;
    assert_eq!(half(root + 10)?, 1, "the root is no branch page");
    let nodes = (half(root + 12)? - 16) / 2;
    (0..nodes).map(|node| half(root + 16 + 2 * node).map(|at| root + at)).collect()
}

/// Exchanges two neighbouring page numbers in the root of the tree; `false` where it has no such pair.
fn exchange(store: &mut [u8], pair: usize) -> Option<bool> {
    let nodes = root(store)?;
    let [a, b] = [nodes.get(pair), nodes.get(pair + 1)].map(Option::<&usize>::copied);
    let (Some(a), Some(b)) = (a, b) else { return Some(false) };
    for byte in 0..PAGE_NUMBER {
        store.swap(a + byte, b + byte);
    }
    Some(true)
}

fn a_cut_off_store_is_reported() -> Outcome {
    for pages in [0u64, 1, 2, 3, 4, 5] {
        let answer = damaged(&|file, len| file.set_len((pages * 4096).min(len)))?;
        let error = answer.ok_or_else(|| Stop::Failed(format!("{pages} pages are taken for a store")))?;
        assert_eq!(error.code, 140, "{pages} pages: {error}");
    }
    let answer = damaged(&|file, _| file.write_all(b"not a store at all"))?;
    assert_eq!(answer.map(|error| error.code), Some(140));
    Ok(())
}

/// The index of leases is cut and its bytes are changed while pods run. Who has what comes back as it was answered, which
/// no look at interfaces could tell: one pod took its address off, one gave itself others of the pool, and one has no
/// interface at all, as a device that a program in user space drives.
fn leases_come_back_whatever_pods_did_to_their_interfaces() -> Outcome {
    const BRIDGE: &str = "/usr/lib/cni/bridge";
    needs(BRIDGE)?;
    let node = Node::new("n")?;
    let config = config("10.0.0.0/24", "none");
    let pods = ["still", "flushed", "greedy"].map(|name| node.pod(name));
    let [still, flushed, greedy] = pods;
    let (still, flushed, greedy) = (still?, flushed?, greedy?);
    let mut given = BTreeMap::new();
    for pod in [&still, &flushed, &greedy] {
        given.insert(address(&pod.add(BRIDGE, "net1", &config)?), pod.container().to_owned());
    }
    let bare = node.pod("bare")?;
    given.insert(address(&bare.add("ipam-pool", "net1", &config)?), bare.container().to_owned());
    let ip = |netns: &str, arguments: &str| {
        let netns = format!("--net={netns}");
        let argv: Vec<&str> = ["nsenter", &netns, "ip"].into_iter().chain(arguments.split(' ')).collect();
        node.exec(&argv)
    };
    ip(flushed.path(), "addr flush dev net1")?;
    for last in 100..104 {
        ip(greedy.path(), &format!("addr add 10.0.0.{last}/24 dev net1"))?;
    }
    assert!(!ip(flushed.path(), "-4 addr show dev net1")?.contains("10.0.0."), "it has its address still");
    let before = leases(&node)?;
    let expected = given.iter().map(|(address, container)| {
        (address.split('/').next().unwrap_or_default().to_owned(), vec![container.clone()])
    });
    assert_eq!(before, expected.collect::<BTreeMap<_, _>>());
    type Damage = fn(&mut fs::File, u64) -> std::io::Result<()>;
    let damages: [Damage; 4] = [
        |file, _| file.set_len(0),
        |file, len| file.set_len(len / 2),
        |file, len| {
            // The kind of every page.
            for page in 0..len / 4096 {
                file.seek(SeekFrom::Start(page * 4096 + 10))?;
                file.write_all(&[0xff, 0xff])?;
            }
            Ok(())
        },
        // Gone, and its first page is there.
        |file, _| file.set_len(4096),
    ];
    for damage in damages {
        node.run(|| -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).read(true).open(INDEX)?;
            let len = file.metadata()?.len();
            damage(&mut file, len)
        })?;
        let newcomer = call(still.path(), 1000, &config);
        match node.cni("ipam-pool", "ADD", &newcomer) {
            Err(error) => assert_eq!(error.code, 140, "{error}"),
            Ok(result) => return Err(Stop::Failed(format!("{} from a damaged index", address(&result)))),
        }
        node.exec(&["rm", INDEX])?;
        let got = address(&node.cni("ipam-pool", "ADD", &newcomer)?);
        assert!(!given.contains_key(&got), "{got} twice");
        node.cni("ipam-pool", "DEL", &newcomer)?;
        assert_eq!(leases(&node)?, before);
    }
    // Nothing is in quarantine, and everybody's DEL finds its lease.
    for pod in [&still, &flushed, &greedy] {
        pod.del(BRIDGE, "net1", &config)?;
    }
    bare.del("ipam-pool", "net1", &config)?;
    assert_eq!(leases(&node)?, BTreeMap::new());
    Ok(())
}

fn a_full_disk_loses_nothing() -> Outcome {
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    for (folder, sticky, file, size) in
        [("/run/k8slan/ipam", "none", INDEX, "640k"), ("/var/lib/k8slan/ipam", "pod", KEPT, "200k")]
    {
        let config = config("10.0.0.0/16", sticky);
        node.exec(&["mkdir", "-p", folder])?;
        let options = format!("size={size},mode=0700");
        node.exec(&["mount", "-t", "tmpfs", "-o", &options, "none", folder])?;
        let mut given = BTreeMap::new();
        let full = loop {
            let number = u32::try_from(given.len())? + 1;
            match node.cni("ipam-pool", "ADD", &call(&netns, number, &config)) {
                Ok(result) => {
                    let address = address(&result).split('/').next().unwrap_or_default().to_owned();
                    assert!(given.insert(address, number).is_none());
                }
                Err(error) => break error,
            }
            assert!(given.len() < 20_000, "the disk does not fill up");
        };
        assert_eq!(full.code, 142, "{full}");
        assert!(full.text().contains(file.rsplit_once('/').map_or("", |(folder, _)| folder)), "{full}");
        let held = leases(&node)?;
        assert_eq!(held.len(), given.len(), "an ADD that failed holds something");
        for (address, number) in &given {
            assert_eq!(held.get(address), Some(&vec![format!("c{number}")]), "{address} is lost");
        }
        // DEL works on the full disk, and then ADD does again.
        for number in given.values() {
            node.cni("ipam-pool", "DEL", &call(&netns, *number, &config))?;
        }
        if sticky == "none" {
            node.cni("ipam-pool", "ADD", &call(&netns, 90_000, &config))?;
        }
        node.exec(&["umount", "-l", folder])?;
        let _ = node.run(|| fs::remove_dir_all("/run/k8slan"));
    }
    Ok(())
}

/// Files that leave no room in a folder, whatever its pages are.
fn fill(node: &Node, folder: &str) -> Outcome {
    let filled = node.output(&["dd", "if=/dev/zero", &format!("of={folder}/fill"), "bs=4096"])?;
    assert!(!filled.status.success(), "the disk does not fill up");
    Ok(())
}

/// A garbage collection of thousands needs no more room than a DEL.
fn a_full_disk_takes_thousands_back() -> Outcome {
    const LEASES: usize = 3000;
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let config = config("10.0.0.0/16", "none");
    let folder = "/run/k8slan/ipam";
    node.exec(&["mkdir", "-p", folder])?;
    node.exec(&["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "none", folder])?;
    for number in 0..LEASES {
        let address = format!("10.0.{}.{}", 1 + number / 256, number % 256);
        node.write(&format!("/var/lib/cni/networks/net/{address}"), format!("c{number}\r\nnet1"))?;
    }
    by_hand(&node, "import-host-local /var/lib/cni/networks/net")?;
    assert_eq!(leases(&node)?.len(), LEASES);
    // What an ADD reserves is there for those who give back.
    node.cni("ipam-pool", "ADD", &call(&netns, 90_000, &config))?;
    fill(&node, folder)?;
    let mut last = config.clone();
    last["cniVersion"] = json!("1.1.0");
    last["cni.dev/valid-attachments"] = json!([{ "containerID": "c7", "ifname": "net1" }]);
    node.cni("ipam-pool", "GC", &call(&netns, 1, &last))?;
    assert_eq!(leases(&node)?.into_values().collect::<Vec<_>>(), [["c7"]]);
    node.exec(&["rm", &format!("{folder}/fill")])?;
    node.cni("ipam-pool", "ADD", &call(&netns, 90_001, &config))?;
    assert_eq!(leases(&node)?.len(), 2);
    node.exec(&["umount", "-l", folder])?;
    Ok(())
}

/// Where the disk has no room for the word that an owner's address is free, the address is still the owner's, and the others
/// in the pool notice nothing.
fn a_full_disk_keeps_an_owner_and_hinders_nobody() -> Outcome {
    /// So many that the words about them are more than what is left of a page.
    const OWNERS: u32 = 120;
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let [config, sticky] = ["none", "pod"].map(|sticky| config("10.0.0.0/24", sticky));
    let folder = "/var/lib/k8slan/ipam";
    node.exec(&["mkdir", "-p", folder])?;
    node.exec(&["mount", "-t", "tmpfs", "-o", "size=200k,mode=0700", "none", folder])?;
    for number in 0..OWNERS {
        node.cni("ipam-pool", "ADD", &call(&netns, number, &sticky))?;
    }
    // As after a restore: nothing is reserved for it.
    node.exec(&["sh", "-e", "-c", &format!("cp -p {KEPT} {KEPT}.1; mv {KEPT}.1 {KEPT}")])?;
    leases(&node)?;
    fill(&node, folder)?;
    let ipam_pool = program("ipam-pool");
    let release = |number: u32| {
        let owner = format!("default/p{number}");
        node.output(&[ipam_pool.to_str().unwrap_or_default(), "release", "--force", &owner])
    };
    let mut released = 0;
    let refused = loop {
        let said = release(released)?;
        if !said.status.success() {
            break String::from_utf8_lossy(&said.stderr).into_owned();
        }
        released += 1;
        assert!(released < OWNERS, "the disk was never full");
    };
    assert!(refused.contains("disk full at") && refused.contains(KEPT), "{refused}");
    let held = leases(&node)?;
    assert_eq!(held.len(), usize::try_from(OWNERS - released)?, "what was refused changed nothing");
    let other = call(&netns, 90_000, &config);
    node.cni("ipam-pool", "ADD", &other)?;
    node.cni("ipam-pool", "DEL", &other)?;
    node.cni("ipam-pool", "DEL", &call(&netns, released, &sticky))?;
    node.exec(&["rm", &format!("{folder}/fill")])?;
    assert!(release(released)?.status.success());
    node.exec(&["umount", "-l", folder])?;
    Ok(())
}

/// A process is killed between the line that keeps an address and its way to the disk. Who asks again gets the address
/// without a change, and not before the line is on the disk.
fn what_is_answered_again_is_synced() -> Outcome {
    needs("strace")?;
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let sticky = config("10.0.0.0/24", "pod");
    node.cni("ipam-pool", "ADD", &call(&netns, 1, &sticky))?;
    let victim = call(&netns, 2, &sticky);
    let length = || node.run(|| fs::metadata(KEPT).map(|meta| meta.len()));
    let before = length()?;
    assert!(died(node.cni("ipam-pool", "ADD", &killed_at(&victim, "fdatasync", 1)))?.is_none());
    assert!(length()? > before, "the line is written");
    let log = "/run/strace.log";
    let argv = ["strace", "-f", "-y", "-o", log, "-e", "trace=fdatasync,fsync"];
    let again = CniCall { under: argv.map(str::to_owned).to_vec(), ..victim };
    node.cni("ipam-pool", "ADD", &again)?;
    let calls = node.read(log)?;
    assert!(calls.lines().any(|line| line.contains("sync(") && line.contains(KEPT)), "{calls}");
    Ok(())
}

/// A process is killed before the line that keeps an address, and then the disk is full: who keeps nothing is served, and who
/// does is not, until there is room.
fn what_could_not_be_kept_hinders_nobody_else() -> Outcome {
    needs("strace")?;
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let [config, sticky] = ["none", "pod"].map(|sticky| config("10.0.0.0/24", sticky));
    node.cni("ipam-pool", "ADD", &call(&netns, 1, &sticky))?;
    let kept = || node.read(KEPT);
    let before = kept()?;
    let victim = call(&netns, 2, &sticky);
    assert!(died(node.cni("ipam-pool", "ADD", &killed_at(&victim, "write", 1)))?.is_none());
    assert_eq!(kept()?, before, "the first write is that line");
    let full = |call: &CniCall, writes: &str| {
        let inject = format!("inject=write:error=ENOSPC:when={writes}");
        let argv = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=write", "-e", &inject];
        CniCall { under: argv.map(str::to_owned).to_vec(), ..call.clone() }
    };
    let other = call(&netns, 3, &config);
    for verb in ["ADD", "DEL"] {
        node.cni("ipam-pool", verb, &full(&other, "1"))?;
    }
    for call in [&victim, &call(&netns, 4, &sticky)] {
        match node.cni("ipam-pool", "ADD", &full(call, "1..2")) {
            Err(error) => assert_eq!(error.code, 142, "{error}"),
            Ok(result) => return Err(Stop::Failed(format!("{result} is not kept"))),
        }
    }
    assert_eq!(kept()?, before);
    node.cni("ipam-pool", "ADD", &victim)?;
    assert!(kept()?.contains("default/p2/net"));
    leases(&node)?;
    Ok(())
}

/// The journal of what is kept is gone, and its disk has no room for another one.
fn a_lost_journal_on_a_full_disk_hinders_nobody_else() -> Outcome {
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let [config, sticky] = ["none", "pod"].map(|sticky| config("10.0.0.0/24", sticky));
    let folder = "/var/lib/k8slan/ipam";
    node.exec(&["mkdir", "-p", folder])?;
    node.exec(&["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "none", folder])?;
    for number in 1..4 {
        node.cni("ipam-pool", "ADD", &call(&netns, number, &config))?;
    }
    let owner = call(&netns, 9, &sticky);
    let kept = address(&node.cni("ipam-pool", "ADD", &owner)?);
    for lost in [&[KEPT][..], &[KEPT, INDEX]] {
        for file in lost {
            node.exec(&["rm", file])?;
        }
        fill(&node, folder)?;
        node.cni("ipam-pool", "DEL", &call(&netns, 1, &config))?;
        node.cni("ipam-pool", "ADD", &call(&netns, 1, &config))?;
        let mut gc = config.clone();
        gc["cniVersion"] = json!("1.1.0");
        gc["cni.dev/valid-attachments"] =
            json!([1, 3, 9].map(|number| json!({"containerID": format!("c{number}"), "ifname": "net1"})));
        node.cni("ipam-pool", "GC", &call(&netns, 1, &gc))?;
        assert_eq!(leases_by_hand(&node)?, 3, "c2's is free, and the one that is kept is there");
        node.cni("ipam-pool", "ADD", &call(&netns, 2, &config))?;
        // Whoever keeps something waits for room, and nothing that was kept is lost.
        for call in [&owner, &call(&netns, 10, &sticky)] {
            let refused = node.cni("ipam-pool", "ADD", call).err().map(|error| error.code);
            assert_eq!(refused, Some(142));
        }
        node.exec(&["rm", &format!("{folder}/fill")])?;
        assert_eq!(address(&node.cni("ipam-pool", "ADD", &owner)?), kept);
        assert!(node.read(KEPT)?.contains("default/p9/net"));
        leases(&node)?;
    }
    Ok(())
}

fn leases_by_hand(node: &Node) -> Result<usize, Stop> {
    let said = node.exec(&[&program("ipam-pool").to_string_lossy(), "leases", "--json"])?;
    Ok(said.matches("\"state\": \"leased\"").count())
}

fn a_read_only_folder_is_named() -> Outcome {
    let node = Node::new("n")?;
    let netns = node.pod("x")?.path().to_owned();
    let [config, sticky] = ["none", "pod"].map(|sticky| config("10.0.0.0/24", sticky));
    let first = call(&netns, 1, &config);
    let got = address(&node.cni("ipam-pool", "ADD", &first)?);
    let folder = "/run/k8slan/ipam";
    node.exec(&["mount", "--bind", folder, folder])?;
    node.exec(&["mount", "-o", "remount,ro,bind", folder])?;
    for (verb, number) in [("ADD", 2), ("DEL", 1)] {
        match node.cni("ipam-pool", verb, &call(&netns, number, &config)) {
            Err(error) => {
                assert_eq!(error.code, 143, "{error}");
                assert!(
                    error.text().contains("/run/k8slan/ipam") && error.text().contains("Read-only"),
                    "{error}"
                );
            }
            Ok(_) => return Err(Stop::Failed(format!("{verb} in a read-only folder"))),
        }
    }
    node.exec(&["umount", "-l", folder])?;
    assert_eq!(address(&node.cni("ipam-pool", "ADD", &first)?), got);
    // What is kept is only written where that changes.
    node.cni("ipam-pool", "ADD", &call(&netns, 5, &sticky))?;
    let folder = "/var/lib/k8slan/ipam";
    node.exec(&["mount", "--bind", folder, folder])?;
    node.exec(&["mount", "-o", "remount,ro,bind", folder])?;
    match node.cni("ipam-pool", "ADD", &call(&netns, 6, &sticky)) {
        Err(error) => assert_eq!(error.code, 143, "{error}"),
        Ok(_) => return Err(Stop::Failed("ADD keeps something in a read-only folder".to_owned())),
    }
    node.cni("ipam-pool", "DEL", &call(&netns, 5, &sticky))?;
    node.cni("ipam-pool", "DEL", &call(&netns, 6, &sticky))?;
    node.exec(&["umount", "-l", folder])?;
    assert_eq!(leases(&node)?.len(), 2, "the first one's, and the one that is kept");
    Ok(())
}
