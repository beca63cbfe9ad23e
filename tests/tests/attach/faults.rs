//! The plugin dies before any of its system calls: DEL puts everything right, and the spoke is free again.

use std::fs;
use std::time::Duration;

use k8slan_tests::kills::{CHANGING, everywhere, strace};
use k8slan_tests::{LanFile, Traces, Worker, on_spoke};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testnet::{CniCall, Outcome, Stop, Switch, eventually, needs};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![add_killed_anywhere, del_killed_anywhere, the_daemon_killed_anywhere_while_it_builds]
}

fn lan() -> LanFile {
    LanFile::new("lan1", 7, &["a", "b"])
}

fn one_worker() -> Result<(Switch, Worker), Stop> {
    needs("strace")?;
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.put(&lan())?;
    worker.ready("a")?;
    worker.ready("b")?;
    Ok((switch, worker))
}

/// The same call, killed before its `number`th system call of this name.
fn killed_at(call: &CniCall, name: &str, number: u32) -> CniCall {
    CniCall { under: strace(name, number), ..call.clone() }
}

/// Those with which the daemon builds a LAN and writes its files; it opens many more than it changes.
const BUILDING: &[&str] = &[
    "fchmod",
    "fsync",
    "linkat",
    "mkdir",
    "mkdirat",
    "mount",
    "rename",
    "renameat",
    "renameat2",
    "sendto",
    "setns",
    "unlinkat",
    "unshare",
    "write",
];

fn add_killed_anywhere() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let before = Traces::of(&worker, &lan())?;
    let deaths = everywhere(CHANGING, |name, number| {
        let pod = worker.pod("victim")?;
        let call = pod.call("net1", &on_spoke("a"));
        let answer = worker.cni("macvtap", "ADD", &killed_at(&call, name, number));
        if let Err(error) = &answer
            && error.code != 0
        {
            return Err(error.clone().into());
        }
        // Odd: the runtime deletes. Even: it does so late, and the spoke must be had all the same.
        let (last, next_call) = if number % 2 == 1 || answer.is_ok() {
            (pod, None)
        } else {
            pod.remove()?;
            let next = worker.pod("next")?;
            let call = next.call("net1", &on_spoke("a"));
            worker.cni("macvtap", "ADD", &call)?;
            (next, Some(call))
        };
        if let Some(call) = next_call {
            worker.cni("macvtap", "DEL", &call)?;
        }
        worker.cni("macvtap", "DEL", &call)?;
        same(&before, &Traces::of(&worker, &lan())?)?;
        assert_eq!(last.link_names()?, [""; 0], "killed at {name} number {number}");
        last.remove()?;
        Ok(answer.is_ok())
    })?;
    assert!(deaths > 20, "only {deaths} deaths: is the list of system calls right?");
    Ok(())
}

fn del_killed_anywhere() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let before = Traces::of(&worker, &lan())?;
    let deaths = everywhere(CHANGING, |name, number| {
        let pod = worker.pod("victim")?;
        let call = pod.call("net1", &on_spoke("a"));
        worker.cni("macvtap", "ADD", &call)?;
        let survived = worker.cni("macvtap", "DEL", &killed_at(&call, name, number)).is_ok();
        worker.cni("macvtap", "DEL", &call)?;
        same(&before, &Traces::of(&worker, &lan())?)?;
        assert_eq!(pod.link_names()?, [""; 0], "killed at {name} number {number}");
        pod.remove()?;
        Ok(survived)
    })?;
    assert!(deaths > 10, "only {deaths} deaths: is the list of system calls right?");
    Ok(())
}

fn the_daemon_killed_anywhere_while_it_builds() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let built = Traces::of(&worker, &lan())?;
    let program = testnet::program("k8slan-device-plugin");
    let deaths = everywhere(BUILDING, |name, number| {
        worker.remove(&lan())?;
        eventually(Duration::from_secs(5), || {
            let stands = worker.netns(&lan().netns()).is_ok() || worker.record("b").is_some();
            if stands { Err("the LAN and its records go".to_owned()) } else { Ok(()) }
        })?;
        worker.stop_daemon()?;
        worker.put(&lan())?;
        let (trace, inject) = (format!("trace={name}"), format!("inject={name}:signal=KILL:when={number}"));
        let strace = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let daemon =
            [&*program.to_string_lossy(), "node", "--lan-dir", Worker::LANS, "--node-name", worker.name()];
        let mut traced = worker.spawn_daemon(&[&strace[..], &daemon].concat())?;
        // It dies, or it is done: the call of that number does not happen.
        let died = eventually(Duration::from_secs(10), || {
            if traced.wait(Duration::ZERO).is_ok() {
                return Ok(true);
            }
            let ready = |spoke| worker.record(spoke).is_some_and(|record| record["ready"] == true);
            if ready("a") && ready("b") { Ok(false) } else { Err("the daemon is done or dead".to_owned()) }
        })?;
        if !died {
            end_tracee(traced.id());
            traced.wait(Duration::from_secs(5))?;
        }
        // Whatever stood there half-way, the next one finishes.
        worker.start_daemon()?;
        worker.ready("a")?;
        worker.ready("b")?;
        same(&built, &Traces::of(&worker, &lan())?)?;
        assert_eq!(worker.list("/run/netns"), ["lan1"], "killed at {name} number {number}");
        Ok(!died)
    })?;
    assert!(deaths > 20, "only {deaths} deaths: is the list of system calls right?");
    Ok(())
}

/// Kills the program that a tracer runs, which would outlive it.
fn end_tracee(tracer: u32) {
    let children = fs::read_to_string(format!("/proc/{tracer}/task/{tracer}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    }
}

fn same(before: &Traces, after: &Traces) -> Outcome {
    if before == after {
        Ok(())
    } else {
        Err(Stop::Failed(format!("left behind: {after}, before: {before}")))
    }
}
