//! The same requests to Debian's reference plugins and to ours, as processes.
//!
//! This program is its own plugin: with `AS_PLUGIN` in the environment it is `protocol/echo.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "protocol/echo.rs"]
#[expect(dead_code, reason = "the requests without a process are made in the other test")]
mod echo;

const PEERS: &str = "/usr/lib/cni";

fn main() -> ExitCode {
    if std::env::var_os("AS_PLUGIN").is_some() {
        return cni::run(&echo::Echo);
    }
    let arguments = Arguments::from_args();
    let there = Path::new(PEERS).join("host-local").exists();
    // Skipped by name where the package is missing; not so where every test has to run.
    let ignored = !there && std::env::var_os("CI").is_none();
    let with_peer = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_ignored_flag(ignored)
    };
    let alone = |name: &str, test: fn()| with_peer(name, test).with_ignored_flag(false);
    let trials = vec![
        alone("without_a_command_one_line_on_stderr", without_a_command_one_line_on_stderr),
        alone("an_answer_that_cannot_be_written_is_a_failure", an_answer_that_cannot_be_written_is_a_failure),
        with_peer("version_has_the_peers_shape", version_has_the_peers_shape),
        with_peer("errors_have_the_peers_shape_and_code", errors_have_the_peers_shape_and_code),
        with_peer("host_local_gives_an_address_in_each_version", host_local_gives_an_address_in_each_version),
        with_peer("host_local_refuses_what_it_does_not_speak", host_local_refuses_what_it_does_not_speak),
        with_peer(
            "host_locals_address_goes_back_after_a_failure",
            host_locals_address_goes_back_after_a_failure,
        ),
        with_peer("host_local_is_exhausted", host_local_is_exhausted),
        with_peer("a_long_document_reaches_host_local", a_long_document_reaches_host_local),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A folder with a plugin path of its own and host-local's data.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        symlink(std::env::current_exe().unwrap(), folder.path().join("bin/echo")).unwrap();
        File::create(folder.path().join("netns")).unwrap();
        Self { folder }
    }

    fn command(&self, program: &Path, verb: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("AS_PLUGIN", "1")
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_IFNAME", "net1")
            .env("CNI_NETNS", self.folder.path().join("netns"))
            .env("CNI_PATH", format!("{}:{PEERS}", self.folder.path().join("bin").display()));
        if !verb.is_empty() {
            command.env("CNI_COMMAND", verb);
        }
        command
    }

    fn ours(&self) -> PathBuf {
        self.folder.path().join("bin/echo")
    }

    /// A configuration with host-local as IPAM plugin.
    fn config(&self, version: &str) -> Value {
        json!({
            "cniVersion": version, "name": "lab", "type": "echo", "prevResult": {},
            "ipam": {
                "type": "host-local",
                "dataDir": self.folder.path().join("data"),
                "ranges": [[{"subnet": "10.9.0.0/29"}], [{"subnet": "fd09::/120"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd00::/8", "gw": "fd09::1"}],
            },
        })
    }

    /// How many addresses host-local has given out.
    fn leases(&self) -> usize {
        fs::read_dir(self.folder.path().join("data/lab")).map_or(0, |entries| {
            entries
                .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("9"))
                .count()
        })
    }
}

fn output(mut command: Command, stdin: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A plugin that refuses the environment does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn without_a_command_one_line_on_stderr() {
    let place = Place::new();
    let output = output(place.command(&place.ours(), ""), "");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(text.starts_with("echo: CNI plugin, answers with") && text.contains("1.1.0"), "{text}");
}

fn an_answer_that_cannot_be_written_is_a_failure() {
    let place = Place::new();
    let mut command = place.command(&place.ours(), "VERSION");
    command.stdin(Stdio::null()).stdout(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("writing the answer") && text.contains("No space left"), "{text}");
}

fn version_has_the_peers_shape() {
    let place = Place::new();
    let peer = Path::new(PEERS).join("host-local");
    let [ours, theirs] = [place.ours(), peer].map(|program| {
        let output = output(place.command(&program, "VERSION"), r#"{"cniVersion":"1.0.0"}"#);
        assert!(output.status.success(), "{output:?}");
        document(&output)
    });
    assert_eq!(ours["cniVersion"], theirs["cniVersion"]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&ours), keys(&theirs));
    // Meant: neither 0.1.0 nor 0.2.0, but 1.1.0, which the package's version does not have.
    let versions = |value: &Value| value["supportedVersions"].as_array().unwrap().clone();
    let theirs: Vec<_> = versions(&theirs).into_iter().filter(|v| *v != "0.1.0" && *v != "0.2.0").collect();
    assert_eq!(versions(&ours)[..4], theirs[..]);
}

fn errors_have_the_peers_shape_and_code() {
    let place = Place::new();
    let good = place.config("0.4.0").to_string();
    let old = place.config("0.3.1").to_string();
    for (verb, change, stdin) in [
        ("FOO", None, good.as_str()),
        ("ADD", Some(("CNI_CONTAINERID", "")), &good),
        ("ADD", Some(("CNI_CONTAINERID", "a/b")), &good),
        ("ADD", Some(("CNI_IFNAME", "sixteen-bytes-xx")), &good),
        ("ADD", Some(("CNI_IFNAME", "a/b")), &good),
        ("ADD", Some(("CNI_IFNAME", "..")), &good),
        ("ADD", Some(("CNI_NETNS", "")), &good),
        ("DEL", Some(("CNI_CONTAINERID", "")), &good),
        ("ADD", None, ""),
        ("ADD", None, "{"),
        ("ADD", None, r#"{"cniVersion":"0.4.0","name":5}"#),
        ("ADD", None, r#"{"cniVersion":"0.4.0"}"#),
        ("ADD", None, r#"{"cniVersion":"0.4.0","name":"a/b"}"#),
        ("ADD", None, r#"{"cniVersion":"9.0.0","name":"n"}"#),
        ("CHECK", None, &old),
    ] {
        let peer = Path::new(PEERS).join("host-local");
        let [ours, theirs] = [place.ours(), peer].map(|program| {
            let mut command = place.command(&program, verb);
            change.map(|(name, value)| command.env(name, value));
            let output = output(command, stdin);
            assert_eq!(output.status.code(), Some(1), "{verb} {change:?} {stdin}: {output:?}");
            document(&output)
        });
        assert_eq!(ours["code"], theirs["code"], "{verb} {change:?} {stdin}: {ours} {theirs}");
        // Theirs have no cniVersion, which the specification wants.
        for key in theirs.as_object().unwrap().keys().filter(|key| *key != "details") {
            assert!(ours[key] != Value::Null, "{key} is missing in {ours}");
        }
        assert!(ours["cniVersion"].is_string());
    }
}

fn host_local_gives_an_address_in_each_version() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        let place = Place::new();
        let mut config = place.config(version);
        let ours = output(place.command(&place.ours(), "ADD"), &config.to_string());
        assert!(ours.status.success(), "{version}: {ours:?}");
        assert_eq!(place.leases(), 2);
        if version >= "0.4.0" {
            config["prevResult"] = document(&ours);
            let check = output(place.command(&place.ours(), "CHECK"), &config.to_string());
            assert!(check.status.success() && check.stdout.is_empty(), "{version}: {check:?}");
        }
        for _ in 0..2 {
            let del = output(place.command(&place.ours(), "DEL"), &config.to_string());
            assert!(del.status.success() && del.stdout.is_empty(), "{version}: {del:?}");
            assert_eq!(place.leases(), 0);
        }
        // host-local itself, from the start again, says the same, but for a dns that says nothing.
        fs::remove_dir_all(place.folder.path().join("data")).unwrap();
        let peer = Path::new(PEERS).join("host-local");
        let mut theirs = document(&output(place.command(&peer, "ADD"), &config.to_string()));
        theirs.as_object_mut().unwrap().retain(|key, value| key != "dns" || *value != json!({}));
        assert_eq!(document(&ours), theirs, "{version}");
    }
}

fn host_local_refuses_what_it_does_not_speak() {
    let place = Place::new();
    let answer = output(place.command(&place.ours(), "ADD"), &place.config("1.1.0").to_string());
    let document = document(&answer);
    assert_eq!(document["code"], 1, "{document}");
    assert!(document["details"].as_str().unwrap().contains("incompatible CNI versions"), "{document}");
    // It also refuses the DEL that follows, and both are said.
    assert!(document["msg"].as_str().unwrap().contains("undoing failed as well"), "{document}");
}

fn host_locals_address_goes_back_after_a_failure() {
    let place = Place::new();
    let mut config = place.config("1.0.0");
    config["fail"] = true.into();
    let answer = output(place.command(&place.ours(), "ADD"), &config.to_string());
    assert_eq!(document(&answer)["code"], 100);
    assert!(place.folder.path().join("data/lab/last_reserved_ip.0").exists(), "an address was given out");
    assert_eq!(place.leases(), 0);
}

fn host_local_is_exhausted() {
    let place = Place::new();
    let config = place.config("1.0.0").to_string();
    // A /29 has five addresses beside the network's, the gateway's and the broadcast address.
    for container in 1..=6 {
        let mut command = place.command(&place.ours(), "ADD");
        command.env("CNI_CONTAINERID", format!("c{container}"));
        let answer = output(command, &config);
        assert_eq!(answer.status.success(), container <= 5, "{container}: {answer:?}");
        if container == 6 {
            let text = document(&answer);
            assert_eq!(text["code"], 999);
            assert!(text["details"].as_str().unwrap().contains("no IP addresses available"), "{text}");
        }
    }
    assert_eq!(place.leases(), 10);
}

fn a_long_document_reaches_host_local() {
    let place = Place::new();
    let mut config = place.config("1.0.0");
    config["long"] = "x".repeat(3 << 20).into();
    let answer = output(place.command(&place.ours(), "ADD"), &config.to_string());
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stdout));
    assert_eq!(place.leases(), 2);
}
