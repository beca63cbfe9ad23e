//! The image, as containerd runs it: with the arguments, mounts and rights that the manifests give each container.

use std::fs;
use std::process::Command;
use std::time::Duration;

use k8slan_tests::containerd::{Containerd, needs_containerd};
use k8slan_tests::registry::registry;
use k8slan_tests::{LanFile, on_spoke};
use serde_json::{Value, json};
use testnet::{Node, Outcome, Stop, Switch, bin_dir, eventually, finish, needs, workspace};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        the_archive_is_the_same_every_time,
        containerd_runs_what_the_manifests_say,
        what_is_pushed_is_what_the_manifests_name,
    ]
}

const IMAGE: &str = "localhost/k8slan:0.0.1";
/// Where the node keeps its CNI plugins, which is not where the containers see them.
const CNI: &str = "/var/lib/cni-bin";
const ROOTS: &str = "/run/roots";
const SOON: Duration = Duration::from_secs(20);

fn archive(dir: &std::path::Path, name: &str) -> Result<String, Stop> {
    needs("buildah")?;
    let path = dir.join(name);
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let mut build = Command::new(workspace().join("install/image/build.sh"));
    build
        .arg(&path)
        .args(["0.0.1", &format!("{architecture}={}", bin_dir().display())])
        .env("SOURCE_DATE_EPOCH", "1700000000");
    let output = finish(&mut build)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(path.to_string_lossy().into_owned())
}

fn the_archive_is_the_same_every_time() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (one, two) = (archive(dir.path(), "one.tar")?, archive(dir.path(), "two.tar")?);
    assert!(fs::read(one)? == fs::read(two)?, "two archives of the same programs differ");
    Ok(())
}

/// `make push` to a registry of the node, which then pulls what `install/local` says.
fn what_is_pushed_is_what_the_manifests_name() -> Outcome {
    needs_containerd()?;
    needs("skopeo")?;
    let node = Node::new("worker1")?;
    let _serves = registry(&node)?;
    let dir = tempfile::tempdir()?;
    let archive = archive(dir.path(), "image.tar")?;
    // Beside the manifests it writes what is to be applied: a copy of them.
    let install = dir.path().join("install").display().to_string();
    node.exec(&["cp", "-r", &workspace().join("install").display().to_string(), &install])?;
    let push = |image: &str, more: &[&str]| {
        let script = format!("{install}/image/push.sh");
        node.output(
            &[&["env", "SKOPEO_FLAGS=--dest-tls-verify=false", &script, &archive, image], more].concat(),
        )
    };
    for (image, more, says) in [
        ("k8slan", &[][..], "needs a registry"),
        ("127.0.0.1:5000/k8slan@sha256:0", &[], "not a digest"),
        ("127.0.0.1:5000/k8slan:1", &["nope"], "there is no overlay nope: k3s, "),
    ] {
        let refused = push(image, more)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(says), "{image}: {said}");
    }
    let pushed = push("127.0.0.1:5000/k8slan:0.0.1", &["k3s"])?;
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    let local: Value =
        serde_saphyr::from_str(&fs::read_to_string(format!("{install}/local/kustomization.yaml"))?)?;
    assert_eq!(local["resources"], json!(["../overlays/k3s"]));
    let image = &local["images"][0];
    assert_eq!(
        (&image["name"], &image["newName"]),
        (&json!("localhost/k8slan"), &json!("127.0.0.1:5000/k8slan"))
    );
    let name = format!("127.0.0.1:5000/k8slan@{}", image["digest"].as_str().unwrap_or_default());
    let _containerd = Containerd::start(&node, &[])?;
    let ctr =
        |arguments: &[&str]| node.exec(&[&["ctr", "--namespace", "k8s.io", "images"], arguments].concat());
    ctr(&["pull", "--plain-http", "--snapshotter", "native", &name])?;
    let root = "/run/pulled";
    node.exec(&["mkdir", "-p", root])?;
    ctr(&["mount", "--snapshotter", "native", &name, root])?;
    let same = node.exec(&[
        "cmp",
        &format!("{root}/usr/bin/macvtap"),
        &bin_dir().join("macvtap").display().to_string(),
    ]);
    ctr(&["unmount", root])?;
    same?;
    Ok(())
}

/// The pod of a DaemonSet's manifest.
fn pod(file: &str) -> Result<Value, Stop> {
    let text = fs::read_to_string(workspace().join("install").join(file))?;
    let set: Value = serde_saphyr::from_str(&text)?;
    Ok(set["spec"]["template"]["spec"].clone())
}

fn container<'a>(pod: &'a Value, list: &str, name: &str) -> &'a Value {
    pod[list]
        .as_array()
        .into_iter()
        .flatten()
        .find(|container| container["name"] == name)
        .unwrap_or(&Value::Null)
}

/// A runtime that does a kubelet's part with `ctr`.
struct Runtime<'n> {
    node: &'n Node,
    _containerd: Containerd<'n>,
}

impl<'n> Runtime<'n> {
    fn start(node: &'n Node, archive: &str) -> Result<Self, Stop> {
        // As systemd makes it; otherwise no mount would come out of a container.
        node.exec(&["mount", "--make-rshared", "/run"])?;
        let runtime = Self { node, _containerd: Containerd::start(node, &[])? };
        runtime.ctr(&["images", "import", "--snapshotter", "native", archive])?;
        Ok(runtime)
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String, Stop> {
        Ok(self.node.exec(&[&["ctr", "--namespace", "k8s.io"], arguments].concat())?)
    }

    /// Prepares a container as the manifest has it, with a root of its own; answers its specification's path.
    fn prepare(&self, pod: &Value, container: &Value, id: &str) -> Result<String, Stop> {
        let root = format!("{ROOTS}/{id}");
        self.node.exec(&["mkdir", "-p", &root])?;
        self.ctr(&["images", "mount", "--rw", "--snapshotter", "native", IMAGE, &root])?;
        let mut spec: Value = serde_json::from_str(&self.ctr(&["oci", "spec"])?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().replace("$(NODE_NAME)", "worker1");
        let arguments = container["args"].as_array().into_iter().flatten().map(text);
        let argv: Vec<String> =
            std::iter::once("/usr/bin/k8slan-device-plugin".to_owned()).chain(arguments).collect();
        let security = &container["securityContext"];
        let privileged = security["privileged"] == true;
        let capabilities: Vec<String> = match privileged {
            // The most that is needed of all.
            true => ["NET_ADMIN", "SYS_ADMIN", "NET_RAW", "DAC_OVERRIDE", "FOWNER", "CHOWN", "MKNOD"]
                .map(|name| format!("CAP_{name}"))
                .into(),
            false => {
                let added = security["capabilities"]["add"].as_array().into_iter().flatten();
                added.filter_map(Value::as_str).map(|name| format!("CAP_{name}")).collect()
            }
        };
        spec["root"] = json!({"path": root, "readonly": security["readOnlyRootFilesystem"]});
        spec["process"]["args"] = json!(argv);
        spec["process"]["env"] = json!(["PATH=/usr/bin", "NODE_NAME=worker1"]);
        spec["process"]["noNewPrivileges"] = json!(!privileged);
        spec["process"]["rlimits"] = json!([]);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(capabilities);
        }
        spec["linux"]["cgroupsPath"] = json!(format!("{}/{id}", self.node.cgroup()));
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "network");
        }
        if privileged {
            spec["linux"]["rootfsPropagation"] = json!("rshared");
            spec["linux"]["maskedPaths"] = json!([]);
            spec["linux"]["readonlyPaths"] = json!([]);
            spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
        }
        let mut mounts = spec["mounts"].as_array().cloned().unwrap_or_default();
        if privileged {
            for option in mounts.iter_mut().flat_map(|mount| mount["options"].as_array_mut()).flatten() {
                if option == "ro" {
                    *option = json!("rw");
                }
            }
        }
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let mut volumes = pod["volumes"].as_array().into_iter().flatten();
            let volume = volumes.find(|volume| volume["name"] == mount["name"]);
            // The token is made by a kubelet.
            let path = volume.and_then(|volume| volume["hostPath"]["path"].as_str());
            let Some(path) = path else { continue };
            let source = if path == "/opt/cni/bin" { CNI } else { path };
            self.node.exec(&["mkdir", "-p", source])?;
            let propagation = match mount["mountPropagation"].as_str() {
                Some("Bidirectional") => "rshared",
                Some("HostToContainer") => "rslave",
                _ => "rprivate",
            };
            let access = if mount["readOnly"] == true { "ro" } else { "rw" };
            mounts.push(json!({
                "type": "bind", "source": source, "destination": mount["mountPath"],
                "options": ["rbind", propagation, access],
            }));
        }
        // As the kubelet has it: a folder before what is in it.
        mounts.sort_by_key(|mount| mount["destination"].as_str().unwrap_or_default().matches('/').count());
        spec["mounts"] = json!(mounts);
        let path = format!("/run/{id}.json");
        self.node.write(&path, spec.to_string())?;
        Ok(path)
    }

    /// Runs a container to its end.
    fn run(&self, pod: &Value, container: &Value, id: &str) -> Result<String, Stop> {
        let spec = self.prepare(pod, container, id)?;
        self.ctr(&["run", "--rm", "--config", &spec, id])
    }
}

fn containerd_runs_what_the_manifests_say() -> Outcome {
    needs_containerd()?;
    let dir = tempfile::tempdir()?;
    let archive = archive(dir.path(), "image.tar")?;
    let switch = Switch::new()?;
    let mut node = Node::new("worker1")?;
    node.connect(&switch, "eth1", 1500)?;
    let runtime = Runtime::start(&node, &archive)?;
    let links = node.link_names()?;

    let manifest = pod("base/daemonset.yaml")?;
    runtime.run(&manifest, container(&manifest, "initContainers", "install"), "install")?;
    assert_eq!(node.list(CNI), ["ipam-pool", "macvtap", "vlan-bridge"]);

    let lan = LanFile::new("lan1", 5, &["a"]);
    node.write("/var/lib/k8slan/lans/lan1.yaml", lan.yaml())?;
    let daemon = container(&manifest, "containers", "node");
    let spec = runtime.prepare(&manifest, daemon, "node")?;
    runtime.ctr(&["run", "--detach", "--config", &spec, "node"])?;
    let record = || node.read("/run/k8slan/spokes/a.json").unwrap_or_default();
    eventually(SOON, || match record() {
        text if text.contains("\"ready\":true") => Ok(()),
        text => Err(format!("the record is {text:?}")),
    })?;
    assert!(node.netns(&lan.netns())?.link("br0").is_ok(), "the LAN's namespace came out of the container");
    let probe: Vec<&str> = daemon["livenessProbe"]["exec"]["command"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    runtime.ctr(&[&["tasks", "exec", "--exec-id", "probe", "node"], &probe[..]].concat())?;

    // Without an API server it ends; it comes so far without a capability, and can write nothing of the node's.
    let cluster = container(&manifest, "containers", "cluster");
    let ended = runtime.run(&manifest, cluster, "cluster");
    assert!(matches!(&ended, Err(Stop::Failed(text)) if text.contains("find the API server")), "{ended:?}");
    assert_eq!(node.list("/run/k8slan/controller"), ["link.sock"]);

    // The daemon must see from inside its container that the pod's namespace, /var/run/netns/…, is there.
    let attached = node.pod("a")?;
    attached.add("macvtap", "net1", &on_spoke("a"))?;
    eventually(SOON, || match node.read("/run/k8slan/status.json").unwrap_or_default() {
        text if text.contains("\"default/a\"") => Ok(()),
        text => Err(format!("the status is {text}")),
    })?;

    // What a person runs in it, as the pages say.
    for (id, command, says) in [
        ("inspect", "k8slan-device-plugin inspect", "pod default/a"),
        ("leases", "ipam-pool leases", ""),
        ("trunks", "vlan-bridge trunk show", ""),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let said = runtime.ctr(&[&["tasks", "exec", "--exec-id", id, "node"], &words[..]].concat())?;
        assert!(said.contains(says), "{command}: {said}");
    }

    runtime.ctr(&["tasks", "kill", "--signal", "SIGTERM", "node"])?;
    eventually(SOON, || match runtime.ctr(&["tasks", "delete", "node"]) {
        Ok(_) => Ok(()),
        Err(_) => Err("the daemon ends".to_owned()),
    })?;
    runtime.ctr(&["containers", "delete", "node"])?;
    assert!(attached.link("net1")?.is_some(), "the pod keeps its interface");

    let manifest = pod("uninstall/daemonset.yaml")?;
    let uninstall = container(&manifest, "initContainers", "uninstall");
    let refused = runtime.run(&manifest, uninstall, "refused");
    assert!(matches!(&refused, Err(Stop::Failed(text)) if text.contains("is attached")), "{refused:?}");
    attached.del("macvtap", "net1", &on_spoke("a"))?;
    runtime.run(&manifest, uninstall, "uninstall")?;
    let left = node.run(|| ["/run/k8slan", "/var/lib/k8slan"].map(|dir| fs::exists(dir).unwrap_or(true)));
    assert_eq!(left, [false; 2]);
    assert_eq!(node.list(CNI), [""; 0]);
    assert!(node.netns(&lan.netns()).is_err(), "the LAN's namespace is there");
    assert_eq!(node.link_names()?, links);
    for id in ["install", "node", "cluster", "refused", "uninstall"] {
        runtime.ctr(&["images", "unmount", &format!("{ROOTS}/{id}")])?;
    }
    Ok(())
}
