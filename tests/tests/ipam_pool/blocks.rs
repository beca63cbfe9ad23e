//! Pools of the cluster: `ipam-pool` hands out what the daemon's node part granted, and asks it for more. The node part is played.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use serde_json::{Value, json};
use testnet::{CniCall, Node, Outcome, Stop, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        what_is_granted_is_handed_out,
        what_is_used_is_not_withdrawn,
        a_pod_waits_for_a_claim,
        a_pool_that_changes_while_a_pod_waits_is_read_again,
        what_cannot_be_had_is_said,
        who_gets_nothing_asks_a_few_times,
        half_of_what_this_node_hands_out_is_quarantined_at_most,
        a_quarantine_that_is_over_keeps_nothing,
        a_store_that_cannot_be_read_hides_no_other_pool,
        a_network_excludes_nothing_of_the_clusters_pools,
        a_file_is_in_charge_until_the_object_is,
        a_file_that_overlaps_a_pool_of_the_cluster_gives_nothing,
        people_see_it,
    ]
}

const SOCKET: &str = "/run/k8slan/agent.sock";
pub(crate) const FAR: u64 = u64::MAX / 2;

pub(crate) fn network() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "type": "macvlan", "ipam": { "type": "ipam-pool", "pool": "office" } })
}

pub(crate) fn put_pool(node: &Node, spec: &Value) -> Outcome {
    let pool = json!({ "name": "office", "spec": spec, "blocks": { "v4": 32, "v6": 128 } });
    Ok(node.write("/var/lib/k8slan/blocks/pools/office.json", pool.to_string())?)
}

/// What `ipam-pool blocks grant` says.
pub(crate) fn grant(node: &Node, addresses: &[&str], until: u64, more: &[&str]) -> Result<Value, Stop> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let grants = json!({ "bootId": boot.trim(), "grants": [{ "addresses": addresses, "until": until }] });
    grant_json(node, &grants, more)
}

fn grant_json(node: &Node, grants: &Value, more: &[&str]) -> Result<Value, Stop> {
    let mut command = node.command(program("ipam-pool"));
    command.args(["blocks", "grant", "office"]).args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().unwrap().write_all(grants.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The same for addresses that follow owners; `until` 0: they are on their way.
pub(crate) fn grant_floating(
    node: &Node,
    blocks: &[&str],
    floating: &[(&str, &str, u64)],
    more: &[&str],
) -> Result<Value, Stop> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let floating: Vec<Value> = floating
        .iter()
        .map(|(address, owner, until)| json!({ "address": address, "owner": owner, "until": until }))
        .collect();
    let blocks = json!([{ "addresses": blocks, "until": FAR }]);
    grant_json(node, &json!({ "bootId": boot.trim(), "grants": blocks, "floating": floating }), more)
}

pub(crate) fn usage(node: &Node) -> Result<Value, Stop> {
    Ok(serde_json::from_str(&node.exec(&[program("ipam-pool").to_str().unwrap(), "blocks", "usage"])?)?)
}

pub(crate) fn address(result: &Value) -> &str {
    result["ips"][0]["address"].as_str().unwrap_or_default()
}

pub(crate) fn is_code(answer: Result<Value, testnet::CniError>, code: u64, words: &str) -> Outcome {
    match answer {
        Err(error) if error.code == code && error.text().contains(words) => Ok(()),
        other => Err(Stop::Failed(format!("not code {code} with {words:?}: {other:?}"))),
    }
}

fn what_is_granted_is_handed_out() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    let pod = node.pod("p")?;
    is_code(pod.add("ipam-pool", "net1", &network()), 11, "the daemon does not answer")?;
    assert_eq!(grant(&node, &["10.9.0.7-10.9.0.8"], FAR, &[])?["written"], true);
    let first = pod.add("ipam-pool", "net1", &network())?;
    assert_eq!((address(&first), &first["ips"][0]["gateway"]), ("10.9.0.7/24", &json!("10.9.0.1")));
    assert_eq!(address(&pod.add("ipam-pool", "net2", &network())?), "10.9.0.8/24");
    is_code(pod.add("ipam-pool", "net3", &network()), 11, "the daemon does not answer")?;
    assert_eq!(usage(&node)?["pools"]["office"]["used"], json!(["10.9.0.7-10.9.0.8"]));
    // The same again, whatever is granted by now.
    grant(&node, &[], FAR, &[])?;
    assert_eq!(address(&pod.add("ipam-pool", "net1", &network())?), "10.9.0.7/24");
    // What was granted until a moment that has passed is not.
    grant(&node, &["10.9.0.9"], 1, &[])?;
    is_code(pod.add("ipam-pool", "net3", &network()), 11, "the daemon does not answer")?;
    Ok(())
}

fn what_is_used_is_not_withdrawn() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"], "cooldown": "0s" }))?;
    let pod = node.pod("p")?;
    grant(&node, &["10.9.0.7-10.9.0.9"], FAR, &[])?;
    pod.add("ipam-pool", "net1", &network())?;
    let answer = grant(&node, &["10.9.0.9"], FAR, &["--unless-used"])?;
    assert_eq!(answer, json!({ "written": false, "used": ["10.9.0.7"] }));
    assert_eq!(address(&pod.add("ipam-pool", "net2", &network())?), "10.9.0.8/24", "nothing was changed");
    for interface in ["net1", "net2"] {
        pod.del("ipam-pool", interface, &network())?;
    }
    assert_eq!(usage(&node)?["pools"]["office"]["used"], json!([]));
    assert_eq!(grant(&node, &["10.9.0.9"], FAR, &["--unless-used"])?["written"], true);
    assert_eq!(address(&pod.add("ipam-pool", "net1", &network())?), "10.9.0.9/24");
    Ok(())
}

/// An ADD while the node part answers one question: what was asked, and what became of the ADD.
pub(crate) fn add_while(
    node: &Node,
    pod: &testnet::Pod,
    answer: impl FnOnce() -> Result<String, Stop> + Send,
) -> Result<(String, Result<Value, testnet::CniError>), Stop> {
    add_interface_while(node, pod, "net1", &network(), answer)
}

/// The same of another interface or network.
pub(crate) fn add_interface_while(
    node: &Node,
    pod: &testnet::Pod,
    interface: &str,
    network: &Value,
    answer: impl FnOnce() -> Result<String, Stop> + Send,
) -> Result<(String, Result<Value, testnet::CniError>), Stop> {
    let listener = node.run(|| UnixListener::bind(SOCKET))?;
    std::thread::scope(|scope| {
        let agent = scope.spawn(move || -> Result<String, Stop> {
            let (mut stream, _) = listener.accept()?;
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked)?;
            stream.write_all(answer()?.as_bytes())?;
            Ok(String::from_utf8_lossy(&asked[..length]).into_owned())
        });
        let added = pod.add("ipam-pool", interface, network);
        node.run(|| std::fs::remove_file(SOCKET))?;
        Ok((agent.join().unwrap()?, added))
    })
}

pub(crate) fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn a_pod_waits_for_a_claim() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    grant(&node, &[], FAR, &[])?;
    let pod = node.pod("p")?;
    let answer = || {
        // The pool's lock is free while the pod waits.
        grant(&node, &["10.9.0.30"], FAR, &[])?;
        Ok(http("200 OK", ""))
    };
    let (asked, added) = add_while(&node, &pod, answer)?;
    assert!(asked.starts_with("POST /pools/office/claim HTTP/1.1\r\n"), "{asked}");
    assert!(asked.ends_with(r#"{"family":"v4","pod":"default/p"}"#), "{asked}");
    assert_eq!(address(&added?), "10.9.0.30/24");
    Ok(())
}

fn a_pool_that_changes_while_a_pod_waits_is_read_again() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    grant(&node, &[], FAR, &[])?;
    let pod = node.pod("p")?;
    let answer = || {
        put_pool(&node, &json!({ "subnets": ["10.8.0.0/24"] }))?;
        grant(&node, &["10.8.0.30"], FAR, &[])?;
        Ok(http("200 OK", ""))
    };
    let (_, added) = add_while(&node, &pod, answer)?;
    assert_eq!(address(&added?), "10.8.0.30/24", "one question was enough");
    Ok(())
}

fn what_cannot_be_had_is_said() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    grant(&node, &[], FAR, &[])?;
    let pod = node.pod("p")?;
    let answer = || Ok(http("409 Conflict", "the pool office is full on all nodes"));
    is_code(add_while(&node, &pod, answer)?.1, 11, "the pool office is full on all nodes")?;
    for (spec, code, words) in [
        (json!({ "subnets": ["10.9.0.1/24"] }), 7, "host bits"),
        (
            json!({ "subnets": ["10.9.0.0/24"], "namespaceSelector": { "a": "b" } }),
            11,
            "it has a namespaceSelector, and this node has not been told yet",
        ),
    ] {
        put_pool(&node, &spec)?;
        is_code(pod.add("ipam-pool", "net1", &network()), code, words)?;
    }
    Ok(())
}

/// The node part says each time that there is something, and there is not.
fn who_gets_nothing_asks_a_few_times() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    grant(&node, &[], FAR, &[])?;
    let pod = node.pod("p")?;
    let listener = node.run(|| UnixListener::bind(SOCKET))?;
    let asked = std::thread::scope(|scope| -> Result<usize, Stop> {
        let agent = scope.spawn(move || -> Result<usize, Stop> {
            for questions in 0.. {
                let (mut stream, _) = listener.accept()?;
                let mut asked = vec![0; 4096];
                // The last one is no question.
                if stream.read(&mut asked)? == 0 {
                    return Ok(questions);
                }
                stream.write_all(http("200 OK", "").as_bytes())?;
            }
            unreachable!()
        });
        let added = pod.add("ipam-pool", "net1", &network());
        node.run(|| std::os::unix::net::UnixStream::connect(SOCKET))?;
        let asked = agent.join().unwrap()?;
        is_code(added, 11, "others had them first")?;
        Ok(asked)
    })?;
    assert_eq!(asked, 4);
    Ok(())
}

/// A station on the LAN answers the probe of the pod's address, which gets another one.
fn conflict(node: &Node, pod: &testnet::Pod, found: &str) -> Result<String, Stop> {
    let found = found.trim_end_matches("/16");
    let under = vec!["env".to_owned(), format!("K8SLAN_IPAM_CONFLICTS={found}=02:00:00:00:00:99")];
    let call = CniCall { under, ..pod.call("net1", &network()) };
    Ok(address(&node.cni("ipam-pool", "ADD", &call)?).to_owned())
}

fn half_of_what_this_node_hands_out_is_quarantined_at_most() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/16"], "cooldown": "0s" }))?;
    grant(&node, &["10.9.0.16-10.9.0.31"], FAR, &[])?;
    let pod = node.pod("p")?;
    let mut mine = address(&pod.add("ipam-pool", "net1", &network())?).to_owned();
    for _ in 0..40 {
        mine = conflict(&node, &pod, &mine)?;
    }
    let used = usage(&node)?["pools"]["office"]["used"].to_string();
    let used: net_types::AddrSet = serde_json::from_str(&used).unwrap();
    assert_eq!(used.len(), 9, "eight and the pod's: {used}");
    Ok(())
}

fn a_quarantine_that_is_over_keeps_nothing() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/16"], "cooldown": "0s", "quarantine": "100ms" }))?;
    grant(&node, &["10.9.0.16-10.9.0.31"], FAR, &[])?;
    let pod = node.pod("p")?;
    let first = address(&pod.add("ipam-pool", "net1", &network())?).to_owned();
    conflict(&node, &pod, &first)?;
    pod.del("ipam-pool", "net1", &network())?;
    // No other ADD comes.
    testnet::eventually(std::time::Duration::from_secs(10), || {
        let used = usage(&node).map_err(|error| format!("{error:?}"))?["pools"]["office"]["used"].clone();
        if used == json!([]) { Ok(()) } else { Err(used.to_string()) }
    })?;
    assert_eq!(grant(&node, &[], FAR, &["--unless-used"])?["written"], true);
    Ok(())
}

fn a_store_that_cannot_be_read_hides_no_other_pool() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    let other =
        json!({ "name": "x", "spec": { "subnets": ["10.8.0.0/24"] }, "blocks": { "v4": 32, "v6": 128 } });
    node.write("/var/lib/k8slan/blocks/pools/x.json", other.to_string())?;
    grant(&node, &["10.9.0.7"], FAR, &[])?;
    let pod = node.pod("p")?;
    pod.add("ipam-pool", "net1", &network())?;
    // Of a pool that this node has not been told of, as after a lost disk.
    node.exec(&["rm", "/var/lib/k8slan/blocks/pools/office.json"])?;
    for damage in [vec![7_u8; 64], vec![0; 16 << 10]] {
        node.write("/run/k8slan/ipam/pools/x.mdb", damage)?;
        let usage = usage(&node)?;
        assert_eq!(usage["pools"]["office"]["used"], json!(["10.9.0.7"]), "{usage}");
        let why = usage["unreadable"]["x"].as_str().unwrap_or_default();
        assert!(why.contains("damaged"), "{usage}");
    }
    Ok(())
}

fn a_network_excludes_nothing_of_the_clusters_pools() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    grant(&node, &["10.9.0.7-10.9.0.8"], FAR, &[])?;
    let mut network = network();
    network["ipam"]["exclude"] = json!(["10.9.0.0/24"]);
    is_code(node.pod("p")?.add("ipam-pool", "net1", &network), 116, "set exclude in the LANPool")
}

fn put_file(node: &Node, name: &str, spec: &Value) -> Outcome {
    let file = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "IPPool", "metadata": { "name": name }, "spec": spec,
    });
    Ok(node.write(&format!("/var/lib/k8slan/pools.d/{name}.yaml"), file.to_string())?)
}

/// The pool as the daemon keeps it, with more than its name and its addresses.
fn put_object(node: &Node, subnet: &str, more: Value) -> Outcome {
    let mut pool = json!({ "name": "office", "spec": { "subnets": [subnet] } });
    let (Some(pool_keys), Value::Object(more)) = (pool.as_object_mut(), more) else {
        return Err(Stop::Failed("no object".to_owned()));
    };
    pool_keys.extend(more);
    Ok(node.write("/var/lib/k8slan/blocks/pools/office.json", pool.to_string())?)
}

fn by_hand(node: &Node, arguments: &[&str]) -> Result<String, Stop> {
    let mut command = vec![program("ipam-pool").to_str().unwrap().to_owned()];
    command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    Ok(node.exec(&command.iter().map(String::as_str).collect::<Vec<_>>())?)
}

fn a_file_is_in_charge_until_the_object_is() -> Outcome {
    let node = Node::new("n")?;
    let (pod, other) = (node.pod("p")?, node.pod("other")?);
    put_file(
        &node,
        "office",
        &json!({ "ranges": [{ "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.20", "rangeEnd": "10.9.0.29" }], "scope": "host" }),
    )?;
    assert_eq!(address(&pod.add("ipam-pool", "net1", &network())?), "10.9.0.20/24");
    assert_eq!(
        usage(&node)?["files"]["office"],
        json!({ "addresses": ["10.9.0.20-10.9.0.29"], "domain": "", "differs": null })
    );
    // The object waits, since it differs.
    put_object(&node, "10.8.0.0/24", json!({ "refusal": "it waits" }))?;
    let told = usage(&node)?["files"]["office"]["differs"].to_string();
    assert!(told.contains("hands out 10.9.0.20-10.9.0.29"), "{told}");
    assert_eq!(address(&pod.add("ipam-pool", "net2", &network())?), "10.9.0.21/24");
    let pools = by_hand(&node, &["pools"])?;
    assert!(
        pools.contains("by the file: the LANPool of this name waits, since the file hands out"),
        "{pools}"
    );
    // It says the same, and takes the file's place.
    let blocks = json!({ "v4": 32, "v6": 128 });
    put_object(&node, "10.9.0.0/24", json!({ "refusal": "it waits", "replacing": true, "blocks": blocks }))?;
    assert_eq!(usage(&node)?["files"]["office"]["differs"], Value::Null);
    assert_eq!(address(&pod.add("ipam-pool", "net3", &network())?), "10.9.0.22/24");
    let in_place = json!({ "replacing": true, "blocks": blocks, "inPlaceOf": ["10.9.0.20-10.9.0.29"] });
    put_object(&node, "10.9.0.0/24", in_place)?;
    is_code(other.add("ipam-pool", "net1", &network()), 11, "the daemon does not answer")?;
    grant(&node, &["10.9.0.20-10.9.0.23"], FAR, &[])?;
    assert_eq!(address(&pod.add("ipam-pool", "net1", &network())?), "10.9.0.20/24", "it has it still");
    assert_eq!(address(&other.add("ipam-pool", "net1", &network())?), "10.9.0.23/24");
    assert_eq!(usage(&node)?["pools"]["office"]["used"], json!(["10.9.0.20-10.9.0.23"]));
    let pools = by_hand(&node, &["pools"])?;
    assert!(
        pools.contains("by the LANPool: the file of this name is not read any more, and can be removed"),
        "{pools}"
    );
    // Whatever the file says by now.
    put_file(&node, "office", &json!({ "ranges": [{ "subnet": "10.7.0.0/24" }], "scope": "host" }))?;
    pod.del("ipam-pool", "net2", &network())?;
    assert_eq!(
        usage(&node)?["pools"]["office"]["used"],
        json!(["10.9.0.20-10.9.0.23"]),
        "it rests for a minute"
    );
    // A pool of a version before that said it has blocks is accepted, too.
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    assert_eq!(address(&other.add("ipam-pool", "net1", &network())?), "10.9.0.23/24");
    Ok(())
}

fn a_file_that_overlaps_a_pool_of_the_cluster_gives_nothing() -> Outcome {
    let node = Node::new("n")?;
    let pod = node.pod("p")?;
    let mut plant = network();
    plant["ipam"]["pool"] = json!("plant");
    put_file(&node, "plant", &json!({ "ranges": [{ "subnet": "10.9.0.0/16" }], "scope": "host" }))?;
    assert_eq!(address(&pod.add("ipam-pool", "net1", &plant)?), "10.9.0.2/16");
    // One that was never accepted hands out nothing.
    put_object(&node, "10.9.0.0/24", json!({ "refusal": "it overlaps pool home" }))?;
    assert_eq!(address(&pod.add("ipam-pool", "net2", &plant)?), "10.9.0.3/16");
    for command in [&["check"][..], &["pools"], &["show", "10.9.0.9"]] {
        let said = by_hand(&node, command)?;
        assert!(!said.contains("overlap at"), "{said}");
    }
    // The daemon writes by rename.
    let written_anew = || node.exec(&["rm", "/var/lib/k8slan/blocks/pools/office.json"]);
    written_anew()?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    is_code(pod.add("ipam-pool", "net3", &plant), 124, "\"office\" and \"plant\" overlap at 10.9.0.1")?;
    assert!(by_hand(&node, &["pools"])?.contains("overlap at 10.9.0.1"));
    written_anew()?;
    put_object(&node, "10.8.0.0/24", json!({ "accepted": true, "blocks": { "v4": 32, "v6": 128 } }))?;
    assert_eq!(address(&pod.add("ipam-pool", "net3", &plant)?), "10.9.0.4/16");
    // Leases of host-local are imported on all nodes, or on none.
    node.write("/var/lib/cni/networks/old/10.8.0.9", "abc\neth0")?;
    let refused = by_hand(&node, &["import-host-local", "/var/lib/cni/networks/old", "--pool", "office"]);
    let refused = refused.map_err(|stop| format!("{stop:?}")).unwrap_err();
    assert!(refused.contains("kubectl k8slan import host-local"), "{refused}");
    by_hand(&node, &["import-host-local", "/var/lib/cni/networks/old", "--pool", "plant"])?;
    Ok(())
}

fn people_see_it() -> Outcome {
    let node = Node::new("n")?;
    put_pool(&node, &json!({ "subnets": ["10.9.0.0/24"] }))?;
    grant(&node, &["10.9.0.7-10.9.0.9"], FAR, &[])?;
    node.pod("p")?.add("ipam-pool", "net1", &network())?;
    let said = |arguments: &[&str]| -> Result<Value, Stop> {
        let program = program("ipam-pool");
        let line: Vec<&str> =
            [program.to_str().unwrap(), "--json"].iter().chain(arguments).copied().collect();
        Ok(serde_json::from_str(&node.exec(&line)?)?)
    };
    let pools = said(&["pools"])?;
    assert_eq!(
        (&pools[0]["ranges"], &pools[0]["free"]),
        (&json!("10.9.0.1-10.9.0.254"), &json!(2)),
        "{pools}"
    );
    let leases = said(&["leases", "office"])?;
    assert_eq!((&leases[0]["address"], &leases[0]["note"]), (&json!("10.9.0.7"), &Value::Null), "{leases}");
    let other = said(&["show", "10.9.0.50"])?;
    let whose = other[0]["note"].as_str().unwrap_or_default();
    assert!(whose.contains("'kubectl get lanblock office.0a090032' says which node does"), "{other}");
    assert_eq!(said(&["check"])?, json!([]));
    let cluster = &pools[0]["cluster"];
    assert_eq!(
        (&cluster["addresses"], &cluster["elsewhere"]),
        (&json!(["10.9.0.7-10.9.0.9"]), &json!("250")),
        "{pools}"
    );
    let program = program("ipam-pool");
    let shown = |arguments: &[&str]| {
        let line: Vec<&str> = [program.to_str().unwrap()].iter().chain(arguments).copied().collect();
        node.exec(&line)
    };
    for arguments in [&["leases"][..], &["leases", "office"], &["show", "10.9.0.7"], &["check"]] {
        let text = shown(arguments)?;
        let last = text.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("pool office of the cluster: this node hands out 10.9.0.7-10.9.0.9 (3 addresses in 1 block) for ")
                && last.ends_with("; 250 more are other nodes' or nobody's"),
            "{arguments:?}: {text}"
        );
    }
    grant(&node, &["10.9.0.7-10.9.0.9"], 1, &[])?;
    let text = shown(&["show", "10.9.0.8"])?;
    assert!(text.contains("the API server was not heard for too long"), "{text}");
    Ok(())
}
