//! The plugin dies before any of its system calls: DEL puts everything right, and the spoke is free again.

use std::process::ExitCode;

use k8slan_tests::{LanFile, Traces, Worker, on_spoke};
use testnet::{CniCall, Outcome, Stop, Switch, needs};

fn main() -> ExitCode {
    testnet::main(testnet::tests![add_killed_anywhere, del_killed_anywhere])
}

/// The system calls with which a program changes something outside itself. Before one is after the one before.
const CHANGING: &[&str] = &[
    "chmod",
    "chown",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "fdatasync",
    "flock",
    "fsync",
    "ftruncate",
    "ioctl",
    "lchown",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "openat",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendmsg",
    "sendto",
    "setns",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "write",
];

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
    let inject = format!("inject={name}:signal=KILL:when={number}");
    let argv = ["strace", "-qqq", "-o", "/dev/null", "-e", &format!("trace={name}"), "-e", &inject];
    CniCall { under: argv.map(str::to_owned).to_vec(), ..call.clone() }
}

/// Runs `attempt` for the first, second, third … call of each name until it says that the plugin lived; it is told
/// where the plugin dies. Answers how often it died.
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

fn add_killed_anywhere() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let before = Traces::of(&worker, &lan())?;
    let deaths = everywhere(|name, number| {
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
    let deaths = everywhere(|name, number| {
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

fn same(before: &Traces, after: &Traces) -> Outcome {
    if before == after {
        Ok(())
    } else {
        Err(Stop::Failed(format!("left behind: {after}, before: {before}")))
    }
}
