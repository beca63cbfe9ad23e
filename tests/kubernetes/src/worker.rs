//! A node of the cluster: containerd, a kubelet, Debian's plugins for the cluster's network, and Multus before them.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8slan_tests::containerd::image::{Image, archive};
use nix::sys::signal::Signal;
use serde_json::json;
use testnet::{Daemon, Node, Stop, Switch, eventually};

use crate::certificates::Certificates;
use crate::{Multus, Programs, TIMEOUT, kubelet_cgroup};

/// The name of the container runtime, for [`Worker::start_program`].
pub const CONTAINERD: &str = "containerd";
/// The name of the kubelet, for [`Worker::start_program`].
pub const KUBELET: &str = "kubelet";
/// Where a node has the thick Multus, played.
const MULTUS: &str = "multus";

const SOCKET: &str = "/run/containerd/containerd.sock";
const PAUSE: &str = "registry.k8s.io/pause:3.10";
const BUSYBOX: &str = "/bin/busybox";

/// The names that the project's documents have in their pods.
const IMAGES: &[&str] =
    &["docker.io/library/busybox:1.37", "docker.io/library/busybox:stable", "docker.io/library/nginx:1.14.2"];

const APPLETS: &[&str] = &[
    "sh", "sleep", "cat", "ls", "ip", "ping", "arping", "echo", "env", "true", "false", "id", "mknod",
    "kill", "grep", "sed", "wget", "httpd", "nc", "mkdir", "touch", "rm", "tail", "head", "stat", "date",
];

/// A node. Dropping it ends all that runs on it.
#[derive(Debug)]
pub struct Worker {
    number: u8,
    node: Node,
    kubelet: PathBuf,
    image: PathBuf,
    multus: Multus,
    running: Mutex<BTreeMap<&'static str, Daemon>>,
}

impl Worker {
    /// Node `worker<number>`, up to the point where its kubelet runs.
    pub(crate) fn start(
        number: u8,
        programs: &Programs,
        certificates: &Mutex<&Certificates>,
        (own, lans): (&Switch, &Switch),
        multus: &Multus,
    ) -> Result<Self, Stop> {
        let name = format!("worker{number}");
        let mut node = Node::new(&name)?;
        node.connect(own, "eth0", 1500)?;
        // The names that the k8slan document has.
        let link = if number == 3 { "eth0.10".to_owned() } else { format!("eth{number}") };
        node.connect(lans, &link, 1500)?;
        let worker = Self {
            number,
            node,
            kubelet: programs.kubelet.clone(),
            image: programs.image.clone(),
            multus: multus.clone(),
            running: Mutex::default(),
        };
        worker.write_files(&certificates.lock().unwrap_or_else(PoisonError::into_inner))?;
        worker.boot()?;
        worker.node.exec(&["sh", "-ec", "mkdir -p /opt/cni/bin; cp /usr/lib/cni/* /opt/cni/bin/"])?;
        worker.multus.install(&worker.node)?;
        worker.start_program(CONTAINERD)?;
        worker.import_images()?;
        worker.start_multus()?;
        worker.start_program(KUBELET)?;
        Ok(worker)
    }

    fn write_files(&self, certificates: &Certificates) -> Result<(), Stop> {
        let name = self.name();
        let (user, address) = (format!("system:node:{name}"), self.address());
        let names = [format!("DNS:{name}"), format!("IP:{address}")];
        certificates.user(name, &user, Some("system:nodes"), &[&names[0], &names[1]])?;
        let copy = |from: &str, to: &str| -> Result<(), Stop> {
            Ok(self.node.write(to, std::fs::read(certificates.path(from))?)?)
        };
        copy("ca.crt", "/etc/kubernetes/ca.crt")?;
        for end in ["crt", "key", "kubeconfig"] {
            copy(&format!("{name}.{end}"), &format!("/etc/kubernetes/kubelet.{end}"))?;
        }
        copy("multus.kubeconfig", "/etc/cni/net.d/multus.d/multus.kubeconfig")?;
        self.node.write("/etc/kubernetes/resolv.conf", "nameserver 10.96.0.10\n")?;
        self.node.write("/etc/kubernetes/kubelet.json", self.kubelet_configuration())?;
        self.node.write("/etc/containerd/config.toml", containerd_configuration())?;
        let subnet = format!("10.244.{}.0/24", self.number);
        let network = json!({
            "cniVersion": "1.0.0", "name": "cluster", "type": "bridge", "bridge": "cni0",
            "isGateway": true, "hairpinMode": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }] },
        });
        self.node.write("/etc/cni/net.d/10-cluster.conf", network.to_string())?;
        Ok(())
    }

    fn kubelet_configuration(&self) -> String {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "cgroupDriver": "cgroupfs", "cgroupRoot": self.node.cgroup(),
            "failCgroupV1": false, "failSwapOn": false, "cgroupsPerQOS": true, "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": false, "protectKernelDefaults": false,
            // These machines lack CAP_SYS_RESOURCE.
            "oomScoreAdj": 0,
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "authentication": {
                "anonymous": { "enabled": false }, "webhook": { "enabled": true },
                "x509": { "clientCAFile": "/etc/kubernetes/ca.crt" },
            },
            "authorization": { "mode": "Webhook" },
            "tlsCertFile": "/etc/kubernetes/kubelet.crt", "tlsPrivateKeyFile": "/etc/kubernetes/kubelet.key",
            "clusterDomain": "cluster.local", "clusterDNS": ["10.96.0.10"],
            "resolvConf": "/etc/kubernetes/resolv.conf",
            "evictionHard": {
                "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
            // A resource is told when this is due.
            "nodeStatusUpdateFrequency": "1s",
        })
        .to_string()
    }

    /// What a node has after it was switched on, before its programs run.
    fn boot(&self) -> Result<(), Stop> {
        let number = self.number;
        self.node.exec(&["sh", "-ec", BOOT])?;
        self.node.ip(&format!("addr add {}/24 dev eth0", self.address()))?;
        self.node.ip("route add default via 10.99.0.1")?;
        for other in (1..=3).filter(|other| *other != number) {
            self.node.ip(&format!("route replace 10.244.{other}.0/24 via 10.99.0.1{other}"))?;
        }
        self.node.write("/proc/sys/net/ipv4/ip_forward", "1")?;
        kubelet_cgroup::make(&self.node.cgroup())?;
        Ok(())
    }

    fn start_multus(&self) -> Result<(), Stop> {
        if let Some(program) = self.multus.daemon(&self.node)? {
            self.running().insert(MULTUS, self.node.spawn_daemon(&[&program])?);
        }
        Ok(())
    }

    fn import_images(&self) -> Result<(), Stop> {
        let busybox = Path::new(BUSYBOX);
        let pause = Image { names: &[PAUSE], entrypoint: &[BUSYBOX, "sleep", "1000000"], applets: &[] };
        // Ends at once when it is told to: the first process of a PID namespace has no default for SIGTERM.
        let wait = "trap 'exit 0' TERM INT; sleep 1000000 & wait";
        let shell = Image { names: IMAGES, entrypoint: &["/bin/sh", "-c", wait], applets: APPLETS };
        self.node.write("/run/pause.tar", archive(pause, busybox)?)?;
        self.node.write("/run/busybox.tar", archive(shell, busybox)?)?;
        let archives = [Some(self.image.clone()), self.multus.image()];
        let archives = archives.iter().flatten().map(|path| path.to_string_lossy());
        for path in ["/run/pause.tar", "/run/busybox.tar"].into_iter().map(Into::into).chain(archives) {
            self.ctr(&["images", "import", &path])?;
        }
        Ok(())
    }

    /// `ctr` in the namespace of the kubelet's containers.
    ///
    /// # Errors
    /// Its words.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String, Stop> {
        let mut argv = vec!["ctr", "--address", SOCKET, "--namespace", "k8s.io"];
        argv.extend(arguments);
        Ok(self.node.exec(&argv)?)
    }

    /// Starts containerd or the kubelet.
    ///
    /// # Errors
    /// If it cannot be started, or containerd does not answer.
    pub fn start_program(&self, program: &'static str) -> Result<(), Stop> {
        let daemon = match program {
            CONTAINERD => return self.start_containerd_later(Duration::ZERO),
            _ => {
                let kubelet = self.kubelet.display().to_string();
                self.node.exec(&["ln", "-sfn", &kubelet, "/run/kubelet"])?;
                self.node.spawn_daemon(&[
                    "/run/kubelet",
                    "--config=/etc/kubernetes/kubelet.json",
                    "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
                    &format!("--hostname-override={}", self.name()),
                    &format!("--node-ip={}", self.address()),
                    "--cert-dir=/var/lib/kubelet/pki",
                    "--v=2",
                ])?
            }
        };
        self.running().insert(program, daemon);
        Ok(())
    }

    /// Starts containerd, and all that it starts, with a CLOCK_BOOTTIME that is so much later than the machine's.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn start_containerd_later(&self, by: Duration) -> Result<(), Stop> {
        let containerd = ["containerd", "--config", "/etc/containerd/config.toml"];
        let later = by.as_secs().to_string();
        let daemon = match by {
            Duration::ZERO => self.node.spawn_daemon(&containerd)?,
            _ => {
                let clock = ["unshare", "--time", "--boottime", &later];
                self.node.spawn_daemon(&[&clock[..], &containerd].concat())?
            }
        };
        self.running().insert(CONTAINERD, daemon);
        eventually(TIMEOUT, || {
            self.node.exec(&["ctr", "--address", SOCKET, "version"]).map_err(|error| error.to_string())
        })?;
        Ok(())
    }

    /// Ends containerd or the kubelet with a signal, and waits for that. Pods stay.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop_program(&self, program: &'static str, signal: Signal) -> Result<(), Stop> {
        let Some(mut daemon) = self.running().remove(program) else { return Ok(()) };
        daemon.signal(signal)?;
        daemon.wait(Duration::from_secs(60))?;
        Ok(())
    }

    /// Starts the kubelet again if it ended by itself, as a service manager does: one whose Node object does not appear within
    /// half a second of its start gives up.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart_kubelet_that_ended(&self) -> Result<(), Stop> {
        let ended =
            self.running().get_mut(KUBELET).is_some_and(|kubelet| kubelet.wait(Duration::ZERO).is_ok());
        if ended { self.start_program(KUBELET) } else { Ok(()) }
    }

    /// Switches the node off: nothing runs on it, and nobody hears of it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn switch_off(&mut self) -> Result<(), Stop> {
        self.running().clear();
        Ok(self.node.switch_off()?)
    }

    /// Switches it on: nothing but `/var/lib` (with `/opt` and `/var/log` in it) and `/etc` is as it was.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn switch_on(&mut self) -> Result<(), Stop> {
        self.node.reboot()?;
        self.boot()?;
        self.start_program(CONTAINERD)?;
        self.start_multus()?;
        self.start_program(KUBELET)
    }

    /// The node's address in the cluster's own network.
    #[must_use]
    pub fn address(&self) -> String {
        format!("10.99.0.1{}", self.number)
    }

    pub(crate) fn logs(&self) -> Vec<(String, String)> {
        let running = self.running();
        running.iter().map(|(name, daemon)| (format!("{}-{name}", self.name()), daemon.log())).collect()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<&'static str, Daemon>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Worker {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

/// Run in the node's namespaces at its start. The kubelet sets five sysctls that are the machine's: it gets files instead.
const BOOT: &str = r#"
mkdir -p /var/lib/node/opt /var/lib/node/log/pods /var/lib/node/log/containers /var/lib/kubelet /var/lib/containerd
mount --bind /var/lib/node/opt /opt
mount --bind /var/lib/node/log /var/log
mkdir -p /run/netns /run/lock /opt/cni/bin
for set in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctl-$(echo "${set%%=*}" | tr / -)
    echo "${set##*=}" >"$file"
    mount --bind "$file" "/proc/sys/${set%%=*}"
done
[ -e /dev/kmsg ] || mknod -m 600 /dev/kmsg c 1 11
mkdir -p /dev/mqueue
for link in stdin=/proc/self/fd/0 stdout=/proc/self/fd/1 stderr=/proc/self/fd/2; do
    [ -e "/dev/${link%%=*}" ] || ln -s "${link##*=}" "/dev/${link%%=*}"
done
mount --make-rshared /
"#;

/// `restrict_oom_score_adj`: these machines lack CAP_SYS_RESOURCE.
fn containerd_configuration() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    )
}
