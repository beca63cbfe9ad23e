//! `k8slan-device-plugin check-host`: each thing that can be wrong with a node, made wrong, and named.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use k8slan_tests::apiserver::ApiServer;
use k8slan_tests::{LanFile, Worker};
use serde_json::{Value, json};
use testnet::{Node, Outcome, Stop, Switch, bin_dir, eventually, finish, needs, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        a_good_node_has_no_failures,
        the_exit_code_is_the_worst_of_all,
        nothing_is_changed,
        the_kubelet,
        another_macvtap,
        cni_configurations,
        no_underlay,
        ipv6_that_is_off,
        multicast_that_is_off,
        an_underlay_that_is_too_small,
        reverse_path_filters,
        somebody_else_on_the_port,
        a_node_at_work,
        a_firewall_of_nftables,
        a_firewall_of_iptables,
        bridge_netfilter_with_a_firewall,
        mistakes_in_lan_files,
        a_clusters_lans_before_a_daemon_and_after,
        a_cluster_without_multus_and_kubevirt,
        kubevirt_without_the_binding,
        kubevirt_that_leaves_devices_to_a_webhook,
        an_api_server_that_does_not_answer,
    ]
}

/// A run of the check.
struct Run {
    code: i32,
    findings: Vec<Value>,
}

impl Run {
    fn on(node: &Node, arguments: &[&str]) -> Result<Self, Stop> {
        Self::with_kubeconfig(node, None, arguments)
    }

    fn with_kubeconfig(node: &Node, kubeconfig: Option<&Path>, arguments: &[&str]) -> Result<Self, Stop> {
        let mut command = node.command(program("k8slan-device-plugin"));
        command.arg("check-host").arg("--json").args(arguments);
        command.args(["--cni-bin-dir", bin_dir().to_str().unwrap(), "--node-name", "worker1"]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some(kubeconfig) = kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let output = finish(&mut command)?;
        let findings = serde_json::from_slice(&output.stdout).map_err(|error| {
            Stop::Failed(format!(
                "{error}: {}",
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
            ))
        })?;
        Ok(Self { code: output.status.code().unwrap_or(-1), findings })
    }

    /// Whether there is a finding of that check with this result, whose text says all the words.
    fn says(&self, check: &str, result: &str, words: &[&str]) -> Outcome {
        let good = |finding: &&Value| {
            let text = format!("{} {}", finding["found"], finding["advice"]).replace("\\\"", "\"");
            let of_check = finding["check"].as_str().is_some_and(|name| name == check);
            of_check && finding["result"] == result && words.iter().all(|word| text.contains(word))
        };
        match self.findings.iter().find(good) {
            Some(_) => Ok(()),
            None => Err(Stop::Failed(format!(
                "no {check:?} with {result:?} and {words:?} in {:#?}",
                self.findings
            ))),
        }
    }

    fn failures(&self) -> Vec<&Value> {
        self.findings.iter().filter(|finding| finding["result"] == "failure").collect()
    }
}

/// A node of a cluster: an underlay, a kubelet, Multus.
struct Good {
    node: Node,
    _kubelet: UnixListener,
    _switch: Switch,
}

const KUBELET: &str = "/var/lib/kubelet/device-plugins";
const CONF: &str = "/etc/cni/net.d";

impl Good {
    fn new() -> Result<Self, Stop> {
        let switch = Switch::new()?;
        let mut node = Node::new("worker1")?;
        node.connect(&switch, "eth1", 1500)?;
        node.write(&format!("{CONF}/00-multus.conf"), r#"{"name": "m", "type": "multus-shim"}"#)?;
        let kubelet = node.run(|| {
            std::fs::create_dir_all(KUBELET)?;
            UnixListener::bind(format!("{KUBELET}/kubelet.sock"))
        })?;
        Ok(Self { node, _kubelet: kubelet, _switch: switch })
    }

    fn lan(&self, lan: &LanFile) -> Result<(), Stop> {
        Ok(self.node.write(&format!("/etc/k8slan/lans/{}.yaml", lan.name), lan.yaml())?)
    }
}

const UNDERLAY: [&str; 3] = ["--single-host", "--underlay", "eth1"];
const LANS: [&str; 3] = ["--single-host", "--lan-dir", "/etc/k8slan/lans"];

fn a_good_node_has_no_failures() -> Outcome {
    let good = Good::new()?;
    good.lan(&LanFile::new("lan1", 222, &["pod1"]))?;
    let run = Run::on(&good.node, &["--lan-dir", "/etc/k8slan/lans"])?;
    assert_eq!(run.failures(), Vec::<&Value>::new());
    for (check, word) in [
        ("kernel: bridge", "tried"),
        ("kernel: veth", "tried"),
        ("kernel: VXLAN, IPv6 group", "tried"),
        ("kernel: VXLAN, IPv4 group", "tried"),
        ("kernel: macvtap", "tried"),
        ("underlay: eth1", "up"),
        ("IPv6", "on"),
        ("IPv6: eth1", "fe80::"),
        ("multicast: eth1", "cannot be seen from here"),
        ("MTU: k8slan-system/lan1 on eth1", "1426"),
        ("UDP port 4789", "tried"),
        ("CNI plugin macvtap", "k8slan's"),
        ("CNI plugin ipam-pool", "k8slan's"),
        ("CNI plugin vlan-bridge", "k8slan's"),
        ("CNI configuration", "00-multus.conf"),
        ("kubelet", "kubelet.sock"),
    ] {
        run.says(check, "fine", &[word])?;
    }
    run.says("Multus' API", "notLookedAt", &["KUBECONFIG"])?;
    run.says("KubeVirt", "notLookedAt", &[])?;
    // The kernel may lack what vlan-bridge needs, and says so.
    for check in
        ["kernel: VLAN filtering of bridges", "kernel: 802.1Q devices", "kernel: nftables for bridges"]
    {
        run.says(check, "fine", &["tried"]).or_else(|_| run.says(check, "warning", &["need it"]))?;
    }
    Ok(())
}

fn the_exit_code_is_the_worst_of_all() -> Outcome {
    let good = Good::new()?;
    let run = Run::on(&good.node, &UNDERLAY)?;
    let warned = run.findings.iter().any(|finding| finding["result"] == "warning");
    assert_eq!(run.code, i32::from(warned), "{:?}", run.findings);
    let run = Run::on(&good.node, &["--single-host", "--underlay", "eth9"])?;
    assert_eq!(run.code, 2, "{:?}", run.findings);
    run.says("underlay: eth9", "failure", &["there is no link eth9", "vxlanDevMap"])?;
    // Where nothing can be looked at: a folder that is not there.
    let mut command = good.node.command(program("k8slan-device-plugin"));
    let output = finish(command.args(["check-host", "--lan-dir", "/nowhere"]))?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    // The table, for people.
    let mut command = good.node.command(program("k8slan-device-plugin"));
    let output = finish(command.args(["check-host", "--underlay", "eth1", "--cni-bin-dir", "/nowhere"]))?;
    let table = String::from_utf8_lossy(&output.stdout);
    for line in ["fine          underlay: eth1", "FAILURE       CNI folder", "-> make it", "1 failed, "] {
        assert!(table.contains(line), "{line:?} is not in:\n{table}");
    }
    Ok(())
}

fn nothing_is_changed() -> Outcome {
    let good = Good::new()?;
    let state = || -> Result<String, Stop> {
        let links = good.node.exec(&["ip", "-details", "address", "show"])?;
        let files: Vec<_> =
            ["/dev", "/run", "/run/netns", "/var/lib", "/etc/cni/net.d"].map(|d| good.node.list(d)).into();
        let ruleset = good.node.exec(&["nft", "list", "ruleset"])?;
        Ok(format!("{links}{files:?}{ruleset}"))
    };
    needs("nft")?;
    // Lifetimes and the like do not count down on a link-local address.
    let before = state()?;
    Run::on(&good.node, &["--underlay", "eth1"])?;
    assert_eq!(state()?, before);
    Ok(())
}

fn the_kubelet() -> Outcome {
    let good = Good::new()?;
    let Good { node, _kubelet: kubelet, _switch } = good;
    Run::on(&node, &[])?.says("kubelet", "fine", &["it listens"])?;
    drop(kubelet);
    Run::on(&node, &[])?.says("kubelet", "failure", &["nobody answers"])?;
    node.run(|| std::fs::remove_file(format!("{KUBELET}/kubelet.sock")))?;
    let run = Run::on(&node, &[])?;
    run.says("kubelet", "failure", &["kubelet.sock", "--single-host"])?;
    assert_eq!(run.code, 2);
    let alone = Run::on(&node, &["--single-host"])?;
    assert!(!alone.findings.iter().any(|finding| finding["check"] == "kubelet"), "{:?}", alone.findings);
    Ok(())
}

fn another_macvtap() -> Outcome {
    let node = Node::new("worker1")?;
    let folder = "/run/cni-bin";
    node.write(&format!("{folder}/macvtap"), "#!/bin/sh\necho '{}'\n")?;
    let mut command = node.command(program("k8slan-device-plugin"));
    let output = finish(command.args(["check-host", "--json", "--single-host", "--cni-bin-dir", folder]))?;
    let run = Run { code: output.status.code().unwrap(), findings: serde_json::from_slice(&output.stdout)? };
    run.says("CNI plugin macvtap", "failure", &["another program of that name", "\"type\": \"macvtap\""])?;
    run.says("CNI plugin ipam-pool", "notLookedAt", &["not installed"])?;
    run.says("CNI folder", "fine", &["macvtap"])
}

fn cni_configurations() -> Outcome {
    let good = Good::new()?;
    let node = &good.node;
    node.write(&format!("{CONF}/.hidden"), "{")?;
    node.write(&format!("{CONF}/00-a.conflist"), r#"{"name": "a", "plugins": [{"type": "bridge"}]}"#)?;
    Run::on(node, &[])?.says(
        "CNI configuration",
        "warning",
        &["00-a.conflist", "00-multus.conf", "come first"],
    )?;
    node.run(|| std::fs::remove_file(format!("{CONF}/00-multus.conf")))?;
    Run::on(node, &[])?.says("CNI configuration", "warning", &["no Multus", "install Multus"])?;
    Run::on(node, &["--cni-conf-dir", "/nowhere"])?.says("CNI configuration", "warning", &["/nowhere"])
}

fn no_underlay() -> Outcome {
    let good = Good::new()?;
    Run::on(&good.node, &["--single-host"])?.says(
        "underlays",
        "notLookedAt",
        &["--underlay", "--lan-dir"],
    )?;
    good.node.ip("link set eth1 down")?;
    Run::on(&good.node, &UNDERLAY)?.says(
        "underlay: eth1",
        "failure",
        &["it is down", "ip link set eth1 up"],
    )?;
    good.lan(&LanFile { dev: "eth7".into(), ..LanFile::new("lan1", 222, &["p"]) })?;
    Run::on(&good.node, &LANS)?.says("underlay: eth7", "failure", &["there is no link eth7"])
}

fn ipv6_that_is_off() -> Outcome {
    let good = Good::new()?;
    let set = |path: &str, value: &str| {
        good.node.run(|| std::fs::write(format!("/proc/sys/net/ipv6/conf/{path}/disable_ipv6"), value))
    };
    set("eth1", "1")?;
    Run::on(&good.node, &UNDERLAY)?.says(
        "IPv6: eth1",
        "failure",
        &["off on this device", "conf/eth1/disable_ipv6=0"],
    )?;
    set("all", "1")?;
    Run::on(&good.node, &UNDERLAY)?.says("IPv6", "failure", &["disable_ipv6 is 1", "vxlanGrp"])?;
    good.lan(&LanFile::new("lan1", 222, &["p"]).with("vxlanGrp: 239.1.1.1"))?;
    Run::on(&good.node, &LANS)?.says("IPv6", "fine", &["no LAN here has an IPv6 group"])?;
    set("all", "0")?;
    good.node.ip("link set eth1 down")?;
    good.node.ip("link set eth1 addrgenmode none up")?;
    Run::on(&good.node, &UNDERLAY)?.says("IPv6: eth1", "failure", &["no IPv6 address", "addrgenmode"])
}

fn multicast_that_is_off() -> Outcome {
    let good = Good::new()?;
    good.node.ip("link set eth1 multicast off")?;
    Run::on(&good.node, &UNDERLAY)?.says("multicast: eth1", "failure", &["takes no multicast"])
}

fn an_underlay_that_is_too_small() -> Outcome {
    let good = Good::new()?;
    good.lan(&LanFile::new("lan1", 222, &["p"]).with("mtu: 1500"))?;
    good.lan(&LanFile::new("lan2", 223, &["q"]))?;
    let run = Run::on(&good.node, &LANS)?;
    run.says("MTU: k8slan-system/lan1 on eth1", "failure", &["1500", "1574"])?;
    run.says("MTU: k8slan-system/lan2 on eth1", "fine", &["1426"])?;
    good.node.ip("link set eth1 mtu 1300")?;
    Run::on(&good.node, &LANS)?.says("MTU: k8slan-system/lan2 on eth1", "warning", &["1226", "1280"])
}

fn reverse_path_filters() -> Outcome {
    let good = Good::new()?;
    let set = |path: &str, value: &str| {
        good.node.run(|| std::fs::write(format!("/proc/sys/net/ipv4/conf/{path}/rp_filter"), value))
    };
    set("all", "0")?;
    set("eth1", "1")?;
    Run::on(&good.node, &UNDERLAY)?.says("rp_filter: eth1", "fine", &["does not matter"])?;
    good.lan(&LanFile::new("lan1", 222, &["p"]).with("vxlanGrp: 239.1.1.1"))?;
    Run::on(&good.node, &LANS)?.says("rp_filter: eth1", "warning", &["strict", "rp_filter=2"])?;
    // The larger of the two counts.
    set("all", "2")?;
    Run::on(&good.node, &LANS)?.says("rp_filter: eth1", "fine", &["loose"])
}

fn somebody_else_on_the_port() -> Outcome {
    let good = Good::new()?;
    let port = "UDP port 4789";
    good.lan(&LanFile::new("lan1", 222, &["p"]))?;
    good.node.ip("link add flannel type vxlan id 1 dstport 4789 dev eth1")?;
    Run::on(&good.node, &LANS)?.says(port, "fine", &[])?;
    good.node.ip("link add calico type vxlan id 222 dstport 4789 dev eth1")?;
    Run::on(&good.node, &LANS)?.says(port, "failure", &["calico has VNI 222", "k8slan-system/lan1"])?;
    good.node.ip("link del calico")?;
    good.node.ip("link del flannel")?;
    good.node.ip("link add ovs type vxlan external dstport 4789")?;
    Run::on(&good.node, &LANS)?.says(port, "failure", &["ovs", "EADDRINUSE", "vxlanPort"])?;
    good.node.ip("link del ovs")?;
    let socket = good.node.run(|| std::net::UdpSocket::bind("[::]:4789"))?;
    let own = format!("(process {})", std::process::id());
    Run::on(&good.node, &LANS)?.says(port, "failure", &["EADDRINUSE", &own, "end it", "vxlanPort"])?;
    drop(socket);
    Run::on(&good.node, &LANS)?.says(port, "fine", &[])?;
    // A socket of the kernel's is no program: a device that is up has one, and LANs share it.
    good.node.ip("link add flannel type vxlan id 1 dstport 4789 dev eth1 group ff02::15")?;
    good.node.ip("link set flannel up")?;
    Run::on(&good.node, &LANS)?.says(port, "fine", &["tried"])?;
    // With other options than a LAN's it cannot be shared, and no program has it.
    good.node.ip("link set flannel down")?;
    good.node.ip("link del flannel")?;
    good.node.ip("link add gbp type vxlan id 1 dstport 4789 dev eth1 group ff02::15 gbp")?;
    good.node.ip("link set gbp up")?;
    Run::on(&good.node, &LANS)?.says(
        port,
        "failure",
        &["EADDRINUSE", "VXLAN device gbp", "other options"],
    )?;
    good.node.ip("link del gbp")?;
    Ok(())
}

/// With its LAN built and up.
fn a_node_at_work() -> Outcome {
    let switch = Switch::new()?;
    let worker = Worker::new("worker1", &switch, 1500)?;
    let lan = LanFile::new("lan1", 222, &["p"]);
    worker.put(&lan)?;
    worker.ready("p")?;
    let lans = ["--single-host", "--lan-dir", Worker::LANS];
    let run = Run::on(&worker, &lans)?;
    run.says("UDP port 4789", "fine", &["tried"])?;
    // The trial leaves the LAN's own device alone.
    let vxlan = worker.netns(&lan.netns())?.ip("-br link show type vxlan up")?;
    assert!(vxlan.starts_with("vx2"), "{vxlan:?}");
    Run::on(&worker, &lans)?.says("UDP port 4789", "fine", &["tried"])
}

fn nft(node: &Node, text: &str) -> Outcome {
    node.write("/run/rules.nft", text)?;
    node.exec(&["nft", "-f", "/run/rules.nft"])?;
    Ok(())
}

fn a_firewall_of_nftables() -> Outcome {
    needs("nft")?;
    let good = Good::new()?;
    let check = "firewall: eth1, IPv6";
    Run::on(&good.node, &UNDERLAY)?.says("firewall", "fine", &["nothing filters"])?;
    nft(
        &good.node,
        "table inet f { chain in { type filter hook input priority 0; udp dport 4789 drop; }; }\n",
    )?;
    Run::on(&good.node, &UNDERLAY)?.says(
        check,
        "failure",
        &["UDP 4789 over IPv6 ends at rule", "table inet f, chain in", "let in by eth1"],
    )?;
    let rules = "flush ruleset
        table inet f {
            chain in {
                type filter hook input priority 0; policy drop;
                ct state vmap { established : accept, related : accept, invalid : drop }
                iifname lo accept
                jump nodes
            }
            chain nodes {
                iifname != eth1 return
                meta l4proto ipv6-icmp icmpv6 type { mld-listener-query, nd-neighbor-solicit, nd-neighbor-advert } accept
                udp dport { 53, 4700-4800 } accept
            }
        }";
    nft(&good.node, rules)?;
    Run::on(&good.node, &UNDERLAY)?.says(
        check,
        "fine",
        &["UDP 4789 over IPv6", "MLD queries", "judged: table inet f, chain in"],
    )?;
    nft(&good.node, &rules.replace("mld-listener-query, ", ""))?;
    Run::on(&good.node, &UNDERLAY)?.says(
        check,
        "failure",
        &["MLD queries (ICMPv6 130) ends at the policy"],
    )?;
    nft(&good.node, &rules.replace("iifname != eth1", "ip6 saddr != fe80::/10"))?;
    Run::on(&good.node, &UNDERLAY)?.says(check, "warning", &["may end at"])?;
    // A filter of another family is none of it.
    nft(
        &good.node,
        "flush ruleset
        table ip f { chain in { type filter hook input priority 0; policy drop; }; }\n",
    )?;
    Run::on(&good.node, &UNDERLAY)?.says(check, "fine", &[])
}

fn a_firewall_of_iptables() -> Outcome {
    needs("ip6tables")?;
    let good = Good::new()?;
    let check = "firewall: eth1, IPv6";
    for rule in [
        "-P INPUT DROP",
        "-A INPUT -p ipv6-icmp -j ACCEPT",
        "-A INPUT -i eth+ -p udp -m multiport --dports 53,4789 -j ACCEPT",
    ] {
        let argv: Vec<&str> = std::iter::once("ip6tables").chain(rule.split(' ')).collect();
        good.node.exec(&argv)?;
    }
    Run::on(&good.node, &UNDERLAY)?.says(check, "fine", &["judged: INPUT (ip6tables"])?;
    good.node.exec(&[
        "ip6tables",
        "-I",
        "INPUT",
        "-p",
        "udp",
        "-m",
        "udp",
        "--dport",
        "4000:5000",
        "-j",
        "REJECT",
    ])?;
    Run::on(&good.node, &UNDERLAY)?.says(check, "failure", &["4000:5000"])
}

fn bridge_netfilter_with_a_firewall() -> Outcome {
    needs("nft")?;
    let good = Good::new()?;
    let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if good.node.read(path).is_err() {
        return Err(Stop::Skipped("needs a kernel with br_netfilter loaded".to_owned()));
    }
    good.node.run(|| std::fs::write(path, "1"))?;
    Run::on(&good.node, &UNDERLAY)?.says("bridge netfilter", "fine", &["as Kubernetes wants it"])?;
    nft(&good.node, "table ip f { chain between { type filter hook forward priority 0; policy drop; }; }\n")?;
    Run::on(&good.node, &UNDERLAY)?.says(
        "bridge netfilter",
        "warning",
        &["chain between of table ip f", "vlan-bridge"],
    )
}

fn mistakes_in_lan_files() -> Outcome {
    let good = Good::new()?;
    good.lan(&LanFile::new("lan1", 0, &["p"]))?;
    let run = Run::on(&good.node, &LANS)?;
    run.says("LANs", "failure", &["k8slan-system/lan1", "vni"])
}

/// An API server that the node reaches, and the kubeconfig that says so.
fn api(node: &Node) -> Result<(ApiServer, tempfile::TempDir), Stop> {
    let server = ApiServer::start_on(node.run(|| std::net::TcpListener::bind(("127.0.0.1", 0)))?)?;
    let dir = tempfile::tempdir()?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "k", "cluster": { "server": server.url() } }],
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
        "users": [{ "name": "u", "user": {} }],
    });
    std::fs::write(dir.path().join("kubeconfig"), config.to_string())?;
    Ok((server, dir))
}

fn in_cluster(node: &Node, dir: &tempfile::TempDir) -> Result<Run, Stop> {
    Run::with_kubeconfig(node, Some(&dir.path().join("kubeconfig")), &["--underlay", "eth1"])
}

fn kubevirt(server: &ApiServer, version: &str, configuration: &Value) {
    server.put(
        "kubevirts",
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
            "metadata": { "namespace": "kubevirt", "name": "kubevirt" },
            "spec": { "configuration": configuration },
            "status": { "observedKubeVirtVersion": version },
        }),
    );
}

fn nad(server: &ApiServer) {
    server.put(
        "network-attachment-definitions",
        json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": { "namespace": "default", "name": "a" }, "spec": { "config": "{}" },
        }),
    );
}

fn a_cluster_without_multus_and_kubevirt() -> Outcome {
    let good = Good::new()?;
    let (server, dir) = api(&good.node)?;
    let run = in_cluster(&good.node, &dir)?;
    run.says("Multus' API", "failure", &["no NetworkAttachmentDefinition", "install Multus"])?;
    run.says("LAN API", "warning", &["install/crds"])?;
    run.says("KubeVirt", "fine", &["not installed"])?;
    nad(&server);
    server.put(
        "lans",
        json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN",
            "metadata": { "namespace": "default", "name": "a" }, "spec": {},
        }),
    );
    let run = in_cluster(&good.node, &dir)?;
    run.says("Multus' API", "fine", &[])?;
    run.says("LAN API", "fine", &[])?;
    // It asks, and changes nothing.
    let asked: Vec<String> =
        server.requests().into_iter().filter(|request| !request.starts_with("GET ")).collect();
    assert!(asked.is_empty(), "{asked:?}");
    Ok(())
}

/// Before the first daemon the API server has the LANs; then the node has, when nobody can be asked.
fn a_clusters_lans_before_a_daemon_and_after() -> Outcome {
    let good = Good::new()?;
    let (server, dir) = api(&good.node)?;
    let kubeconfig = dir.path().join("kubeconfig");
    let looks = |kubeconfig: Option<&Path>| Run::with_kubeconfig(&good.node, kubeconfig, &[]);
    server.put(
        "nodes",
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": "worker1", "labels": { "kubernetes.io/hostname": "rack7" } },
        }),
    );
    let lan = |name: &str, map: Value, more: Value| {
        let mut spec = json!({ "ns": name, "bridge": "br", "vxlan": "vx", "vni": 7, "vxlanDevMap": map, "spokes": [name] });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata = json!({ "namespace": "a", "name": name, "creationTimestamp": "2026-11-21T07:00:00Z" });
        json!({ "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN", "metadata": metadata, "spec": spec })
    };
    let mut small = lan("small", json!({ "rack7": "eth1" }), json!({ "vni": 8, "vxlanPort": 4790 }));
    small["status"] = json!({ "mtu": 1400 });
    server.put("lans", small);
    server.put("lans", lan("lost", json!({ "worker1": "eth9" }), json!({})));
    server.put("lans", lan("elsewhere", json!({ "worker2": "eth8" }), json!({ "vni": 9 })));
    server.put("lans", lan("bad", json!({}), json!({ "vni": 0 })));
    let finds = |run: &Run, from: &str| -> Outcome {
        run.says("LANs", "fine", &["3 from", from, "2 of them with an underlay on node worker1"])?;
        run.says("LANs", "failure", &["LAN a/bad", "vni"])?;
        run.says("underlay: eth1", "fine", &["up"])?;
        run.says("underlay: eth9", "failure", &["there is no link eth9"])?;
        run.says("MTU: a/small on eth1", "fine", &["1400"])?;
        run.says("UDP port 4790", "fine", &[])?;
        run.says("IPv6: eth1", "fine", &["fe80::"])?;
        run.says("multicast: eth1", "fine", &[])?;
        run.says("rp_filter: eth1", "fine", &[])?;
        let text = format!("{:?}", run.findings);
        if text.contains("eth8") {
            Err(Stop::Failed(format!("another node's underlay: {text}")))
        } else {
            Ok(())
        }
    };
    finds(&looks(Some(&kubeconfig))?, "the API server")?;
    server.fault(|faults| faults.errors.push(("/lans".to_owned(), 403)));
    looks(Some(&kubeconfig))?.says("LANs", "notLookedAt", &["a fault that the test asked for"])?;
    server.fault(|faults| faults.errors.clear());

    let config = format!("KUBECONFIG={}", kubeconfig.display());
    let program = program("k8slan-device-plugin");
    let program = program.to_string_lossy();
    let node =
        [&*program, "node", "--mirrored", "--node-name", "worker1", "--lan-dir", "/var/lib/k8slan/lans"];
    let node = good.node.spawn_daemon(&node)?;
    let daemon = ["env", &config, &program, "cluster", "--api-only", "--node-name", "worker1"];
    let daemon = good.node.spawn_daemon(&daemon)?;
    eventually(Duration::from_secs(10), || match good.node.list("/var/lib/k8slan/lans").len() {
        4 => Ok(()),
        _ => Err(format!("{}\n{}", node.log(), daemon.log())),
    })?;
    daemon.terminate()?;
    node.terminate()?;
    finds(&looks(None)?, "/var/lib/k8slan/lans")
}

fn kubevirt_without_the_binding() -> Outcome {
    let good = Good::new()?;
    let (server, dir) = api(&good.node)?;
    nad(&server);
    let check = "KubeVirt kubevirt/kubevirt";
    kubevirt(&server, "v1.4.1", &json!({ "developerConfiguration": { "featureGates": ["Sidecar"] } }));
    in_cluster(&good.node, &dir)?.says(
        check,
        "failure",
        &[
            "v1.4.1",
            "kubectl -n kubevirt patch kubevirt kubevirt --type=merge -p '",
            r#""binding":{"macvtap":{"domainAttachmentType":"tap"}}"#,
            r#""featureGates":["Sidecar","NetworkBindingPlugins"]"#,
        ],
    )?;
    let bound = json!({ "network": { "binding": { "macvtap": { "domainAttachmentType": "tap" } } } });
    kubevirt(&server, "v1.6.0", &bound);
    in_cluster(&good.node, &dir)?.says(check, "fine", &["v1.6.0"])
}

fn kubevirt_that_leaves_devices_to_a_webhook() -> Outcome {
    let good = Good::new()?;
    let (server, dir) = api(&good.node)?;
    nad(&server);
    let check = "KubeVirt kubevirt/kubevirt: devices";
    let bound = json!({ "network": { "binding": { "macvtap": { "domainAttachmentType": "tap" } } } });
    kubevirt(&server, "v1.9.0", &bound);
    in_cluster(&good.node, &dir)?.says(
        check,
        "failure",
        &["network-resources-injector", "disabledFeatureGates"],
    )?;
    server.put(
        "mutatingwebhookconfigurations",
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": "network-resources-injector-config" }, "webhooks": [],
        }),
    );
    in_cluster(&good.node, &dir)?.says(check, "fine", &[])?;
    server.fault(|faults| faults.errors.push(("mutatingwebhookconfigurations".to_owned(), 403)));
    in_cluster(&good.node, &dir)?.says(check, "notLookedAt", &["cannot be listed"])
}

fn an_api_server_that_does_not_answer() -> Outcome {
    let good = Good::new()?;
    let (server, dir) = api(&good.node)?;
    drop(server);
    in_cluster(&good.node, &dir)?.says("API server", "warning", &["KUBECONFIG"])
}
