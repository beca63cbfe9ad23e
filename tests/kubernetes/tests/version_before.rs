//! From the version before to this one and back, node by node, with pods, a guest and a stopped virtual machine.
//!
//! The version before is 4ddaf9b, with its own manifests, CRDs among them, and an image of its own programs, all built from the
//! project's history by `tests/version-before.sh`. It refused `CNI_ARGS` whose keys come twice, as **thin** Multus gives them, so
//! that under that one none of its pods had an interface. Under **thick** Multus they had: the daemon of that one has no `CNI_ARGS`
//! of its own to put behind those of the call. So both nodes here have the thick one, whichever the other trials have: played, or
//! the real one where `MULTUS` names its folder.
//!
//! Both versions are called 0.1.0, and so are their images. The one before is imported under another tag, and its manifest names
//! that; nothing else of it is changed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8slan_kubernetes_tests::multus::SHIM;
use k8slan_kubernetes_tests::{Cluster, PodOf, condition, failed};
use serde_json::{Value, json};
use testnet::{Guest, Outcome, Ping, Stop, Trial, needs_found, workspace};

use crate::check;
use crate::shared::{FILES, apart_on, thick};
use crate::site::{Lan, container, delete, give, pings, ready, sandbox, spoke_is, start};
use crate::vm;

pub(crate) fn trials() -> Vec<Trial> {
    const NAME: &str = "from_the_version_before_and_back_under_traffic";
    vec![testnet::test(NAME, || {
        let versions = Version::both()?;
        Guest::needs()?;
        apart_on(NAME, thick, move |cluster| from_one_to_the_other(cluster, &versions))
    })]
}

/// What is applied to have one version.
struct Version {
    name: &'static str,
    image: &'static str,
    archive: Option<PathBuf>,
    manifests: Vec<String>,
    /// How `kubectl get lannodes` writes that a LAN is ready.
    ready: &'static str,
}

impl Version {
    fn both() -> Result<[Self; 2], Stop> {
        const NAME: &str = "localhost/k8slan:0.1.0";
        const BEFORE: &str = "localhost/k8slan:before";
        let folder = workspace().join("target/version-before");
        let archive = Some(folder.join("k8slan-image.tar")).filter(|archive| archive.is_file());
        let archive = needs_found("the version before", archive, "tests/version-before.sh builds it")?;
        // There its CRDs are in the one file.
        let manifest = std::fs::read_to_string(folder.join("install/k8slan.yaml"))?;
        check!(manifest.matches(NAME).count() == 3, "{manifest}");
        let before = Self {
            name: "the version before",
            image: BEFORE,
            archive: Some(archive),
            manifests: vec![manifest.replace(NAME, BEFORE)],
            ready: "true",
        };
        let manifests = FILES.iter().map(|file| std::fs::read_to_string(workspace().join(file)));
        let manifests = manifests.collect::<Result<_, _>>()?;
        let this = Self { name: "this version", image: NAME, archive: None, manifests, ready: "True" };
        Ok([before, this])
    }

    fn apply(&self, cluster: &Cluster) -> Outcome {
        self.manifests.iter().try_for_each(|manifest| cluster.apply(manifest).map(drop))?;
        self.rolled_out(cluster)
    }

    /// Each node has a pod of it, which was not started twice.
    fn rolled_out(&self, cluster: &Cluster) -> Outcome {
        cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=120s")?;
        let pods = cluster.list("/api/v1/namespaces/k8slan-system/pods").map_err(failed)?;
        let pods: Vec<Value> =
            pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
        check!(pods.len() == cluster.workers.len(), "{pods:#?}");
        for pod in &pods {
            let specs = ["initContainers", "containers"].map(|kind| pod["spec"][kind].as_array());
            let mut images = specs.into_iter().flatten().flatten().map(|container| &container["image"]);
            check!(images.all(|image| image == self.image), "{}: {pod:#}", self.name);
            let statuses = pod["status"]["containerStatuses"].as_array();
            let mut restarts = statuses.into_iter().flatten().map(|status| &status["restartCount"]);
            check!(restarts.all(|number| *number == 0), "{}: {pod:#}", self.name);
        }
        Ok(())
    }
}

/// With macvtaps: of pods with an address by hand, and of machines with one of a pool.
const LAN: Lan = Lan {
    name: "carried",
    vni: 1310,
    spokes: &["carried1", "carried2", "carried3", "carried4", "carried5", "carried6"],
};
const ONE: Ipv4Addr = Ipv4Addr::new(10, 150, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 150, 0, 2);
const PASSING: Ipv4Addr = Ipv4Addr::new(10, 150, 0, 3);
/// With veths, and a pool of addresses.
const BARE: Lan = Lan { name: "bare", vni: 1311, spokes: &["bare1", "bare2", "bare3"] };
/// The node's own in its zone.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 151, 0, 1);
/// What KubeVirt calls an interface.
const LINK: &str = "pod37a8eec1ce1";
/// It has the first address of its node, which nobody had before it.
const GUEST: &str = "
ip link set eth0 up
ip addr add 10.150.0.160/24 dev eth0
echo guest-is-up
sleep 100000
";
const IN_GUEST: Ipv4Addr = Ipv4Addr::new(10, 150, 0, 160);
/// A request of each stream every so often.
const INTERVAL: Duration = Duration::from_millis(20);

/// An attachment: the address that the pod's status has, and the link's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    address: String,
    mac: String,
}

/// Those of the interface `link` of a pod.
fn identity(pod: &Value, link: &str) -> Result<Identity, Stop> {
    let told = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str();
    let told: Vec<Value> = serde_json::from_str(told.unwrap_or("[]"))?;
    let own = told.iter().find(|network| network["interface"] == link);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let found = own.and_then(|own| Some((text(&own["ips"][0])?, text(&own["mac"])?)));
    let (address, mac) = found.ok_or_else(|| failed(format!("no address on {link}: {told:#?}")))?;
    Ok(Identity { address, mac })
}

/// A pod on both LANs and in the zone of its node.
fn pod(name: &str, number: u8, node: &str) -> PodOf {
    let spokes = vec![format!("carried{number}"), format!("bare{number}")];
    let networks = format!("carried{number},bare{number},zone");
    PodOf { name: name.to_owned(), node: Some(node.to_owned()), networks, spokes }
}

/// One that the version that is there makes, and another one takes away.
fn passing(cluster: &Cluster, round: usize) -> Result<Value, Stop> {
    let pod = start(cluster, &pod(&format!("passing-{round}"), 3, "worker1"))?;
    give(cluster, &pod, "net1", PASSING)?;
    pings(cluster, &pod, "net1", TWO)?;
    pings(cluster, &pod, "net3", GATEWAY)?;
    Ok(pod)
}

/// What goes on while versions change.
struct Scene {
    one: Value,
    two: Value,
    guest: Value,
    /// The links of the three, by the pod's name.
    links: BTreeMap<String, Value>,
    /// Of a virtual machine that is not running.
    stopped: Identity,
    /// Made by the version that is there.
    passing: Value,
    round: usize,
}

impl Scene {
    fn start(cluster: &Cluster) -> Result<Self, Stop> {
        let one = start(cluster, &pod("one", 1, "worker1"))?;
        let two = start(cluster, &pod("two", 2, "worker2"))?;
        give(cluster, &one, "net1", ONE)?;
        give(cluster, &two, "net1", TWO)?;
        let guest = guest(cluster)?;
        check!(identity(&guest, LINK)?.address == IN_GUEST.to_string(), "{guest:#}");
        cluster.eventually(|| match cluster.kubectl("logs virt-launcher-running-abcde") {
            Ok(console) if console.contains("guest-is-up") => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        let (launcher, stopped) = machine_starts(cluster, STOPPED, 0)?;
        machine_stops(cluster, STOPPED, &launcher)?;
        let passing = passing(cluster, 0)?;
        let mut scene = Self { one, two, guest, links: BTreeMap::new(), stopped, passing, round: 0 };
        scene.links = scene.links(cluster)?;
        for (link, to) in scene.streams()? {
            pings(cluster, &scene.one, link, to)?;
        }
        Ok(scene)
    }

    fn live(&self) -> [&Value; 3] {
        [&self.one, &self.two, &self.guest]
    }

    /// Whom the pod `one` reaches, and by which of its interfaces.
    fn streams(&self) -> Result<[(&'static str, Ipv4Addr); 4], Stop> {
        let bare = identity(&self.two, "net2")?.address.parse()?;
        Ok([("net1", TWO), ("net1", IN_GUEST), ("net2", bare), ("net3", GATEWAY)])
    }

    fn links(&self, cluster: &Cluster) -> Result<BTreeMap<String, Value>, Stop> {
        let of = |pod: &&Value| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            Ok((name, cluster.netns(pod)?.ip_json("addr show")?.into()))
        };
        self.live().iter().map(of).collect()
    }

    /// Not one answer may be missing, and none may come twice, while this is done.
    fn under_traffic(&self, cluster: &Cluster, what: impl FnOnce() -> Outcome) -> Outcome {
        let netns = cluster.netns(&self.one)?;
        let done = AtomicBool::new(false);
        let streams = self.streams()?;
        std::thread::scope(|scope| {
            let run = |(link, to): (&'static str, Ipv4Addr)| {
                let (netns, done) = (&netns, &done);
                scope.spawn(move || -> Outcome {
                    let ping = Ping::new(to).on(link).repeated(50, INTERVAL);
                    loop {
                        let last = done.load(Ordering::Acquire);
                        let report = ping.run(netns)?;
                        report.perfect().map_err(|why| failed(format!("{link} to {to}: {why}")))?;
                        if last {
                            return Ok(());
                        }
                    }
                })
            };
            let traffic = streams.map(run);
            let outcome = what();
            done.store(true, Ordering::Release);
            let ended =
                traffic.map(|stream| stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            ended.into_iter().fold(outcome, Result::and)
        })
    }

    /// All that was there before this version came is as it was, and all that comes now works.
    fn holds_under(&mut self, cluster: &Cluster, version: &Version) -> Outcome {
        let told = |stop: Stop| match stop {
            Stop::Failed(why) => failed(format!("{}: {why}", version.name)),
            skipped => skipped,
        };
        self.untouched(cluster).map_err(told)?;
        reports(cluster, version).map_err(told)?;
        self.round += 1;
        self.goes_and_comes(cluster).map_err(told)
    }

    fn untouched(&self, cluster: &Cluster) -> Outcome {
        for before in self.live() {
            let name = before["metadata"]["name"].as_str().unwrap_or_default();
            let now = ready(cluster, name)?;
            check!(now["metadata"]["uid"] == before["metadata"]["uid"], "{name} is another pod");
            check!(container(&now) == container(before), "{name} has another container: {now:#}");
            cni_check(cluster, before)?;
        }
        cni_check(cluster, &self.passing)?;
        let links = self.links(cluster)?;
        check!(links == self.links, "{links:#?} instead of {:#?}", self.links);
        Ok(())
    }

    /// A pod that the other version made goes; one of this version comes on the same spokes, and the stopped machine comes back
    /// after another one.
    fn goes_and_comes(&mut self, cluster: &Cluster) -> Outcome {
        delete(cluster, self.passing["metadata"]["name"].as_str().unwrap_or_default())?;
        spoke_is(cluster, "carried3", "1")?;
        spoke_is(cluster, "bare3", "1")?;
        self.passing = passing(cluster, self.round)?;
        for link in ["net2", "net3"] {
            let (one, passing) = (identity(&self.one, link)?, identity(&self.passing, link)?);
            check!(one.address != passing.address, "two pods have {one:?}");
        }
        let (other, its) = machine_starts(cluster, OTHER, self.round)?;
        let kept = &self.stopped;
        check!(its.address != kept.address, "another machine has the address of the stopped one, {kept:?}");
        let (launcher, again) = machine_starts(cluster, STOPPED, self.round)?;
        check!(again == *kept, "the stopped machine had {kept:?} and has {again:?}");
        machine_stops(cluster, OTHER, &other)?;
        machine_stops(cluster, STOPPED, &launcher)
    }
}

/// A machine and the number of its spoke.
type Machine = (&'static str, u8);

const RUNNING: Machine = ("running", 4);
const STOPPED: Machine = ("stopped", 5);
const OTHER: Machine = ("other", 6);

/// A launcher's pod, which belongs to the running instance of a machine.
fn launcher(cluster: &Cluster, (name, number): Machine, end: &str, node: &str) -> Result<Value, Stop> {
    let object = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": { "name": name, "namespace": "default" }, "spec": {},
    });
    let instance = vm::machine(cluster, name, &json!({}))?;
    cluster.apply(&object.to_string())?;
    let mut pod = PodOf::on(&format!("virt-launcher-{name}-{end}"), &format!("carried{number}")).at(node);
    pod.networks = format!(r#"[{{"name":"machine{number}","interface":"{LINK}"}}]"#);
    vm::launcher(&pod, &instance)
}

/// The machine that runs through all of it.
fn guest(cluster: &Cluster) -> Result<Value, Stop> {
    let guest = Guest { tap: "", mac: "", mtu: 0, script: GUEST, programs: &[], qemu: &[] };
    let folder = Path::new("/tmp/kubernetes-running-guest");
    guest.write(folder)?;
    let mut pod = launcher(cluster, RUNNING, "abcde", "worker2")?;
    vm::boots(&mut pod, LINK, folder);
    cluster.apply(&pod.to_string())?;
    ready(cluster, "virt-launcher-running-abcde")
}

/// Starts a machine: a launcher of another name each time.
fn machine_starts(cluster: &Cluster, machine: Machine, round: usize) -> Result<(String, Identity), Stop> {
    let pod = launcher(cluster, machine, &format!("{round:05}"), "worker1")?;
    cluster.apply(&pod.to_string())?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let own = identity(&ready(cluster, &name)?, LINK)?;
    Ok((name, own))
}

/// Stops it: the machine is there all the same.
fn machine_stops(cluster: &Cluster, (name, _): Machine, launcher: &str) -> Outcome {
    delete(cluster, launcher)?;
    cluster.kubectl(&format!("delete virtualmachineinstance {name} --timeout=60s")).map(drop)
}

/// CHECK of all of a pod's networks, as a runtime would ask for it by Multus: the kubelet never does.
fn cni_check(cluster: &Cluster, pod: &Value) -> Outcome {
    let worker = cluster.worker(pod["spec"]["nodeName"].as_str().unwrap_or_default())?;
    let sandbox = sandbox(cluster, pod)?;
    let info: Value = serde_json::from_str(&worker.ctr(&["containers", "info", &sandbox])?)?;
    let namespaces = info["Spec"]["linux"]["namespaces"].as_array().into_iter().flatten();
    let netns = namespaces.filter(|own| own["type"] == "network").find_map(|own| own["path"].as_str());
    let netns = netns.ok_or_else(|| failed(format!("no network namespace: {info:#}")))?;
    let (name, uid) = (&pod["metadata"]["name"], &pod["metadata"]["uid"]);
    let (name, uid) = (name.as_str().unwrap_or_default(), uid.as_str().unwrap_or_default());
    worker.exec(&[
        "env",
        "CNI_COMMAND=CHECK",
        &format!("CNI_CONTAINERID={sandbox}"),
        &format!("CNI_NETNS={netns}"),
        "CNI_IFNAME=eth0",
        "CNI_PATH=/opt/cni/bin",
        &format!(
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={sandbox};K8S_POD_UID={uid}"
        ),
        "sh",
        "-c",
        // Its answer is the error's words.
        &format!("exec /opt/cni/bin/{SHIM} </etc/cni/net.d/00-multus.conf >&2"),
    ])?;
    Ok(())
}

/// What nodes and leader say, under the definitions that are there: whole, and as both versions read it.
fn reports(cluster: &Cluster, version: &Version) -> Outcome {
    for (lan, attachments) in [(LAN, 4), (BARE, 3)] {
        let wanted = |lan: &Value| {
            condition(lan, "Accepted") == Some("True")
                && condition(lan, "Ready") == Some("True")
                && lan["status"]["nodes"] == "2/2"
                && lan["status"]["attachments"] == attachments
        };
        cluster.until(&lan.path(), wanted)?;
        admitted(cluster, &lan.path(), &["replace", "--subresource=status"])?;
        for worker in &cluster.workers {
            let path = format!(
                "/apis/lan.k8slan.io/v1beta1/namespaces/k8slan-system/lannodes/{}.{}",
                lan.name,
                worker.name()
            );
            let report = cluster.until(&path, |report| {
                let fields = ["accepted", "ready"].map(|field| &report["spec"][field]["holds"]);
                let conditions = ["Accepted", "Ready"].map(|kind| condition(report, kind));
                let new = version.ready == "True";
                fields.iter().all(|holds| **holds == true)
                    && (!new || conditions.iter().all(|status| *status == Some("True")))
            })?;
            check!(report["spec"]["mtu"] == 1426, "{report:#}");
            admitted(cluster, &path, &["replace"])?;
        }
    }
    let rows = |kind: &str| -> Result<Vec<Vec<String>>, Stop> {
        let said = cluster.kubectl(&format!("get {kind} -n k8slan-system --no-headers"))?;
        Ok(said.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect())
    };
    let lans = rows("lans")?;
    check!(lans.len() == 2 && lans.iter().all(|row| row[1..4] == ["True", "True", "2/2"]), "{lans:?}");
    let nodes = rows("lannodes")?;
    check!(nodes.len() == 4 && nodes.iter().all(|row| row[3] == version.ready), "{nodes:?}");
    Ok(())
}

/// The API server takes an object as it is: its definition has nothing against any field.
fn admitted(cluster: &Cluster, path: &str, verb: &[&str]) -> Outcome {
    let argv = [verb, &["--dry-run=server", "--validate=strict", "-f", "-"]].concat();
    cluster.eventually(|| {
        let object = cluster.get(path)?.ok_or_else(|| format!("there is no {path}"))?;
        match cluster.kubectl_says(&argv, &object.to_string()) {
            Ok((Some(0), _)) => Ok(()),
            other => Err(format!("{other:?}: {object:#}")),
        }
    })?;
    Ok(())
}

/// What attachments leave on the nodes.
fn traces(cluster: &Cluster) -> Result<Vec<String>, Stop> {
    let mut found = Vec::new();
    for worker in &cluster.workers {
        for folder in ["taps", "ports", "attachments", "leftovers"] {
            let names = worker.list(&format!("/run/k8slan/{folder}")).into_iter();
            found.extend(names.map(|name| format!("{}: {folder}/{name}", worker.name())));
        }
        for lan in [LAN, BARE] {
            let links = worker.netns(&format!("/run/netns/{}", lan.name))?.link_names()?.into_iter();
            found.extend(links.map(|name| format!("{}: {name} in {}", worker.name(), lan.name)));
        }
        // Ports of the zone; those of the cluster's own network are of Debian's plugins.
        let ports = worker.ip_json("link show").map_err(failed)?;
        let ports = ports.iter().filter(|link| link["master"] == "zone0");
        found.extend(ports.map(|link| format!("{}: {}", worker.name(), link["ifname"])));
    }
    found.sort();
    Ok(found)
}

/// Pools, LANs and networks, as both versions take them.
fn prepare(cluster: &Cluster) -> Outcome {
    let pool = |name: &str, spec: Value| -> Outcome {
        let mut pool = json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "IPPool", "metadata": { "name": name },
        });
        pool["spec"] = spec;
        for worker in &cluster.workers {
            worker.write(&format!("/var/lib/k8slan/pools.d/{name}.yaml"), pool.to_string())?;
        }
        Ok(())
    };
    pool(
        "machines",
        json!({
            "ranges": [{ "subnet": "10.150.0.0/24", "gateway": "none" }], "sticky": "vm",
            "nodes": { "worker1": ["10.150.0.128-10.150.0.159"], "worker2": ["10.150.0.160-10.150.0.191"] },
        }),
    )?;
    pool(
        "bare",
        json!({
            "ranges": [{ "subnet": "10.152.0.0/24", "gateway": "none" }],
            "nodes": { "worker1": ["10.152.0.1-10.152.0.63"], "worker2": ["10.152.0.64-10.152.0.127"] },
        }),
    )?;
    let network = |name: &str, resource: Option<&str>, config: Value| -> Outcome {
        let mut network = json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": { "name": name, "namespace": "default" }, "spec": { "config": config.to_string() },
        });
        if let Some(resource) = resource {
            let annotation = json!({ "k8s.v1.cni.cncf.io/resourceName": resource });
            network["metadata"]["annotations"] = annotation;
        }
        cluster.apply(&network.to_string()).map(drop)
    };
    let zone = json!({
        "cniVersion": "1.0.0", "name": "zone", "type": "vlan-bridge", "bridge": "zone0", "isGateway": true,
        "ipam": { "type": "ipam-pool", "subnet": "10.151.0.0/24" },
    });
    network("zone", None, zone)?;
    for (_, number) in [RUNNING, STOPPED, OTHER] {
        let ipam = json!({ "type": "ipam-pool", "pool": "machines" });
        let config = json!({ "cniVersion": "1.0.0", "name": "machines", "type": "macvtap", "ipam": ipam });
        network(&format!("machine{number}"), Some(&format!("macvtap.k8slan.io/carried{number}")), config)?;
    }
    LAN.apply(cluster)?;
    let mut bare = BARE.manifest();
    bare["spec"]["attach"] = json!("veth");
    bare["spec"]["networkAttachments"]["ipam"] = json!({ "type": "ipam-pool", "pool": "bare" });
    BARE.apply_as(cluster, &bare)
}

fn from_one_to_the_other(cluster: &Cluster, [before, this]: &[Version; 2]) -> Outcome {
    // Rights of another version are not those that the manifests here have.
    cluster.is_not_judged();
    for archive in before.archive.iter() {
        for worker in &cluster.workers {
            worker.ctr(&["images", "import", &archive.to_string_lossy()])?;
        }
    }
    before.apply(cluster)?;
    prepare(cluster)?;
    let empty = traces(cluster)?;
    let mut scene = Scene::start(cluster)?;
    reports(cluster, before)?;

    scene.under_traffic(cluster, || this.apply(cluster))?;
    scene.holds_under(cluster, this)?;
    // Back as RELEASING.md says, the definitions stay; then these, too.
    scene.under_traffic(cluster, || {
        cluster.kubectl("-n k8slan-system rollout undo daemonset/k8slan-ds")?;
        before.rolled_out(cluster)
    })?;
    scene.untouched(cluster)?;
    scene.under_traffic(cluster, || before.apply(cluster))?;
    scene.holds_under(cluster, before)?;
    scene.under_traffic(cluster, || this.apply(cluster))?;
    scene.holds_under(cluster, this)?;

    let live = scene.live().map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    cluster.kubectl(&format!("delete pod {} passing-{} --timeout=120s", live.join(" "), scene.round))?;
    let left = traces(cluster)?;
    check!(left == empty, "{left:#?} instead of {empty:#?}");
    LAN.remove(cluster)?;
    BARE.remove(cluster)
}
