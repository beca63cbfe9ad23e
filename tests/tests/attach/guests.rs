//! Who is a VM's guest: whatever its interface is called, as the node daemon's record or the request says, alike for
//! both main plugins; and what a guest keeps: its silence, its MAC address.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use k8slan_tests::{LanFile, Worker, at_once, joined, on_spoke};
use serde_json::{Value, json};
use testnet::{CniError, Node, Outcome, PacketSocket, Ping, Pod, Stop, Switch};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        a_guest_is_known_whatever_its_interface_is_called,
        the_pods_own_interface_stays_the_pods,
        a_launcher_that_nobody_knows_yet_is_tried_again,
        a_record_that_cannot_be_trusted_ends_the_add,
        no_vms_mac_address_changes,
        a_seed_makes_the_mac_addresses_of_a_cluster,
        a_guest_on_a_veth_spoke_finds_its_addresses_on_the_link,
        a_binding_that_cannot_work_is_refused,
        a_vms_address_is_its_own_wherever_its_launcher_runs,
        a_launcher_of_nobody_gets_no_address,
        the_launchers_own_address_is_nobodys,
        a_definition_makes_no_machines_up_in_a_pool,
        a_migration_from_another_node_is_refused_where_the_address_is_not_known,
    ]
}

/// As KubeVirt calls the interface of a network.
const HASH: &str = "pod16477688c0e";

/// A node, and a machine at the other end of its eth1.
fn site() -> Result<(Switch, Node, Node), Stop> {
    let switch = Switch::new()?;
    let (mut node, mut other) = (Node::new("worker1")?, Node::new("other")?);
    for node in [&mut node, &mut other] {
        node.connect(&switch, "eth1", 1500)?;
    }
    other.ip("addr add 10.9.0.9/24 dev eth1")?;
    Ok((switch, node, other))
}

/// An attachment by either plugin to the wire behind eth1.
fn network(plugin: &str) -> Value {
    let mut network = match plugin {
        "macvtap" => json!({"master": "eth1", "mode": "bridge"}),
        _ => json!({"bridge": "br0", "uplinks": [{"name": "eth1"}]}),
    };
    network["cniVersion"] = json!("1.0.0");
    network["name"] = json!("flat");
    network["type"] = json!(plugin);
    network["ipam"] =
        json!({"type": "static", "addresses": [{"address": "10.9.0.7/24"}, {"address": "fd00::7/64"}]});
    network
}

fn know(pod: &Pod<'_>, record: &Value) -> Outcome {
    let path = format!("/run/k8slan/owners/uid-{}.json", pod.container());
    Ok(pod.node().write(&path, record.to_string())?)
}

fn check(condition: bool, what: impl Into<String>) -> Outcome {
    if condition { Ok(()) } else { Err(Stop::Failed(what.into())) }
}

/// Attaches a pod while the wire is watched, and looks whether its link is silent.
fn attach(other: &Node, pod: &Pod<'_>, ifname: &str, config: &Value) -> Result<(bool, String), Stop> {
    let plugin = config["type"].as_str().unwrap();
    let wire = PacketSocket::open(other, "eth1")?;
    let result = pod.add(plugin, ifname, config)?;
    let own = result["interfaces"].as_array().unwrap().iter().find(|i| i["sandbox"].is_string()).unwrap();
    let mac = own["mac"].as_str().unwrap().to_owned();
    check(result["ips"][0]["address"] == "10.9.0.7/24", result.to_string())?;
    let link = pod.ip(&format!("addr show dev {ifname}"))?;
    let silent = link.contains("NOARP");
    // Who is to answer has time for it, on a machine with other work.
    let limit = Duration::from_millis(if silent { 300 } else { 5_000 });
    let ping = Ping::new([10, 9, 0, 7]).timeout(limit).run(other)?;
    let answers = !ping.replies.is_empty();
    let spoke = wire.find(Duration::from_millis(1200), |frame| {
        frame.bytes[6..12].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":") == mac
    })?;
    check(silent == link.contains("ALLMULTI") && silent != link.contains("inet6"), &*link)?;
    // KubeVirt's DHCP finds a guest's IPv4 address on a bridge's link; a guest on a macvtap is not behind one.
    check(link.contains("10.9.0.7") != (silent && plugin == "macvtap"), &*link)?;
    check(
        silent != answers && silent != spoke.is_some(),
        format!("silent {silent}, answers {answers}, spoke {spoke:?}"),
    )?;
    pod.node().cni(plugin, "CHECK", &pod.call(ifname, config).with("prevResult", result.clone()))?;
    pod.del(plugin, ifname, config)?;
    check(!pod.link_names()?.contains(&ifname.to_owned()), format!("{ifname} is left"))?;
    Ok((silent, mac))
}

fn a_guest_is_known_whatever_its_interface_is_called() -> Outcome {
    at_once(["macvtap", "vlan-bridge"], |plugin| {
        let (_switch, node, other) = site()?;
        let config = network(plugin);
        let mut stated = config.clone();
        stated["args"] = json!({"cni": {"vm": "web"}});
        let is = |pod: &str, ifname: &str, record: Option<Value>, config: &Value| -> Result<_, Stop> {
            let pod = node.pod(pod)?;
            if let Some(record) = record {
                know(&pod, &record)?;
            }
            let what = format!("{plugin} {} {ifname}", pod.name());
            attach(&other, &pod, ifname, config).map_err(|stop| Stop::Failed(format!("{what}: {stop:?}")))
        };
        let record = || Some(json!({"vm": "web"}));
        // Stated by the request, where no daemon runs.
        let (silent, _) = is("qemu", "eth0", None, &stated)?;
        check(silent, format!("{plugin}: args.cni.vm"))?;
        // Names count in any case.
        let mut spelled = config.clone();
        spelled["args"] = json!({"CNI": {"VM": "web"}});
        check(is("qemu", "eth0", None, &spelled)?.0, format!("{plugin}: args.CNI.VM"))?;
        // KubeVirt's name is enough there.
        check(is("virt-launcher-web-aaaaa", HASH, None, &config)?.0, format!("{plugin}: by its name"))?;
        let (silent, first) = is("virt-launcher-web-aaaaa", "eth0", record(), &config)?;
        check(silent, format!("{plugin}: eth0"))?;
        let (silent, second) = is("virt-launcher-web-bbbbb", "eth0", record(), &config)?;
        check(silent && first == second, format!("{plugin}: {first} became {second} in the next launcher"))?;
        check(is("virt-launcher-web-aaaaa", "net1", record(), &config)?.0, format!("{plugin}: net1"))?;
        check(is("of-another-name", "eth0", record(), &config)?.0, format!("{plugin}: by its record"))?;
        // The daemon knows this pod, and says nothing.
        check(!is("web-0", HASH, None, &config)?.0, format!("{plugin}: an ordinary pod's {HASH}"))?;
        check(!is("web-0", "eth0", None, &config)?.0, format!("{plugin}: an ordinary pod"))
    })
}

fn the_pods_own_interface_stays_the_pods() -> Outcome {
    let (_switch, node, other) = site()?;
    for plugin in ["macvtap", "vlan-bridge"] {
        let pod = node.pod("virt-launcher-web-aaaaa")?;
        know(&pod, &json!({"vm": "web", "podNetwork": "eth0"}))?;
        // KubeVirt's masquerade sends the guest's traffic with this address.
        check(
            !attach(&other, &pod, "eth0", &network(plugin))?.0,
            format!("{plugin}: the launcher's own eth0"),
        )?;
        check(attach(&other, &pod, HASH, &network(plugin))?.0, format!("{plugin}: its guest's"))?;
    }
    Ok(())
}

fn a_launcher_that_nobody_knows_yet_is_tried_again() -> Outcome {
    let (_switch, node, _other) = site()?;
    node.exec(&["mkdir", "-p", "/run/k8slan/owners"])?;
    for plugin in ["macvtap", "vlan-bridge"] {
        let pod = node.pod("virt-launcher-web-aaaaa")?;
        let before = node.link_names()?;
        let error = refused(pod.add(plugin, "eth0", &network(plugin)))?;
        check(
            error.code == 11 && error.text().contains("default/virt-launcher-web-aaaaa"),
            error.to_string(),
        )?;
        check(pod.link_names()?.is_empty() && node.link_names()? == before, "something was made")?;
        know(&pod, &json!({"vm": "web"}))?;
        pod.add(plugin, "eth0", &network(plugin))?;
        pod.del(plugin, "eth0", &network(plugin))?;
    }
    Ok(())
}

fn refused(result: Result<Value, CniError>) -> Result<CniError, Stop> {
    result.err().ok_or_else(|| Stop::Failed("it was attached".to_owned()))
}

fn a_record_that_cannot_be_trusted_ends_the_add() -> Outcome {
    let (_switch, node, _other) = site()?;
    let pod = node.pod("virt-launcher-web-aaaaa")?;
    let path = format!("/run/k8slan/owners/uid-{}.json", pod.container());
    for plugin in ["macvtap", "vlan-bridge"] {
        for record in [json!({"vm": 1, "more": 1}), json!({"name": "web"}), json!(null), json!("")] {
            know(&pod, &record)?;
            let error = refused(pod.add(plugin, HASH, &network(plugin)))?;
            check(error.code == 104 && error.text().contains("one version"), format!("{record}: {error}"))?;
        }
        know(&pod, &json!({"vm": "../web"}))?;
        let error = refused(pod.add(plugin, HASH, &network(plugin)))?;
        check(error.code == 7 && error.text().contains("../web"), error.to_string())?;
        know(&pod, &json!({"vm": "web"}))?;
        node.exec(&["chmod", "666", &path])?;
        let error = refused(pod.add(plugin, HASH, &network(plugin)))?;
        check(error.code == 104 && error.text().contains("written by others"), error.to_string())?;
        node.exec(&["rm", &path])?;
        check(pod.link_names()?.is_empty(), "something was made")?;
        // DEL needs no record.
        know(&pod, &json!({"name": "web"}))?;
        pod.del(plugin, HASH, &network(plugin))?;
    }
    Ok(())
}

/// Fixed: what a VM had before plugins knew records is what it has for ever.
fn no_vms_mac_address_changes() -> Outcome {
    let (_switch, node, _other) = site()?;
    let long = "a-virtual-machine-with-a-name-of-43-charact";
    let longer = "a-virtual-machine-with-a-name-of-fifty-characters-1";
    assert_eq!((long.len(), longer.len()), (43, 51));
    let mac = |plugin: &str, pod: &str, record: Option<Value>| -> Result<String, Stop> {
        let pod = node.pod(pod)?;
        if let Some(record) = record {
            know(&pod, &record)?;
        }
        let mut config = network(plugin);
        config.as_object_mut().unwrap().remove("ipam");
        pod.add(plugin, HASH, &config)?;
        let mac = pod.link(HASH)?.unwrap()["address"].as_str().unwrap().to_owned();
        pod.del(plugin, HASH, &config)?;
        Ok(mac)
    };
    let launcher = |vm: &str, end: &str| {
        let base = format!("virt-launcher-{vm}-");
        format!("{}{end}", &base[..base.len().min(58)])
    };
    for (plugin, web, dotted) in [
        ("macvtap", "ce:0d:60:b6:47:de", "72:52:75:c0:08:80"),
        ("vlan-bridge", "be:38:48:41:dc:f4", "a6:ef:5e:a5:ea:1b"),
    ] {
        for record in [None, Some("web"), Some("another")] {
            let record = record.map(|vm| json!({"vm": vm}));
            let is = mac(plugin, "virt-launcher-web-x7k2p", record.clone())?;
            check(is == web, format!("{plugin}: {is} with {record:?}, {web} before"))?;
        }
        let is = mac(plugin, "virt-launcher-my.vm-2-zzzzz", Some(json!({"vm": "my.vm-2"})))?;
        check(is == dotted, format!("{plugin}: {is}, {dotted} before"))?;
        // A name that was cut gave each launcher another; the record's gives the VM one.
        for vm in [long, longer] {
            let record = || Some(json!({"vm": vm}));
            let (one, other) = (
                mac(plugin, &launcher(vm, "x7k2p"), record())?,
                mac(plugin, &launcher(vm, "zzzzz"), record())?,
            );
            check(one == other, format!("{plugin}: {vm} has {one} and {other}"))?;
            let sibling = mac(plugin, &launcher(vm, "x7k2p"), Some(json!({"vm": format!("{vm}x")})))?;
            check(sibling != one, format!("{plugin}: {vm} and {vm}x have one address"))?;
        }
        // Nobody has said it yet.
        let pod = node.pod(&launcher(longer, "x7k2p"))?;
        let error = refused(pod.add(plugin, HASH, &network(plugin)))?;
        check(error.code == 11 && error.text().contains("cut"), error.to_string())?;
        check(pod.link_names()?.is_empty(), "something was made")?;
    }
    Ok(())
}

fn a_seed_makes_the_mac_addresses_of_a_cluster() -> Outcome {
    let (_switch, node, _other) = site()?;
    let macs = || -> Result<Vec<String>, Stop> {
        let mut macs = Vec::new();
        for plugin in ["macvtap", "vlan-bridge"] {
            for (name, ifname) in [("virt-launcher-web-x7k2p", HASH), ("web-0", "net1")] {
                let pod = node.pod(name)?;
                let mut config = network(plugin);
                config.as_object_mut().unwrap().remove("ipam");
                pod.add(plugin, ifname, &config)?;
                macs.push(pod.link(ifname)?.unwrap()["address"].as_str().unwrap().to_owned());
                pod.del(plugin, ifname, &config)?;
            }
        }
        Ok(macs)
    };
    let today = macs()?;
    let mut seen = today.clone();
    for seed in ["one", "two"] {
        node.write("/etc/k8slan/node.yaml", format!("macSeed: {seed}\n"))?;
        let seeded = macs()?;
        check(seeded == macs()?, "a seed gives the same addresses each time")?;
        seen.extend(seeded);
    }
    seen.sort();
    seen.dedup();
    check(seen.len() == 12, format!("{seen:?}"))?;
    for nothing in ["macSeed: ''\n", "macSeed:\n", "nodeName: worker1\n"] {
        node.write("/etc/k8slan/node.yaml", nothing)?;
        check(macs()? == today, format!("{nothing:?} changed addresses"))?;
    }
    Ok(())
}

fn a_guest_on_a_veth_spoke_finds_its_addresses_on_the_link() -> Outcome {
    let switch = Switch::new()?;
    let (one, two) = (Worker::new("one", &switch, 1500)?, Worker::new("two", &switch, 1500)?);
    let lan = LanFile::new("lan1", 7, &["vm", "peer"]).with("spokeOverrides: {vm: {attach: veth}}");
    for worker in [&one, &two] {
        worker.put(&lan)?;
    }
    one.ready("vm")?;
    let peer = joined(&two, "peer", "10.9.0.9/24")?;
    let mut config = on_spoke("vm");
    config["ipam"] = json!({
        "type": "static",
        "addresses": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}, {"address": "fd00::7/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16", "gw": "10.9.0.2"}, {"dst": "fd01::/64", "gw": "fd00::1"}],
    });
    for (ifname, record) in [(HASH, false), ("eth0", true)] {
        let pod = one.pod("virt-launcher-web-aaaaa")?;
        if record {
            know(&pod, &json!({"vm": "web"}))?;
        }
        let wire = PacketSocket::open(&peer, "net1")?;
        let result = pod.add("macvtap", ifname, &config)?;
        let mac = result["interfaces"][0]["mac"].as_str().unwrap().to_owned();
        check(result["ips"].as_array().unwrap().len() == 2, result.to_string())?;
        // What KubeVirt's DHCP gives the guest.
        let link = pod.ip(&format!("addr show dev {ifname}"))?;
        check(link.contains("10.9.0.7/24") && link.contains("NOARP") && !link.contains("inet6"), &*link)?;
        let routes = pod.ip("route")?;
        check(
            routes.contains("default via 10.9.0.1") && routes.contains("10.8.0.0/16 via 10.9.0.2"),
            &*routes,
        )?;
        // The launcher's stack neither speaks nor answers.
        let ping = Ping::new([10, 9, 0, 7]).timeout(Duration::from_millis(300)).run(&peer)?;
        check(ping.replies.is_empty(), "the launcher pod answers for its guest")?;
        let from_guest = wire.find(Duration::from_millis(1200), |frame| {
            frame.bytes[6..12].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":") == mac
        })?;
        check(from_guest.is_none(), "the guest's MAC address was seen")?;
        let call = pod.call(ifname, &config).with("prevResult", result);
        one.cni("macvtap", "CHECK", &call)?;
        pod.ip(&format!("addr del 10.9.0.7/24 dev {ifname}"))?;
        let error = refused(one.cni("macvtap", "CHECK", &call))?;
        check(error.code == 110 && error.text().contains("10.9.0.7"), error.to_string())?;
        pod.del("macvtap", ifname, &config)?;
    }
    Ok(())
}

/// KubeVirt's bridge takes no macvtap for a port, and a veth has no device: such a VM would never start.
fn a_binding_that_cannot_work_is_refused() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("one", &switch, 1500)?;
    worker.put(&LanFile::new("lan1", 7, &["tap", "veth"]).with("spokeOverrides: {veth: {attach: veth}}"))?;
    worker.ready("tap")?;
    worker.ready("veth")?;
    worker.ip("link add zone type bridge")?;
    worker.ip("link add wire type veth peer name far")?;
    let on = |plugin: &str, key: &str, link: &str| json!({"cniVersion": "1.0.0", "name": "net", "type": plugin, key: link});
    let networks = [
        ("a spoke", on_spoke("tap"), Err("attach: veth"), Ok(())),
        ("a veth spoke", on_spoke("veth"), Ok(()), Err("attach: macvtap")),
        ("a master", on("macvtap", "master", "wire"), Err("attach: veth"), Err("a spoke of a LAN")),
        ("a bridge", on("vlan-bridge", "bridge", "zone"), Ok(()), Err("attach: macvtap")),
    ];
    for (what, config, bridge, tap) in networks {
        let plugin = config["type"].as_str().unwrap();
        for (binding, expected) in [("bridge", bridge), ("tap", tap)] {
            for ifname in [HASH, "eth0"] {
                let pod = worker.pod("virt-launcher-web-aaaaa")?;
                know(&pod, &json!({"vm": "web", "bindings": {ifname: binding}}))?;
                let before = worker.link_names()?;
                let added = pod.add(plugin, ifname, &config);
                let Err(words) = expected else {
                    added?;
                    pod.del(plugin, ifname, &config)?;
                    continue;
                };
                let error = refused(added)?;
                let said = error.text();
                check(
                    error.code == 7
                        && said.contains(words)
                        && said.contains(&format!("machine web binds interface {ifname} by ")),
                    format!("{what}, {binding}: {error}"),
                )?;
                check(pod.link_names()?.is_empty() && worker.link_names()? == before, "something was made")?;
            }
            // Of another interface's binding nothing follows.
            let pod = worker.pod("virt-launcher-web-aaaaa")?;
            know(&pod, &json!({"vm": "web", "bindings": {"net9": binding}}))?;
            pod.add(plugin, HASH, &config)?;
            pod.del(plugin, HASH, &config)?;
        }
    }
    Ok(())
}

/// Addresses of a pool; what else the section says.
fn pool(more: &Value) -> Value {
    let mut config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "bridge",
        "ipam": {"type": "ipam-pool", "ranges": [[{"subnet": "10.78.0.0/24", "rangeStart": "10.78.0.1", "gateway": "none"}]]},
    });
    for (key, value) in more.as_object().unwrap() {
        config["ipam"][key] = value.clone();
    }
    config
}

fn lease(pod: &Pod<'_>, ifname: &str, config: &Value) -> Result<String, CniError> {
    let result = pod.add("ipam-pool", ifname, config)?;
    Ok(result["ips"][0]["address"].as_str().unwrap_or_default().to_owned())
}

fn a_vms_address_is_its_own_wherever_its_launcher_runs() -> Outcome {
    let mut node = Node::new("n")?;
    let config = pool(&json!({}));
    for ifname in [HASH, "eth0"] {
        let launcher = |name: &str| -> Result<Pod<'_>, Stop> {
            let pod = node.pod(name)?;
            know(&pod, &json!({"vm": "web"}))?;
            Ok(pod)
        };
        let source = launcher("virt-launcher-web-aaaaa")?;
        let address = lease(&source, ifname, &config)?;
        // A live migration within the node: both have it, the source's end takes it from nobody.
        let target = node.pod("virt-launcher-web-bbbbb")?;
        know(&target, &json!({"vm": "web", "migrationTarget": true}))?;
        check(
            lease(&target, ifname, &config)? == address,
            format!("{ifname}: the target has another address"),
        )?;
        source.del("ipam-pool", ifname, &config)?;
        let other = node.pod("other")?;
        check(
            lease(&other, "net1", &config)? != address,
            format!("{ifname}: another pod has the VM's address"),
        )?;
        other.del("ipam-pool", "net1", &config)?;
        target.del("ipam-pool", ifname, &config)?;
        // Stopped and started again.
        check(
            lease(&other, "net1", &config)? != address,
            format!("{ifname}: freed while the VM is stopped"),
        )?;
        check(
            lease(&launcher("virt-launcher-web-ccccc")?, ifname, &config)? == address,
            "it started with another",
        )?;
        other.del("ipam-pool", "net1", &config)?;
        // Another VM, and one that wants no address kept.
        let second = node.pod("virt-launcher-web-2-aaaaa")?;
        know(&second, &json!({"vm": "web-2"}))?;
        let none = pool(&json!({"sticky": "none"}));
        let first = lease(&second, ifname, &none)?;
        check(first != address, "two VMs have one address")?;
        second.del("ipam-pool", ifname, &none)?;
        let leases = node.exec(&[testnet::program("ipam-pool").to_str().unwrap(), "leases"])?;
        let kept = leases.lines().any(|line| line.contains("vm:default/web-2") && !line.contains("resting"));
        check(!kept, format!("{first} is kept: {leases}"))?;
        node.exec(&[
            testnet::program("ipam-pool").to_str().unwrap(),
            "release",
            "vm:default/web",
            "--force",
        ])?;
    }
    node.reboot()?;
    Ok(())
}

fn a_launcher_of_nobody_gets_no_address() -> Outcome {
    let node = Node::new("n")?;
    let pod = node.pod("virt-launcher-web-aaaaa")?;
    let sections = [json!({}), json!({"sticky": "vm"}), json!({"sticky": "pod"})];
    for (code, part) in [(137, "it is not known which one"), (11, "has not recorded yet")] {
        for (section, ifname) in
            sections.iter().flat_map(|section| [(section, HASH), (section, "eth0"), (section, "net1")])
        {
            let error = lease(&pod, ifname, &pool(section)).err();
            let error =
                error.ok_or_else(|| Stop::Failed(format!("{section} {ifname}: it got an address")))?;
            check(error.code == code && error.text().contains(part), format!("{section} {ifname}: {error}"))?;
        }
        // A daemon that will say it.
        node.exec(&["mkdir", "-p", "/run/k8slan/owners"])?;
    }
    let leases = node.exec(&[testnet::program("ipam-pool").to_str().unwrap(), "leases"])?;
    check(!leases.contains("10.78.0."), &*leases)?;
    // Who wants it so gets one for the time of the pod.
    lease(&pod, HASH, &pool(&json!({"sticky": "none"})))?;
    // A pod that is no launcher is asked for nothing.
    lease(&node.pod("web-0")?, "eth0", &pool(&json!({})))?;
    Ok(())
}

fn the_launchers_own_address_is_nobodys() -> Outcome {
    let node = Node::new("n")?;
    let config = pool(&json!({"order": "lowest"}));
    let launcher = |name: &str| -> Result<Pod<'_>, Stop> {
        let pod = node.pod(name)?;
        know(&pod, &json!({"vm": "web", "podNetwork": "eth0"}))?;
        Ok(pod)
    };
    let (source, target) = (launcher("virt-launcher-web-aaaaa")?, launcher("virt-launcher-web-bbbbb")?);
    let first = lease(&source, "eth0", &config)?;
    check(lease(&target, "eth0", &config)? != first, "two pods of a cluster's network have one address")?;
    source.del("ipam-pool", "eth0", &config)?;
    check(lease(&node.pod("web-0")?, "eth0", &config)? == first, "it is kept")
}

/// Who writes a network's definition could use up what others share.
fn a_definition_makes_no_machines_up_in_a_pool() -> Outcome {
    let node = Node::new("n")?;
    let file = "apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata: {name: lan}\nspec:\n  scope: host\n  ranges: [{subnet: 10.78.0.0/29, gateway: none}]\n";
    node.write("/var/lib/k8slan/pools.d/lan.yaml", file)?;
    for number in 0..20 {
        let pod = node.pod("web-0")?;
        let config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "macvtap", "args": {"cni": {"vm": format!("vm-{number}")}},
            "ipam": {"type": "ipam-pool", "pool": "lan"},
        });
        lease(&pod, "net1", &config)?;
        pod.del("ipam-pool", "net1", &config)?;
    }
    Ok(())
}

/// The pool of a cluster on two nodes, and a VM that has an address on one of them.
fn a_migration_from_another_node_is_refused_where_the_address_is_not_known() -> Outcome {
    let file = |reservations: &str| {
        format!(
            "apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata: {{name: lan}}\nspec:\n  \
             ranges: [{{subnet: 10.78.0.0/24, gateway: none}}]\n  \
             nodes: {{one: [10.78.0.1-10.78.0.99], two: [10.78.0.100-10.78.0.199]}}\n{reservations}"
        )
    };
    let (one, two) = (Node::new("one")?, Node::new("two")?);
    let put = |reservations: &str| -> Outcome {
        for node in [&one, &two] {
            node.write("/etc/k8slan/node.yaml", format!("nodeName: {}\n", node.name()))?;
            node.write("/var/lib/k8slan/pools.d/lan.yaml", file(reservations))?;
        }
        Ok(())
    };
    put("")?;
    let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "macvtap", "ipam": {"type": "ipam-pool", "pool": "lan"}});
    let source = one.pod("virt-launcher-web-aaaaa")?;
    know(&source, &json!({"vm": "web"}))?;
    let address = lease(&source, HASH, &config)?;
    let target = two.pod("virt-launcher-web-bbbbb")?;
    know(&target, &json!({"vm": "web", "migrationTarget": true}))?;
    let unknown = |pod: &Pod<'_>| -> Outcome {
        let error = lease(pod, HASH, &config).err();
        let error = error.ok_or_else(|| Stop::Failed("it was booked without a word".to_owned()))?;
        let part = "which 10.78.0.100-10.78.0.199 on this node does not know";
        let all = error.code == 180 && error.text().contains("vm:default/web") && error.text().contains(part);
        check(all && error.text().contains("reservations"), error.to_string())
    };
    unknown(&target)?;
    let leases = two.exec(&[testnet::program("ipam-pool").to_str().unwrap(), "leases"])?;
    check(!leases.contains("10.78.0."), &*leases)?;
    // What it had here some time ago is not what it has now.
    let earlier = two.pod("virt-launcher-web-ccccc")?;
    know(&earlier, &json!({"vm": "web"}))?;
    let old = lease(&earlier, HASH, &config)?;
    check(old != address, "two nodes gave one address")?;
    earlier.del("ipam-pool", HASH, &config)?;
    unknown(&target)?;
    // A reservation is the same on every node.
    let host = address.split('/').next().unwrap();
    two.exec(&[testnet::program("ipam-pool").to_str().unwrap(), "release", "vm:default/web", "--force"])?;
    put(&format!("  reservations: {{\"vm:default/web\": {host}}}\n"))?;
    for _ in 0..2 {
        check(lease(&target, HASH, &config)? == address, "the target has another address")?;
        target.del("ipam-pool", HASH, &config)?;
    }
    // A start on another node is none of it; what it may mean is said.
    let program = testnet::program("ipam-pool");
    let other = two.pod("virt-launcher-db-aaaaa")?;
    know(&other, &json!({"vm": "db"}))?;
    let call = other.call(HASH, &config);
    let mut command = two.command(&program);
    command
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", &call.container)
        .env("CNI_IFNAME", &call.ifname)
        .env("CNI_ARGS", &call.args)
        .env("CNI_NETNS", call.netns.as_deref().unwrap_or_default())
        .env("CNI_PATH", program.parent().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().unwrap().write_all(call.config.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    check(
        output.status.success()
            && said.contains("vm:default/db")
            && said.contains("a node on which the machine ran before"),
        said,
    )
}
