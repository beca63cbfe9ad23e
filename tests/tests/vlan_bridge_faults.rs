//! `vlan-bridge` killed at every system call that changes something, in the kernel that can filter VLANs: whatever is
//! left, DEL takes away.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use serde_json::{Value, json};
use testnet::{CniCall, Node, Outcome, Stop, finish, vlan_kernel};

const PLUGIN: &str = "vlan-bridge";
/// System calls that change something: messages to the kernel, and files.
const CALLS: [&str; 4] = ["sendto", "openat", "renameat", "unlinkat"];

fn main() -> ExitCode {
    vlan_kernel::main(testnet::tests![
        an_add_killed_anywhere_is_cleaned_up,
        a_del_killed_anywhere_is_finished,
        a_trunk_change_killed_anywhere_is_mended
    ])
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

fn config(vlans: &str, up: bool) -> Value {
    let uplinks = if up { json!([{"name": "eth1", "follow": true}]) } else { json!([]) };
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": PLUGIN, "bridge": "br0", "trunk": vlans, "nativeVlan": 1,
        "uplinks": uplinks, "macspoofchk": true, "host": true,
    })
}

/// Runs a verb and kills it at the n-th call of a kind; false if it ended before.
fn killed(node: &Node, verb: &str, call: &CniCall, syscall: &str, at: usize) -> Result<bool, Stop> {
    let mut command = traced(node, syscall, at);
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &call.container)
        .env("CNI_IFNAME", &call.ifname)
        .env("CNI_ARGS", &call.args)
        .env("CNI_NETNS", call.netns.as_deref().unwrap_or_default())
        .env("CNI_PATH", "/usr/lib/cni")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    let _ = child.stdin.take().unwrap().write_all(call.config.as_bytes());
    Ok(was_killed(child.wait()?))
}

/// The plugin under strace, which kills it at the n-th call of a kind.
fn traced(node: &Node, syscall: &str, at: usize) -> Command {
    let program = testnet::program(PLUGIN).display().to_string();
    let inject = format!("inject={syscall}:signal=KILL:when={at}");
    let trace = format!("trace={syscall}");
    let mut command = node.command("strace");
    command.args(["-f", "-q", "-o", "/dev/null", "-e", &trace, "-e", &inject, &program]);
    command
}

fn was_killed(status: ExitStatus) -> bool {
    // strace ends as what it traced did.
    status.signal() == Some(9) || status.code() == Some(137)
}

fn uplink(node: &Node) -> Result<String, Stop> {
    let shown: Value =
        serde_json::from_str(&node.exec(&["bridge", "-json", "vlan", "show", "dev", "eth1"])?).unwrap();
    let vlans = shown[0]["vlans"].as_array().cloned().unwrap_or_default();
    Ok(vlans.iter().map(|vlan| vlan["vlan"].to_string()).collect::<Vec<_>>().join(","))
}

/// The state of a node with one attachment that stays.
fn expected(node: &Node) -> Outcome {
    check(uplink(node)? == "1,10", format!("the uplink carries {}", uplink(node)?))?;
    let mut links = node.link_names()?;
    links.retain(|name| !name.starts_with("vb"));
    check(links == ["br0", "br0.1", "eth1", "wire"], format!("links: {links:?}"))?;
    let records = node.list("/run/k8slan/ports");
    check(records.len() == 1, format!("records are left: {records:?}"))?;
    let ports = node.link_names()?.iter().filter(|name| name.starts_with("vb")).count();
    check(ports == 1, format!("{ports} ports"))?;
    let chains = node.exec(&["nft", "list", "chains", "bridge"])?.matches("chain vb").count();
    check(chains == 1, format!("{chains} guards"))
}

fn node() -> Result<Node, Stop> {
    testnet::needs("strace")?;
    let node = Node::new("one")?;
    node.ip("link add eth1 type veth peer name wire")?;
    node.ip("link set dev eth1 up")?;
    Ok(node)
}

fn an_add_killed_anywhere_is_cleaned_up() -> Outcome {
    let node = node()?;
    let stays = node.pod("stays")?;
    stays.add(PLUGIN, "net1", &config("10", true))?;
    expected(&node)?;
    let mut kills = 0;
    for syscall in CALLS {
        for at in 1.. {
            let pod = node.pod("victim")?;
            let call = pod.call("net1", &config("10,20", true));
            if !killed(&node, "ADD", &call, syscall, at)? {
                node.cni(PLUGIN, "DEL", &call)?;
                break;
            }
            kills += 1;
            // DEL, or GC with a list that does not name it, does the rest.
            if at % 3 == 0 {
                let valid = json!([{"containerID": stays.container(), "ifname": "net1"}]);
                node.cni(PLUGIN, "GC", &call.clone().with("cni.dev/valid-attachments", valid))?;
            } else {
                node.cni(PLUGIN, "DEL", &call)?;
            }
            expected(&node).map_err(|stop| Stop::Failed(format!("killed at {syscall} {at}: {stop:?}")))?;
        }
    }
    check(kills > 20, format!("only {kills} kills"))?;
    println!("ADD was killed {kills} times");
    Ok(())
}

fn a_del_killed_anywhere_is_finished() -> Outcome {
    let node = node()?;
    let stays = node.pod("stays")?;
    stays.add(PLUGIN, "net1", &config("10", true))?;
    let mut kills = 0;
    for syscall in CALLS {
        for at in 1.. {
            let pod = node.pod("victim")?;
            let call = pod.call("net1", &config("10,20", true));
            node.cni(PLUGIN, "ADD", &call)?;
            let was_killed = killed(&node, "DEL", &call, syscall, at)?;
            node.cni(PLUGIN, "DEL", &call)?;
            expected(&node).map_err(|stop| Stop::Failed(format!("killed at {syscall} {at}: {stop:?}")))?;
            if !was_killed {
                break;
            }
            kills += 1;
        }
    }
    check(kills > 15, format!("only {kills} kills"))?;
    println!("DEL was killed {kills} times");
    Ok(())
}

fn a_trunk_change_killed_anywhere_is_mended() -> Outcome {
    let node = node()?;
    let (stays, router) = (node.pod("stays")?, node.pod("router")?);
    stays.add(PLUGIN, "net1", &config("10", true))?;
    let wanted = config("10,20", true);
    let result = router.add(PLUGIN, "net1", &wanted)?;
    let port = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    let program = testnet::program(PLUGIN).display().to_string();
    let checked = router.call("net1", &wanted).with("prevResult", result.clone());
    let (mut kills, mut told) = (0, 0);
    let mut now = "1,10,20";
    for syscall in CALLS {
        for at in 1.. {
            let (before, after, to) = match now {
                "1,10,20" => (now, "1,10,30,31", "10,30-31"),
                _ => (now, "1,10,20", "10,20"),
            };
            let mut command = traced(&node, syscall, at);
            command.args(["trunk", "set", &port, to]);
            let ended = !was_killed(finish(&mut command)?.status);
            let place = format!("killed at {syscall} {at}");
            // CHECK either tells, or everything is as it was or as it will be.
            match node.cni(PLUGIN, "CHECK", &checked) {
                Ok(_) => {
                    let have = uplink(&node)?;
                    check(have == before || have == after, format!("{place}: CHECK is content with {have}"))?;
                }
                Err(error) => {
                    check(error.code == 110 && error.text().contains("trunk"), format!("{place}: {error}"))?;
                    told += 1;
                }
            }
            node.exec(&[&program, "trunk", "set", &port, to])?;
            check(uplink(&node)? == after, format!("{place}: the uplink carries {}", uplink(&node)?))?;
            node.cni(PLUGIN, "CHECK", &checked).map_err(|error| Stop::Failed(format!("{place}: {error}")))?;
            now = after;
            if ended {
                break;
            }
            kills += 1;
        }
    }
    check(kills > 15 && told > 0, format!("{kills} kills, CHECK told {told} times"))?;
    println!("trunk was killed {kills} times; CHECK told {told} times");
    router.del(PLUGIN, "net1", &wanted)?;
    expected(&node)
}
