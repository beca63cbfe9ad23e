//! Wrong configurations, environments and records: each is told by its own message and code, and nothing of it
//! stays.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::os::unix::fs::{PermissionsExt, chown, symlink};

use k8slan_tests::{LanFile, Traces, Worker, on_spoke};
use serde_json::{Value, json};
use testnet::{CniCall, Outcome, Pod, Switch};

/// What an ADD is given, what it says, and what the node looks like before.
struct Case {
    name: &'static str,
    code: u64,
    /// All of these stand in the message or its details.
    words: &'static [&'static str],
    prepare: fn(&Worker, &Pod<'_>) -> Outcome,
    call: fn(CniCall) -> CniCall,
}

pub(crate) fn trials() -> Vec<testnet::Trial> {
    let trials = cases().into_iter().map(|case| testnet::test(case.name, move || refused(&case)));
    trials.collect()
}

fn nothing(_: &Worker, _: &Pod<'_>) -> Outcome {
    Ok(())
}

fn as_it_is(call: CniCall) -> CniCall {
    call
}

fn case(name: &'static str, code: u64, words: &'static [&'static str], call: fn(CniCall) -> CniCall) -> Case {
    Case { name, code, words, prepare: nothing, call }
}

fn prepared(
    name: &'static str,
    code: u64,
    words: &'static [&'static str],
    prepare: fn(&Worker, &Pod<'_>) -> Outcome,
) -> Case {
    Case { name, code, words, prepare, call: as_it_is }
}

fn cases() -> Vec<Case> {
    vec![
        case("broken_json", 6, &["JSON"], |call| CniCall { config: "{\"cniVersion\":".into(), ..call }),
        case("empty_stdin", 6, &[], |call| CniCall { config: String::new(), ..call }),
        case("no_object", 6, &[], |call| CniCall { config: "[]".into(), ..call }),
        case("a_number_as_device", 7, &["deviceID"], |call| call.with("deviceID", json!(5))),
        case("a_text_as_mtu", 7, &["mtu"], |call| call.with("mtu", json!("large"))),
        case("unknown_version", 1, &["9.9.9"], |call| call.with("cniVersion", json!("9.9.9"))),
        case("unknown_mode", 7, &["bridged"], |call| call.with("mode", json!("bridged"))),
        case("unknown_attach", 7, &["tap"], |call| call.with("attach", json!("tap"))),
        case("no_network_name", 7, &["name"], |call| call.with("name", json!(""))),
        case("nothing_to_attach_to", 7, &["deviceID", "spoke", "master"], |call| {
            call.with("deviceID", json!(""))
        }),
        case("two_things_to_attach_to", 7, &["spoke", "deviceID"], |call| call.with("spoke", json!("b"))),
        case("interface_name_too_long", 4, &["CNI_IFNAME"], |call| CniCall {
            ifname: "a-name-of-16-byt".into(),
            ..call
        }),
        case("interface_name_with_a_slash", 4, &["CNI_IFNAME"], |call| CniCall {
            ifname: "net/1".into(),
            ..call
        }),
        case("interface_name_is_a_folder", 4, &["CNI_IFNAME"], |call| CniCall {
            ifname: "..".into(),
            ..call
        }),
        case("interface_name_is_a_pattern", 4, &["CNI_IFNAME", "net%d", "write the whole name"], |call| {
            CniCall { ifname: "net%d".into(), ..call }
        }),
        case("interface_name_stands_for_all", 4, &["CNI_IFNAME", "all"], |call| CniCall {
            ifname: "all".into(),
            ..call
        }),
        case("interface_name_with_a_byte_of_white_space", 4, &["CNI_IFNAME", "à"], |call| CniCall {
            ifname: "voilà".into(),
            ..call
        }),
        case("container_id_with_a_slash", 4, &["CNI_CONTAINERID"], |call| CniCall {
            container: "a/b".into(),
            ..call
        }),
        case("arguments_without_a_value", 4, &["CNI_ARGS"], |call| CniCall { args: "MAC".into(), ..call }),
        case("unknown_arguments", 4, &["Nonsense"], |call| CniCall { args: "Nonsense=1".into(), ..call }),
        case("no_namespace_stated", 4, &["CNI_NETNS"], |call| CniCall { netns: None, ..call }),
        case("namespace_missing", 4, &["/run/netns/none"], |call| CniCall {
            netns: Some("/run/netns/none".into()),
            ..call
        }),
        case("namespace_is_no_namespace", 4, &["CNI_NETNS", "/etc/passwd"], |call| CniCall {
            netns: Some("/etc/passwd".into()),
            ..call
        }),
        case("own_namespace", 4, &["own"], |call| CniCall {
            netns: Some("/proc/self/ns/net".into()),
            ..call
        }),
        case("spoke_unknown", 11, &["nowhere"], |call| call.with("deviceID", json!("nowhere"))),
        case("spoke_is_a_path", 11, &["../spokes/a"], |call| call.with("deviceID", json!("../spokes/a"))),
        case("spoke_name_too_long", 7, &["a-name-of-16-byt"], |call| by_name(call, "a-name-of-16-byt")),
        case("spoke_name_with_a_slash", 7, &["a/b"], |call| by_name(call, "a/b")),
        case("spoke_is_a_pattern", 11, &["a%d"], |call| call.with("deviceID", json!("a%d"))),
        case("spoke_is_a_pattern_by_name", 7, &["a%d"], |call| by_name(call, "a%d")),
        case("spoke_unknown_by_name", 11, &["nowhere"], |call| by_name(call, "nowhere")),
        case("attach_differs_from_the_spoke", 7, &["veth", "macvtap"], |call| {
            call.with("attach", json!("veth"))
        }),
        case("mode_differs_from_the_spoke", 7, &["bridge", "passthru"], |call| {
            call.with("mode", json!("bridge"))
        }),
        case("mtu_below_the_least", 7, &["MTU 67"], |call| call.with("mtu", json!(67))),
        case("mtu_negative", 7, &["-1"], |call| call.with("mtu", json!(-1))),
        case("mtu_above_the_lans", 7, &["1427", "1426"], |call| call.with("mtu", json!(1427))),
        case("mtu_above_the_masters", 7, &["1501", "1500", "Invalid argument"], |call| {
            on_master(call, "eth1").with("mtu", json!(1501))
        }),
        case("master_is_a_pattern", 7, &["eth%d", "write the whole name"], |call| on_master(call, "eth%d")),
        case("master_unknown", 7, &["eth9"], |call| on_master(call, "eth9")),
        case("veth_on_a_master", 7, &["veth"], |call| on_master(call, "eth1").with("attach", json!("veth"))),
        case("mac_multicast", 7, &["01:00:5e:00:00:01"], |call| mac(call, "01:00:5e:00:00:01")),
        case("mac_zero", 7, &["00:00:00:00:00:00"], |call| mac(call, "00:00:00:00:00:00")),
        case("mac_of_signs", 7, &["+5:00:00:00:00:01"], |call| mac(call, "+5:00:00:00:00:01")),
        case("mac_in_cni_args", 4, &["01:00:5e:00:00:01"], |call| CniCall {
            args: "IgnoreUnknown=1;MAC=01:00:5e:00:00:01".into(),
            ..call
        }),
        case("ipam_plugin_missing", 7, &["no-such-ipam"], |call| {
            call.with("ipam", json!({"type": "no-such-ipam"}))
        }),
        case("ipam_plugin_is_a_path", 7, &["../ipam"], |call| call.with("ipam", json!({"type": "../ipam"}))),
        prepared("interface_exists", 103, &["net1"], |_, pod| {
            pod.ip("link add net1 type veth peer name other")?;
            Ok(())
        }),
        prepared("lan_not_built", 11, &["lan1", "eth1"], |worker, _| {
            worker.ip("link del eth1")?;
            worker.put(&LanFile::new("lan1", 8, &["a", "b"]))?;
            worker.not_ready("a", "eth1")?;
            Ok(())
        }),
        prepared("pods_namespace_not_admitted", 101, &["default", "lan1"], |worker, _| {
            admit(worker, "[kube-system]")
        }),
        prepared("no_pods_namespace_admitted", 101, &["default"], |worker, _| admit(worker, "[]")),
        Case {
            call: |call| CniCall { args: String::new(), ..call },
            ..prepared("pods_namespace_not_stated", 101, &["K8S_POD_NAMESPACE"], |worker, _| {
                admit(worker, "[default]")
            })
        },
        prepared("foreign_link_of_the_spokes_name", 102, &["a"], |worker, _| {
            worker.ip("-n lan1 link add name a type veth peer name mine")?;
            Ok(())
        }),
        Case {
            call: |call| by_name(call, "a"),
            ..prepared("spoke_of_the_kubelet_by_name", 101, &["macvtap.k8slan.io/a"], |worker, _| {
                edit_record(worker, |record| record["kubelet"] = true.into())
            })
        },
        prepared("record_is_no_json", 104, &["record"], |worker, _| {
            worker.stop_daemon()?;
            Ok(worker.write(RECORD, "{")?)
        }),
        prepared("record_of_another_spoke", 104, &["record"], |worker, _| {
            edit_record(worker, |record| record["spoke"] = "b".into())
        }),
        prepared("record_of_another_owner", 104, &["owner"], |worker, _| {
            worker.stop_daemon()?;
            Ok(worker.run(|| chown(RECORD, Some(1000), None))?)
        }),
        prepared("record_that_others_may_write", 104, &["writ"], |worker, _| {
            worker.stop_daemon()?;
            Ok(worker.run(|| std::fs::set_permissions(RECORD, PermissionsExt::from_mode(0o666)))?)
        }),
        prepared("records_folder_that_others_may_write", 104, &["writ"], |worker, _| {
            worker.stop_daemon()?;
            Ok(worker
                .run(|| std::fs::set_permissions("/run/k8slan/spokes", PermissionsExt::from_mode(0o777)))?)
        }),
        prepared("symbolic_link_as_record", 104, &["link"], |worker, _| {
            worker.stop_daemon()?;
            worker.run(|| {
                std::fs::rename(RECORD, "/run/elsewhere.json")?;
                symlink("/run/elsewhere.json", RECORD)
            })?;
            Ok(())
        }),
        prepared("record_of_an_unmarked_namespace", 104, &["/run/netns/other"], |worker, _| {
            worker.ip("netns add other")?;
            worker.ip("-n other link add br2 type bridge")?;
            edit_record(worker, |record| record["netns"] = "/run/netns/other".into())
        }),
        prepared("record_of_the_nodes_own_namespace", 104, &["/proc/1/ns/net"], |worker, _| {
            edit_record(worker, |record| record["netns"] = "/proc/1/ns/net".into())
        }),
    ]
}

const RECORD: &str = "/run/k8slan/spokes/a.json";

fn by_name(call: CniCall, spoke: &str) -> CniCall {
    call.with("deviceID", Value::Null).with("spoke", json!(spoke))
}

fn on_master(call: CniCall, master: &str) -> CniCall {
    call.with("deviceID", Value::Null).with("master", json!(master))
}

fn mac(call: CniCall, mac: &str) -> CniCall {
    call.with("runtimeConfig", json!({"mac": mac}))
}

fn lan() -> LanFile {
    LanFile::new("lan1", 7, &["a", "b"])
}

/// Changes who may attach, and waits until the record says so.
fn admit(worker: &Worker, namespaces: &str) -> Outcome {
    worker.put(&lan().with(&format!("allowedNamespaces: {namespaces}")))?;
    testnet::eventually(std::time::Duration::from_secs(2), || match worker.record("a") {
        Some(record) if record["allowedNamespaces"].is_array() => Ok(()),
        other => Err(format!("the record is {other:?}")),
    })?;
    Ok(())
}

/// What a forger who has become root for a moment would do.
fn edit_record(worker: &Worker, edit: impl FnOnce(&mut Value)) -> Outcome {
    worker.stop_daemon()?;
    let mut record = worker.record("a").unwrap();
    edit(&mut record);
    Ok(worker.write(RECORD, record.to_string())?)
}

fn refused(case: &Case) -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.put(&lan())?;
    worker.ready("a")?;
    let pod = worker.pod("bad")?;
    (case.prepare)(&worker, &pod)?;
    let before = (Traces::of(&worker, &lan())?, pod.link_names()?);
    let error = worker.cni("macvtap", "ADD", &(case.call)(pod.call("net1", &on_spoke("a")))).unwrap_err();
    assert_eq!(error.code, case.code, "{error}");
    let text = error.text();
    for word in case.words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    assert!(text.len() < 600 && !text.contains('\n'), "{text:?}");
    assert_eq!((Traces::of(&worker, &lan())?, pod.link_names()?), before, "something is left");
    Ok(())
}
