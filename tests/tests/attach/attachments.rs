//! What happens to attachments as pods, nodes and daemons come and go.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use k8slan_tests::{LanFile, Traces, Worker, joined, on_spoke};
use serde_json::{Value, json};
use testnet::{Namespaces, Outcome, Ping, Stop, Switch, Tap};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        a_sandbox_is_recreated_without_allocate,
        a_pod_that_vanished_leaves_its_spoke_free,
        a_reboot_gives_the_same_device_node,
        a_spoke_in_use_is_never_stolen,
        deleting_twice_late_or_early_succeeds,
        a_pod_dies_under_an_open_tap,
        a_freed_tap_minor_never_leads_to_another_pod,
        two_nodes_keep_their_own_device_nodes,
        the_machines_own_devtmpfs_works_too,
        the_daemon_restarts_without_a_lost_ping,
        check_sees_what_was_broken,
        garbage_is_collected,
        a_spoke_is_let_go_whatever_is_wrong_with_the_rest,
        a_spoke_is_let_go_on_a_read_only_node,
        many_attachments_at_once,
    ]
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn lan() -> LanFile {
    LanFile::new("lan1", 7, &["a", "b"])
}

fn one_worker(lan: &LanFile) -> Result<(Switch, Worker), Stop> {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    worker.put(lan)?;
    for spoke in &lan.spokes {
        worker.ready(spoke)?;
    }
    Ok((switch, worker))
}

/// The index of the pod's `net1`, which names its device node.
fn index(pod: &Namespaces) -> u64 {
    pod.link("net1").unwrap().expect("no net1")["ifindex"].as_u64().unwrap()
}

fn perfect(from: &Namespaces, to: &str) -> Outcome {
    Ping::new(ip(to)).repeated(5, Duration::from_millis(2)).run(from)?.perfect().map_err(Stop::Failed)
}

fn a_sandbox_is_recreated_without_allocate() -> Outcome {
    let (_switch, worker) = one_worker(&lan())?;
    let _b = joined(&worker, "b", "10.0.0.2/24")?;
    let first = joined(&worker, "a", "10.0.0.1/24")?;
    let wanted = index(&first);
    first.del("macvtap", "net1", &on_spoke("a"))?;
    first.remove()?;
    let second = joined(&worker, "a", "10.0.0.1/24")?;
    assert_eq!(index(&second), wanted);
    perfect(&second, "10.0.0.2")
}

fn a_pod_that_vanished_leaves_its_spoke_free() -> Outcome {
    let (_switch, worker) = one_worker(&lan())?;
    let _b = joined(&worker, "b", "10.0.0.2/24")?;
    let first = joined(&worker, "a", "10.0.0.1/24")?;
    let wanted = index(&first);
    // No DEL: the node lost power, or the runtime its state.
    first.remove()?;
    let second = joined(&worker, "a", "10.0.0.1/24")?;
    assert_eq!(index(&second), wanted);
    perfect(&second, "10.0.0.2")
}

fn a_reboot_gives_the_same_device_node() -> Outcome {
    let (_switch, mut worker) = one_worker(&lan())?;
    let pod = joined(&worker, "a", "10.0.0.1/24")?;
    let wanted = index(&pod);
    assert_eq!(worker.record("a").unwrap()["tapIndex"], wanted);
    drop(pod);
    worker.reboot()?;
    let pod = joined(&worker, "a", "10.0.0.1/24")?;
    assert_eq!(index(&pod), wanted);
    assert_eq!(Tap::open(&worker, &format!("/dev/tap{wanted}"))?.link()?, "net1");
    let _b = joined(&worker, "b", "10.0.0.2/24")?;
    perfect(&pod, "10.0.0.2")
}

fn a_spoke_in_use_is_never_stolen() -> Outcome {
    let (_switch, worker) = one_worker(&lan())?;
    let _b = joined(&worker, "b", "10.0.0.2/24")?;
    let holder = joined(&worker, "a", "10.0.0.1/24")?;
    let before = Traces::of(&worker, &lan())?;
    let late = worker.pod("late")?;
    let error = late.add("macvtap", "net1", &on_spoke("a")).unwrap_err();
    assert_eq!(error.code, 11, "{error}");
    assert_eq!(Traces::of(&worker, &lan())?, before);
    assert_eq!(late.link_names()?, [""; 0]);
    // Nor does the loser's DEL touch what is not its own.
    late.del("macvtap", "net1", &on_spoke("a"))?;
    perfect(&holder, "10.0.0.2")?;
    holder.del("macvtap", "net1", &on_spoke("a"))?;
    late.add("macvtap", "net1", &on_spoke("a"))?;
    Ok(())
}

fn deleting_twice_late_or_early_succeeds() -> Outcome {
    let (_switch, worker) = one_worker(&lan())?;
    let before = Traces::of(&worker, &lan())?;
    let pod = worker.pod("early")?;
    pod.del("macvtap", "net1", &on_spoke("a"))?;
    pod.add("macvtap", "net1", &on_spoke("a"))?;
    pod.del("macvtap", "net1", &on_spoke("a"))?;
    pod.del("macvtap", "net1", &on_spoke("a"))?;
    assert_eq!(Traces::of(&worker, &lan())?, before);
    pod.add("macvtap", "net1", &on_spoke("a"))?;
    let mut call = pod.call("net1", &on_spoke("a"));
    pod.remove()?;
    worker.cni("macvtap", "DEL", &call)?;
    call.netns = None;
    worker.cni("macvtap", "DEL", &call)?;
    assert_eq!(Traces::of(&worker, &lan())?, before);
    Ok(())
}

fn a_pod_dies_under_an_open_tap() -> Outcome {
    let (_switch, worker) = one_worker(&lan())?;
    let before = Traces::of(&worker, &lan())?;
    let pod = joined(&worker, "a", "10.0.0.1/24")?;
    let held = Tap::open(&worker, &format!("/dev/tap{}", index(&pod)))?;
    let call = pod.call("net1", &on_spoke("a"));
    // The sandbox goes while the VM monitor still has the device.
    pod.remove()?;
    worker.cni("macvtap", "DEL", &call)?;
    assert_eq!(Traces::of(&worker, &lan())?, before);
    let next = joined(&worker, "a", "10.0.0.1/24")?;
    let _b = joined(&worker, "b", "10.0.0.2/24")?;
    perfect(&next, "10.0.0.2")?;
    // What the old monitor sends now reaches nobody.
    let ear = testnet::PacketSocket::open(&next, "net1")?;
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend_from_slice(&[7; 50]);
    let _ = held.send(&frame);
    assert_eq!(ear.find(Duration::from_millis(200), |seen| seen.bytes == frame)?, None);
    Ok(())
}

fn a_freed_tap_minor_never_leads_to_another_pod() -> Outcome {
    let (_switch, worker) = one_worker(&lan())?;
    let device = |spoke: &str| {
        let path = format!("/dev/tap{}", worker.record(spoke).unwrap()["tapIndex"]);
        worker.run(|| std::fs::metadata(path).map(|m| m.rdev()))
    };
    let a = joined(&worker, "a", "10.0.0.1/24")?;
    let of_a = device("a")?;
    // The link goes while the container lives on with its copy of the node; the kernel has the minor to give.
    a.ip("link del net1")?;
    let b = joined(&worker, "b", "10.0.0.2/24")?;
    assert_ne!(device("b")?, of_a, "the first pod's copy of its node would open the second pod's traffic");
    assert_eq!(Tap::open(&worker, &format!("/dev/tap{}", index(&b)))?.link()?, "net1");
    drop((a, b));
    Ok(())
}

fn two_nodes_keep_their_own_device_nodes() -> Outcome {
    let switch = Switch::new()?;
    let workers = [Worker::new("worker1", &switch, 1500)?, Worker::new("worker2", &switch, 1500)?];
    // One spoke name gives one index, here on two nodes of one machine.
    let mut pods = Vec::new();
    for (worker, address) in workers.iter().zip(["10.0.0.1/24", "10.0.0.2/24"]) {
        worker.put(&lan())?;
        pods.push(joined(worker, "a", address)?);
    }
    assert_eq!(index(&pods[0]), index(&pods[1]));
    let path = format!("/dev/tap{}", index(&pods[0]));
    let taps = [Tap::open(&workers[0], &path)?, Tap::open(&workers[1], &path)?];
    assert_ne!(taps[0].device()?, taps[1].device()?);
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend_from_slice(&[7; 50]);
    taps[0].send(&frame)?;
    assert!(
        taps[1].find(Duration::from_secs(1), |seen| seen == frame)?.is_some(),
        "from one VM to the other"
    );
    Ok(())
}

fn the_machines_own_devtmpfs_works_too() -> Outcome {
    let switch = Switch::new()?;
    let mut node = testnet::Node::with_host_devices("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    let worker = Worker::on(node)?;
    // A name of this test alone: its index is the machine's.
    let lan = LanFile::new("lan1", 7, &["devtmpfs-test"]);
    worker.put(&lan)?;
    let pod = joined(&worker, "devtmpfs-test", "10.0.0.1/24")?;
    let path = format!("/dev/tap{}", index(&pod));
    let meta = worker.run(|| std::fs::metadata(&path))?;
    assert_eq!((meta.uid(), meta.gid()), (107, 107));
    assert_eq!(Tap::open(&worker, &path)?.link()?, "net1");
    pod.del("macvtap", "net1", &on_spoke("devtmpfs-test"))?;
    assert!(worker.run(|| std::fs::metadata(&path)).is_err(), "{path} is left");
    Ok(())
}

/// A few tens of pings, with a daemon and without one.
const SOME: Duration = Duration::from_millis(300);

fn the_daemon_restarts_without_a_lost_ping() -> Outcome {
    let switch = Switch::new()?;
    let (one, two) = (Worker::new("worker1", &switch, 1500)?, Worker::new("worker2", &switch, 1500)?);
    one.put(&lan())?;
    two.put(&lan())?;
    let (a, b) = (joined(&one, "a", "10.0.0.1/24")?, joined(&two, "b", "10.0.0.2/24")?);
    perfect(&a, "10.0.0.2")?;
    let ping = Ping::new(ip("10.0.0.2")).repeated(300, Duration::from_millis(10));
    let report = std::thread::scope(|scope| -> Result<_, Stop> {
        let pinging = scope.spawn(|| ping.run(&a));
        std::thread::sleep(SOME);
        two.stop_daemon()?;
        std::thread::sleep(SOME);
        two.start_daemon()?;
        two.ready("b")?;
        std::thread::sleep(SOME);
        two.kill_daemon()?;
        std::thread::sleep(SOME);
        two.start_daemon()?;
        Ok(pinging.join().unwrap()?)
    })?;
    report.perfect().map_err(Stop::Failed)?;
    drop(b);
    two.ready("b")?;
    Ok(())
}

fn check_sees_what_was_broken() -> Outcome {
    let (_switch, worker) = one_worker(&lan())?;
    // It repairs faster than CHECK looks.
    worker.stop_daemon()?;
    let port = |worker: &Worker| -> Result<String, Stop> {
        let names = worker.netns(&lan().netns())?.link_names()?;
        Ok(names.into_iter().find(|name| name.starts_with('+')).unwrap_or_default())
    };
    type Breakage<'a> = &'a dyn Fn(&Namespaces) -> Outcome;
    let bridge = |arguments: &str| -> Outcome {
        let inside = worker.netns(&lan().netns())?;
        Ok(inside.tool("bridge", &format!("link set dev {} {arguments}", port(&worker)?)).map(drop)?)
    };
    let breakages: [(&str, Breakage<'_>); 10] = [
        ("the link is gone", &|pod| Ok(pod.ip("link del net1").map(drop)?)),
        ("the port has another MTU", &|_| {
            let inside = worker.netns(&lan().netns())?;
            Ok(inside.ip(&format!("link set {} mtu 1300", port(&worker)?)).map(drop)?)
        }),
        ("the spoke has another MTU", &|_| {
            Ok(worker.netns(&lan().netns())?.ip("link set dev a mtu 1300").map(drop)?)
        }),
        ("the port is disabled", &|_| bridge("state 0")),
        ("the port is isolated", &|_| bridge("isolated on")),
        ("the port does not flood", &|_| bridge("flood off")),
        ("no broadcast goes out of the port", &|_| bridge("bcast_flood off")),
        ("nobody knows whose the tap is", &|_| {
            let records = worker.list("/run/k8slan/taps");
            Ok(worker.run(|| {
                records.iter().try_for_each(|name| std::fs::remove_file(format!("/run/k8slan/taps/{name}")))
            })?)
        }),
        ("the port is down", &|_| {
            let inside = worker.netns(&lan().netns())?;
            Ok(inside.ip(&format!("link set {} down", port(&worker)?)).map(drop)?)
        }),
        ("the device node is gone", &|pod| {
            let path = format!("/dev/tap{}", index(pod));
            Ok(worker.run(|| std::fs::remove_file(path))?)
        }),
    ];
    for (what, breakage) in breakages {
        let pod = worker.pod("checked")?;
        let mut config = on_spoke("a");
        // The first version whose results state the MTU.
        config["cniVersion"] = "1.1.0".into();
        let result = pod.add("macvtap", "net1", &config)?;
        config["prevResult"] = result;
        worker.cni("macvtap", "CHECK", &pod.call("net1", &config))?;
        breakage(&pod)?;
        let answer = worker.cni("macvtap", "CHECK", &pod.call("net1", &config));
        assert!(answer.is_err(), "CHECK did not see: {what}");
        pod.del("macvtap", "net1", &config)?;
        pod.remove()?;
    }
    Ok(())
}

fn garbage_is_collected() -> Outcome {
    let (_switch, worker) = one_worker(&lan())?;
    let before = Traces::of(&worker, &lan())?;
    let (kept, lost) = (worker.pod("kept")?, worker.pod("lost")?);
    let config = |spoke: &str| {
        let mut config = on_spoke(spoke);
        config["cniVersion"] = "1.1.0".into();
        config
    };
    kept.add("macvtap", "net1", &config("a"))?;
    lost.add("macvtap", "net1", &config("b"))?;
    let mut call = kept.call("net1", &config("a"));
    call = call.with(
        "cni.dev/valid-attachments",
        serde_json::json!([{"containerID": kept.container(), "ifname": "net1"}]),
    );
    worker.cni("macvtap", "GC", &call)?;
    assert!(kept.link("net1")?.is_some(), "GC took a valid attachment");
    assert!(lost.link("net1")?.is_none(), "GC left an invalid attachment");
    let none = kept.call("net1", &config("a")).with("cni.dev/valid-attachments", serde_json::json!([]));
    worker.cni("macvtap", "GC", &none)?;
    assert_eq!(Traces::of(&worker, &lan())?, before);
    Ok(())
}

fn with_a_veth() -> LanFile {
    lan().with("spokeOverrides: {b: {attach: veth}}")
}

fn a_spoke_is_let_go_whatever_is_wrong_with_the_rest() -> Outcome {
    let (_switch, worker) = one_worker(&with_a_veth())?;
    let before = Traces::of(&worker, &lan())?;
    let pod = worker.pod("web")?;
    let program = testnet::program("ipam-pool");
    let program = program.to_string_lossy();
    let leases = || worker.exec(&[&program, "leases", "--json"]);
    for spoke in ["a", "b"] {
        let mut config = on_spoke(spoke);
        config["ipam"] = json!({"type": "ipam-pool", "subnet": "10.9.0.0/24", "scope": "host"});
        for (key, value) in [
            ("name", Value::Null),
            ("cniVersion", Value::Null),
            ("runtimeConfig", json!(5)),
            ("args", json!("x")),
            ("dns", json!([])),
            ("ipam", json!("x")),
            ("ipam", json!({"type": 5})),
            ("spoke", json!(5)),
            ("deviceID", json!({})),
            ("deviceID", json!("another")),
        ] {
            pod.add("macvtap", "net1", &config)?;
            assert!(leases()?.contains(pod.container()));
            let mut broken = config.clone();
            broken[key] = value.clone();
            pod.del("macvtap", "net1", &broken)
                .map_err(|error| Stop::Failed(format!("{spoke}, {key} is {value}: {error}")))?;
            assert!(!leases()?.contains(pod.container()), "{spoke}, {key} is {value}: the address is kept");
            assert_eq!(Traces::of(&worker, &lan())?, before, "{spoke}, {key} is {value}");
            assert_eq!(pod.link_names()?, [""; 0]);
        }
    }
    Ok(())
}

fn a_spoke_is_let_go_on_a_read_only_node() -> Outcome {
    let (_switch, worker) = one_worker(&with_a_veth())?;
    let before = Traces::of(&worker, &lan())?;
    let pods = [("a", worker.pod("a")?), ("b", worker.pod("b")?)];
    for (spoke, pod) in &pods {
        pod.add("macvtap", "net1", &on_spoke(spoke))?;
    }
    worker.stop_daemon()?;
    worker.exec(&["mount", "--bind", "/run/k8slan", "/run/k8slan"])?;
    worker.exec(&["mount", "-o", "remount,ro,bind", "/run/k8slan"])?;
    for (spoke, pod) in &pods {
        let done = pod.del("macvtap", "net1", &on_spoke(spoke));
        assert_eq!(pod.link_names()?, [""; 0], "{spoke}: {done:?}");
        match done {
            // Only the record of a macvtap's minor cannot be taken away.
            Err(error) => assert!(*spoke == "a" && error.text().contains("Read-only"), "{spoke}: {error}"),
            Ok(_) => assert_eq!(*spoke, "b"),
        }
    }
    worker.exec(&["umount", "-l", "/run/k8slan"])?;
    for (spoke, pod) in &pods {
        pod.del("macvtap", "net1", &on_spoke(spoke))?;
    }
    assert_eq!(Traces::of(&worker, &lan())?, before);
    Ok(())
}

fn many_attachments_at_once() -> Outcome {
    let names: Vec<String> = (0..64).map(|n| format!("spoke{n}")).collect();
    let lan = LanFile::new("lan1", 7, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let (_switch, worker) = one_worker(&lan)?;
    let before = Traces::of(&worker, &lan)?;
    let pods = names.iter().map(|name| worker.pod(name)).collect::<Result<Vec<_>, _>>()?;
    let all = |verb: &str| -> Vec<String> {
        std::thread::scope(|scope| {
            let calls: Vec<_> = pods
                .iter()
                .map(|pod| {
                    let call = pod.call("net1", &on_spoke(pod.name()));
                    let worker = &worker;
                    scope.spawn(move || worker.cni("macvtap", verb, &call))
                })
                .collect();
            calls.into_iter().filter_map(|call| call.join().unwrap().err()).map(|e| e.to_string()).collect()
        })
    };
    assert_eq!(all("ADD"), [""; 0]);
    let indices: std::collections::BTreeSet<u64> = pods.iter().map(|pod| index(pod)).collect();
    assert_eq!(indices.len(), 64);
    assert_eq!(all("DEL"), [""; 0]);
    assert_eq!(Traces::of(&worker, &lan)?, before);
    Ok(())
}
