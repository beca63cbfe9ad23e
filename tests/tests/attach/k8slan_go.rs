//! What pods of k8slan (Go) find here: its CNI type, on a node that has it switched on.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use k8slan_tests::kubelet::Kubelet;
use k8slan_tests::{LanFile, Traces, Worker, call_in, joined, on_spoke};
use serde_json::{Value, json};
use testnet::{Namespaces, Node, Outcome, PacketSocket, Ping, Stop, Switch};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        a_pod_of_upstreams_gets_its_spokes_veth,
        its_addresses_and_routes_are_set_and_checked,
        checksums_are_complete_where_they_are_asked_for,
        nobody_takes_a_veth_where_it_is_switched_off,
        a_macvtap_that_is_held_to_one_address_does_not_become_a_veth,
        a_lan_admits_whom_it_admits_by_this_type_too,
        a_spoke_has_one_holder_whatever_the_type,
        mistakes_change_nothing,
        all_names_of_a_spoke_lead_to_one_device,
        names_go_with_the_switch,
    ]
}

fn lan() -> LanFile {
    LanFile::new("lan1", 7, &["srl", "vm"])
}

fn worker(lan: &LanFile, options: &[&str]) -> Result<(Switch, Worker), Stop> {
    let switch = Switch::new()?;
    let mut node = Node::new("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    let worker = Worker::with_options(node, options)?;
    worker.put(lan)?;
    for spoke in &lan.spokes {
        worker.ready(spoke)?;
    }
    Ok((switch, worker))
}

const ON: &[&str] = &["--compat", "k8slan-go"];

/// As upstream's controller writes it, with what Multus puts in.
fn upstreams(spoke: &str) -> Value {
    json!({"cniVersion": "0.3.1", "name": format!("k8slan-veth-{spoke}"), "type": "k8slanveth", "veth": spoke, "deviceID": spoke})
}

/// The same with further keys.
fn with(spoke: &str, more: Value) -> Value {
    let mut config = upstreams(spoke);
    let (Value::Object(config), Value::Object(more)) = (&mut config, more) else { panic!("no objects") };
    config.extend(more);
    Value::Object(config.clone())
}

/// Whether a link of a namespace leaves checksums to others.
fn leaves_checksums(place: &Namespaces, link: &str) -> bool {
    place.run(|| {
        let netns = netplumb::Netns::current().unwrap();
        netplumb::TxChecksum::find(&netns, &link.parse().unwrap()).unwrap().is_on().unwrap()
    })
}

/// Whether an Ethernet frame with a UDP datagram over IPv4 has the datagram's checksum (RFC 768).
fn has_its_checksum(frame: &[u8]) -> bool {
    let (header, datagram) = (&frame[14..34], &frame[34..]);
    let length = usize::from(u16::from_be_bytes([datagram[4], datagram[5]]));
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|two| u32::from(u16::from_be_bytes([two[0], two.get(1).copied().unwrap_or(0)])))
            .sum()
    };
    let sum = words(&header[12..20]) + 17 + u32::try_from(length).unwrap() + words(&datagram[..length]);
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded & 0xffff) + (folded >> 16) == 0xffff
}

fn port(worker: &Worker, lan: &LanFile) -> Result<String, Stop> {
    let names = worker.netns(&lan.netns())?.link_names()?;
    Ok(names.into_iter().find(|name| name.starts_with('+')).expect("no port"))
}

fn perfect(from: &Namespaces, to: &str) -> Outcome {
    let to: IpAddr = to.parse().unwrap();
    Ping::new(to).repeated(3, Duration::from_millis(5)).run(from)?.perfect().map_err(Stop::Failed)
}

fn a_pod_of_upstreams_gets_its_spokes_veth() -> Outcome {
    let (_switch, worker) = worker(&lan(), ON)?;
    let before = Traces::of(&worker, &lan())?;
    let pod = worker.pod("srl")?;
    let result = pod.add("macvtap", "e1-1", &upstreams("srl"))?;
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 1, "{result}");
    assert_eq!(result["interfaces"][0]["name"], "e1-1");
    assert!(result.get("ips").is_none_or(|ips| ips.as_array().is_none_or(Vec::is_empty)), "{result}");
    let kind = pod.link("e1-1")?.unwrap();
    assert_eq!(kind["linkinfo"]["info_kind"], "veth", "{kind}");
    assert_eq!(worker.list("/dev").iter().filter(|name| name.starts_with("tap")).count(), 0);
    // Beside a VM on the other spoke of the same LAN.
    pod.ip("addr add 10.0.0.1/24 dev e1-1")?;
    let vm = joined(&worker, "vm", "10.0.0.2/24")?;
    perfect(&pod, "10.0.0.2")?;
    let mut check = with("srl", json!({"cniVersion": "1.0.0"}));
    check["prevResult"] = result;
    worker.cni("macvtap", "CHECK", &pod.call("e1-1", &check))?;
    worker.cni("macvtap", "STATUS", &pod.call("e1-1", &with("srl", json!({"cniVersion": "1.1.0"}))))?;
    vm.del("macvtap", "net1", &on_spoke("vm"))?;
    pod.del("macvtap", "e1-1", &upstreams("srl"))?;
    pod.del("macvtap", "e1-1", &upstreams("srl"))?;
    assert_eq!(Traces::of(&worker, &lan())?, before);
    Ok(())
}

fn its_addresses_and_routes_are_set_and_checked() -> Outcome {
    let (_switch, worker) = worker(&lan(), ON)?;
    let before = Traces::of(&worker, &lan())?;
    let pod = worker.pod("srl")?;
    let more = json!({
        "cniVersion": "1.0.0",
        "addrs": ["10.0.0.1/24", "fd00::1/64"], "routes": [{"to": "10.9.0.0/16", "via": "10.0.0.254"}, {"to": "fd09::/48", "via": "fd00::fe"}],
        "disableTxChecksum": true, "peerNS": "/run/k8slan/netns/lan1", "ipam": {}, "dns": {"nameservers": ["10.0.0.53"]}, "enableDad": true,
    });
    let config = with("srl", more);
    let result = pod.add("macvtap", "e1-1", &config)?;
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(2), "{result}");
    assert_eq!(result["routes"].as_array().map(Vec::len), Some(2), "{result}");
    assert_eq!(result["dns"]["nameservers"][0], "10.0.0.53");
    let addresses = pod.ip("addr show dev e1-1")?;
    assert!(addresses.contains("10.0.0.1/24") && addresses.contains("fd00::1/64"), "{addresses}");
    assert!(!addresses.contains("tentative"), "ADD waits for duplicate address detection: {addresses}");
    let routes = format!("{}{}", pod.ip("route")?, pod.ip("-6 route")?);
    assert!(routes.contains("10.9.0.0/16 via 10.0.0.254"), "{routes}");
    assert!(routes.contains("fd09::/48 via fd00::fe"), "{routes}");
    let other = joined(&worker, "vm", "10.0.0.254/24")?;
    perfect(&pod, "10.0.0.254")?;
    let mut check = config.clone();
    check["prevResult"] = result;
    let call = pod.call("e1-1", &check);
    worker.cni("macvtap", "CHECK", &call)?;
    pod.ip("addr del fd00::1/64 dev e1-1")?;
    let error = worker.cni("macvtap", "CHECK", &call).unwrap_err();
    assert!(error.code == 110 && error.text().contains("fd00::1/64"), "{error}");
    other.del("macvtap", "net1", &on_spoke("vm"))?;
    pod.del("macvtap", "e1-1", &config)?;
    assert_eq!(Traces::of(&worker, &lan())?, before);
    // What a later version of upstream's writes where there is none of it.
    let twice = with("srl", json!({"addrs": ["10.0.0.1/24", "10.0.0.1/24"]}));
    pod.add("macvtap", "e1-1", &twice)?;
    pod.del("macvtap", "e1-1", &twice)?;
    Ok(())
}

fn checksums_are_complete_where_they_are_asked_for() -> Outcome {
    let (_switch, worker) = worker(&lan(), ON)?;
    for (wanted, config) in [
        (false, upstreams("srl")),
        (true, with("srl", json!({"cniVersion": "1.0.0", "disableTxChecksum": true}))),
    ] {
        let pod = worker.pod("srl")?;
        let result = pod.add("macvtap", "e1-1", &config)?;
        let (netns, port) = (worker.netns(&lan().netns())?, port(&worker, &lan())?);
        assert_eq!(leaves_checksums(&netns, &port), !wanted);
        // A datagram of another pod, whose kernel leaves its checksum to the network card that is none here.
        pod.ip("addr add 10.0.0.1/24 dev e1-1")?;
        let sender = joined(&worker, "vm", "10.0.0.2/24")?;
        perfect(&sender, "10.0.0.1")?;
        let seen = PacketSocket::open(&pod, "e1-1")?;
        sender.run(|| UdpSocket::bind("10.0.0.2:0").unwrap().send_to(b"checksum", "10.0.0.1:9").unwrap());
        let frame = seen
            .find(Duration::from_secs(2), |frame| frame.bytes.get(23) == Some(&17))?
            .expect("no datagram");
        assert_eq!(has_its_checksum(&frame.bytes), wanted, "{:02x?}", frame.bytes);
        sender.del("macvtap", "net1", &on_spoke("vm"))?;
        let mut check = with("srl", json!({"cniVersion": "1.0.0", "disableTxChecksum": true}));
        check["prevResult"] = result;
        let checked = worker.cni("macvtap", "CHECK", &pod.call("e1-1", &check));
        match checked {
            Ok(_) => assert!(wanted),
            Err(error) => {
                assert!(!wanted && error.code == 110 && error.text().contains("tx-checksum"), "{error}")
            }
        }
        pod.del("macvtap", "e1-1", &config)?;
    }
    Ok(())
}

fn nobody_takes_a_veth_where_it_is_switched_off() -> Outcome {
    let (_switch, worker) = worker(&lan(), &[])?;
    let before = Traces::of(&worker, &lan())?;
    let pod = worker.pod("srl")?;
    let error = pod.add("macvtap", "e1-1", &upstreams("srl")).unwrap_err();
    let off = "takes no attachments of type k8slanveth: they are switched off on this node (the component k8slan-go";
    assert!(error.code == 101 && error.text().contains(off), "{error}");
    let status = with("srl", json!({"cniVersion": "1.1.0"}));
    let error = worker.cni("macvtap", "STATUS", &pod.call("e1-1", &status)).unwrap_err();
    assert_eq!(error.code, 50, "{error}");
    // It stays possible to end what was attached before.
    pod.del("macvtap", "e1-1", &upstreams("srl"))?;
    assert_eq!(Traces::of(&worker, &lan())?, before);
    assert!(worker.record("srl").unwrap().get("k8slanveth").is_none());
    Ok(())
}

fn a_macvtap_that_is_held_to_one_address_does_not_become_a_veth() -> Outcome {
    let lan = lan().with("mode: bridge");
    let (_switch, worker) = worker(&lan, ON)?;
    let pod = worker.pod("srl")?;
    let error = pod.add("macvtap", "e1-1", &upstreams("srl")).unwrap_err();
    assert!(error.code == 101 && error.text().contains("passthru"), "{error}");
    pod.add("macvtap", "net1", &on_spoke("srl"))?;
    pod.del("macvtap", "net1", &on_spoke("srl"))?;
    // A LAN of veths gives them whatever the mode of macvtaps would be.
    worker.put(&lan.with("attach: veth"))?;
    testnet::eventually(Duration::from_secs(10), || {
        pod.add("macvtap", "e1-1", &upstreams("srl")).map_err(|error| error.to_string())
    })?;
    Ok(())
}

fn a_lan_admits_whom_it_admits_by_this_type_too() -> Outcome {
    let lan = lan().with("allowedNamespaces: [web]");
    let (_switch, worker) = worker(&lan, ON)?;
    let pod = worker.pod("srl")?;
    let error = pod.add("macvtap", "e1-1", &upstreams("srl")).unwrap_err();
    assert!(error.code == 101 && error.text().contains("default"), "{error}");
    worker.cni("macvtap", "ADD", &call_in("web", &pod, "e1-1", &upstreams("srl")))?;
    Ok(())
}

fn a_spoke_has_one_holder_whatever_the_type() -> Outcome {
    let (_switch, worker) = worker(&lan(), ON)?;
    let (first, second) = (worker.pod("first")?, worker.pod("second")?);
    first.add("macvtap", "e1-1", &upstreams("srl"))?;
    let late = second.add("macvtap", "net1", &on_spoke("srl")).unwrap_err();
    assert!(late.code == 11 && late.text().contains("first"), "{late}");
    second.del("macvtap", "net1", &on_spoke("srl"))?;
    assert!(first.link("e1-1")?.is_some());
    first.del("macvtap", "e1-1", &upstreams("srl"))?;
    second.add("macvtap", "net1", &on_spoke("srl"))?;
    let late = first.add("macvtap", "e1-1", &upstreams("srl")).unwrap_err();
    assert_eq!(late.code, 11, "{late}");
    // By the other type's configuration, what stands is found by its owner.
    second.del("macvtap", "net1", &upstreams("srl"))?;
    first.add("macvtap", "e1-1", &upstreams("srl"))?;
    first.del("macvtap", "e1-1", &on_spoke("srl"))?;
    assert!(first.link("e1-1")?.is_none());
    Ok(())
}

fn mistakes_change_nothing() -> Outcome {
    let (_switch, worker) = worker(&lan(), ON)?;
    let before = Traces::of(&worker, &lan())?;
    let pod = worker.pod("srl")?;
    let cases = [
        (json!({"veth": ""}), 7, "needs veth"),
        (json!({"veth": "vm"}), 7, "handed out"),
        (json!({"veth": "srl", "deviceID": "br2"}), 7, "handed out"),
        (json!({"master": "eth1"}), 7, "master"),
        (json!({"spoke": "vm"}), 7, "spoke"),
        (json!({"attach": "macvtap"}), 7, "attach"),
        (json!({"routes": [{"to": "10.9.0.0/16", "via": "10.0.0.254"}]}), 7, "address"),
        (json!({"addrs": ["10.0.0.1/24"], "routes": [{"to": "10.9.0.0/16", "via": "fd00::1"}]}), 7, "family"),
        (json!({"addrs": ["10.0.0.1"]}), 7, "addrs[0]"),
        (json!({"addrs": ["10.0.0.1/24"], "routes": [{"to": "10.9.0.0/16"}]}), 7, "via"),
        (json!({"disableTxChecksum": "yes"}), 7, "disableTxChecksum"),
        (json!({"mtu": 9000}), 7, "MTU 9000"),
        // The kernel's word.
        (
            json!({"addrs": ["10.0.0.1/24"], "routes": [{"to": "10.9.0.0/16", "via": "192.0.2.1"}]}),
            100,
            "ENETUNREACH",
        ),
        (json!({"veth": "unknown", "deviceID": "unknown"}), 11, "unknown on this node"),
    ];
    for (more, code, words) in cases {
        let config = with("srl", more.clone());
        let error = pod.add("macvtap", "e1-1", &config).unwrap_err();
        assert!(error.code == code && error.text().contains(words), "{more}: {error}");
        assert_eq!(pod.link_names()?, [""; 0], "{more}");
        pod.del("macvtap", "e1-1", &config)?;
    }
    assert_eq!(Traces::of(&worker, &lan())?, before);
    // In another type the same keys are nobody's.
    let mut config = on_spoke("srl");
    config["addrs"] = json!(7);
    pod.add("macvtap", "net1", &config)?;
    pod.del("macvtap", "net1", &config)?;
    Ok(())
}

const SOON: Duration = Duration::from_secs(10);

fn with_kubelet(options: &[&str]) -> Result<(Switch, Worker, Kubelet), Stop> {
    let (switch, worker) = worker(&lan(), &[&["--kubelet-dir", Worker::KUBELET], options].concat())?;
    let kubelet = Kubelet::start(&worker.var_lib().join("kubelet/device-plugins"))?;
    Ok((switch, worker, kubelet))
}

/// Waits until the kubelet can give out these resources of a spoke, and no other of it.
fn given_out(kubelet: &Kubelet, spoke: &str, wanted: &[&str]) -> Outcome {
    let wanted: Vec<String> = wanted.iter().map(|name| format!("macvtap.k8slan.io/{name}")).collect();
    testnet::eventually(SOON, || {
        let all = kubelet.allocatable();
        let found: Vec<_> = all.iter().filter(|name| name.ends_with(spoke)).cloned().collect();
        if found == wanted { Ok(()) } else { Err(format!("{found:?} and not {wanted:?}")) }
    })?;
    Ok(())
}

const ALL: [&str; 5] =
    ["k8slan-mac-lan1-srl", "k8slan-mac-srl", "k8slan-veth-lan1-srl", "k8slan-veth-srl", "srl"];

fn all_names_of_a_spoke_lead_to_one_device() -> Outcome {
    let (_switch, worker, kubelet) = with_kubelet(ON)?;
    given_out(&kubelet, "srl", &ALL)?;
    let refused = |error: String| Stop::Failed(error);
    let veth = kubelet.admit("uid-1", "main", "macvtap.k8slan.io/k8slan-veth-srl", 1).map_err(refused)?;
    assert!(veth.devices.is_empty(), "a veth has no device node: {veth:?}");
    given_out(&kubelet, "srl", &["k8slan-veth-srl"])?;
    let pod = worker.pod("first")?;
    pod.add("macvtap", "e1-1", &upstreams("srl"))?;
    worker.status(|status| status.contains("\"usedBy\""))?;
    given_out(&kubelet, "srl", &["k8slan-veth-srl"])?;
    // The daemon starts again, and knows by which name the pod has it.
    worker.stop_daemon()?;
    worker.start_daemon()?;
    testnet::eventually(SOON, || {
        let of = |name: &str| kubelet.resource(&format!("macvtap.k8slan.io/{name}"));
        match (of("k8slan-veth-srl"), of("k8slan-mac-srl"), of("srl"), of("k8slan-mac-vm")) {
            (Some((1, 1)), Some((1, 0)), Some((1, 0)), Some((1, 1))) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let rejected = kubelet.admit("uid-2", "main", "macvtap.k8slan.io/k8slan-mac-srl", 1).unwrap_err();
    assert!(!rejected.is_empty());
    // What the kubelet hands out cannot be taken by name, by neither type.
    let mut by_name = upstreams("srl");
    by_name.as_object_mut().unwrap().remove("deviceID");
    let other = worker.pod("other")?;
    let error = other.add("macvtap", "e1-1", &by_name).unwrap_err();
    assert!(error.code == 101 && error.text().contains("macvtap.k8slan.io/k8slan-veth-srl"), "{error}");
    pod.del("macvtap", "e1-1", &upstreams("srl"))?;
    kubelet.forget("uid-1");
    given_out(&kubelet, "srl", &ALL)?;
    let mac = kubelet.admit("uid-2", "main", "macvtap.k8slan.io/k8slan-mac-srl", 1).map_err(refused)?;
    let index = worker.record("srl").unwrap()["tapIndex"].as_u64().unwrap();
    assert_eq!(mac.devices[0].host_path, format!("/dev/tap{index}"));
    other.add("macvtap", "net1", &on_spoke("srl"))?;
    given_out(&kubelet, "srl", &["k8slan-mac-srl"])
}

fn names_go_with_the_switch() -> Outcome {
    let (_switch, worker, kubelet) = with_kubelet(&[])?;
    given_out(&kubelet, "srl", &["srl"])?;
    assert!(worker.list("/var/lib/k8slan").iter().all(|name| name != "handed-out.json"));
    let pod = worker.pod("srl")?;
    let error = pod.add("macvtap", "e1-1", &upstreams("srl")).unwrap_err();
    assert_eq!(error.code, 101, "{error}");
    Ok(())
}
