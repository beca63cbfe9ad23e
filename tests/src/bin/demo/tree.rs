//! The tree of a node, read from its kernel: nothing here knows what was asked for.

use std::fmt::Write;

use serde_json::Value;
use testnet::{Place, Stop};

use k8slan_tests::{Worker, underlay};

use crate::build::Times;
use crate::show::millis;

/// A node with the LANs that its `/run/netns` holds.
pub(crate) fn of_node(worker: &Worker, times: &Times) -> Result<String, Stop> {
    let mut tree = format!("{}\n", worker.name());
    let mut branches = Vec::new();
    for link in worker.ip_json("addr show")?.iter().filter(|link| link["ifname"] != "lo") {
        branches.push(format!("underlay {}, {}\n", text(link, "ifname"), facts(link)));
    }
    for name in worker.list("/run/netns").iter().filter(|name| !name.starts_with("cni-")) {
        branches.push(of_lan(worker, name, times)?);
    }
    push_all(&mut tree, &branches);
    tree.push('\n');
    Ok(tree)
}

fn of_lan(worker: &Worker, name: &str, times: &Times) -> Result<String, Stop> {
    let inside = worker.netns(&format!("/run/netns/{name}"))?;
    let links = inside.ip_json("addr show")?;
    let alias = |name: &str| links.iter().find(|l| l["ifname"] == name).map(|l| text(l, "ifalias"));
    let mut lan = format!("namespace {name}: {}\n", alias("lo").unwrap_or_default());
    let mut branches = Vec::new();
    for bridge in links.iter().filter(|link| kind(link) == "bridge") {
        let mut branch = format!("bridge {}, {}\n", text(bridge, "ifname"), facts(bridge));
        let mut ports = Vec::new();
        for port in links.iter().filter(|link| link["master"] == bridge["ifname"]) {
            ports.push(match kind(port).as_str() {
                "vxlan" => vxlan(worker, &inside, port)?,
                _ => spoke(worker, &links, port, times)?,
            });
        }
        push_all(&mut branch, &ports);
        branches.push(branch);
    }
    push_all(&mut lan, &branches);
    Ok(lan)
}

fn vxlan(worker: &Worker, inside: &Place, port: &Value) -> Result<String, Stop> {
    let data = &port["linkinfo"]["info_data"];
    let group = [&data["group6"], &data["group"]].into_iter().find_map(Value::as_str).unwrap_or("no group");
    Ok(format!(
        "VXLAN {}, {}, VNI {}, group {group}, UDP port {}, underlay {}\n",
        text(port, "ifname"),
        facts(port),
        data["id"],
        data["port"],
        underlay(worker, inside, port)?.unwrap_or_else(|| "unknown".to_owned())
    ))
}

/// A port and the veth end behind it, and the pod that its alias names.
fn spoke(worker: &Worker, links: &[Value], port: &Value, times: &Times) -> Result<String, Stop> {
    let peer = links.iter().find(|link| link["ifname"] == port["link"]);
    let spoke = peer.map_or_else(|| "?".to_owned(), |peer| text(peer, "ifname"));
    let mut branch = format!("port {} ═ spoke {spoke}, {}\n", text(port, "ifname"), facts(port));
    let alias = text(port, "ifalias");
    // `k8slan:attach <container> <interface> <inode> <path> …`
    let words: Vec<&str> = alias.split(' ').collect();
    if let ["k8slan:attach", _, ifname, _, path, ..] = words[..] {
        push_all(&mut branch, &[interface(&*worker.netns(path)?, ifname, path, times)?]);
    }
    Ok(branch)
}

fn interface(pod: &Place, ifname: &str, path: &str, times: &Times) -> Result<String, Stop> {
    let links = pod.ip_json("addr show")?;
    let Some(link) = links.iter().find(|link| link["ifname"] == ifname) else {
        return Ok(format!("{path}: no {ifname}\n"));
    };
    let name = path.rsplit_once('/').map_or(path, |(_, file)| file);
    let name = name.splitn(3, '-').nth(2).unwrap_or(name);
    let mode = link["linkinfo"]["info_data"]["mode"].as_str().unwrap_or_default();
    let mut branch = format!(
        "pod {name}: {ifname}, {} {mode}, /dev/tap{}, {}, {}\n",
        kind(link),
        link["ifindex"],
        text(link, "address"),
        facts(link)
    );
    let mut rows: Vec<String> = Vec::new();
    for (to, time) in times.get(name).into_iter().flatten() {
        rows.push(format!("to {to}: {}\n", millis(*time)));
    }
    push_all(&mut branch, &rows);
    Ok(branch)
}

/// State, MTU and addresses.
fn facts(link: &Value) -> String {
    let flags = link["flags"].as_array().map(Vec::as_slice).unwrap_or_default();
    let state = if flags.iter().any(|flag| flag == "UP") { "up" } else { "down" };
    let mut facts = format!("{state}, MTU {}", link["mtu"]);
    for address in link["addr_info"].as_array().into_iter().flatten() {
        let _ = write!(facts, ", {}/{}", text(address, "local"), address["prefixlen"]);
    }
    facts
}

fn kind(link: &Value) -> String {
    link["linkinfo"]["info_kind"].as_str().unwrap_or_default().to_owned()
}

fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_default().to_owned()
}

/// Hangs branches below a line, each of them a line with lines of its own.
fn push_all(tree: &mut String, branches: &[String]) {
    for (at, branch) in branches.iter().enumerate() {
        let last = at + 1 == branches.len();
        for (number, line) in branch.lines().enumerate() {
            let lead = match (number, last) {
                (0, false) => "├─ ",
                (0, true) => "└─ ",
                (_, false) => "│  ",
                (_, true) => "   ",
            };
            let _ = writeln!(tree, "{lead}{line}");
        }
    }
}
