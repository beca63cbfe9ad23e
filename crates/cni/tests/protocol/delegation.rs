//! What delegates get, and what becomes of what they say: with small shell scripts as delegates.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cni::{Answer, Environment, dispatch};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::echo::{Echo, environment};

/// A folder with one delegate, `ipam`, and the log that it may write to as `$log`.
fn delegate(script: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("ipam"), script, 0o755);
    folder
}

fn write(path: &Path, script: &str, mode: u32) {
    let log = path.with_file_name("log");
    fs::write(path, format!("#!/bin/sh\nlog={}\n{script}\n", log.display())).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn log(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("log")).unwrap_or_default()
}

fn ask(path: &str, verb: &str, config: &Value) -> Answer {
    let mut variables = environment(verb);
    variables.retain(|(name, _)| *name != "CNI_PATH");
    variables.push(("CNI_PATH", path));
    let environment: Environment = variables.into_iter().collect();
    dispatch(&Echo, environment, config.to_string().as_bytes())
}

fn config() -> Value {
    json!({"cniVersion": "1.1.0", "name": "n", "type": "echo", "ipam": {"type": "ipam"}, "prevResult": {}})
}

/// The error's code, and its message and details together.
fn error(answer: &Answer) -> (u64, String) {
    assert!(!answer.success);
    let document: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let details = document["details"].as_str().unwrap_or_default();
    (document["code"].as_u64().unwrap(), format!("{}: {details}", document["msg"].as_str().unwrap()))
}

#[test]
fn it_gets_the_environment_and_the_whole_document_once_for_each_verb() {
    let folder = delegate(
        r#"env | grep ^CNI_ | sort >> $log; cat >> $log; echo >> $log; [ $CNI_COMMAND = ADD ] && echo '{"ips":[{"address":"10.0.0.5/24"}]}'; exit 0"#,
    );
    let path = folder.path().to_str().unwrap();
    let config = config();
    let mut expected = String::new();
    for verb in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
        let answer = ask(path, verb, &config);
        assert!(answer.success, "{}", String::from_utf8_lossy(&answer.stdout));
        if verb == "ADD" {
            let ips = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.5/24"}]});
            assert_eq!(serde_json::from_slice::<Value>(&answer.stdout).unwrap(), ips);
        }
        expected += &format!(
            "CNI_COMMAND={verb}\nCNI_CONTAINERID=c1\nCNI_IFNAME=net1\nCNI_NETNS=/proc/self/ns/uts\nCNI_PATH={path}\n{config}\n"
        );
    }
    assert_eq!(log(&folder), expected);
}

#[test]
fn the_first_executable_file_in_cni_path_is_it() {
    let (none, plain, right) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), delegate("echo right >> $log"));
    fs::create_dir(none.path().join("ipam")).unwrap();
    write(&plain.path().join("ipam"), "echo wrong >> $log", 0o644);
    let folders = [none.path(), plain.path(), right.path()].map(|path| path.to_str().unwrap());
    let answer = ask(&format!(":/nowhere:{}", folders.join(":")), "DEL", &config());
    assert!(answer.success, "{}", String::from_utf8_lossy(&answer.stdout));
    assert_eq!((log(&right).as_str(), log(&plain).as_str()), ("right\n", ""));

    let (code, text) = error(&ask(&folders[..2].join(":"), "DEL", &config()));
    assert_eq!(code, 7);
    assert!(text.contains("executable file \"ipam\""), "{text}");
}

#[test]
fn its_error_passes_with_its_code_and_del_follows_a_failed_add() {
    let folder = delegate(
        r#"echo $CNI_COMMAND >> $log; [ $CNI_COMMAND = DEL ] && exit 0; echo '{"cniVersion":"1.1.0","code":11,"msg":"no address left","details":"pool lab"}'; exit 1"#,
    );
    let path = folder.path().to_str().unwrap();
    let expected = (11, "the plugin \"ipam\" failed on ADD: no address left: pool lab".to_owned());
    assert_eq!(error(&ask(path, "ADD", &config())), expected);
    assert_eq!(log(&folder), "ADD\nDEL\n");
    assert_eq!(error(&ask(path, "STATUS", &config())).0, 11);
}

#[test]
fn what_it_gave_goes_back_when_the_plugin_fails_afterwards() {
    let folder = delegate(r#"echo $CNI_COMMAND >> $log; echo '{"ips":[{"address":"10.0.0.5/24"}]}'"#);
    let mut config = config();
    config["fail"] = true.into();
    let (code, text) = error(&ask(folder.path().to_str().unwrap(), "ADD", &config));
    assert_eq!((code, text.as_str()), (100, "attaching the container failed: the test asked for it"));
    assert_eq!(log(&folder), "ADD\nDEL\n");
}

#[test]
fn a_failed_undo_is_reported_as_well() {
    let script = r#"[ $CNI_COMMAND = ADD ] && echo '{"ips":[{"address":"10.0.0.5/24"}]}' && exit 0; echo '{"code":5,"msg":"disk full"}'; exit 1"#;
    let mut config = config();
    config["fail"] = true.into();
    let (code, text) = error(&ask(delegate(script).path().to_str().unwrap(), "ADD", &config));
    assert_eq!(code, 100);
    assert!(text.starts_with("attaching the container failed; then undoing failed as well: "), "{text}");
    assert!(text.contains("on DEL: disk full") && text.ends_with(": the test asked for it"), "{text}");

    // Its own ADD fails, and then its own DEL.
    let script = r#"echo "{\"code\":11,\"msg\":\"$CNI_COMMAND refused\"}"; exit 1"#;
    let (code, text) = error(&ask(delegate(script).path().to_str().unwrap(), "ADD", &self::config()));
    assert_eq!(code, 11);
    assert!(text.contains("DEL refused") && text.ends_with(": ADD refused"), "{text}");
}

#[test]
fn what_is_no_answer_is_an_error() {
    for (script, code, words) in [
        ("exit 3", 5, &["exit status: 3", "without an error document"][..]),
        ("echo oops; exit 1", 5, &["oops"]),
        ("echo {}; exit 1", 5, &["{}"]),
        ("kill -9 $$", 5, &["signal: 9"]),
        ("echo '{\"msg\":\"no code\"}'; exit 1", 999, &["no code"]),
        ("exit 0", 6, &["EOF"]),
        ("echo oops", 6, &["line 1 column 1"]),
        ("echo '{} {}'", 6, &["trailing"]),
        ("echo '{\"ips\":[{\"address\":5}]}'", 6, &["at ips[0].address"]),
        ("echo '{\"cniVersion\":\"0.2.0\"}'", 1, &["0.2.0"]),
        ("echo {}", 7, &["without an address"]),
        ("echo '{\"code\":11,\"msg\":\"no address left\"}'", 7, &["without an address"]),
        ("head -c 11000000 /dev/zero", 5, &["10485760"]),
    ] {
        let folder = delegate(&format!("[ $CNI_COMMAND = DEL ] && exit 0; {script}"));
        let (given, text) = error(&ask(folder.path().to_str().unwrap(), "ADD", &config()));
        assert_eq!(given, code, "{script}: {text}");
        for word in words.iter().chain(&["\"ipam\""]) {
            assert!(text.contains(word) || text.contains("/ipam\""), "{word:?} is missing in {text:?}");
        }
    }
}

#[test]
fn long_documents_do_not_block_whoever_speaks_first() {
    let mut config = config();
    config["long"] = "x".repeat(1 << 20).into();
    let dns = r#"printf '{"ips":[{"address":"10.0.0.5/24"}],"dns":{"domain":"'; head -c 300000 /dev/zero | tr '\0' y; printf '"}}'"#;
    for script in [
        format!("{dns}; wc -c >> $log"),
        format!("wc -c >> $log; {dns}"),
        // It reads nothing at all.
        dns.to_owned(),
        // It closes its output before it reads.
        format!("{dns}; exec >/dev/null; sleep 0.1; wc -c >> $log"),
    ] {
        let folder = delegate(&script);
        let answer = ask(folder.path().to_str().unwrap(), "ADD", &config);
        let result: Value = serde_json::from_slice(&answer.stdout).unwrap();
        assert_eq!(result["dns"]["domain"].as_str().map(str::len), Some(300_000), "{script}");
        if script.contains("wc") {
            assert_eq!(log(&folder).trim(), config.to_string().len().to_string(), "{script}");
        }
    }
}
