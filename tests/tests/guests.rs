//! Who is a VM's guest: whatever its interface is called, as the node daemon's record or the request says, alike for
//! both main plugins; and what a guest keeps: its silence, its MAC address.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use testnet::{CniError, Node, Outcome, PacketSocket, Ping, Pod, Stop, Switch};

fn main() -> ExitCode {
    testnet::main(testnet::tests![
        a_guest_is_known_whatever_its_interface_is_called,
        the_pods_own_interface_stays_the_pods,
        a_launcher_that_nobody_knows_yet_is_tried_again,
        a_record_that_cannot_be_trusted_ends_the_add,
        no_vms_mac_address_changes,
    ])
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
    let ping = Ping::new([10, 9, 0, 7]).patience(Duration::from_millis(300)).run(other)?;
    let answers = !ping.replies.is_empty();
    let spoke = wire.find(Duration::from_millis(1200), |frame| {
        frame.bytes[6..12].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":") == mac
    })?;
    let link = pod.ip(&format!("addr show dev {ifname}"))?;
    let silent = link.contains("NOARP");
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
    let (_switch, node, other) = site()?;
    for plugin in ["macvtap", "vlan-bridge"] {
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
        check(!is("web-0", "eth0", None, &config)?.0, format!("{plugin}: an ordinary pod"))?;
        node.exec(&["rm", "-r", "/run/k8slan/owners"])?;
    }
    Ok(())
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
        for record in [json!({"vm": "web", "more": 1}), json!({"name": "web"}), json!(null), json!("")] {
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
