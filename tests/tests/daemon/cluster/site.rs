//! A node of a cluster: the node, its API server, and the daemon on it, whole or in its two parts.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8slan_tests::apiserver::ApiServer;
use serde_json::{Value, json};
use testnet::{Daemon, Error, Node, Stop, Switch, eventually, program};

pub(crate) const GROUP: &str = "lan.k8slan.io/v1beta1";
pub(crate) const SOON: Duration = Duration::from_secs(5);

pub(crate) struct Site {
    pub(crate) server: ApiServer,
    pub(crate) node: Node,
    /// Where the kubelet has its sockets, if there is one.
    pub(crate) kubelet_dir: PathBuf,
    kubelet: bool,
    kubeconfig: PathBuf,
    _dir: tempfile::TempDir,
    switch: Arc<Switch>,
}

pub(crate) fn failed(text: impl ToString) -> Stop {
    Stop::Failed(text.to_string())
}

/// The LAN of the document.
pub(crate) fn document(spokes: &[&str]) -> Value {
    json!({
        "apiVersion": GROUP, "kind": "LAN", "metadata": { "namespace": "k8slan-system", "name": "lan-test" },
        "spec": {
            "ns": "knlvrf", "bridge": "br2", "vxlan": "vx2", "vni": 222, "defaultVxlanDev": "eth0.10",
            "vxlanDevMap": { "worker1": "eth1", "worker2": "eth2" }, "spokes": spokes,
        },
    })
}

impl Site {
    /// How long a node's part is away before that is told; half a minute where nobody says another time.
    pub(crate) const AWAY: Duration = Duration::from_secs(4);

    /// The same, with a daemon that hands nothing out through a kubelet.
    pub(crate) fn without_kubelet() -> Result<Self, Stop> {
        Ok(Self { kubelet: false, ..Self::new()? })
    }

    /// The node `worker1` with the underlay eth1, and an API server that knows it.
    pub(crate) fn new() -> Result<Self, Stop> {
        Self::with_hostname("worker1")
    }

    /// The same, where the node's label says another host name.
    pub(crate) fn with_hostname(hostname: &str) -> Result<Self, Stop> {
        let switch = Switch::new()?;
        let mut node = Node::new("worker1")?;
        node.connect(&switch, "eth1", 1500)?;
        let dir = tempfile::tempdir()?;
        let server = ApiServer::start_on(node.run(|| std::net::TcpListener::bind(("127.0.0.1", 0)))?)?;
        let kubeconfig = dir.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "k", "cluster": { "server": server.url() } }],
            "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
            "users": [{ "name": "u", "user": {} }],
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        server.put("nodes", kubernetes_node("worker1", hostname));
        let kubelet_dir = dir.path().join("device-plugins");
        Ok(Self { server, node, kubelet_dir, kubelet: true, kubeconfig, _dir: dir, switch: Arc::new(switch) })
    }

    /// Plugs the underlay's cable in, `up`, or out, `down`.
    pub(crate) fn cable(&self, state: &str) -> Result<(), Stop> {
        let ports = self.switch.link_names()?.into_iter().filter(|name| name.starts_with("port"));
        for port in ports {
            self.switch.ip(&format!("link set {port} {state}"))?;
        }
        Ok(())
    }

    /// How the API server is reached.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn start(&self, before: &[&str], arguments: &[&str]) -> Result<Daemon, Stop> {
        self.start_with(&self.kubeconfig, before, arguments)
    }

    fn start_with(&self, kubeconfig: &Path, before: &[&str], arguments: &[&str]) -> Result<Daemon, Stop> {
        let config = format!("KUBECONFIG={}", kubeconfig.display());
        let program = program("k8slan-device-plugin");
        let program = program.to_string_lossy();
        let away = format!("K8SLAN_AWAY_MS={}", Self::AWAY.as_millis());
        let mut argv = vec!["env", &config, "K8SLAN_SWEEP_GRACE_MS=500", &away];
        argv.extend(before);
        argv.push(&program);
        argv.extend(arguments);
        Ok(self.node.spawn_daemon(&argv)?)
    }

    /// The daemon in one process.
    pub(crate) fn whole(&self) -> Result<Daemon, Stop> {
        self.whole_with(&self.kubeconfig)
    }

    /// The same, with another API server.
    pub(crate) fn whole_with(&self, kubeconfig: &Path) -> Result<Daemon, Stop> {
        self.whole_under(kubeconfig, &[])
    }

    /// The same on a slow disk: every sync takes this long.
    pub(crate) fn whole_on_a_slow_disk(&self, sync: Duration) -> Result<Daemon, Stop> {
        let inject = format!("inject=fsync:delay_enter={}", sync.as_micros());
        let strace = [
            "strace",
            "-D",
            "-f",
            "-qqq",
            "-o",
            "/dev/null",
            "--seccomp-bpf",
            "-e",
            "trace=fsync",
            "-e",
            &inject,
        ];
        self.whole_under(&self.kubeconfig, &strace)
    }

    fn whole_under(&self, kubeconfig: &Path, before: &[&str]) -> Result<Daemon, Stop> {
        let dir = self.kubelet_dir.to_string_lossy();
        let health = ["--health", "127.0.0.1:9810"];
        let arguments = ["cluster", "--node-name", "worker1", "--kubelet-dir", &dir];
        self.start_with(kubeconfig, before, &[&arguments[..], &health].concat())
    }

    /// The node's part.
    pub(crate) fn node_part(&self) -> Result<Daemon, Stop> {
        let dir = self.kubelet_dir.to_string_lossy();
        let lans = ["node", "--mirrored", "--lan-dir", "/var/lib/k8slan/lans", "--node-name", "worker1"];
        let kubelet = ["--kubelet-dir", &dir];
        self.start(&[], &[&lans[..], if self.kubelet { &kubelet } else { &[] }].concat())
    }

    /// The cluster's part as in its container: root without any capability, and of the node's files it sees the folder of
    /// the link alone, and cannot write there.
    pub(crate) fn cluster_part(&self) -> Result<Daemon, Stop> {
        const MOUNTS: &str = "set -e; mkdir -p /run/k8slan/controller /var/lib/k8slan
            mount -t tmpfs none /mnt; mkdir -p /mnt/run/controller /mnt/state
            mount --bind /run/k8slan/controller /mnt/run/controller; mount -o remount,ro,bind /mnt/run/controller
            mount --rbind /mnt/run /run/k8slan; mount --rbind /mnt/state /var/lib/k8slan
            for all in /run/k8slan /var/lib/k8slan; do mount -o remount,ro,bind $all; done
            exec \"$@\"";
        let bare = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs"];
        let before = [&["unshare", "--mount", "sh", "-c", MOUNTS, "sh"][..], &bare].concat();
        let arguments = ["cluster", "--api-only", "--node-name", "worker1", "--health", "127.0.0.1:9810"];
        self.start(&before, &arguments)
    }

    /// Asks the daemon's port for a path.
    pub(crate) fn get(&self, path: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:9810")?;
            stream.write_all(
                format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        self.node.run(ask).unwrap_or_else(|error| error.to_string())
    }

    /// Asks the node's part through its socket, as a probe does.
    pub(crate) fn agent(&self, question: &str) -> Result<std::process::Output, Stop> {
        let program = program("k8slan-device-plugin");
        Ok(self.node.output(&[&program.to_string_lossy(), "agent", question])?)
    }

    /// Waits for a LAN's condition to have this status, and these words in its message.
    pub(crate) fn condition(&self, lan: &str, kind: &str, status: &str, words: &str) -> Result<Value, Error> {
        eventually(2 * SOON, || {
            let lan = self.server.get("lans", GROUP, lan).unwrap_or_default();
            let condition = crate::cluster::status::condition(&lan["status"], kind);
            let message = condition["message"].as_str().unwrap_or_default();
            match condition["status"] == status && message.contains(words) {
                true => Ok(lan),
                false => Err(lan["status"].to_string()),
            }
        })
    }

    /// This node's report on the LAN.
    pub(crate) fn report(&self) -> Value {
        self.server.get("lannodes", GROUP, "k8slan-system/lan-test.worker1").unwrap_or_default()
    }
}

/// A node's object.
pub(crate) fn kubernetes_node(name: &str, hostname: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": hostname } },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}
