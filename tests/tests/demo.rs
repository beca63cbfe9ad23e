//! `make demo` shows what it promises, and takes everything away, also when it is interrupted.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testnet::{Outcome, eventually, finish};

fn main() -> ExitCode {
    testnet::main(testnet::tests![the_whole_demo, interrupted, terminated])
}

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn the_whole_demo() -> Outcome {
    let start = Instant::now();
    let output = finish(&mut demo())?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    for word in [
        "worker3",
        "underlay eth0.10",
        "LAN k8slan-system/lan-test: ready, built, MTU 1426",
        "namespace knlvrf",
        "bridge br2, up, MTU 1426",
        "VXLAN vx2, up, MTU 1426, VNI 222, group ff02::14, UDP port 4789",
        "underlay eth2, up, MTU 1500",
        "spoke pod2: pod default/nginx",
        "net1, macvtap passthru, /dev/tap",
        "10.44.0.2/24",
        "to blue-c on worker3: 0.",
    ] {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
    Ok(())
}

fn interrupted() -> Outcome {
    ends_at_once(Signal::SIGINT)
}

fn terminated() -> Outcome {
    ends_at_once(Signal::SIGTERM)
}

/// In the middle of it, with daemons running and pods attached.
fn ends_at_once(signal: Signal) -> Outcome {
    let mut demo = demo().spawn()?;
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let attached = lines.by_ref().map_while(Result::ok).find(|line| line.contains("blue-a on worker1"));
    assert!(attached.is_some(), "the demo ended before it was interrupted");
    assert!(!marked(demo.id()).is_empty(), "no process of the demo is found while it runs");
    kill(Pid::from_raw(demo.id().cast_signed()), signal).unwrap();
    demo.wait()?;
    eventually(Duration::from_secs(5), || match marked(demo.id()) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("the processes {left:?} end")),
    })?;
    Ok(())
}

/// The processes of the demo that was started as `id`: their namespaces live no longer than they do.
fn marked(id: u32) -> BTreeSet<String> {
    let mark = format!("K8SLAN_TESTNET={id}");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            found.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}
