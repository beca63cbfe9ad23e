//! Pods come and go on a node for a while, its daemon dies in between, and at the end nothing is left.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8slan_tests::{LanFile, Traces, Worker, addresses};
use serde_json::{Value, json};
use testnet::{Outcome, Ping, Stop, Switch, eventually, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![pods_come_and_go_while_the_daemon_dies]
}

/// How long the daemon is killed now and then, and how long the last one then lives under the same load.
const KILLED: Duration = Duration::from_secs(9);
const QUIET: Duration = Duration::from_secs(5);
/// By then the last one has what it holds all the time.
const STARTED: Duration = Duration::from_secs(1);

const SPOKES: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];

fn config(spoke: &str) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "lan", "type": "macvtap", "deviceID": spoke,
        "ipam": { "type": "ipam-pool", "pool": "p" },
    })
}

/// What may not grow: open files and threads of the daemon, and network namespaces that processes or mounts of the
/// node hold by name.
fn held(worker: &Worker) -> Result<[usize; 3], Stop> {
    let process = worker.daemon_id().ok_or_else(|| Stop::Failed("the daemon is gone".to_owned()))?;
    let count = |folder: String| std::fs::read_dir(folder).map(Iterator::count);
    Ok([
        count(format!("/proc/{process}/fd"))?,
        count(format!("/proc/{process}/task"))?,
        worker.list("/run/netns").len() + worker.list("/run/k8slan/netns").len(),
    ])
}

/// One pod's life; each third is deleted late, and each fourth vanishes without a DEL, as its sandbox may.
fn live(worker: &Worker, spoke: &str, round: u32) -> Outcome {
    let pod = worker.pod(&format!("{spoke}-{round}"))?;
    let call = pod.call("net1", &config(spoke));
    let result = worker.cni("macvtap", "ADD", &call)?;
    let own = *addresses(&result).first().ok_or_else(|| Stop::Failed(format!("no address: {result}")))?;
    if round.is_multiple_of(5) {
        Ping::new(own).run(&pod)?.perfect().map_err(Stop::Failed)?;
    }
    match round % 4 {
        3 => pod.remove()?,
        _ if round.is_multiple_of(3) => {
            pod.remove()?;
            worker.cni("macvtap", "DEL", &call)?;
        }
        _ => {
            worker.cni("macvtap", "DEL", &call)?;
            pod.remove()?;
        }
    }
    Ok(())
}

fn pods_come_and_go_while_the_daemon_dies() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.write(
        "/var/lib/k8slan/pools.d/p.yaml",
        "apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata:\n  name: p\nspec:\n  scope: host\n  \
         ranges: [{subnet: 10.0.0.0/20}]\n",
    )?;
    let lan = LanFile::new("lan1", 7, &SPOKES);
    worker.put(&lan)?;
    for spoke in SPOKES {
        worker.ready(spoke)?;
    }
    let before = Traces::of(&worker, &lan)?;
    let (stop, lives) = (AtomicBool::new(false), AtomicU32::new(0));
    let settled = std::thread::scope(|scope| -> Result<[usize; 3], Stop> {
        let pods: Vec<_> = SPOKES
            .iter()
            .map(|spoke| {
                let (worker, stop, lives) = (&worker, &stop, &lives);
                scope.spawn(move || -> Outcome {
                    let mut round = 0;
                    while !stop.load(Ordering::Relaxed) {
                        live(worker, spoke, round)?;
                        round += 1;
                        lives.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let kills = || -> Result<[usize; 3], Stop> {
            let start = Instant::now();
            for pause in [30, 400, 5, 150, 900, 60].into_iter().cycle() {
                if start.elapsed() > KILLED {
                    break;
                }
                worker.kill_daemon()?;
                std::thread::sleep(Duration::from_millis(pause / 2));
                worker.start_daemon()?;
                std::thread::sleep(Duration::from_millis(pause));
            }
            std::thread::sleep(STARTED);
            let settled = held(&worker)?;
            std::thread::sleep(QUIET);
            Ok(settled)
        };
        let settled = kills();
        stop.store(true, Ordering::Relaxed);
        for pod in pods {
            pod.join().unwrap()?;
        }
        settled
    })?;
    println!("{} pods came and went", lives.load(Ordering::Relaxed));

    // As the runtime does: what is not in the list is collected.
    let nobody = worker.pod("nobody")?;
    let gc = nobody.call("net1", &config("s0")).with("cni.dev/valid-attachments", json!([]));
    worker.cni("macvtap", "GC", &gc)?;
    nobody.remove()?;
    eventually(Duration::from_secs(5), || {
        let now = Traces::of(&worker, &lan).map_err(|error| error.to_string())?;
        if now == before { Ok(()) } else { Err(format!("left: {now}, before: {before}")) }
    })?;
    let shown = worker.exec(&[&*program("ipam-pool").to_string_lossy(), "pools", "--json"])?;
    let pools: Value = serde_json::from_str(&shown)?;
    assert_eq!(pools[0]["leased"], 0, "{pools}");
    eventually(Duration::from_secs(5), || {
        let now = held(&worker).map_err(|stop| format!("{stop:?}"))?;
        match now.iter().zip(settled).all(|(now, settled)| *now <= settled) {
            true => Ok(()),
            false => Err(format!("files, threads and namespaces: {now:?}, earlier {settled:?}")),
        }
    })?;
    let log = worker.log();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    Ok(())
}
