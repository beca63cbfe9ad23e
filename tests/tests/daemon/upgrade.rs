//! Another version of the programs on a node where pods are attached, and back: what one made, the other one reads, repairs,
//! gives again and takes away.
//!
//! The version before is built from the project's own history by `tests/version-before.sh`.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8slan_tests::{LanFile, addresses, on_spoke};
use serde_json::{Value, json};
use testnet::{
    CniCall, CniError, Daemon, Node, Outcome, Ping, Pod, Stop, Switch, Trial, bin_dir, eventually,
    needs_found, workspace,
};

pub(crate) fn trials() -> Vec<Trial> {
    testnet::tests![
        a_node_is_upgraded_and_taken_back_under_traffic,
        guests_of_each_version_are_checked_and_taken_away_by_the_other,
        each_version_takes_away_what_the_other_one_made,
        each_version_collects_what_the_other_one_left,
        the_files_of_the_version_before_are_the_fixtures,
        sticky_owners_keep_their_addresses_over_versions,
    ]
}

/// One version of all programs.
struct Version {
    name: &'static str,
    bin: PathBuf,
}

impl Version {
    fn both() -> Result<[Self; 2], Stop> {
        let before = workspace().join("target/version-before");
        let found = Some(before).filter(|bin| bin.join("k8slan-device-plugin").is_file());
        let bin = needs_found("the version before", found, "tests/version-before.sh builds it")?;
        Ok([Self { name: "the version before", bin }, Self { name: "this version", bin: bin_dir() }])
    }

    fn program(&self, name: &str) -> String {
        self.bin.join(name).display().to_string()
    }

    fn call(&self, pod: &Pod<'_>, verb: &str, (ifname, config): (&str, &Value)) -> Result<Value, Stop> {
        let call = pod.call(ifname, config);
        let said = self.run(pod.node(), verb, &call);
        said.map_err(|error| Stop::Failed(format!("{verb} of {} for {config}: {error}", self.name)))
    }

    fn run(&self, node: &Node, verb: &str, call: &CniCall) -> Result<Value, CniError> {
        let config: Value = serde_json::from_str(&call.config).unwrap();
        let path = Some(format!("{}:/usr/lib/cni", self.bin.display()));
        node.cni(&self.program(config["type"].as_str().unwrap()), verb, &CniCall { path, ..call.clone() })
    }

    fn add(&self, pod: &Pod<'_>, network: (&str, &Value)) -> Result<Value, Stop> {
        self.call(pod, "ADD", network)
    }

    fn del(&self, pod: &Pod<'_>, network: (&str, &Value)) -> Outcome {
        self.call(pod, "DEL", network).map(drop)
    }

    fn check(&self, pod: &Pod<'_>, (ifname, config): (&str, &Value), result: &Value) -> Outcome {
        let mut config = config.clone();
        config["prevResult"] = result.clone();
        self.call(pod, "CHECK", (ifname, &config)).map(drop)
    }
}

/// A node with LAN files and the daemon of one version.
struct Site {
    daemon: Option<Daemon>,
    node: Node,
}

const LANS: &str = "/etc/k8slan/lans";

impl Site {
    fn new(name: &str, switch: &Switch) -> Result<Self, Stop> {
        let mut node = Node::new(name)?;
        node.connect(switch, "eth1", 1500)?;
        Ok(Self { daemon: None, node })
    }

    /// Ends the daemon that runs, and starts this version's.
    fn run(&mut self, version: &Version) -> Outcome {
        if let Some(daemon) = self.daemon.take() {
            let status = daemon.terminate()?;
            assert!(status.success(), "{status}");
        }
        let program = version.program("k8slan-device-plugin");
        let argv = [&program, "node", "--lan-dir", LANS, "--node-name", self.node.name()];
        self.daemon = Some(self.node.spawn_daemon(&argv)?);
        let socket = "/run/k8slan/agent.sock";
        eventually(Duration::from_secs(20), || {
            let said = self.node.exec(&[&program, "agent", "--socket", socket, "readyz"]);
            said.or_else(|_| self.node.exec(&[&program, "agent", "readyz"]))
                .map_err(|error| error.to_string())
        })?;
        Ok(())
    }

    fn lan(&self, lan: &LanFile) -> Outcome {
        Ok(self.node.write(&format!("{LANS}/{}.yaml", lan.name), lan.yaml())?)
    }

    fn ready(&self, spoke: &str) -> Result<Value, Stop> {
        Ok(eventually(Duration::from_secs(10), || {
            let text = self.node.read(&format!("/run/k8slan/spokes/{spoke}.json"));
            let record: Value =
                text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            if record["ready"] == true { Ok(record) } else { Err(format!("{spoke}: {record}")) }
        })?)
    }
}

fn lan() -> LanFile {
    LanFile::new("lan1", 7, &["a", "b", "c", "d", "v"]).with("spokeOverrides: {v: {attach: veth}}")
}

const POOLS: &str = "/var/lib/k8slan/pools.d";

/// A pool as both versions take it.
fn pool(node: &Node, name: &str, spec: &str) -> Outcome {
    let text = format!(
        "apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n  scope: host\n{spec}"
    );
    Ok(node.write(&format!("{POOLS}/{name}.yaml"), text)?)
}

fn pools(node: &Node) -> Outcome {
    node.write("/run/k8slan/node-name", node.name())?;
    pool(node, "flat", "  ranges: [{subnet: 10.1.0.0/24}]\n")?;
    pool(node, "pods", "  ranges: [{subnet: 10.2.0.0/24}]\n  sticky: pod\n")?;
    pool(node, "vms", "  ranges: [{subnet: 10.3.0.0/24}]\n  sticky: vm\n")
}

/// Every way to be attached without VLANs, each on an interface of its own.
fn networks() -> Vec<(&'static str, Value)> {
    let ipam = |pool: &str| json!({"type": "ipam-pool", "pool": pool});
    let network = |name: &str, plugin: &str, fields: Value| {
        let mut config = json!({"cniVersion": "1.0.0", "name": name, "type": plugin});
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        config
    };
    let mut veth = on_spoke("v");
    veth["name"] = "veth".into();
    let mut spoke = on_spoke("a");
    spoke["ipam"] = ipam("flat");
    let guards = json!({"macspoofchk": true, "ipspoofchk": true, "ipMasq": true, "isDefaultGateway": true});
    let mut bridge = json!({"bridge": "br0", "ipam": {"type": "ipam-pool", "subnet": "10.4.0.0/24"}});
    bridge.as_object_mut().unwrap().extend(guards.as_object().unwrap().clone());
    vec![
        ("net1", spoke),
        ("net2", veth),
        (
            "net3",
            network("flat", "macvtap", json!({"master": "eth1", "mode": "bridge", "ipam": ipam("flat")})),
        ),
        ("net4", network("moved", "macvtap", json!({"deviceID": "mv0"}))),
        (
            "net5",
            network("kept", "macvtap", json!({"master": "eth1", "mode": "bridge", "ipam": ipam("pods")})),
        ),
        ("net6", network("net", "vlan-bridge", bridge)),
    ]
}

/// All that attachments leave on a node.
fn traces(node: &Node) -> Result<Vec<String>, Stop> {
    let mut all = Vec::new();
    for folder in
        ["/run/k8slan/taps", "/run/k8slan/ports", "/run/k8slan/attachments", "/run/k8slan/leftovers"]
    {
        all.extend(node.list(folder).into_iter().map(|name| format!("{folder}/{name}")));
    }
    all.extend(node.list("/dev").into_iter().filter(|name| name.contains("tap")));
    all.extend(node.link_names()?.into_iter().filter(|name| name != "br0"));
    all.extend(node.netns("/run/netns/lan1")?.link_names()?);
    let chains = node.exec(&["nft", "list", "chains"]).unwrap_or_default();
    all.extend(chains.lines().filter(|line| line.contains("vb")).map(str::to_owned));
    Ok(all)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two nodes, one LAN; a pod on each answers the other's while one node after the other gets the other version.
fn a_node_is_upgraded_and_taken_back_under_traffic() -> Outcome {
    let versions = Version::both()?;
    let [before, _] = &versions;
    let switch = Switch::new()?;
    let mut sites = [Site::new("one", &switch)?, Site::new("two", &switch)?];
    for site in &mut sites {
        site.lan(&lan())?;
        pools(&site.node)?;
        site.run(before)?;
        for spoke in &lan().spokes {
            site.ready(spoke)?;
        }
        site.node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
        site.node.ip("link set mv0 up")?;
    }
    let names = lan().spokes;
    let records = |site: &Site| -> Result<Vec<Value>, Stop> {
        names.iter().map(|spoke| Ok(site.ready(spoke)?["tapIndex"].clone())).collect()
    };
    let numbers = [records(&sites[0])?, records(&sites[1])?];
    // The node of the pods must outlive what the sites do with their daemons.
    let [one, two] = &mut sites;
    let (first, second) = (one.node.pod("first")?, two.node.pod("second")?);
    let results: Vec<Value> = networks()
        .iter()
        .map(|(ifname, config)| before.add(&first, (ifname, config)))
        .collect::<Result<_, _>>()?;
    before.add(&second, ("net1", &on_spoke("b")))?;
    first.ip("addr add 10.9.0.1/24 dev net1")?;
    second.ip("addr add 10.9.0.2/24 dev net1")?;
    let same = |pod: &Pod<'_>| -> Result<Value, Stop> { Ok(pod.ip_json("link show")?.into()) };
    let links = same(&first)?;
    for (round, version) in [&versions[1], &versions[0], &versions[1]].into_iter().enumerate() {
        for (daemon, site) in [(&mut one.daemon, &one.node), (&mut two.daemon, &two.node)] {
            let ping = Ping::new(ip("10.9.0.2")).on("net1").repeated(300, Duration::from_millis(10));
            std::thread::scope(|scope| -> Outcome {
                let traffic = scope.spawn(|| ping.run(&first));
                let outcome = restart(daemon, site, version);
                let report = traffic.join().unwrap()?;
                outcome?;
                report.perfect().map_err(|why| Stop::Failed(format!("round {round}: {why}")))
            })?;
        }
        for (number, result) in results.iter().enumerate() {
            let (ifname, config) = &networks()[number];
            version.check(&first, (ifname, config), result)?;
        }
        assert_eq!(same(&first)?, links, "round {round}");
        // A pod that starts now.
        let more = one.node.pod("more")?;
        version.add(&more, ("net1", &on_spoke("c")))?;
        more.ip("addr add 10.9.0.3/24 dev net1")?;
        Ping::new(ip("10.9.0.2"))
            .on("net1")
            .repeated(3, Duration::from_millis(5))
            .run(&more)?
            .perfect()
            .map_err(Stop::Failed)?;
        version.del(&more, ("net1", &on_spoke("c")))?;
        for (site, wanted) in [(&one.node, &numbers[0]), (&two.node, &numbers[1])] {
            let got: Vec<Value> = names
                .iter()
                .map(|spoke| {
                    let text = site.read(&format!("/run/k8slan/spokes/{spoke}.json")).unwrap();
                    serde_json::from_str::<Value>(&text).unwrap()["tapIndex"].clone()
                })
                .collect();
            assert_eq!(&got, wanted, "round {round}");
        }
    }
    Ok(())
}

/// [`Site::run`] where pods borrow the node.
fn restart(daemon: &mut Option<Daemon>, node: &Node, version: &Version) -> Outcome {
    if let Some(daemon) = daemon.take() {
        let status = daemon.terminate()?;
        assert!(status.success(), "{status}");
    }
    let program = version.program("k8slan-device-plugin");
    let argv = [&program, "node", "--lan-dir", LANS, "--node-name", node.name()];
    *daemon = Some(node.spawn_daemon(&argv)?);
    eventually(Duration::from_secs(20), || {
        node.exec(&[&program, "agent", "readyz"]).map_err(|error| error.to_string())
    })?;
    Ok(())
}

fn attached(version: &Version) -> Result<(Switch, Site), Stop> {
    let switch = Switch::new()?;
    let mut site = Site::new("one", &switch)?;
    site.lan(&lan())?;
    pools(&site.node)?;
    site.run(version)?;
    for spoke in &lan().spokes {
        site.ready(spoke)?;
    }
    site.node.ip("link add mv0 link eth1 type macvtap mode bridge")?;
    site.node.ip("link set mv0 up")?;
    // What the first attachment to a bridge makes stays.
    let pod = site.node.pod("warm")?;
    let (ifname, config) = networks().pop().unwrap();
    version.add(&pod, (ifname, &config))?;
    version.del(&pod, (ifname, &config))?;
    Ok((switch, site))
}

/// What KubeVirt calls a guest's interface.
const LINK: &str = "pod37a8eec1ce1";

/// The later one makes a guest's interface hear every group, and puts a guest's addresses on a spoke's veth.
fn guests_of_each_version_are_checked_and_taken_away_by_the_other() -> Outcome {
    let [before, this] = &Version::both()?;
    let (_switch, mut site) = attached(before)?;
    let clean = traces(&site.node)?;
    let of_pool = |mut config: Value| {
        config["ipam"] = json!({"type": "ipam-pool", "pool": "vms"});
        config["args"] = json!({"cni": {"vm": "vyos"}});
        config
    };
    let mut veth = on_spoke("v");
    veth["name"] = "veth".into();
    let master =
        json!({"cniVersion": "1.0.0", "name": "m", "type": "macvtap", "master": "eth1", "mode": "bridge"});
    let moved = json!({"cniVersion": "1.0.0", "name": "moved", "type": "macvtap", "deviceID": "mv0"});
    let bridge = json!({"cniVersion": "1.0.0", "name": "net", "type": "vlan-bridge", "bridge": "br0"});
    let without_addresses = [on_spoke("a"), veth.clone(), master.clone(), moved, bridge.clone()];
    let configs = without_addresses.into_iter().chain([on_spoke("a"), veth, master, bridge].map(of_pool));
    for (number, config) in configs.enumerate() {
        for [adds, checks] in [[before, this], [this, before]] {
            restart(&mut site.daemon, &site.node, adds)?;
            let pod = site.node.pod(&format!("virt-launcher-vyos-{number:05}"))?;
            let result = adds.add(&pod, (LINK, &config))?;
            restart(&mut site.daemon, &site.node, checks)?;
            // The version before knows nothing of addresses on a guest's veth, and asks for none.
            checks.check(&pod, (LINK, &config), &result)?;
            adds.check(&pod, (LINK, &config), &result)?;
            // Still a difference from what was promised.
            pod.ip(&format!("link set {LINK} arp on"))?;
            let said = this.check(&pod, (LINK, &config), &result);
            assert!(matches!(&said, Err(Stop::Failed(why)) if why.contains("ARP of interface")), "{said:?}");
            checks.del(&pod, (LINK, &config))?;
            assert_eq!(traces(&site.node)?, clean, "{config}: {} after {}", checks.name, adds.name);
            pod.remove()?;
        }
    }
    Ok(())
}

fn each_version_takes_away_what_the_other_one_made() -> Outcome {
    let [before, this] = &Version::both()?;
    for (adds, deletes) in [(before, this), (this, before)] {
        let (_switch, mut site) = attached(adds)?;
        let clean = traces(&site.node)?;
        let moved = site.node.link("mv0")?.unwrap();
        for with_daemon in [false, true] {
            for (ifname, config) in networks() {
                let pod = site.node.pod("pod")?;
                let result = adds.add(&pod, (ifname, &config))?;
                if with_daemon {
                    restart(&mut site.daemon, &site.node, deletes)?;
                }
                // As a container runtime does it: with what ADD answered.
                let mut with_result = config.clone();
                with_result["prevResult"] = result.clone();
                deletes.del(&pod, (ifname, &with_result))?;
                deletes.del(&pod, (ifname, &config))?;
                assert_eq!(traces(&site.node)?, clean, "{config}: {} after {}", deletes.name, adds.name);
                // And it can be had again, by both.
                for version in [deletes, adds] {
                    let again = version.add(&pod, (ifname, &config))?;
                    version.del(&pod, (ifname, &config))?;
                    let count = addresses(&again).len();
                    assert_eq!(count, addresses(&result).len(), "{again}");
                }
                let after = site.node.link("mv0")?.unwrap();
                for field in ["address", "mtu"] {
                    assert_eq!(after[field], moved[field], "{field} of what was moved: {config}");
                }
                if with_daemon {
                    restart(&mut site.daemon, &site.node, adds)?;
                }
            }
        }
    }
    Ok(())
}

fn each_version_collects_what_the_other_one_left() -> Outcome {
    let [before, this] = &Version::both()?;
    for (adds, collects) in [(before, this), (this, before)] {
        let (_switch, mut site) = attached(adds)?;
        let clean = traces(&site.node)?;
        let pod = site.node.pod("lost")?;
        let kept: Vec<Value> = networks()
            .iter()
            .map(|(ifname, config)| adds.add(&pod, (ifname, config)))
            .collect::<Result<_, _>>()?;
        let full = traces(&site.node)?;
        restart(&mut site.daemon, &site.node, collects)?;
        for valid in [true, false] {
            for (ifname, config) in networks() {
                let valid = if valid {
                    json!([{"containerID": pod.container(), "ifname": ifname}])
                } else {
                    json!([])
                };
                let mut config = config.clone();
                config["cniVersion"] = "1.1.0".into();
                let call = pod.call(ifname, &config).with("cni.dev/valid-attachments", valid);
                collects.run(&site.node, "GC", &call)?;
            }
            if valid {
                assert_eq!(traces(&site.node)?, full, "GC of {} took valid ones", collects.name);
                for ((ifname, config), result) in networks().iter().zip(&kept) {
                    let checked = collects.check(&pod, (ifname, config), result);
                    match checked {
                        // The version before compares with the rules that it would make itself.
                        Err(Stop::Failed(why)) if collects.name == before.name && *ifname == "net6" => {
                            assert!(why.contains("the spoof check of the port is changed"), "{why}");
                        }
                        checked => checked?,
                    }
                }
            }
        }
        assert_eq!(traces(&site.node)?, clean, "GC of {} left something of {}", collects.name, adds.name);
    }
    Ok(())
}

/// What the crates' own tests read in `tests/fixtures/version-before`, where those programs cannot be had.
/// `UPDATE=1 cargo test -p k8slan-tests --test daemon fixtures` writes it anew.
fn the_files_of_the_version_before_are_the_fixtures() -> Outcome {
    let [before, _] = &Version::both()?;
    let (_switch, site) = attached(before)?;
    let node = &site.node;
    let pod = node.pod("web-0")?;
    for (ifname, config) in networks() {
        before.add(&pod, (ifname, &config))?;
    }
    // Somebody who is away, and an address that was given back.
    let mut machine = networks()[2].1.clone();
    machine["ipam"]["pool"] = "vms".into();
    machine["args"] = json!({"cni": {"vm": "vyos"}});
    let launcher = node.pod("virt-launcher-vyos-abcde")?;
    before.add(&launcher, ("net1", &machine))?;
    before.del(&launcher, ("net1", &machine))?;
    let flat = &networks()[2].1;
    before.add(&launcher, ("net1", flat))?;
    before.del(&launcher, ("net1", flat))?;
    // The status is told a moment after what it tells of.
    eventually(Duration::from_secs(10), || match node.read("/run/k8slan/status.json") {
        Ok(text) if text.matches("usedBy").count() == 2 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let mut found = Vec::new();
    for root in ["/run/k8slan", "/var/lib/k8slan"] {
        let list = node.exec(&["find", root, "-type", "f", "-size", "+0", "!", "-name", "*.mdb"])?;
        found.extend(list.lines().filter(|path| !path.ends_with(".lock")).map(str::to_owned));
    }
    found.sort();
    let folder = workspace().join("tests/fixtures/version-before");
    // A port is named by its container, a tap by its minor.
    let kind = |path: &str| match path.rsplit_once('/') {
        Some((folder @ ("/run/k8slan/ports" | "/run/k8slan/taps"), _)) => folder.to_owned(),
        _ => path.to_owned(),
    };
    if std::env::var_os("UPDATE").is_some() {
        let _ = std::fs::remove_dir_all(&folder);
        for path in &found {
            let to = folder.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().unwrap())?;
            std::fs::write(to, node.run(|| std::fs::read(path))?)?;
        }
    }
    let kept = std::process::Command::new("find").arg(&folder).args(["-type", "f"]).output()?;
    let kept = String::from_utf8_lossy(&kept.stdout).into_owned();
    let mut kept: Vec<String> =
        kept.lines().filter_map(|path| path.strip_prefix(folder.to_str()?)).map(kind).collect();
    kept.sort();
    let mut found: Vec<String> = found.iter().map(|path| kind(path)).collect();
    found.sort();
    assert_eq!(kept, found);
    Ok(())
}

fn sticky_owners_keep_their_addresses_over_versions() -> Outcome {
    let versions = Version::both()?;
    let [before, this] = &versions;
    let switch = Switch::new()?;
    let mut site = Site::new("one", &switch)?;
    pools(&site.node)?;
    let vm = |pool: &str, name: &str| {
        json!({
            "cniVersion": "1.0.0", "name": "flat", "type": "macvtap", "master": "eth1", "mode": "bridge",
            "ipam": {"type": "ipam-pool", "pool": pool}, "args": {"cni": {"vm": name}},
        })
    };
    let get = |site: &Site, version: &Version, who: &str, config: &Value| -> Result<Vec<IpAddr>, Stop> {
        let pod = site.node.pod(who)?;
        let got = addresses(&version.add(&pod, ("net1", config))?);
        version.del(&pod, ("net1", config))?;
        pod.remove()?;
        Ok(got)
    };
    let owners = ["virt-launcher-one-abcde", "virt-launcher-two-abcde", "db-0", "db-1"];
    let config = |who: &str| match who.strip_prefix("virt-launcher-") {
        Some(rest) => vm("vms", &rest[..3]),
        None => vm("pods", "unused"),
    };
    let config = |who: &str| {
        let mut config = config(who);
        if !who.starts_with("virt") {
            config.as_object_mut().unwrap().remove("args");
        }
        config
    };
    let all = |site: &Site, version: &Version| -> Result<Vec<Vec<IpAddr>>, Stop> {
        owners.iter().map(|who| get(site, version, who, &config(who))).collect()
    };
    let first = all(&site, before)?;
    assert!(first.iter().all(|got| got.len() == 1), "{first:?}");
    for version in [this, before, this, before] {
        // Others first: what is kept must not be handed out.
        for number in 0..3 {
            let other = get(&site, version, &format!("other-{number}"), &config("db-2"))?;
            assert!(!first.contains(&other), "{}: {other:?}", version.name);
        }
        assert_eq!(all(&site, version)?, first, "{}", version.name);
        // And over a boot, whose first call is the other version's.
        site.node.reboot()?;
        site.node.write("/run/k8slan/node-name", site.node.name())?;
    }
    Ok(())
}
