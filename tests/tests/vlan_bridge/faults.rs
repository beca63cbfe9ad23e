//! `vlan-bridge` killed at every system call that changes something, in the kernel that can filter VLANs: whatever is
//! left, DEL or GC takes away.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use k8slan_tests::kills::{everywhere, strace};
use k8slan_tests::vlan_ports::{PLUGIN, check, node};
use serde_json::{Value, json};
use testnet::{CniCall, Node, Outcome, Pod, Stop, needs, vlan_kernel};

/// System calls that change something: messages to the kernel, and files.
const CALLS: &[&str] = &["sendto", "openat", "renameat", "unlinkat"];

pub(crate) fn trials() -> Vec<testnet::Trial> {
    vlan_kernel::trials(testnet::tests![
        an_add_killed_anywhere_is_cleaned_up,
        the_first_add_killed_anywhere_leaves_nothing,
        a_del_killed_anywhere_is_finished,
        a_trunk_change_killed_anywhere_is_mended
    ])
}

fn config(vlans: &str) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": PLUGIN, "bridge": "br0", "trunk": vlans, "nativeVlan": 1,
        "uplinks": [{"name": "eth1", "follow": true}], "macspoofchk": true, "host": true,
        "gateway": [{"vlan": 10, "address": "10.9.0.1/24"}],
    })
}

/// Runs a verb and kills it before the n-th call of a kind; whether it lived.
fn lives(node: &Node, verb: &str, call: &CniCall, name: &str, number: u32) -> Result<bool, Stop> {
    let traced = CniCall { under: strace(name, number), ..call.clone() };
    match node.cni(PLUGIN, verb, &traced) {
        Ok(_) => Ok(true),
        // Without an answer of its own.
        Err(error) if error.code == 0 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the members of bridges carry. Each program that is started in that kernel costs as much as a kill, so this is asked once.
struct Members(Value);

impl Members {
    fn read(node: &Node) -> Result<Self, Stop> {
        Ok(Self(serde_json::from_str(&node.exec(&["bridge", "-json", "vlan", "show"])?).unwrap()))
    }

    /// The VLANs of a member, with `u` behind those that leave it untagged and `*` behind the PVID.
    fn of(&self, link: &str) -> Vec<String> {
        let member = self.0.as_array().into_iter().flatten().find(|member| member["ifname"] == link);
        let vlans = member.and_then(|member| member["vlans"].as_array());
        let text = |vlan: &Value| {
            let flags = vlan["flags"].as_array().into_iter().flatten();
            let flags: String = flags.map(|flag| if flag == "PVID" { "*" } else { "u" }).collect();
            vlan["vlan"].to_string() + &flags
        };
        vlans.into_iter().flatten().map(text).collect()
    }

    /// The VLANs of the uplink, whatever their flags.
    fn uplink(&self) -> String {
        let vlans = self.of("eth1");
        vlans.iter().map(|vlan| vlan.trim_end_matches(['u', '*'])).collect::<Vec<_>>().join(",")
    }
}

/// The state of a node with one attachment that stays.
fn expected(node: &Node) -> Outcome {
    let members = Members::read(node)?;
    check(members.uplink() == "1,10", format!("the uplink carries {}", members.uplink()))?;
    let legs = members.of("br0");
    check(legs == ["1", "10"], format!("the bridge itself carries {legs:?}"))?;
    let (ports, links): (Vec<String>, Vec<String>) =
        node.link_names()?.into_iter().partition(|name| name.starts_with("vb"));
    check(links == ["br0", "br0.1", "br0.10", "eth1", "wire"], format!("links: {links:?}"))?;
    check(ports.len() == 1, format!("ports: {ports:?}"))?;
    let records = node.list("/run/k8slan/ports");
    check(records.len() == 1, format!("records are left: {records:?}"))?;
    let chains = node.exec(&["nft", "list", "chains", "bridge"])?.matches("chain vb").count();
    check(chains == 1, format!("{chains} guards"))
}

/// What a runtime does about a call that died: GC with a list of the valid attachments, which does not name it, or DEL.
fn finish(node: &Node, call: CniCall, valid: Option<Value>) -> Outcome {
    match valid {
        Some(valid) => node.cni(PLUGIN, "GC", &call.with("cni.dev/valid-attachments", valid))?,
        None => node.cni(PLUGIN, "DEL", &call)?,
    };
    Ok(())
}

fn valid(stays: &Pod<'_>) -> Value {
    json!([{"containerID": stays.container(), "ifname": "net1"}])
}

fn an_add_killed_anywhere_is_cleaned_up() -> Outcome {
    needs("strace")?;
    let node = node()?;
    let stays = node.pod("stays")?;
    stays.add(PLUGIN, "net1", &config("10"))?;
    expected(&node)?;
    let kills = everywhere(CALLS, |name, number| {
        let pod = node.pod("victim")?;
        let call = pod.call("net1", &config("10,20"));
        let lived = lives(&node, "ADD", &call, name, number)?;
        finish(&node, call, (number % 3 == 0).then(|| valid(&stays)))?;
        expected(&node)?;
        Ok(lived)
    })?;
    check(kills > 20, format!("only {kills} kills"))?;
    println!("ADD was killed {kills} times");
    Ok(())
}

/// Here the bridge and the node's legs are the victim's own, and the uplink comes into the bridge with it.
fn the_first_add_killed_anywhere_leaves_nothing() -> Outcome {
    needs("strace")?;
    let node = node()?;
    let kills = everywhere(&["sendto"], |name, number| {
        let pod = node.pod("victim")?;
        let call = pod.call("net1", &config("10,20"));
        let lived = lives(&node, "ADD", &call, name, number)?;
        finish(&node, call, (number % 2 == 0).then(|| json!([])))?;
        let links = node.ip_json("link show")?;
        let name = |link: &Value| link["ifname"].as_str().unwrap_or_default().to_owned();
        let mut names: Vec<String> = links.iter().map(name).filter(|name| name != "lo").collect();
        names.sort();
        check(names == ["eth1", "wire"], format!("links: {names:?}"))?;
        let eth1 = links.iter().find(|link| link["ifname"] == "eth1").unwrap();
        check(eth1.get("master").is_none(), format!("the uplink is somebody's port: {eth1}"))?;
        check(node.list("/run/k8slan/ports").is_empty(), "records are left")?;
        check(node.exec(&["nft", "list", "ruleset"])?.is_empty(), "guards are left")?;
        Ok(lived)
    })?;
    check(kills > 10, format!("only {kills} kills"))?;
    println!("the first ADD was killed {kills} times");
    Ok(())
}

fn a_del_killed_anywhere_is_finished() -> Outcome {
    needs("strace")?;
    let node = node()?;
    let stays = node.pod("stays")?;
    stays.add(PLUGIN, "net1", &config("10"))?;
    let mut own = config("10,20");
    // A leg that goes with it, and a VLAN of the uplink that is the leg's, too.
    own["gateway"].as_array_mut().unwrap().push(json!({"vlan": 20, "address": "10.8.0.1/24"}));
    let kills = everywhere(CALLS, |name, number| {
        let pod = node.pod("victim")?;
        let call = pod.call("net1", &own);
        node.cni(PLUGIN, "ADD", &call)?;
        let lived = lives(&node, "DEL", &call, name, number)?;
        finish(&node, call, (number % 3 == 0).then(|| valid(&stays)))?;
        expected(&node)?;
        Ok(lived)
    })?;
    check(kills > 15, format!("only {kills} kills"))?;
    println!("DEL was killed {kills} times");
    Ok(())
}

fn a_trunk_change_killed_anywhere_is_mended() -> Outcome {
    needs("strace")?;
    let node = node()?;
    let (stays, router) = (node.pod("stays")?, node.pod("router")?);
    stays.add(PLUGIN, "net1", &config("10"))?;
    let wanted = config("10,20");
    let result = router.add(PLUGIN, "net1", &wanted)?;
    let port = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    let program = testnet::program(PLUGIN).display().to_string();
    let checked = router.call("net1", &wanted).with("prevResult", result.clone());
    let mut told = 0;
    let mut now = "1,10,20";
    let kills = everywhere(CALLS, |name, number| {
        let (before, after, to) = match now {
            "1,10,20" => (now, "1,10,30,31", "10,30-31"),
            _ => (now, "1,10,20", "10,20"),
        };
        let tracer = strace(name, number);
        let trunk = [&program, "trunk", "set", &port, to];
        let argv: Vec<&str> = tracer.iter().map(String::as_str).chain(trunk).collect();
        let lived = node.exec(&argv).is_ok();
        // CHECK either tells, or everything is as it was or as it will be.
        match node.cni(PLUGIN, "CHECK", &checked) {
            Ok(_) => {
                let have = Members::read(&node)?.uplink();
                check(have == before || have == after, format!("CHECK is content with {have}"))?;
            }
            Err(error) => {
                check(error.code == 110 && error.text().contains("trunk"), error.to_string())?;
                told += 1;
            }
        }
        node.exec(&trunk)?;
        let have = Members::read(&node)?.uplink();
        check(have == after, format!("the uplink carries {have}"))?;
        node.cni(PLUGIN, "CHECK", &checked)?;
        now = after;
        Ok(lived)
    })?;
    check(kills > 15 && told > 0, format!("{kills} kills, CHECK told {told} times"))?;
    println!("trunk was killed {kills} times; CHECK told {told} times");
    router.del(PLUGIN, "net1", &wanted)?;
    expected(&node)
}
