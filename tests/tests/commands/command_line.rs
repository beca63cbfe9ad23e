//! One command line for all four programs: `--help`, `--version`, what is wrong with arguments, manual pages, completions.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use testnet::{Node, Outcome, needs, program};

const PROGRAMS: [&str; 4] = ["macvtap", "vlan-bridge", "ipam-pool", "k8slan-device-plugin"];

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        help_and_version_are_answered_by_all,
        wrong_arguments_are_told,
        a_reader_that_ends_early_is_no_crash,
        a_runtime_is_served_whatever_the_arguments,
        every_command_has_a_page_and_every_shell_its_completions,
    ]
}

/// Exit code, standard output, standard error.
fn run(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program(name));
    command.args(arguments).env_remove("CNI_COMMAND").envs(variables.iter().copied()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn help_and_version_are_answered_by_all() -> Outcome {
    for name in PROGRAMS {
        for flag in ["--version", "-V"] {
            let answer = run(name, &[flag], &[]);
            assert_eq!(answer, (Some(0), format!("{name} {}\n", env!("CARGO_PKG_VERSION")), String::new()));
        }
        for flag in ["--help", "-h"] {
            let (code, help, errors) = run(name, &[flag], &[]);
            assert_eq!((code, errors.as_str()), (Some(0), ""), "{name} {flag}");
            assert!(help.contains(&format!("Usage: {name}")) && help.contains("--version"), "{help}");
        }
    }
    for name in &PROGRAMS[..3] {
        let (code, nothing, line) = run(name, &[], &[]);
        assert_eq!((code, nothing.as_str()), (Some(0), ""), "{name} without arguments");
        assert!(
            line.contains("CNI_COMMAND is not set") && line.contains(&format!("{name} --help")),
            "{line}"
        );
    }
    for (name, words, says) in [
        ("vlan-bridge", &["trunk", "--help"][..], "Takes tagged VLANs off a port"),
        ("vlan-bridge", &["trunk", "add", "--help"], "10,20,30-39"),
        ("ipam-pool", &["backup", "--help"], "DIR/state"),
    ] {
        let (code, help, _) = run(name, words, &[]);
        assert!(code == Some(0) && help.contains(says), "{name} {words:?}: {help}");
    }
    Ok(())
}

/// `ipam-pool leases | head -1`, and an answer for which there is no space.
fn a_reader_that_ends_early_is_no_crash() -> Outcome {
    let node = Node::new("worker1")?;
    node.write("/var/lib/k8slan/pools.d/p.yaml", POOL)?;
    let pod = node.pod("one")?;
    let of_pool = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "vlan-bridge", "bridge": "br0",
        "ipam": {"type": "ipam-pool", "pool": "p"},
    });
    pod.add("vlan-bridge", "net1", &of_pool)?;
    for words in ["pools", "pools --json", "leases", "leases nobodys", "show 10.9.0.1", "check", "sweep"] {
        let command = format!("{} {words}", program("ipam-pool").display());
        let code = |text: String| text.trim().parse::<i32>().unwrap();
        let whole = code(node.exec(&["sh", "-c", &format!("{command} >/dev/null 2>&1; echo $?")])?);
        let early =
            format!("({{ sleep 0.2; {command} 2>/run/errors; echo $? >/run/code; }} | true); cat /run/code");
        let early = code(node.exec(&["bash", "-c", &early])?);
        assert_eq!(early, whole, "{command}: {}", node.read("/run/errors")?);
        let full = format!("{command} 2>&1 >/dev/full; true");
        let errors = node.exec(&["sh", "-c", &full])?;
        assert!(!errors.contains("panicked") && !errors.contains("signal"), "{command}: {errors}");
        if whole == 0 {
            assert!(errors.contains("standard output: No space left on device"), "{command}: {errors}");
        }
    }
    pod.del("vlan-bridge", "net1", &of_pool)?;
    Ok(())
}

const POOL: &str = "apiVersion: lan.k8slan.io/v1beta1
kind: IPPool
metadata: {name: p}
spec:
  scope: host
  ranges: [{subnet: 10.9.0.0/24}]
";

fn wrong_arguments_are_told() -> Outcome {
    for (name, words) in [
        ("macvtap", &["--verbose"][..]),
        ("macvtap", &["add"]),
        ("vlan-bridge", &["trunc"]),
        ("vlan-bridge", &["trunk"]),
        ("vlan-bridge", &["trunk", "add", "port"]),
        ("vlan-bridge", &["trunk", "add", "a", "b", "c", "d"]),
        ("ipam-pool", &["pool"]),
        ("k8slan-device-plugin", &["nodes"]),
    ] {
        let (code, nothing, errors) = run(name, words, &[]);
        assert_eq!((code, nothing.as_str()), (Some(2), ""), "{name} {words:?}: {errors}");
        assert!(errors.contains("Usage: ") && errors.contains("--help"), "{name} {words:?}: {errors}");
    }
    let (code, _, errors) = run("ipam-pool", &["show", "10.0.0"], &[]);
    assert!(code == Some(2) && errors.contains("'10.0.0' for '<ADDRESS>'"), "{errors}");
    Ok(())
}

/// Whoever wraps a plugin may hand arguments on.
fn a_runtime_is_served_whatever_the_arguments() -> Outcome {
    for name in &PROGRAMS[..3] {
        for words in [&["--help"][..], &["trunk", "show"], &[]] {
            let (code, answer, errors) = run(name, words, &[("CNI_COMMAND", "VERSION")]);
            assert!(code == Some(0) && answer.contains("supportedVersions"), "{name} {words:?}: {answer}");
            assert_eq!(errors, "", "{name} {words:?}");
        }
    }
    Ok(())
}

fn every_command_has_a_page_and_every_shell_its_completions() -> Outcome {
    fn pages(command: &clap::Command, above: &str, all: &mut Vec<String>) {
        let name = if above.is_empty() {
            command.get_name().to_owned()
        } else {
            format!("{above}-{}", command.get_name())
        };
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            pages(sub, &name, all);
        }
        all.push(format!("{name}.8"));
    }
    let names = |folder: &Path| -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let temp = tempfile::tempdir().unwrap();
    k8slan_manual::write(temp.path()).unwrap();
    // Twice: what is no command any more has no page.
    std::fs::write(temp.path().join("man/man8/old.8"), "").unwrap();
    k8slan_manual::write(temp.path()).unwrap();
    let mut wanted = Vec::new();
    k8slan_manual::programs().iter().for_each(|program| pages(program, "", &mut wanted));
    wanted.sort();
    assert!(wanted.contains(&"vlan-bridge-trunk-add.8".to_owned()), "{wanted:?}");
    assert_eq!(names(&temp.path().join("man/man8")), wanted);
    for page in names(&temp.path().join("man/man8")) {
        let text = std::fs::read_to_string(temp.path().join("man/man8").join(&page)).unwrap();
        let name = page.trim_end_matches(".8");
        assert!(text.contains(".TH") && text.contains(&name.replace('-', "\\-")), "{page}: {text}");
    }
    let mut programs = PROGRAMS.map(str::to_owned);
    programs.sort();
    assert_eq!(names(&temp.path().join("completions/bash")), programs);
    assert_eq!(names(&temp.path().join("completions/zsh")), programs.clone().map(|name| format!("_{name}")));
    assert_eq!(
        names(&temp.path().join("completions/fish")),
        programs.clone().map(|name| format!("{name}.fish"))
    );
    // As a shell completes.
    needs("bash")?;
    for (name, word, offers) in [
        ("vlan-bridge", "tr", "trunk"),
        ("macvtap", "--v", "--version"),
        ("ipam-pool", "back", "backup"),
        ("k8slan-device-plugin", "check", "check-host"),
    ] {
        let script = temp.path().join("completions/bash").join(name);
        let ask = format!(
            "source {}; COMP_WORDS=({name} {word}); COMP_CWORD=1; $(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/') \
             {name} {word} {name}; echo \"${{COMPREPLY[*]}}\"",
            script.display()
        );
        let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
        let offered = String::from_utf8_lossy(&output.stdout);
        assert!(
            offered.split_whitespace().any(|offer| offer == offers),
            "{name} {word}: {offered} {output:?}"
        );
    }
    Ok(())
}
