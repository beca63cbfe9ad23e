//! A node that k8slan leaves: nothing of it stays, nothing of anybody else's goes. And an upgrade, which no packet notices.

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};
use std::time::Duration;

use k8slan_tests::{LanFile, Worker, joined, on_spoke};
use serde_json::json;
use testnet::{Outcome, Ping, Pod, Stop, Switch, bin_dir, eventually, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        an_upgrade_costs_no_packet,
        purge_leaves_a_clean_node,
        purge_takes_away_what_dead_pods_left,
        purge_refuses_while_a_pod_is_attached,
        an_address_alone_is_an_attachment,
        a_pod_that_comes_meanwhile_keeps_its_plugins,
        purge_refuses_while_the_daemon_runs,
        purge_leaves_what_is_not_ours,
        purge_of_a_node_that_never_had_any_is_nothing,
    ]
}

const STATE: &str = "/var/lib/k8slan";
const RUN: &str = "/run/k8slan";

/// A node with LANs, and a CNI folder with our plugins and another's.
struct Site {
    _switch: Switch,
    worker: Worker,
    cni: tempfile::TempDir,
}

impl Site {
    fn new() -> Result<Self, Stop> {
        let switch = Switch::new()?;
        let worker = Worker::new("worker1", &switch, 1500)?;
        worker.put(&lan())?;
        let cni = tempfile::tempdir()?;
        fs::write(cni.path().join("loopback"), "somebody's")?;
        let site = Self { _switch: switch, worker, cni };
        site.install(&bin_dir().to_string_lossy())?;
        Ok(site)
    }

    fn run(&self, verb: &str, more: &[&str]) -> Result<Output, Stop> {
        let program = program("k8slan-device-plugin");
        let cni = self.cni.path().to_string_lossy();
        let program = program.to_string_lossy();
        let argv = [&[&*program, verb, "--cni-bin-dir", &cni], more].concat();
        Ok(self.worker.output(&argv)?)
    }

    fn install(&self, from: &str) -> Outcome {
        let output = self.run("install", &["--from", from])?;
        assert!(output.status.success(), "{}", said(&output));
        Ok(())
    }

    fn purge(&self) -> Outcome {
        let output = self.run("uninstall", &["--purge"])?;
        assert!(output.status.success(), "{}", said(&output));
        Ok(())
    }

    /// The path of an installed plugin.
    fn plugin(&self, name: &str) -> String {
        self.cni.path().join(name).to_string_lossy().into_owned()
    }

    /// That nothing of k8slan is on the node, and all else is.
    fn is_clean(&self) -> Outcome {
        assert_eq!(self.worker.link_names()?, ["eth1"]);
        let left = self.worker.run(|| [RUN, STATE].map(|dir| fs::symlink_metadata(dir).is_ok()));
        assert_eq!(left, [false, false], "{RUN}, {STATE}");
        assert_eq!(self.worker.list("/run/netns"), [""; 0]);
        assert!(!self.worker.list("/dev").iter().any(|name| name.contains("tap")), "a device node");
        let files: Vec<_> = fs::read_dir(self.cni.path())?
            .map(|entry| entry.map(|e| e.file_name()))
            .collect::<Result<_, _>>()?;
        assert_eq!(files, ["loopback"]);
        Ok(())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn lan() -> LanFile {
    LanFile::new("lan1", 77, &["a", "b"])
}

/// A folder of plugins of another version: what follows a program's last byte does not matter to it.
fn another_version() -> Result<tempfile::TempDir, Stop> {
    let dir = tempfile::tempdir()?;
    for name in ["ipam-pool", "macvtap", "vlan-bridge"] {
        let mut program = fs::read(bin_dir().join(name))?;
        program.extend(b"an older version");
        fs::write(dir.path().join(name), program)?;
    }
    Ok(dir)
}

fn an_upgrade_costs_no_packet() -> Outcome {
    let site = Site::new()?;
    let worker = &site.worker;
    let old = another_version()?;
    site.install(&old.path().to_string_lossy())?;
    worker.ready("a")?;
    worker.ready("b")?;
    let attach = |spoke: &str, address: &str| -> Result<Pod<'_>, Stop> {
        let pod = worker.pod(spoke)?;
        worker.cni(&site.plugin("macvtap"), "ADD", &pod.call("net1", &on_spoke(spoke)))?;
        pod.ip(&format!("addr add {address} dev net1 nodad"))?;
        Ok(pod)
    };
    let (a, b) = (attach("a", "10.0.0.1/24")?, attach("b", "10.0.0.2/24")?);
    let before = a.link("net1")?;
    let ping = Ping::new([10, 0, 0, 2]).repeated(400, Duration::from_millis(5));
    let report = std::thread::scope(|scope| -> Result<_, Stop> {
        let running = scope.spawn(|| ping.run(&a));
        // What the DaemonSet does: the old pod ends, the new one's first container installs, its others start.
        worker.stop_daemon()?;
        site.install(&bin_dir().to_string_lossy())?;
        worker.start_daemon()?;
        worker.status(|status| status.contains("\"Built\""))?;
        assert!(!running.is_finished(), "the ping ended before the upgrade did");
        running.join().map_err(|_| Stop::Failed("the ping panicked".to_owned()))?.map_err(Stop::from)
    })?;
    report.perfect().map_err(Stop::Failed)?;
    assert_eq!(a.link("net1")?, before, "the interface is another one");
    for (pod, spoke) in [(&a, "a"), (&b, "b")] {
        worker.cni(&site.plugin("macvtap"), "CHECK", &checked(pod, spoke))?;
        worker.cni(&site.plugin("macvtap"), "DEL", &pod.call("net1", &on_spoke(spoke)))?;
    }
    worker.stop_daemon()?;
    site.purge()?;
    a.remove()?;
    b.remove()?;
    site.is_clean()
}

/// CHECK of what the pod has, as its ADD answered.
fn checked(pod: &Pod<'_>, spoke: &str) -> testnet::CniCall {
    let result =
        json!({"cniVersion": "1.0.0", "interfaces": [{"name": "net1", "sandbox": pod.path()}], "ips": []});
    pod.call("net1", &on_spoke(spoke)).with("prevResult", result)
}

fn purge_leaves_a_clean_node() -> Outcome {
    let site = Site::new()?;
    let pod = joined(&site.worker, "a", "10.0.0.1/24")?;
    pod.del("macvtap", "net1", &on_spoke("a"))?;
    pod.remove()?;
    site.worker.ready("b")?;
    site.worker.stop_daemon()?;
    site.purge()?;
    site.is_clean()?;
    // Once more is no mistake.
    site.purge()?;
    site.is_clean()
}

fn purge_takes_away_what_dead_pods_left() -> Outcome {
    let site = Site::new()?;
    let pod = joined(&site.worker, "a", "10.0.0.1/24")?;
    let port = site.worker.pod("port")?;
    port.add(
        "vlan-bridge",
        "net1",
        &json!({"cniVersion": "1.0.0", "name": "n", "type": "vlan-bridge", "bridge": "br9"}),
    )?;
    let master = site.worker.pod("master")?;
    let on_master = json!({"cniVersion": "1.0.0", "name": "m", "type": "macvtap", "master": "eth1"});
    master.add("macvtap", "net1", &on_master)?;
    for pod in [pod, port, master] {
        pod.remove()?;
    }
    site.worker.stop_daemon()?;
    assert_eq!(site.worker.list("/run/k8slan/taps").len(), 2, "of the spoke and of the master");
    assert_eq!(site.worker.list("/run/k8slan/ports").len(), 1);
    assert!(site.worker.link("br9")?.is_some());
    site.purge()?;
    site.is_clean()
}

fn purge_refuses_while_a_pod_is_attached() -> Outcome {
    let site = Site::new()?;
    let (a, b) = (joined(&site.worker, "a", "10.0.0.1/24")?, joined(&site.worker, "b", "10.0.0.2/24")?);
    site.worker.stop_daemon()?;
    for more in [&[][..], &["--purge"], &["--purge", "--dry-run"]] {
        let output = site.run("uninstall", more)?;
        assert!(!output.status.success(), "{}", said(&output));
        for words in ["pod default/a, container", "2 interfaces are attached on this node", "--force"] {
            assert!(said(&output).contains(words), "{}", said(&output));
        }
    }
    Ping::new([10, 0, 0, 2]).run(&a)?.perfect().map_err(Stop::Failed)?;

    let output = site.run("uninstall", &["--purge", "--force"])?;
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("is still attached; what it holds is silent"), "{}", said(&output));
    let cut = Ping::new([10, 0, 0, 2]).timeout(Duration::from_millis(200)).run(&a)?;
    assert_eq!(cut.lost(), 1, "{cut}");
    // Its container has a copy of the device node, so the macvtap stays for as long as the pod is there, and so do the
    // plugins that take the pod down.
    assert!(a.link("net1")?.is_some());
    for (pod, spoke) in [(a, "a"), (b, "b")] {
        site.worker.cni(&site.plugin("macvtap"), "DEL", &pod.call("net1", &on_spoke(spoke)))?;
        pod.remove()?;
    }
    site.purge()?;
    site.is_clean()
}

fn an_address_alone_is_an_attachment() -> Outcome {
    let site = Site::new()?;
    let node = &site.worker;
    site.worker.stop_daemon()?;
    node.write("/var/lib/k8slan/pools.d/iot.yaml", "apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata: {name: iot}\nspec: {ranges: [{subnet: 10.0.20.0/24}]}\n")?;
    // What the bridge plugin, which is not ours, delegates.
    let network = json!({"cniVersion": "1.0.0", "name": "lan", "type": "bridge",
        "ipam": {"type": "ipam-pool", "pool": "iot"}});
    let pod = node.pod("a")?;
    pod.add("ipam-pool", "net1", &network)?;
    for more in [&[][..], &["--dry-run"], &["--purge"], &["--purge", "--dry-run"]] {
        let output = site.run("uninstall", more)?;
        assert!(!output.status.success(), "{more:?}: {}", said(&output));
        for words in ["pod default/a, container", "address of ipam-pool", "1 interface is attached"] {
            assert!(said(&output).contains(words), "{}", said(&output));
        }
    }
    pod.del("ipam-pool", "net1", &network)?;
    pod.add("ipam-pool", "net1", &network)?;
    // A pod that is gone holds nothing up.
    pod.remove()?;
    node.run(|| fs::remove_file("/var/lib/k8slan/pools.d/iot.yaml"))?;
    site.purge()?;
    site.is_clean()
}

fn a_pod_that_comes_meanwhile_keeps_its_plugins() -> Outcome {
    let site = Site::new()?;
    let node = &site.worker;
    site.worker.stop_daemon()?;
    let pod = node.pod("late")?;
    let network = json!({"cniVersion": "1.0.0", "name": "m", "type": "macvtap", "master": "eth1"});
    let call = pod.call("net1", &network);
    for more in [&[][..], &["--purge"]] {
        // A runtime has started the plugin, which has left no trace yet.
        let mut add = node.command(site.plugin("macvtap"));
        add.env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", &call.container)
            .env("CNI_IFNAME", &call.ifname)
            .env("CNI_ARGS", &call.args)
            .env("CNI_NETNS", pod.path())
            .env("CNI_PATH", site.cni.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut add = add.spawn()?;
        let output = std::thread::scope(|scope| -> Result<_, Stop> {
            let uninstall = scope.spawn(|| site.run("uninstall", more));
            eventually(Duration::from_secs(10), || match fs::exists(site.plugin("macvtap")) {
                Ok(false) => Ok(()),
                other => Err(format!("the plugin can still be found: {other:?}")),
            })?;
            assert!(!uninstall.is_finished(), "it waits for the plugin that runs");
            let mut stdin = add.stdin.take().ok_or_else(|| Stop::Failed("no stdin".to_owned()))?;
            stdin.write_all(call.config.as_bytes())?;
            drop(stdin);
            assert!(add.wait()?.success(), "ADD");
            uninstall.join().map_err(|_| Stop::Failed("uninstall panicked".to_owned()))?
        })?;
        assert!(!output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("1 interface is attached"), "{}", said(&output));
        // Everything is as it was, so its pod can be taken down.
        let installed: Vec<_> = node.run(|| {
            let entries = fs::read_dir(site.cni.path()).into_iter().flatten().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        });
        assert_eq!(installed, ["ipam-pool", "loopback", "macvtap", "vlan-bridge"]);
        node.cni(&site.plugin("macvtap"), "DEL", &call)?;
    }
    pod.remove()?;
    site.purge()?;
    site.is_clean()
}

fn purge_refuses_while_the_daemon_runs() -> Outcome {
    let site = Site::new()?;
    site.worker.ready("a")?;
    let output = site.run("uninstall", &["--purge"])?;
    assert!(!output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("delete the DaemonSet k8slan-ds, or stop the service, first"),
        "{}",
        said(&output)
    );
    assert!(fs::exists(site.plugin("macvtap"))?, "nothing was taken away");
    let pod = joined(&site.worker, "a", "10.0.0.1/24")?;
    pod.del("macvtap", "net1", &on_spoke("a"))?;
    Ok(())
}

fn purge_leaves_what_is_not_ours() -> Outcome {
    let site = Site::new()?;
    site.worker.ready("a")?;
    site.worker.stop_daemon()?;
    let node = &site.worker;
    // A namespace, links, one of them in a LAN's namespace, and an administrator's pool.
    let theirs = node.pod("theirs")?;
    node.ip("link add br7 type bridge")?;
    let lan = node.netns("/run/netns/lan1")?;
    lan.ip("link add guest type bridge")?;
    node.write("/var/lib/k8slan/pools.d/iot.yaml", "{}")?;
    let output = site.run("uninstall", &["--purge"])?;
    assert!(
        !output.status.success() && said(&output).contains("namespaces that do not go: lan1"),
        "{}",
        said(&output)
    );
    lan.ip("link del guest")?;
    drop(lan);
    site.purge()?;
    assert_eq!(node.link_names()?, ["br7", "eth1"]);
    assert_eq!(theirs.link_names()?, [""; 0]);
    assert_eq!(node.list(STATE), ["pools.d"]);
    assert_eq!(node.list("/run/netns").len(), 1, "{:?}", node.list("/run/netns"));
    Ok(())
}

fn purge_of_a_node_that_never_had_any_is_nothing() -> Outcome {
    let node = testnet::Node::new("worker9")?;
    let program = program("k8slan-device-plugin");
    node.exec(&[&program.to_string_lossy(), "uninstall", "--purge"])?;
    let made = node.run(|| [RUN, STATE].map(|dir| fs::symlink_metadata(dir).is_ok()));
    assert_eq!(made, [false, false]);
    Ok(())
}
