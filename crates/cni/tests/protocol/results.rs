//! Results and errors as they stand on standard output, in each version.

use serde_json::Value;

use crate::echo::{ask, environment};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The only document on standard output.
fn document(stdout: &[u8]) -> Value {
    assert_eq!(stdout.last(), Some(&b'\n'));
    serde_json::from_slice(stdout).unwrap()
}

#[test]
fn add_has_the_shape_of_its_version() {
    for version in VERSIONS {
        let answer =
            ask(&environment("ADD"), &format!(r#"{{"cniVersion":"{version}","name":"n","mtu":1426}}"#));
        assert!(answer.success);
        assert_eq!(document(&answer.stdout), golden(&format!("add-{version}")), "{version}");
    }
}

#[test]
fn errors_have_the_shape_of_their_version() {
    for version in VERSIONS {
        let config = format!(r#"{{"cniVersion":"{version}","name":"n","fail":true}}"#);
        let answer = ask(&environment("ADD"), &config);
        assert!(!answer.success);
        let mut expected = golden("error");
        expected["cniVersion"] = version.into();
        assert_eq!(document(&answer.stdout), expected);
    }
}

#[test]
fn a_result_of_any_version_passes_through_in_the_versions_own_shape() {
    for given in VERSIONS {
        for version in VERSIONS {
            let given_result = golden(&format!("add-{given}"));
            let config = format!(r#"{{"cniVersion":"{version}","name":"n","prevResult":{given_result}}}"#);
            let answer = ask(&environment("ADD"), &config);
            // What the older of the two cannot say is lost.
            let older = given.min(version);
            let mut expected = golden(&format!("add-{older}"));
            expected["cniVersion"] = version.into();
            for ip in expected["ips"].as_array_mut().unwrap() {
                let ip = ip.as_object_mut().unwrap();
                let family = if ip["address"].as_str().unwrap().contains(':') { "6" } else { "4" };
                if version < "1.0.0" {
                    ip.insert("version".to_owned(), family.into());
                } else {
                    ip.remove("version");
                }
            }
            assert_eq!(document(&answer.stdout), expected, "{given} in {version}");
        }
    }
}

#[test]
fn an_empty_result_has_only_its_version() {
    let answer =
        ask(&environment("ADD"), r#"{"cniVersion":"0.4.0","name":"n","prevResult":{"dns":{},"ips":null}}"#);
    assert_eq!(answer.stdout, b"{\"cniVersion\":\"0.4.0\"}\n");
}

#[test]
fn what_peers_write_for_nothing_is_read_as_nothing() {
    let previous = r#"{"cniVersion":"","interfaces":[{"name":"eth0","mac":"","sandbox":""}],
        "ips":[{"interface":-1,"address":"10.0.0.1/8","gateway":""}],"routes":[{"dst":"::/0","gw":null}],
        "dns":{"nameservers":null,"domain":""},"more":1}"#;
    let config = format!(r#"{{"cniVersion":"1.0.0","name":"n","prevResult":{previous}}}"#);
    let answer = ask(&environment("ADD"), &config);
    let expected = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.0.0.1/8"}],"routes":[{"dst":"::/0"}]}"#;
    assert_eq!(String::from_utf8(answer.stdout).unwrap().trim_end(), expected);
}

#[test]
fn the_other_verbs_say_nothing() {
    let config = r#"{"cniVersion":"1.1.0","name":"n","prevResult":{"cniVersion":"1.1.0"}}"#;
    for verb in ["DEL", "CHECK", "GC", "STATUS"] {
        let answer = ask(&environment(verb), config);
        assert!(answer.success && answer.stdout.is_empty(), "{verb}: {answer:?}");
    }
}

#[test]
fn version_echoes_and_looks_at_nothing_else() {
    let expected = |version: &str| {
        format!(
            r#"{{"cniVersion":"{version}","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}}"#
        ) + "\n"
    };
    for (stdin, version) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"0.2.0","name":5}"#, "0.2.0"),
        (r#"{"cniVersion":"9.9.9","more":[1]}"#, "9.9.9"),
        (r#"{"cniVersion":7}"#, "1.1.0"),
        ("{}", "1.1.0"),
        ("", "1.1.0"),
        ("{{{", "1.1.0"),
    ] {
        for environment in [
            vec![("CNI_COMMAND", "VERSION")],
            vec![("CNI_COMMAND", "VERSION"), ("CNI_IFNAME", "a/b"), ("CNI_NETNS", "dummy")],
        ] {
            let answer = ask(&environment, stdin);
            assert_eq!(
                (answer.success, String::from_utf8(answer.stdout).unwrap()),
                (true, expected(version))
            );
        }
    }
}

#[test]
fn gc_tells_no_list_from_an_empty_one() {
    for (list, expected) in [
        ("", "valid: None"),
        // libcni's empty list.
        (r#","cni.dev/valid-attachments":null"#, "valid: Some([])"),
        (r#","cni.dev/valid-attachments":[]"#, "valid: Some([])"),
        (
            r#","cni.dev/valid-attachments":[{"containerID":"c","ifname":"net1","more":1}]"#,
            r#"valid: Some([ValidAttachment { container_id: "c", ifname: "net1" }])"#,
        ),
    ] {
        let config = format!(r#"{{"cniVersion":"1.1.0","name":"n","fail":true{list}}}"#);
        assert_eq!(document(&ask(&environment("GC"), &config).stdout)["details"], expected);
    }
}

#[test]
fn del_may_clean_up_without_its_configuration_and_otherwise_says_what_is_wrong_with_it() {
    let config = r#"{"cniVersion":"0.4.0","name":"n","mtu":"wrong"}"#;
    assert_eq!(document(&ask(&environment("DEL"), config).stdout)["code"], 7);
    let config = r#"{"cniVersion":"0.4.0","name":"cleans-up","mtu":"wrong"}"#;
    assert!(ask(&environment("DEL"), config).success);
    assert!(!ask(&environment("ADD"), config).success);
}
