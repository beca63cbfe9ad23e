//! What the daemon builds, repairs, changes and takes down; and what it does not touch.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::IpAddr;
use std::time::Duration;

use k8slan_tests::{LanFile, Traces, Worker, joined, metric, on_spoke, underlay};
use serde_json::Value;
use testnet::{Error, Namespaces, Netns, Node, Outcome, Ping, Stop, Switch, eventually, stays};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        a_lan_is_built_as_its_file_says,
        the_underlay_may_come_later,
        the_underlay_may_go_and_come_back,
        drift_is_repaired_within_a_second,
        a_vanished_namespace_is_built_again,
        the_underlay_is_changed_in_the_file,
        the_vni_is_changed_in_the_file,
        a_spoke_is_added_and_removed,
        a_removed_lan_is_taken_down,
        a_lan_removed_under_live_pods_falls_silent,
        a_spoke_removed_under_a_live_pod_falls_silent,
        a_refused_lan_names_all_who_use_it,
        a_lan_removed_while_the_daemon_was_away_is_taken_down,
        a_foreign_namespace_is_not_touched,
        foreign_links_in_the_lans_namespace_are_not_touched,
        an_underlay_too_small_for_the_mtu_is_told,
        values_out_of_range_are_told,
        duplicates_are_told_and_the_first_stays,
        broken_files_are_told_and_disturb_no_other,
    ]
}

/// Long enough for a daemon that hears of changes, too short for one that looks now and then.
const SECOND: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn lan() -> LanFile {
    LanFile::new("lan1", 7, &["a", "b"])
}

fn one_worker() -> Result<(Switch, Worker), Stop> {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    Ok((switch, worker))
}

fn two_workers(lan: &LanFile) -> Result<(Switch, Worker, Worker), Stop> {
    let switch = Switch::new()?;
    let (one, two) = (Worker::new("worker1", &switch, 1500)?, Worker::new("worker2", &switch, 1500)?);
    one.put(lan)?;
    two.put(lan)?;
    Ok((switch, one, two))
}

/// The VXLAN device as the kernel has it.
fn vxlan(worker: &Worker, lan: &LanFile) -> Option<Value> {
    worker.netns(&lan.netns()).ok()?.link("vx2").ok()?
}

fn pings(from: &Namespaces, to: &str) -> bool {
    Ping::new(ip(to)).timeout(Duration::from_millis(100)).run(from).is_ok_and(|report| report.lost() == 0)
}

/// Waits for a ping to be answered. An ARP request that was lost is repeated after a second
/// (retrans_time_ms), and an underlay that is new has no IPv6 address for another (dad_transmits).
fn heals(from: &Namespaces, to: &str) -> Outcome {
    eventually(3 * SECOND, || if pings(from, to) { Ok(()) } else { Err(format!("{to} answers again")) })?;
    Ok(())
}

fn a_lan_is_built_as_its_file_says() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let lan = lan().with("vxlanPort: 4790").with("mtu: 1400");
    worker.put(&lan)?;
    let record = worker.ready("a")?;
    let inside = worker.netns(&lan.netns())?;
    let (bridge, vxlan) = (inside.link("br2")?.unwrap(), vxlan(&worker, &lan).unwrap());
    let data = &vxlan["linkinfo"]["info_data"];
    assert_eq!((&data["id"], &data["port"], &data["group6"]), (&7.into(), &4790.into(), &"ff02::14".into()));
    assert_eq!(
        (&vxlan["mtu"], &vxlan["master"], &record["mtu"]),
        (&1400.into(), &"br2".into(), &1400.into())
    );
    let data = &bridge["linkinfo"]["info_data"];
    assert_eq!((&data["stp_state"], &data["mcast_snooping"]), (&0.into(), &0.into()));
    for link in [&bridge, &vxlan] {
        assert!(link["flags"].as_array().unwrap().contains(&"UP".into()), "{link}");
    }
    // The underlay stays on the node: the device is bound to a link of another namespace.
    assert_eq!(inside.link("eth1")?, None);
    assert_eq!(underlay(&worker, &inside, &vxlan)?.as_deref(), Some("eth1"));
    assert_eq!(worker.link_names()?, ["eth1"]);
    // A user finds it where ip(8) looks.
    worker.ip("-n lan1 link show br2")?;
    Ok(())
}

fn the_underlay_may_come_later() -> Outcome {
    let worker = Worker::on(Node::new("worker1")?)?;
    worker.put(&lan())?;
    worker.not_ready("a", "eth1")?;
    let pod = worker.pod("a")?;
    let error = pod.add("macvtap", "net1", &on_spoke("a")).unwrap_err();
    assert_eq!(error.code, 11, "{error}");
    assert!(error.text().contains("eth1"), "{error}");
    assert_eq!(pod.link_names()?, [""; 0]);
    worker.ip("link add eth1 type veth peer name cable")?;
    worker.ip("link set cable up")?;
    worker.ip("link set eth1 up")?;
    worker.ready("a")?;
    pod.add("macvtap", "net1", &on_spoke("a"))?;
    Ok(())
}

fn the_underlay_may_go_and_come_back() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let lan = lan();
    worker.put(&lan)?;
    let (a, b) = (joined(&worker, "a", "10.0.0.1/24")?, joined(&worker, "b", "10.0.0.2/24")?);
    // The kernel deletes a VXLAN device with its underlay.
    worker.ip("link del eth1")?;
    eventually(SECOND, || vxlan(&worker, &lan).map_or(Ok(()), |_| Err("the VXLAN device goes".to_owned())))?;
    assert!(pings(&a, "10.0.0.2"), "pods of one node need no underlay");
    worker.ip("link add eth1 type veth peer name cable")?;
    worker.ip("link set eth1 up")?;
    eventually(SECOND, || vxlan(&worker, &lan).map(drop).ok_or("the VXLAN device is back".to_owned()))?;
    worker.ready("a")?;
    drop(b);
    Ok(())
}

/// What the daemon keeps of each link of a LAN.
fn shape(inside: &Netns<'_>) -> Result<Vec<[Value; 5]>, Error> {
    let mut names = inside.link_names()?;
    names.sort();
    let mut shape = Vec::new();
    for name in names {
        let Some(link) = inside.link(&name)? else { continue };
        let up = link["flags"].as_array().is_some_and(|flags| flags.contains(&"UP".into()));
        let snooping = link["linkinfo"]["info_data"]["mcast_snooping"].clone();
        shape.push([name.into(), up.into(), link["master"].clone(), link["mtu"].clone(), snooping]);
    }
    Ok(shape)
}

fn drift_is_repaired_within_a_second() -> Outcome {
    let lan = lan();
    let (_switch, one, two) = two_workers(&lan)?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    heals(&a, "10.0.0.2")?;
    let (builds, repairs) = ("k8slan_build_seconds_count", "k8slan_drift_repairs_total");
    assert_eq!((metric(&one, builds)?, metric(&one, repairs)?), (1.0, 0.0), "an attachment is neither");
    let inside = one.netns(&lan.netns())?;
    let port = inside.link_names()?.into_iter().find(|name| name.starts_with('+')).unwrap();
    let (port_out, port_down) = (format!("link set {port} nomaster"), format!("link set {port} down"));
    let (port_was_out, port_was_down) = (format!("{port} was no port of br2"), format!("{port} was down"));
    for (damage, said) in [
        ("link set br2 down", "br2 was down"),
        ("link set vx2 down", "vx2 was down"),
        ("link set vx2 nomaster", "vx2 was no port of br2"),
        ("link del vx2", "vx2 was gone"),
        ("link set br2 type bridge mcast_snooping 1", "br2 had multicast snooping on"),
        ("link set vx2 mtu 1300", "vx2 had another MTU than 1426"),
        (&port_out, &port_was_out),
        (&port_down, &port_was_down),
        ("link set dev a down", "a was down"),
    ] {
        let (before, repaired) = (shape(&inside)?, metric(&one, repairs)?);
        inside.ip(damage)?;
        let mut now = Vec::new();
        eventually(SECOND, || {
            now = shape(&inside).map_err(|error| error.to_string())?;
            if now == before { Ok(()) } else { Err(format!("after `{damage}` {now:?} becomes {before:?}")) }
        })?;
        heals(&a, "10.0.0.2").map_err(|stop| Stop::Failed(format!("after `{damage}`: {stop:?}")))?;
        eventually(SECOND, || match metric(&one, repairs) {
            Ok(now) if now > repaired => Ok(()),
            other => Err(format!("after `{damage}` {repairs} is {other:?}")),
        })?;
        let is_said = one.log().lines().any(|line| line.contains("repaired: ") && line.contains(said));
        assert!(is_said, "after `{damage}`, {said:?} is not in {}", one.log());
    }
    // Another VNI on a device of the right name.
    inside.ip("link del vx2")?;
    let _ = inside.ip("link add vx2 type vxlan id 8 group ff02::14 dstport 4789 dev lo");
    heals(&a, "10.0.0.2")?;
    eventually(SECOND, || {
        let bridge = inside.link("br2").unwrap().unwrap();
        let vxlan = vxlan(&one, &lan).ok_or("no VXLAN device")?;
        let seen = (&bridge["linkinfo"]["info_data"]["mcast_snooping"], &vxlan["mtu"]);
        if seen == (&0.into(), &1426.into()) { Ok(()) } else { Err(format!("snooping and MTU are {seen:?}")) }
    })?;
    assert_eq!(metric(&one, builds)?, 1.0, "a repair is no build");
    one.put(&lan.with("mtu: 1300"))?;
    eventually(SECOND, || match metric(&one, builds) {
        Ok(2.0) => Ok(()),
        other => Err(format!("a change is built: {other:?}")),
    })?;
    drop(b);
    Ok(())
}

fn a_vanished_namespace_is_built_again() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let lan = lan();
    worker.put(&lan)?;
    worker.ready("a")?;
    worker.ip("netns del lan1")?;
    eventually(SECOND, || vxlan(&worker, &lan).map(drop).ok_or("the LAN is built again".to_owned()))?;
    worker.ready("a")?;
    let (a, b) = (joined(&worker, "a", "10.0.0.1/24")?, joined(&worker, "b", "10.0.0.2/24")?);
    heals(&a, "10.0.0.2")?;
    drop(b);
    Ok(())
}

fn the_underlay_is_changed_in_the_file() -> Outcome {
    let (first, second) = (Switch::new()?, Switch::new()?);
    let workers = ["worker1", "worker2"].map(|name| -> Result<Worker, Stop> {
        let mut node = Node::new(name)?;
        node.connect(&first, "eth1", 1500)?;
        node.connect(&second, "eth2", 1500)?;
        let worker = Worker::on(node)?;
        worker.put(&lan())?;
        Ok(worker)
    });
    let [one, two] = workers;
    let (one, two) = (one?, two?);
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    heals(&a, "10.0.0.2")?;
    let mut changed = lan();
    changed.dev = "eth2".to_owned();
    one.put(&changed)?;
    falls_silent(&a, "10.0.0.2")?;
    two.put(&changed)?;
    heals(&a, "10.0.0.2")?;
    drop(b);
    Ok(())
}

fn the_vni_is_changed_in_the_file() -> Outcome {
    let (_switch, one, two) = two_workers(&lan())?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    heals(&a, "10.0.0.2")?;
    let mut changed = lan();
    changed.vni = 4095;
    one.put(&changed)?;
    falls_silent(&a, "10.0.0.2")?;
    two.put(&changed)?;
    heals(&a, "10.0.0.2")?;
    assert_eq!(vxlan(&one, &changed).unwrap()["linkinfo"]["info_data"]["id"], 4095);
    drop(b);
    Ok(())
}

fn a_spoke_is_added_and_removed() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    let a = joined(&worker, "a", "10.0.0.1/24")?;
    let more = LanFile::new("lan1", 7, &["a", "c"]);
    worker.put(&more)?;
    let c = joined(&worker, "c", "10.0.0.3/24")?;
    heals(&a, "10.0.0.3")?;
    eventually(SECOND, || worker.record("b").map_or(Ok(()), |_| Err("the record of b goes".to_owned())))?;
    let error = worker.pod("late")?.add("macvtap", "net1", &on_spoke("b")).unwrap_err();
    assert!(error.text().contains('b'), "{error}");
    drop(c);
    Ok(())
}

fn gone(worker: &Worker, lan: &LanFile) -> Outcome {
    eventually(Duration::from_secs(3), || match worker.netns(&lan.netns()) {
        Ok(_) => Err("the LAN's namespace goes".to_owned()),
        Err(_) => Ok(()),
    })?;
    assert_eq!(worker.list("/run/netns").iter().filter(|name| !name.starts_with("cni-")).count(), 0);
    assert_eq!(worker.list("/run/k8slan/spokes").iter().filter(|f| f.ends_with(".json")).count(), 0);
    assert_eq!(worker.link_names()?, ["eth1"]);
    Ok(())
}

fn a_removed_lan_is_taken_down() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    worker.remove(&lan())?;
    gone(&worker, &lan())
}

/// Waits for pings to be answered no more.
fn falls_silent(from: &Namespaces, to: &str) -> Outcome {
    eventually(SECOND, || if pings(from, to) { Err(format!("{to} falls silent")) } else { Ok(()) })?;
    Ok(())
}

fn a_lan_removed_under_live_pods_falls_silent() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    let (a, b) = (joined(&worker, "a", "10.0.0.1/24")?, joined(&worker, "b", "10.0.0.2/24")?);
    heals(&a, "10.0.0.2")?;
    worker.remove(&lan())?;
    falls_silent(&a, "10.0.0.2")?;
    // A macvtap deleted under a container would leave its device number to another pod's.
    assert!(a.link("net1")?.is_some() && b.link("net1")?.is_some(), "a macvtap was taken from a live pod");
    let late = worker.pod("late")?.add("macvtap", "net1", &on_spoke("a")).unwrap_err();
    assert_eq!(late.code, 11, "{late}");
    // Back before the pods are gone: it goes on.
    worker.put(&lan())?;
    heals(&a, "10.0.0.2")?;
    worker.remove(&lan())?;
    falls_silent(&a, "10.0.0.2")?;
    a.del("macvtap", "net1", &on_spoke("a"))?;
    b.del("macvtap", "net1", &on_spoke("b"))?;
    a.remove()?;
    b.remove()?;
    gone(&worker, &lan())
}

fn a_spoke_removed_under_a_live_pod_falls_silent() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let lan = LanFile::new("lan1", 7, &["a", "b", "c"]);
    worker.put(&lan)?;
    let (a, b) = (joined(&worker, "a", "10.0.0.1/24")?, joined(&worker, "b", "10.0.0.2/24")?);
    let c = joined(&worker, "c", "10.0.0.3/24")?;
    worker.put(&LanFile::new("lan1", 7, &["a", "b"]))?;
    falls_silent(&a, "10.0.0.3")?;
    assert!(c.link("net1")?.is_some(), "the macvtap was taken from a live pod");
    assert!(pings(&a, "10.0.0.2"), "another spoke is disturbed");
    // Who is cut off is told.
    worker.status(|text| {
        let status: Value = serde_json::from_str(text).unwrap_or_default();
        let left = status["lans"][0]["removedSpokes"].as_array().cloned().unwrap_or_default();
        left.len() == 1
            && left[0]["name"] == "c"
            && left[0]["usedBy"].as_str().is_some_and(|by| !by.contains(','))
    })?;
    c.del("macvtap", "net1", &on_spoke("c"))?;
    assert_eq!(worker.netns(&lan.netns())?.link("c")?, None);
    drop(b);
    Ok(())
}

/// Also who uses a spoke that the refused LAN does not list: deleted, it waits for all of them.
fn a_refused_lan_names_all_who_use_it() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let lan = LanFile::new("lan1", 7, &["a", "c"]);
    worker.put(&LanFile::new("lan0", 9, &["z"]))?;
    worker.put(&lan)?;
    let c = joined(&worker, "c", "10.0.0.3/24")?;
    worker.put(&LanFile::new("lan1", 9, &["a"]))?;
    worker.status(|text| {
        let status: Value = serde_json::from_str(text).unwrap_or_default();
        let lan = &status["lans"][1];
        let users: Vec<_> = lan["spokes"].as_array().into_iter().flatten().map(|s| &s["usedBy"]).collect();
        lan["conditions"][0]["reason"] == "Conflict" && users == [&Value::Null, &Value::from("default/c")]
    })?;
    c.del("macvtap", "net1", &on_spoke("c"))?;
    worker.status(|text| !text.contains("default/c"))?;
    Ok(())
}

fn a_lan_removed_while_the_daemon_was_away_is_taken_down() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    worker.stop_daemon()?;
    assert!(vxlan(&worker, &lan()).is_some(), "a daemon that ends leaves its LANs up");
    worker.remove(&lan())?;
    worker.start_daemon()?;
    gone(&worker, &lan())
}

fn a_foreign_namespace_is_not_touched() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.ip("netns add lan1")?;
    worker.ip("-n lan1 link add br2 type bridge")?;
    let before = worker.ip("-n lan1 -details link show")?;
    worker.put(&lan())?;
    worker.not_ready("a", "lan1")?;
    let other = LanFile::new("lan2", 8, &["c"]);
    worker.put(&other)?;
    worker.ready("c")?;
    assert_eq!(worker.ip("-n lan1 -details link show")?, before);
    worker.remove(&lan())?;
    worker.status(|status| !status.contains("lan1"))?;
    assert_eq!(worker.ip("-n lan1 -details link show")?, before);
    // Once the name is free, the LAN is built.
    worker.put(&lan())?;
    worker.ip("netns del lan1")?;
    worker.ready("a")?;
    Ok(())
}

/// The daemon has looked at all LANs by then, and again after what it changed itself.
const PASS: Duration = Duration::from_millis(300);

fn foreign_links_in_the_lans_namespace_are_not_touched() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    // Somebody's own link has the name of a spoke, another has a name that means nothing.
    worker.ip("-n lan1 link add name b type veth peer name mine")?;
    let error = worker.pod("b")?.add("macvtap", "net1", &on_spoke("b")).unwrap_err();
    assert!(error.text().contains('b'), "{error}");
    let _a = joined(&worker, "a", "10.0.0.1/24")?;
    worker.stop_daemon()?;
    worker.start_daemon()?;
    worker.ready("a")?;
    let inside = worker.netns(&lan().netns())?;
    stays(PASS, || match (inside.link("b"), inside.link("mine")) {
        (Ok(Some(_)), Ok(Some(_))) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(())
}

fn an_underlay_too_small_for_the_mtu_is_told() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan().with("mtu: 1427"))?;
    let record = worker.not_ready("a", "1427")?;
    assert!(record["reason"].as_str().unwrap().contains("1426"), "{record}");
    worker.ip("link set eth1 mtu 1501")?;
    worker.ready("a")?;
    Ok(())
}

fn values_out_of_range_are_told() -> Outcome {
    let (_switch, worker) = one_worker()?;
    let good = LanFile::new("good", 9, &["g"]);
    worker.put(&good)?;
    let mut zero = lan();
    zero.vni = 0;
    let mut large = lan();
    large.vni = 1 << 24;
    let mut colon = lan();
    colon.ns = "a/b".to_owned();
    let long = LanFile::new("lan1", 7, &["a-name-of-16-byt"]);
    let cases = [
        (zero, "vni"),
        (large, "vni"),
        (colon, "ns"),
        (long, "spokes"),
        (lan().with("vxlanGrp: 'fe80::1'"), "vxlanGrp"),
        (lan().with("vxlanGrp: 192.0.2.1"), "vxlanGrp"),
        (lan().with("vxlanPort: 0"), "vxlanPort"),
        (lan().with("mtu: 10"), "mtu"),
        (lan().with("mode: bridged"), "mode"),
        (lan().with("attach: tap"), "attach"),
    ];
    for (bad, field) in cases {
        worker.put(&bad)?;
        worker.status(|status| status.contains("k8slan-system/lan1") && status.contains(field))?;
        assert_eq!(worker.list("/run/netns"), ["good"], "{field}");
        worker.remove(&bad)?;
        worker.status(|status| !status.contains("k8slan-system/lan1"))?;
    }
    worker.ready("g")?;
    Ok(())
}

fn duplicates_are_told_and_the_first_stays() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    let a = joined(&worker, "a", "10.0.0.1/24")?;
    let b = joined(&worker, "b", "10.0.0.2/24")?;
    let before = Traces::of(&worker, &lan())?;
    let mut same_ns = LanFile::new("alan", 8, &["x"]);
    same_ns.ns = "lan1".to_owned();
    for (second, what) in [
        (same_ns, "ns"),
        (LanFile::new("alan", 7, &["x"]), "vni"),
        (LanFile::new("alan", 8, &["x", "a"]), "spoke"),
    ] {
        // Its name comes first; what is built stays all the same.
        worker.put(&second)?;
        worker.status(|status| status.contains("k8slan-system/alan") && status.contains(what))?;
        assert_eq!(worker.list("/run/netns").iter().filter(|n| !n.starts_with("cni-")).count(), 1, "{what}");
        assert!(pings(&a, "10.0.0.2"), "{what}: the first LAN is disturbed");
        assert_eq!(Traces::of(&worker, &lan())?, before);
        worker.remove(&second)?;
        worker.status(|status| !status.contains("k8slan-system/alan"))?;
    }
    drop(b);
    Ok(())
}

fn broken_files_are_told_and_disturb_no_other() -> Outcome {
    let (_switch, worker) = one_worker()?;
    worker.put(&lan())?;
    worker.ready("a")?;
    let unknown = LanFile::new("lan2", 8, &["c"]).with("vnii: 9").yaml();
    worker.put_text("unknown.yaml", &unknown)?;
    worker.status(|status| status.contains("vnii"))?;
    worker.put_text("syntax.yaml", "{[")?;
    stays(PASS, || match worker.list("/run/netns") {
        names if names == ["lan1"] => Ok(()),
        names => Err(format!("{names:?}")),
    })?;
    worker.ready("a")?;
    // A LAN that stands is not taken down because its file cannot be read any more.
    worker.put_text("lan1.yaml", &lan().with("vnii: 9").yaml())?;
    worker.status(|status| status.matches("vnii").count() > 1)?;
    assert!(vxlan(&worker, &lan()).is_some(), "a broken edit took the LAN down");
    Ok(())
}
