//! What README.md lets people run on one machine: `make demo`, which takes everything away, also when it is interrupted,
//! and the tour by hand.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regex::Regex;
use testnet::{Outcome, Stop, bin_dir, eventually, finish, finish_reading, workspace};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![the_whole_demo, a_shell_on_a_node, interrupted, terminated, the_tour_by_hand]
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
    let drawing = fs::read_to_string(workspace().join("target/demo.svg"))?;
    let drawing = roxmltree::Document::parse(&drawing)?;
    for word in ["worker3", "lan-test", "nginx"] {
        assert!(
            drawing.descendants().any(|node| node.text().is_some_and(|text| text.contains(word))),
            "{word}"
        );
    }
    as_the_readme_shows_it(&text)
}

/// What is typed there meets the node's own links and namespaces, and the programs.
fn a_shell_on_a_node() -> Outcome {
    let script =
        "ip -br link show eth2\nip -br -n knlvrf link show vx2\nk8slan-device-plugin inspect\nfalse\n";
    let output = finish_reading(demo().env("KEEP", "worker2"), script.as_bytes())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, said) = text.split_once("A shell on worker2").unwrap_or_default();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for word in
        ["\neth2", "\nvx2", "\nworker2, daemon", "spoke pod2: pod default/nginx", "all nodes are gone"]
    {
        assert!(said.contains(word), "{word:?} is not in:\n{text}");
    }
    Ok(())
}

/// Line by line, but for what is different each time: process IDs, link-local addresses, times.
fn as_the_readme_shows_it(text: &str) -> Outcome {
    let readme = fs::read_to_string(workspace().join("README.md"))?;
    let shown = readme.split("```\n").find(|block| block.starts_with("worker1, daemon"));
    let shown = shown.ok_or_else(|| Stop::Failed("README.md shows no worker1".to_owned()))?;
    let differs = Regex::new(r"daemon \d+|fe80::[0-9a-f:]+|[0-9.]+ ms")?;
    let mut lines = text.lines().map(|line| differs.replace_all(line, "~"));
    for line in shown.lines() {
        let wanted = differs.replace_all(line, "~");
        assert!(lines.any(|line| line == wanted), "{line:?} is not, or not there, in:\n{text}");
    }
    Ok(())
}

/// Its blocks one after the other, as somebody types them; the first one opens the shell that reads the others.
fn the_tour_by_hand() -> Outcome {
    let readme = fs::read_to_string(workspace().join("README.md"))?;
    let tour = readme.split("## Five minutes, by hand\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let blocks: Vec<&str> = tour.unwrap_or_default().split("```\n").skip(1).step_by(2).collect();
    assert_eq!(blocks.len(), 6, "{blocks:#?}");
    let here = tempfile::tempdir()?;
    symlink(bin_dir(), here.path().join("dist"))?;
    symlink(workspace().join("nad-examples"), here.path().join("nad-examples"))?;
    let script = blocks.join("sleep 1\n");
    let output = finish_reading(Command::new("bash").arg("-eu").current_dir(here.path()), script.as_bytes())?;
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{log}");
    let mut rest = &*said;
    for part in [
        // The LAN and its records, the pod, the VXLAN device after it was deleted, for whom the LAN waits.
        "\nvx2@",
        r#""spoke":"pod1""#,
        r#""message": "built, MTU 1426""#,
        r#""interfaces":[{"name":"net1""#,
        ": net1@if",
        "\nvx2@",
        "spoke pod1 is still used by container web",
        "\nweb\n",
    ] {
        let at = rest.find(part);
        assert!(at.is_some(), "{part:?} is not, or not there, in:\n{said}{log}");
        rest = &rest[at.unwrap_or_default() + part.len()..];
    }
    assert_eq!(rest, "", "namespaces are left:\n{said}{log}");
    assert!(log.contains("Ready: built, MTU 1426") && log.contains("gone lan="), "{log}");
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
