//! Every mistake has its own code and says what is wrong.

use cni::{Environment, MAX_STDIN, dispatch};
use serde_json::Value;

use crate::echo::{Echo, ask, environment};

const GOOD: &str = r#"{"cniVersion":"1.1.0","name":"n"}"#;

/// Asserts the code, and that message and details together contain the words.
fn refused(environment: &[(&'static str, &str)], stdin: &str, code: u64, words: &[&str]) {
    let answer = ask(environment, stdin);
    let document: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let text =
        format!("{}: {}", document["msg"].as_str().unwrap(), document["details"].as_str().unwrap_or(""));
    assert!(!answer.success, "{environment:?} {stdin}: {text}");
    assert_eq!(document["code"], code, "{environment:?} {stdin}: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
}

fn with(verb: &'static str, changes: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut variables = environment(verb);
    variables.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    variables.extend(changes.iter().filter(|(_, value)| *value != "unset"));
    variables
}

#[test]
fn variables() {
    for (verb, changes, words) in [
        ("FOO", &[][..], &["CNI_COMMAND", "\"FOO\"", "STATUS"][..]),
        ("add", &[], &["CNI_COMMAND"]),
        ("ADD", &[("CNI_CONTAINERID", "unset"), ("CNI_IFNAME", "")], &["CNI_CONTAINERID, CNI_IFNAME"]),
        ("ADD", &[("CNI_NETNS", "")], &["CNI_NETNS"]),
        ("CHECK", &[("CNI_NETNS", "unset")], &["CNI_NETNS"]),
        ("DEL", &[("CNI_IFNAME", "unset"), ("CNI_NETNS", "unset")], &["CNI_IFNAME"]),
        ("GC", &[("CNI_PATH", "unset")], &["CNI_PATH"]),
        ("ADD", &[("CNI_CONTAINERID", "a/b")], &["CNI_CONTAINERID", "'/'"]),
        ("ADD", &[("CNI_CONTAINERID", "..")], &["CNI_CONTAINERID", "start"]),
        ("ADD", &[("CNI_IFNAME", "sixteen-bytes-xx")], &["CNI_IFNAME", "15"]),
        ("ADD", &[("CNI_IFNAME", "a:b")], &["CNI_IFNAME", "':'"]),
        ("ADD", &[("CNI_NETNS", "/proc/self/ns/net")], &["CNI_NETNS", "own"]),
        ("ADD", &[("CNI_NETNS", "/run/netns/none")], &["CNI_NETNS", "does not exist", "No such file"]),
        ("ADD", &[("CNI_ARGS", "K8S_POD_NAME")], &["CNI_ARGS", "K8S_POD_NAME"]),
        ("ADD", &[("CNI_ARGS", "FOO=bar")], &["CNI_ARGS", "FOO=bar", "IgnoreUnknown"]),
        ("ADD", &[("CNI_ARGS", "MAC=01:00:5e:00:00:01")], &["CNI_ARGS", "multicast"]),
        ("ADD", &[("CNI_ARGS", "MAC=00:00:00:00:00:00")], &["CNI_ARGS", "00:00:00:00:00:00"]),
        ("ADD", &[("CNI_ARGS", "IP=10.0.0.1,10.0.0.300")], &["CNI_ARGS", "10.0.0.300"]),
    ] {
        refused(&with(verb, changes), GOOD, 4, words);
    }
}

#[test]
fn a_variable_twice_or_not_text() {
    let mut twice = environment("ADD");
    twice.push(("CNI_COMMAND", "DEL"));
    refused(&twice, GOOD, 4, &["CNI_COMMAND", "more than once"]);

    use std::os::unix::ffi::OsStrExt;
    let bad = std::ffi::OsStr::from_bytes(b"net\xff");
    let environment: Environment = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c"), ("CNI_NETNS", "/x")]
        .map(|(key, value)| (key, value.into()))
        .into_iter()
        .chain([("CNI_IFNAME", bad.to_owned())])
        .collect();
    let answer = dispatch(&Echo, environment, GOOD.as_bytes());
    let document: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(document["code"], 4);
    assert!(document["msg"].as_str().unwrap().contains("CNI_IFNAME"), "{document}");
}

#[test]
fn documents() {
    for (stdin, code, words) in [
        ("", 6, &["EOF", "line 1 column 0"][..]),
        ("{\"cniVersion\":\n \"1.1.0\",", 6, &["line 2"]),
        ("{} {}", 6, &["trailing"]),
        ("[]", 6, &["not a JSON object"]),
        ("5", 6, &["not a JSON object"]),
        (r#"{"cniVersion":1.1,"name":"n"}"#, 6, &["at cniVersion", "line 1 column 17"]),
        (r#"{"cniVersion":"1.1.0","name":["n"]}"#, 6, &["at name", "line 1"]),
        (r#"{"cniVersion":"1.1.0","name":"n","name":"m"}"#, 6, &["duplicate field `name`"]),
        (r#"{"cniVersion":"1.1.0","name":"n","ipam":"host-local"}"#, 6, &["at ipam"]),
        (r#"{"cniVersion":"1.1.0","name":"n","ipam":{"type":5}}"#, 6, &["at ipam.type"]),
        (
            r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"ips":["a",7]}}"#,
            6,
            &["at runtimeConfig.ips[1]"],
        ),
        (r#"{"cniVersion":"1.1.0","name":"n","args":{"cni":{"ips":"10.0.0.1"}}}"#, 6, &["at args.cni.ips"]),
        (
            r#"{"cniVersion":"1.1.0","name":"n","mtu":"1500"}"#,
            7,
            &["at mtu", "line 1 column 45", "expected u16"],
        ),
        (r#"{"cniVersion":"1.1.0","name":"n","mtu":65536}"#, 7, &["at mtu", "65536"]),
        (r#"{"cniVersion":"1.1.0"}"#, 7, &["network name"]),
        (r#"{"cniVersion":"1.1.0","name":""}"#, 7, &["name", "empty"]),
        (r#"{"cniVersion":"1.1.0","name":"../x"}"#, 7, &["name", "start"]),
        (r#"{"cniVersion":"1.1.0","name":"a/x"}"#, 7, &["name", "'/'"]),
        (r#"{"name":"n"}"#, 1, &["no cniVersion", "1.1.0"]),
        (r#"{"cniVersion":"","name":"n"}"#, 1, &["no cniVersion"]),
        (r#"{"cniVersion":"0.2.0","name":"n"}"#, 1, &["\"0.2.0\"", "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"]),
        (r#"{"cniVersion":"1.1","name":"n"}"#, 1, &["\"1.1\""]),
        (r#"{"cniVersion":"2.0.0","name":"n"}"#, 1, &["\"2.0.0\""]),
        (
            r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"mac":"+5:00:00:00:00:01"}}"#,
            7,
            &["runtimeConfig", "+5"],
        ),
        (r#"{"cniVersion":"1.1.0","name":"n","args":{"cni":{"mac":"x"}}}"#, 7, &["args.cni", "\"x\""]),
        (
            r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"ips":["10.0.0.1/33"]}}"#,
            7,
            &["runtimeConfig", "/33"],
        ),
        (r#"{"cniVersion":"1.1.0","name":"n","prevResult":[]}"#, 6, &["prevResult is not a JSON object"]),
        (
            r#"{"cniVersion":"1.1.0","name":"n","prevResult":{"ips":[{"address":"10.0.0.1"}]}}"#,
            7,
            &["ips[0].address", "10.0.0.1/24"],
        ),
        (
            r#"{"cniVersion":"1.1.0","name":"n","prevResult":{"ips":[{"address":"10.0.0.1/255.0.0.0"}]}}"#,
            7,
            &["ips[0].address"],
        ),
        (r#"{"cniVersion":"1.1.0","name":"n","prevResult":{"routes":[{"gw":"x"}]}}"#, 7, &["routes[0].gw"]),
        (
            r#"{"cniVersion":"1.1.0","name":"n","prevResult":{"interfaces":[{}]}}"#,
            7,
            &["interfaces[0]", "`name`"],
        ),
        (
            r#"{"cniVersion":"1.1.0","name":"n","prevResult":{"cniVersion":"0.2.0"}}"#,
            7,
            &["prevResult", "0.2.0"],
        ),
        (r#"{"cniVersion":"1.1.0","name":"n","ipam":{"type":"../sh"}}"#, 7, &["\"../sh\"", "file name"]),
        (r#"{"cniVersion":"1.1.0","name":"n","ipam":{"type":"none"}}"#, 7, &["\"none\"", "/nowhere"]),
    ] {
        refused(&environment("ADD"), stdin, code, words);
    }
    refused(&environment("CHECK"), GOOD, 7, &["prevResult"]);
    // An address of an interface that is not there.
    for interfaces in ["[]", r#"[{"name":"net1"}]"#] {
        let ips = r#"[{"address":"10.0.0.1/8"},{"address":"fd00::1/64","interface":1}]"#;
        let config = format!(
            r#"{{"cniVersion":"1.1.0","name":"n","prevResult":{{"interfaces":{interfaces},"ips":{ips}}}}}"#
        );
        refused(&environment("CHECK"), &config, 7, &["prevResult", "ips[1].interface: it is 1"]);
    }
}

#[test]
fn verbs_that_the_version_does_not_have() {
    for (verb, version, since) in [
        ("CHECK", "0.3.0", "0.4.0"),
        ("CHECK", "0.3.1", "0.4.0"),
        ("GC", "1.0.0", "1.1.0"),
        ("STATUS", "0.4.0", "1.1.0"),
    ] {
        let config = format!(r#"{{"cniVersion":"{version}","name":"n","prevResult":{{}}}}"#);
        refused(&environment(verb), &config, 1, &[verb, version, since]);
    }
}

#[test]
fn a_delegate_without_cni_path() {
    let config = r#"{"cniVersion":"1.1.0","name":"n","ipam":{"type":"host-local"}}"#;
    refused(&with("ADD", &[("CNI_PATH", "unset")]), config, 4, &["CNI_PATH", "host-local"]);
}

#[test]
fn standard_input_has_a_limit() {
    let input = vec![b' '; usize::try_from(MAX_STDIN).unwrap() + 1];
    let answer = dispatch(&Echo, environment("ADD").into_iter().collect(), &input[..]);
    let document: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(document["code"], 5);
    assert!(document["msg"].as_str().unwrap().contains("10485760"), "{document}");
}

#[test]
fn del_goes_on_where_add_would_not() {
    let gone = with("DEL", &[("CNI_NETNS", "/run/netns/gone")]);
    let odd = with("DEL", &[("CNI_ARGS", "FOO;MAC=x;K8S_POD_NAME=a;K8S_POD_NAME=b"), ("CNI_NETNS", "unset")]);
    for environment in [gone, odd, with("DEL", &[("CNI_NETNS", "")])] {
        for config in [GOOD, r#"{"cniVersion":"0.3.0","name":"n","prevResult":{"ips":5}}"#] {
            let answer = ask(&environment, config);
            assert!(answer.success, "{}", String::from_utf8_lossy(&answer.stdout));
        }
    }
}

#[test]
fn del_reads_what_it_can() {
    let good = |field: &str| format!(r#"{{"cniVersion":"1.1.0","name":"n",{field}}}"#);
    // What has nothing to do with the attachment is as good as absent.
    for field in [
        r#""dns":5"#,
        r#""runtimeConfig":[1]"#,
        r#""runtimeConfig":{"ips":"x"}"#,
        r#""args":"x""#,
        r#""args":{"cni":5}"#,
        r#""capabilities":["mac"]"#,
        r#""type":5"#,
        r#""prevResult":[]"#,
        r#""cni.dev/valid-attachments":5"#,
    ] {
        assert!(ask(&environment("DEL"), &good(field)).success, "{field}");
        refused(&environment("ADD"), &good(field), 6, &[]);
    }
    // The rest comes to the plugin as far as it is there; this one cleans up for other networks only.
    for (stdin, code, words) in [
        (good(r#""ipam":5"#).as_str(), 6, &["at ipam"][..]),
        (&good(r#""ipam":{"type":5}"#), 6, &["at ipam"]),
        (r#"{"name":"n"}"#, 1, &["no cniVersion"]),
        (r#"{"name":"n","cniVersion":"9.9.9"}"#, 1, &["9.9.9"]),
        (r#"{"name":"n","cniVersion":9}"#, 6, &["at cniVersion"]),
    ] {
        refused(&environment("DEL"), stdin, code, words);
        assert!(
            ask(&environment("DEL"), &stdin.replace(r#""name":"n""#, r#""name":"o""#)).success,
            "{stdin}"
        );
    }
    for stdin in
        ["{}", r#"{"cniVersion":"1.1.0"}"#, r#"{"cniVersion":"1.1.0","name":5}"#, r#"{"name":"a/b"}"#]
    {
        assert!(ask(&environment("DEL"), stdin).success, "{stdin}");
    }
    for stdin in ["", "{", "[]", "5"] {
        refused(&environment("DEL"), stdin, 6, &[]);
    }
}

#[test]
fn gc_reads_what_it_can() {
    let good = |field: &str| format!(r#"{{"cniVersion":"1.1.0","name":"n",{field}}}"#);
    for field in
        [r#""dns":5"#, r#""runtimeConfig":5"#, r#""args":5"#, r#""capabilities":5"#, r#""prevResult":5"#]
    {
        assert!(ask(&environment("GC"), &good(field)).success, "{field}");
    }
    refused(&environment("GC"), &good(r#""ipam":5"#), 6, &["at ipam"]);
    refused(&environment("GC"), &good(r#""cni.dev/valid-attachments":5"#), 6, &["valid-attachments"]);
    refused(&environment("GC"), &good(r#""cni.dev/valid-attachments":[5]"#), 6, &["valid-attachments"]);
    refused(&environment("GC"), r#"{"cniVersion":"1.1.0"}"#, 7, &["network name"]);
    refused(&environment("GC"), r#"{"name":"n"}"#, 1, &["no cniVersion"]);
    refused(&environment("GC"), "[]", 6, &["not a JSON object"]);
}
