//! Mistakes of `docs/troubleshooting.md`, each made once: what the pod's event or the LAN's condition says is what the page says.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use k8slan_kubernetes_tests::{Cluster, PodOf, Worker, failed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, workspace};

use crate::check;
use crate::restarts::daemon_on;
use crate::shared::{alone, beside};
use crate::site::{Lan, definitions, delete, event, events, start};
use crate::vm::machine;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("mistakes_are_told_as_the_page_tells_them", mistakes_are_told_as_the_page_tells_them),
        beside("the_api_server_refuses_as_the_page_says", the_api_server_refuses_as_the_page_says),
        beside("a_spoke_without_a_network_has_no_device", a_spoke_without_a_network_has_no_device),
        beside("multus_asks_for_no_interface_twice", multus_asks_for_no_interface_twice),
        beside("a_lan_names_its_pods_as_the_page_does", a_lan_names_its_pods_as_the_page_does),
        beside("a_second_daemon_is_refused_as_the_page_says", a_second_daemon_is_refused_as_the_page_says),
    ]
}

pub(crate) fn alone_trials() -> Vec<Trial> {
    vec![alone(
        "a_daemon_that_cannot_start_says_what_the_page_says",
        a_daemon_that_cannot_start_says_what_the_page_says,
    )]
}

const LAN: Lan = Lan {
    name: "mistakes",
    vni: 1141,
    spokes: &[
        "mist1", "mist2", "mist5", "mist6", "mist7", "mist8", "mist9", "mist10", "mist11", "mist12",
        "mist13", "mist14", "mist15", "mist16", "mist17", "mist18",
    ],
};

/// Whose underlay one node has not.
const UNBUILT: Lan = Lan { name: "unbuilt", vni: 1144, spokes: &["unbuilt1"] };

/// Whose `allowedNamespaces` lists nobody here.
const CLOSED: Lan = Lan { name: "closed", vni: 1145, spokes: &["closed1"] };

/// The names of a virtual machine's pod; the longer one is cut.
const LAUNCHER: &str = "virt-launcher-mist-x7k2p";
const CUT: &str = "virt-launcher-mistake-of-a-long-name-of-many-a-long-name-o-x7k2p";

/// Launcher pods of machines that KubeVirt's API has, with the machine's name, and whether the pod is a migration's target.
const GUESTS: &[(&str, &str, bool)] = &[
    ("virt-launcher-mistbridge-aaaaa", "mistbridge", false),
    ("virt-launcher-misttap-aaaaa", "misttap", false),
    ("virt-launcher-misttap-bbbbb", "misttap", false),
    ("virt-launcher-mistmove-bbbbb", "mistmove", true),
];

/// How KubeVirt calls the interface of a machine's network `blue`, in the page, too.
const BLUE: &str = "pod16477688c0e";

/// What the runtime says of a pod whose networks it cannot make.
const SANDBOX: &str = "FailedCreatePodSandBox";

/// Files that go with this.
struct Files<'a> {
    worker: &'a Worker,
    paths: Vec<String>,
}

impl<'a> Files<'a> {
    fn on(worker: &'a Worker) -> Self {
        Self { worker, paths: Vec::new() }
    }

    fn write(&mut self, path: &str, text: String) -> Outcome {
        self.paths.push(path.to_owned());
        Ok(self.worker.write(path, text)?)
    }

    fn pool(&mut self, name: &str, spec: &Value) -> Outcome {
        let file = json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "IPPool", "metadata": { "name": name }, "spec": spec,
        });
        self.write(&format!("/var/lib/k8slan/pools.d/{name}.yaml"), file.to_string())
    }
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = self.worker.exec(&["rm", "-f", path]);
        }
    }
}

/// A pod that cannot start.
struct Mistake {
    /// What its event is for.
    reason: &'static str,
    /// Of the pod, and of the network where that is made for it.
    name: &'static str,
    /// How the page's text begins.
    page: &'static str,
    /// What the page names, and what is meant here.
    names: &'static [(&'static str, &'static str)],
    /// The configuration of a network; none: `networks` are those of the LAN.
    config: Option<Value>,
    networks: &'static str,
    spokes: &'static [&'static str],
}

/// The line of the page that begins so, as it reads here. Where a name stands for any, the text is in parts.
fn page(begins: &str, names: &[(&str, &str)]) -> Result<Vec<String>, Stop> {
    let text = std::fs::read_to_string(workspace().join("docs/troubleshooting.md"))?;
    let line = text.lines().filter_map(|line| line.strip_prefix("> ")).find(|line| line.starts_with(begins));
    let mut line =
        line.ok_or_else(|| failed(format!("the page has nothing that begins with: {begins}")))?.to_owned();
    for (there, here) in names {
        check!(line.contains(there), "{there} is not in: {line}");
        line = line.replace(there, here);
    }
    Ok(line.split('*').map(str::to_owned).collect())
}

/// A network with addresses of a pool that a virtual machine keeps.
fn held() -> Value {
    json!({ "name": "lan", "type": "macvtap", "ipam": { "type": "ipam-pool", "pool": "held", "sticky": "vm" } })
}

/// A definition in the namespace `default`; its resource is that of the spoke.
pub(crate) fn definition(name: &str, config: &Value, spokes: &[&str]) -> String {
    let mut config = config.clone();
    config["cniVersion"] = json!("1.0.0");
    let mut definition = json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": { "name": name, "namespace": "default", "annotations": {} },
        "spec": { "config": config.to_string() },
    });
    if let [spoke] = spokes {
        definition["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"] =
            json!(format!("macvtap.k8slan.io/{spoke}"));
    }
    definition.to_string()
}

/// A network as a pod that names a virtual machine by itself asks for it.
fn naming(network: &str) -> String {
    json!([{ "name": network, "cni-args": { "vm": "mistvm" } }]).to_string()
}

fn mistakes() -> Vec<Mistake> {
    let plain = |name, page, names, config, spokes| Mistake {
        reason: SANDBOX,
        name,
        page,
        names,
        config: Some(config),
        networks: "",
        spokes,
    };
    let pool = |pool: &str, more: Value| {
        let mut ipam = json!({ "type": "ipam-pool", "pool": pool });
        ipam.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        json!({ "type": "macvtap", "ipam": ipam })
    };
    vec![
        plain("noresource", "nothing to attach to: ", &[], json!({ "type": "macvtap" }), &[]),
        plain(
            "byname",
            "spoke pod2 is handed out by the kubelet",
            &[("pod2", "mist1")],
            json!({ "type": "macvtap", "spoke": "mist1" }),
            &[],
        ),
        plain(
            "nospoke",
            "spoke pod2 is unknown on this node",
            &[("pod2", "nowhere")],
            json!({ "type": "macvtap", "spoke": "nowhere" }),
            &[],
        ),
        plain(
            "bigmtu",
            "MTU 9000 does not fit on pod2",
            &[("pod2", "mist2")],
            json!({ "type": "macvtap", "mtu": 9000 }),
            &["mist2"],
        ),
        plain(
            "nopart",
            "pool \"iot\" has no part for node",
            &[("iot", "nopart"), ("worker4", "worker1")],
            pool("nopart", json!({})),
            &["mist5"],
        ),
        plain(
            "spans",
            "the network spans nodes (lan,",
            &[],
            json!({
                "name": "lan", "type": "macvtap",
                "ipam": { "type": "ipam-pool", "subnet": "10.142.0.0/24" },
            }),
            &["mist6"],
        ),
        plain(
            "nosticky",
            "the network sets sticky: pod, but pool",
            &[("\"iot\"", "\"nosticky\"")],
            pool("nosticky", json!({ "sticky": "pod" })),
            &["mist7"],
        ),
        plain(
            "underlay",
            "link eth1 is used by the node",
            // Other trials have LANs on it, too.
            &[("k8slan-system/lan-test", "*")],
            json!({ "type": "macvtap", "master": "eth1", "mode": "passthru" }),
            &[],
        ),
        // What the kubelet hands out, said by the network instead: so it is a mistake that the plugin sees.
        plain(
            "unknown",
            "device \"pod2\" is neither the spoke of a LAN",
            &[("pod2", "nowhere")],
            json!({ "type": "macvtap", "deviceID": "nowhere" }),
            &[],
        ),
        plain(
            "inuse-too",
            "spoke pod2 is in use by pod default/nginx",
            &[("pod2", "mist8"), ("default/nginx", "default/holder"), ("453ac3cc33ac…", "*")],
            json!({ "type": "macvtap", "deviceID": "mist8" }),
            &[],
        ),
        plain(
            "notbuilt",
            "LAN k8slan-system/lan-test of spoke pod2 is not built on this node",
            &[("lan-test", "unbuilt"), ("pod2", "unbuilt1"), ("eth1", "eth7")],
            json!({ "type": "macvtap", "deviceID": "unbuilt1" }),
            &[],
        ),
        // Those that no node takes: the leader says why.
        Mistake {
            reason: "SpokeNotFree",
            name: "notfree",
            page: "spoke pod2 of LAN k8slan-system/lan-test: worker1: held by default/nginx",
            names: &[
                ("pod2", "unbuilt1"),
                ("lan-test", "unbuilt"),
                ("default/nginx", "default/unbuilt-holder"),
                ("eth2", "eth7"),
            ],
            config: None,
            networks: "unbuilt1",
            spokes: &["unbuilt1"],
        },
        Mistake {
            reason: "SpokeNotFree",
            name: "nolan",
            page: "no LAN lists spoke pod9",
            names: &[("pod9", "nobody9")],
            config: None,
            networks: "mist1",
            spokes: &["nobody9"],
        },
        plain(
            "notadmitted",
            "LAN k8slan-system/lan-test does not admit pods of namespace",
            &[("lan-test", "closed"), ("shop", "default")],
            json!({ "type": "macvtap", "deviceID": "closed1" }),
            &[],
        ),
        plain(
            "full",
            "no address is free in 10.0.20.64-10.0.20.127",
            &[("10.0.20.64-10.0.20.127", "10.144.0.1-10.144.0.2")],
            pool("full", json!({})),
            &["mist9"],
        ),
        plain(
            LAUNCHER,
            "the node daemon has not said yet which virtual machine pod default/virt-launcher-web-x7k2p runs, so it",
            &[("virt-launcher-web-x7k2p", LAUNCHER)],
            json!({ "type": "macvtap" }),
            &["mist10"],
        ),
        plain(
            CUT,
            "the node daemon has not said yet which virtual machine pod default/virt-launcher-web-x7k2p runs, and",
            &[("virt-launcher-web-x7k2p", CUT)],
            // Where other guests may be on the link, and have the name's beginning, too.
            json!({ "type": "macvtap", "master": "mist0" }),
            &[],
        ),
        plain(
            "nofilter",
            "bridge br0 does not filter VLANs",
            &[("br0", "cni0")],
            json!({ "type": "vlan-bridge", "bridge": "cni0", "vlan": 20 }),
            &[],
        ),
        plain(
            "uplink",
            "uplink eth1 is used by the node",
            &[("k8slan-system/lan-test", "*")],
            json!({ "type": "vlan-bridge", "bridge": "mistbr1", "uplinks": [{ "name": "eth1" }] }),
            &[],
        ),
        plain(
            "gateway",
            "br0.20 would get 192.0.2.1/25",
            &[("br0.20", "mistbr2"), ("192.0.2.1/25", "10.99.0.1/25"), ("192.0.2.10/24", "10.99.0.11/24")],
            json!({
                "type": "vlan-bridge", "bridge": "mistbr2", "isGateway": true,
                "ipam": {
                    "type": "ipam-pool", "scope": "host",
                    "ranges": [[{ "subnet": "10.99.0.0/25", "gateway": "10.99.0.1" }]],
                },
            }),
            &[],
        ),
        plain(
            "overlap",
            "pools \"iot\" and \"lab\" overlap at 10.0.20.64",
            &[("iot", "mist-iot"), ("lab", "mist-lab"), ("10.0.20.64", "10.149.0.65")],
            pool("mist-lab", json!({})),
            &["mist11"],
        ),
        plain(
            "badfile",
            "the file of pool \"iot\" is not valid: allowedNamespaces stands there",
            &[("iot", "badfile")],
            pool("badfile", json!({})),
            &["mist12"],
        ),
        // As another version may leave its name in the plugins' folder.
        plain(
            "noveth",
            "spoke srl takes no attachments of type k8slanveth",
            &[("srl", "mist13")],
            json!({ "type": "k8slanveth", "veth": "mist13" }),
            &["mist13"],
        ),
        plain(
            "otherveth",
            "veth says spoke srl, but the kubelet handed out",
            &[("srl", "mist13"), ("\"vm\"", "\"mist14\"")],
            json!({ "type": "k8slanveth", "veth": "mist13" }),
            &["mist14"],
        ),
        plain(
            "thief",
            "10.2.0.2 is the address of vm:default/web/lan",
            &[
                ("10.2.0.2", "10.147.0.1"),
                ("default/web/lan", "default/mistvm/lan"),
                ("default/virt-launcher-web-abcde", "default/names-a-vm"),
                ("453ac3cc33ac…", "*"),
            ],
            held(),
            &["mist15"],
        ),
        plain(
            GUESTS[0].0,
            "virtual machine web binds interface pod16477688c0e by bridge: {}, and a macvtap",
            &[("machine web", "machine mistbridge")],
            json!({ "type": "macvtap" }),
            &["mist17"],
        ),
        plain(
            GUESTS[1].0,
            "virtual machine web binds interface pod16477688c0e by macvtap, and this network gives a veth",
            &[("machine web", "machine misttap")],
            json!({ "type": "vlan-bridge", "bridge": "mistbr3" }),
            &[],
        ),
        plain(
            GUESTS[2].0,
            "virtual machine web binds interface pod16477688c0e by macvtap, and its container gets no",
            &[("machine web", "machine misttap")],
            json!({ "type": "macvtap", "master": "mist0" }),
            &[],
        ),
        plain(
            GUESTS[3].0,
            "vm:default/web/lan is migrating to this node",
            &[("default/web", "default/mistmove"), ("10.78.0.100-10.78.0.199", "10.148.0.100-10.148.0.199")],
            json!({ "name": "lan", "type": "macvtap", "ipam": { "type": "ipam-pool", "pool": "moving" } }),
            &["mist18"],
        ),
    ]
}

fn mistakes_are_told_as_the_page_tells_them(cluster: &Cluster) -> Outcome {
    LAN.apply(cluster)?;
    let mut unbuilt = UNBUILT.manifest();
    unbuilt["spec"]["vxlanDevMap"] = json!({ "worker1": "eth1", "worker2": "eth7" });
    unbuilt["spec"].as_object_mut().unwrap().remove("defaultVxlanDev");
    cluster.apply(&unbuilt.to_string())?;
    let mut closed = CLOSED.manifest();
    closed["spec"]["allowedNamespaces"] = json!(["nobody"]);
    closed["spec"]["networkAttachments"] = json!({ "namespaces": ["nobody"] });
    cluster.apply(&closed.to_string())?;
    start(cluster, &PodOf::on("holder", "mist8").at("worker1"))?;
    // Its network is there when its node has built the LAN, which is waited for by the pod.
    cluster.until(&format!("{}/unbuilt1", definitions("default")), |_| true)?;
    start(cluster, &PodOf::on("unbuilt-holder", "unbuilt1").at("worker1"))?;
    let worker = cluster.worker("worker1")?;
    worker.ip("link add mist0 type veth peer name mist0-peer")?;
    let mut files = Files::on(worker);
    let part = |subnet: &str, node: &str, part: &str| json!({ "ranges": [{ "subnet": subnet, "gateway": "none" }], "nodes": { node: [part] } });
    files.pool("nopart", &part("10.140.0.0/24", "worker9", "10.140.0.1-10.140.0.99"))?;
    files.pool("nosticky", &part("10.141.0.0/24", "worker1", "10.141.0.1-10.141.0.99"))?;
    let mut full = part("10.144.0.0/24", "worker1", "10.144.0.1-10.144.0.2");
    full["reservations"] = json!({ "default/somebody": "10.144.0.1", "default/another": "10.144.0.2" });
    files.pool("full", &full)?;
    files.pool("mist-iot", &part("10.149.0.0/24", "worker1", "10.149.0.1-10.149.0.9"))?;
    files.pool("mist-lab", &part("10.149.0.64/26", "worker1", "10.149.0.64-10.149.0.99"))?;
    let mut bad = part("10.150.0.0/24", "worker1", "10.150.0.1-10.150.0.99");
    bad["allowedNamespaces"] = Value::Null;
    files.pool("badfile", &bad)?;
    let mut held_pool = part("10.147.0.0/24", "worker1", "10.147.0.1-10.147.0.99");
    held_pool["sticky"] = json!("vm");
    files.pool("held", &held_pool)?;
    let mut moving = part("10.148.0.0/24", "worker1", "10.148.0.100-10.148.0.199");
    moving["sticky"] = json!("vm");
    files.pool("moving", &moving)?;
    files.write("/opt/cni/bin/k8slanveth", "#!/bin/sh\nexec /opt/cni/bin/macvtap\n".to_owned())?;
    worker.exec(&["chmod", "0755", "/opt/cni/bin/k8slanveth"])?;
    cluster.apply(&definition("names-a-vm", &held(), &["mist16"]))?;
    start(
        cluster,
        &PodOf { networks: naming("names-a-vm"), ..PodOf::on("names-a-vm", "mist16") }.at("worker1"),
    )?;
    let on_blue = |binding: Value| {
        let mut interface = binding;
        interface["name"] = json!("blue");
        json!({
            "domain": { "devices": { "interfaces": [interface] } },
            "networks": [{ "name": "blue", "multus": { "networkName": "blue" } }],
        })
    };
    let machines = [
        machine(cluster, "mistbridge", &on_blue(json!({ "bridge": {} })))?,
        machine(cluster, "misttap", &on_blue(json!({ "binding": { "name": "macvtap" } })))?,
        machine(cluster, "mistmove", &json!({}))?,
    ];
    let mistakes = mistakes();
    let mut objects = Vec::new();
    for mistake in &mistakes {
        let guest = GUESTS.iter().find(|(pod, ..)| *pod == mistake.name);
        let mut networks = mistake.networks.to_owned();
        if let Some(config) = &mistake.config {
            objects.push(definition(mistake.name, config, mistake.spokes));
            networks = mistake.name.to_owned();
            if guest.is_some() || mistake.name == CUT {
                networks = format!("{networks}@{BLUE}");
            } else if mistake.name == "thief" {
                networks = naming(mistake.name);
            }
        }
        let pod = PodOf {
            name: mistake.name.to_owned(),
            node: Some(if mistake.name == "notbuilt" { "worker2" } else { "worker1" }.to_owned()),
            networks,
            spokes: mistake.spokes.iter().map(|&spoke| spoke.to_owned()).collect(),
        };
        let mut pod: Value = serde_json::from_str(&pod.manifest())?;
        if let Some((_, vm, migrates)) = guest {
            let owner = machines.iter().find(|machine| machine["metadata"]["name"] == *vm);
            pod["metadata"]["labels"] = json!({ "kubevirt.io": "virt-launcher" });
            if *migrates {
                pod["metadata"]["labels"]["kubevirt.io/migrationJobUID"] = json!("6b1c");
            }
            pod["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": vm,
                "uid": owner.map(|owner| &owner["metadata"]["uid"]), "controller": true,
            }]);
        }
        objects.push(pod.to_string());
    }
    cluster.apply(&objects.join("\n---\n"))?;
    let told: Vec<Vec<String>> =
        mistakes.iter().map(|mistake| page(mistake.page, mistake.names)).collect::<Result<_, _>>()?;
    cluster.eventually(|| {
        let mut differ = Vec::new();
        for (mistake, page) in mistakes.iter().zip(&told) {
            // The runtime may escape quotation marks.
            let said: BTreeSet<String> =
                events(cluster, mistake.name).iter().map(|text| text.replace('\\', "")).collect();
            let is_it = |text: &String| {
                text.starts_with(mistake.reason) && page.iter().all(|part| text.contains(part))
            };
            if !said.iter().any(is_it) {
                let said = said.iter().rfind(|text| text.starts_with(mistake.reason));
                differ.push(format!("{}: the page says {page:?}, and the event {said:?}", mistake.name));
            }
        }
        if differ.is_empty() { Ok(()) } else { Err(differ.join("\n")) }
    })?;
    for mistake in &mistakes {
        cluster.kubectl(&format!("delete pod {} --force --grace-period=0", mistake.name))?;
        if mistake.config.is_some() {
            cluster.kubectl(&format!("delete net-attach-def {}", mistake.name))?;
        }
    }
    worker.ip("link delete mist0")?;
    let left = worker.link_names()?;
    check!(
        !left.iter().any(|name| name.starts_with("mistbr")),
        "a refused attachment made a bridge: {left:?}"
    );
    delete(cluster, "names-a-vm")?;
    cluster.kubectl("delete net-attach-def names-a-vm")?;
    cluster.kubectl("delete virtualmachineinstance mistbridge misttap mistmove --timeout=60s")?;
    delete(cluster, "holder")?;
    delete(cluster, "unbuilt-holder")?;
    UNBUILT.remove(cluster)?;
    CLOSED.remove(cluster)?;
    LAN.remove(cluster)
}

/// The messages of all rules in a schema.
fn rules(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("x-kubernetes-validations").and_then(Value::as_array);
            let own = own.into_iter().flatten().filter_map(|rule| rule["message"].as_str());
            found.extend(own.map(str::to_owned));
            fields.values().for_each(|value| rules(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| rules(value, found)),
        _ => {}
    }
}

/// Every rule of the CRD is broken once, in each field that has it.
fn the_api_server_refuses_as_the_page_says(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "refused", vni: 1146, spokes: &["refused1"] };
    const KERNEL: &str = "this name means something else to the kernel";
    const PORT: &str = "'+' and eight hexadecimal digits are the names";
    const NODE: &str = "no link can have this name";
    LAN.apply(cluster)?;
    let mistakes = [
        ("ns cannot be changed", json!({ "ns": "other" })),
        ("vni cannot be changed", json!({ "vni": 1147 })),
        ("bridge and vxlan are two links", json!({ "vxlan": "br0" })),
        ("a spoke is a link beside the bridge", json!({ "spokes": ["br0"] })),
        ("no node has an underlay", json!({ "defaultVxlanDev": null, "vxlanDevMap": null })),
        ("spokeOverrides names a spoke", json!({ "spokeOverrides": { "other": { "attach": "veth" } } })),
        (KERNEL, json!({ "bridge": "all" })),
        (KERNEL, json!({ "vxlan": "lo" })),
        (KERNEL, json!({ "spokes": ["default"] })),
        ("tap and hexadecimal digits", json!({ "spokes": ["tap16477688"] })),
        (PORT, json!({ "bridge": "+4a3b2c1d" })),
        (PORT, json!({ "vxlan": "+4a3b2c1d" })),
        (NODE, json!({ "defaultVxlanDev": "all" })),
        (NODE, json!({ "vxlanDevMap": { "worker1": ".." } })),
        ("metadata.name takes 180 characters", json!({})),
    ];
    let mut broken = BTreeSet::new();
    for (begins, fields) in mistakes {
        let told = page(begins, &[])?.concat();
        let mut lan = LAN.manifest();
        let spec = lan["spec"].as_object_mut().unwrap();
        for (field, value) in fields.as_object().unwrap() {
            match value {
                Value::Null => drop(spec.remove(field)),
                value => drop(spec.insert(field.clone(), value.clone())),
            }
        }
        if begins.starts_with("metadata.name") {
            lan["metadata"]["name"] = json!("l".repeat(181));
        }
        let apply = ["apply", "--dry-run=server", "-f", "-"];
        let (code, said) = cluster.kubectl_says(&apply, &lan.to_string())?;
        check!(code == Some(1) && said.contains(&told), "the page says {told:?}, and {fields}: {said}");
        broken.insert(told);
    }
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/lans.lan.k8slan.io";
    let mut all = BTreeSet::new();
    rules(&cluster.until(path, |_| true)?["spec"], &mut all);
    check!(all == broken, "rules of the CRD: {all:#?}, and those that are broken here: {broken:#?}");
    LAN.remove(cluster)
}

fn a_spoke_without_a_network_has_no_device(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "lone", vni: 1142, spokes: &["lone1"] };
    LAN.apply(cluster)?;
    let mut lone = PodOf::on("lone", "lone1").at("worker1");
    lone.networks.clear();
    cluster.apply(&lone.manifest())?;
    event(cluster, "lone", &["lstat /dev/tap", "no such file or directory"])?;
    let text = std::fs::read_to_string(workspace().join("docs/troubleshooting.md"))?;
    check!(
        text.contains("`lstat /dev/tap1670875530: no such file or directory`"),
        "the page does not have it"
    );
    delete(cluster, "lone")?;
    LAN.remove(cluster)
}

/// So what our plugin says of it is heard from other callers alone.
fn multus_asks_for_no_interface_twice(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "twice", vni: 1148, spokes: &["twice1", "twice2"] };
    const SAYS: &str = "validateIfName: interface name net1 already exists";
    LAN.apply(cluster)?;
    for worker in ["worker1", "worker2"] {
        let name = format!("twice-{worker}");
        let mut twice = PodOf::on(&name, "twice1").at(worker);
        twice.networks = "twice1@net1,twice2@net1".to_owned();
        twice.spokes.push("twice2".to_owned());
        cluster.apply(&twice.manifest())?;
        event(cluster, &name, &[SAYS])?;
        delete(cluster, &name)?;
    }
    let text = std::fs::read_to_string(workspace().join("docs/troubleshooting.md"))?;
    check!(text.contains(&format!("`{SAYS}`")), "the page does not have it");
    LAN.remove(cluster)
}

fn a_lan_names_its_pods_as_the_page_does(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "fewer", vni: 1143, spokes: &["fewer1", "fewer2"] };
    LAN.apply(cluster)?;
    start(cluster, &PodOf::on("testvm-1", "fewer2").at("worker1"))?;
    cluster.until(&LAN.path(), |lan| lan["status"]["attachments"] == 1)?;
    let message = |lan: &Value, kind: &str| -> String {
        let conditions = lan["status"]["conditions"].as_array().into_iter().flatten();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind);
        found.and_then(|found| found["message"].as_str()).unwrap_or_default().to_owned()
    };
    let mut fewer = LAN.manifest();
    fewer["spec"]["spokes"] = json!(["fewer1"]);
    cluster.apply(&fewer.to_string())?;
    let told =
        page("default/testvm-1 on worker1 (spoke pod1): the LAN does not have", &[("pod1", "fewer2")])?;
    cluster.until(&LAN.path(), |lan| message(lan, "SpokesRemoved") == told[0])?;
    cluster.eventually(|| {
        let events = cluster.list("/apis/events.k8s.io/v1/namespaces/k8slan-system/events")?;
        let of = |event: &&Value| event["regarding"]["name"] == LAN.name && event["reason"] == "RemovedInUse";
        match events.iter().find(of) {
            Some(found) if found["note"] == told[0].as_str() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    cluster.apply(&LAN.manifest().to_string())?;
    cluster.until(&LAN.path(), |lan| message(lan, "SpokesRemoved").is_empty())?;
    cluster.kubectl("-n k8slan-system delete lan fewer --wait=false")?;
    let told = page("waits for one attachment: default/testvm-1", &[("pod1", "fewer2")])?;
    cluster.until(&LAN.path(), |lan| message(lan, "Deleting") == told[0])?;
    delete(cluster, "testvm-1")?;
    cluster.until_gone(&LAN.path())
}

/// Somebody starts it once more by hand.
fn a_second_daemon_is_refused_as_the_page_says(cluster: &Cluster) -> Outcome {
    let daemon = daemon_pod(cluster)?;
    let again = format!(
        "-n k8slan-system exec {daemon} -c node -- k8slan-device-plugin node --lan-dir=/var/lib/k8slan/lans --mirrored \
         --node-name=worker1 --kubelet-dir=/var/lib/kubelet/device-plugins"
    );
    let (code, said) = cluster.kubectl_says(&again.split_whitespace().collect::<Vec<_>>(), "")?;
    let told = page("another k8slan-device-plugin runs on this node", &[])?.concat();
    check!(code != Some(0) && said.contains(&told), "the page says {told:?}, and the second one {said}");
    Ok(())
}

/// What one gets by `GET /readyz` of the cluster's part on a node, for people: the status line and the text.
fn readyz(worker: &Worker) -> std::io::Result<String> {
    worker.run(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9477")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

fn readyz_says(cluster: &Cluster, worker: &Worker, parts: &[String]) -> Outcome {
    cluster.eventually(|| match readyz(worker) {
        Ok(answer)
            if answer.starts_with("HTTP/1.1 503") && parts.iter().all(|part| answer.contains(part)) =>
        {
            Ok(())
        }
        other => Err(format!("{parts:?} expected: {other:?}")),
    })?;
    Ok(())
}

fn a_daemon_that_cannot_start_says_what_the_page_says(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "stood", vni: 1147, spokes: &["stood1"] };
    const SOCKET: &str = "/run/k8slan/agent.sock";
    let cluster = &*cluster;
    let worker = cluster.worker("worker1")?;
    // A port of its own: other LANs have the usual one.
    let mut lan = LAN.manifest();
    lan["spec"]["vxlanPort"] = json!(4790);
    LAN.apply_as(cluster, &lan)?;
    let mut files = Files::on(worker);
    worker.exec(&["rm", "-f", SOCKET])?;
    files.write(SOCKET, String::new())?;
    for (name, process) in daemon_on(cluster, "worker1")? {
        if name == "node" {
            kill(Pid::from_raw(process), Signal::SIGKILL)?;
        }
    }
    let told = page("cannot make the socket", &[])?;
    let pod = daemon_pod(cluster)?;
    cluster.eventually(|| match cluster.kubectl(&format!("-n k8slan-system logs {pod} -c node")) {
        Ok(log) if log.contains(&told[0]) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    worker.exec(&["rm", "-f", "/run/k8slan/controller/link.sock"])?;
    readyz_says(cluster, worker, &page("the node's part of k8slan, which builds LANs, is away", &[])?)?;
    // And when it starts again, it cannot build what stood.
    worker.ip("-n stood link del vx0")?;
    let port = worker.run(|| UdpSocket::bind("[::]:4790"))?;
    drop(files);
    cluster.kubectl(&format!("-n k8slan-system delete pod {pod} --timeout=60s"))?;
    let names = [("lan-test", LAN.name), ("vx2", "vx0"), ("index 4:", "index *:"), ("4789", "4790")];
    readyz_says(
        cluster,
        worker,
        &page("LAN k8slan-system/lan-test stood when this daemon started", &names)?,
    )?;
    drop(port);
    cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=120s")?;
    LAN.remove(cluster)
}

/// The name of the daemon's pod on `worker1`.
fn daemon_pod(cluster: &Cluster) -> Result<String, Stop> {
    let pods = cluster.list("/api/v1/namespaces/k8slan-system/pods").map_err(failed)?;
    let is_it = |pod: &&Value| {
        pod["spec"]["nodeName"] == "worker1"
            && pod["metadata"]["labels"]["app.kubernetes.io/component"] == "node"
    };
    let found = pods.iter().find(is_it).and_then(|pod| pod["metadata"]["name"].as_str());
    found.map(str::to_owned).ok_or_else(|| failed("no pod of the daemon on worker1"))
}
