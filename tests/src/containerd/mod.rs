//! Debian's containerd on a simulated node: its CRI service, with CNI by its own configuration.

pub mod image;
mod pods;

use std::fmt::Write;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::Value;
use testnet::{Daemon, Node, Stop, bin_dir, eventually, needs};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};

use cri::runtime_service_client::RuntimeServiceClient;
pub use pods::{KubePod, RunningPod};

/// The messages and the client, generated from `tests/proto/cri.proto`.
#[expect(missing_docs, unused_qualifications, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod cri {
    include!("generated/runtime.v1.rs");
}

const SOCKET: &str = "/run/containerd/containerd.sock";
const CONFIG: &str = "/etc/containerd/config.toml";
/// On the node's own disk, unlike `/opt/cni/bin`.
const CNI_BIN: &str = "/var/lib/cni/bin";
const DEBIANS_PLUGINS: &str = "/usr/lib/cni";
const IMAGE: &str = "localhost/k8slan/busybox:1";
const BUSYBOX: &str = "/bin/busybox";

/// How long containerd may take for a call; a sandbox takes a third of a second here.
const DEADLINE: Duration = Duration::from_secs(30);

type Client = RuntimeServiceClient<Channel>;

/// A running containerd. Dropping it kills it; its containers live on, as they do on a node.
pub struct Containerd<'n> {
    node: &'n Node,
    daemon: Daemon,
    runtime: Runtime,
}

/// The CNI configurations of one kind of pod: the runtime handler of this name has them in a folder of its own.
///
/// This is where the tests do Multus' part: a handler for each pod that has a device, with the device in the
/// second configuration.
pub struct Handler {
    name: String,
    networks: Vec<Value>,
}

impl Handler {
    /// Network lists, of which the first gives `eth0`, the second `eth1` …
    #[must_use]
    pub fn new(name: &str, networks: &[Value]) -> Self {
        Self { name: name.to_owned(), networks: networks.to_vec() }
    }

    fn folder(&self) -> String {
        format!("/etc/cni/{}.d", self.name)
    }
}

/// The pods' first network, as every cluster has one: Debian's bridge, with addresses of Debian's host-local.
#[must_use]
pub fn cluster_network() -> Value {
    serde_json::json!({
        "cniVersion": "1.0.0", "name": "cluster", "plugins": [{
            "type": "bridge", "bridge": "cni0",
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.244.0.0/24" }]] },
        }],
    })
}

/// The test needs what containerd is made of.
///
/// # Errors
/// As [`needs`].
pub fn needs_containerd() -> Result<(), Stop> {
    for program in ["containerd", "ctr", "runc", BUSYBOX, "/usr/lib/cni/bridge"] {
        needs(program)?;
    }
    Ok(())
}

impl<'n> Containerd<'n> {
    /// Installs the plugins, writes the configuration, starts containerd, and gives it the image of all pods.
    ///
    /// # Errors
    /// What it does not do, with its log.
    pub fn start(node: &'n Node, handlers: &[Handler]) -> Result<Self, Stop> {
        install_plugins(node)?;
        for handler in handlers {
            for (number, network) in handler.networks.iter().enumerate() {
                let path = format!("{}/{number:02}.conflist", handler.folder());
                node.write(&path, serde_json::to_string_pretty(network)?)?;
            }
        }
        node.write("/etc/cni/net.d/00.conflist", cluster_network().to_string())?;
        node.write(CONFIG, configuration(handlers))?;
        Self::again(node)
    }

    /// Starts it on what [`Containerd::start`] left: after a reboot, for example.
    ///
    /// # Errors
    /// As above.
    pub fn again(node: &'n Node) -> Result<Self, Stop> {
        let daemon = node.spawn_daemon(&["containerd", "--config", CONFIG])?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let containerd = Self { node, daemon, runtime };
        eventually(DEADLINE, || {
            let status =
                containerd.call(async |mut client| client.status(cri::StatusRequest::default()).await);
            let status = status.map_err(|status| status.to_string())?.status.unwrap_or_default();
            match status.conditions.iter().find(|condition| !condition.status) {
                Some(condition) => Err(format!("{condition:?}")),
                None if status.conditions.is_empty() => Err("containerd is in no condition".to_owned()),
                None => Ok(()),
            }
        })?;
        containerd.import()?;
        Ok(containerd)
    }

    fn import(&self) -> Result<(), Stop> {
        let archive = image::archive(
            image::Image { names: &[IMAGE], entrypoint: &[BUSYBOX, "sleep", "100000"], applets: &[] },
            std::path::Path::new(BUSYBOX),
        )?;
        self.node.write("/run/image.tar", archive)?;
        self.node.exec(&[
            "ctr",
            "--address",
            SOCKET,
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "/run/image.tar",
        ])?;
        Ok(())
    }

    /// Everything that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Ends it as the service manager does; pods stay.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(self) -> Result<(), Stop> {
        self.daemon.terminate()?;
        Ok(())
    }

    /// Calls it from the node.
    fn call<T: Send>(
        &self,
        call: impl AsyncFnOnce(Client) -> Result<Response<T>, Status> + Send,
    ) -> Result<T, Status> {
        self.node.run(|| {
            self.runtime.block_on(async {
                let answer = async { call(Client::new(connect().await?)).await };
                match tokio::time::timeout(DEADLINE, answer).await {
                    Ok(answer) => Ok(answer?.into_inner()),
                    Err(_) => Err(Status::deadline_exceeded("containerd does not answer")),
                }
            })
        })
    }
}

async fn connect() -> Result<Channel, Status> {
    let connector = tower::service_fn(|_: Uri| async { UnixStream::connect(SOCKET).await.map(TokioIo::new) });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    channel.map_err(|error| Status::unavailable(format!("{SOCKET}: {error}")))
}

/// As an administrator installs them: copies, in the folder that containerd looks into.
fn install_plugins(node: &Node) -> Result<(), Stop> {
    let ours = ["macvtap", "vlan-bridge", "ipam-pool"].map(|name| bin_dir().join(name));
    let debians = ["bridge", "host-local", "loopback"].map(|name| format!("{DEBIANS_PLUGINS}/{name}").into());
    for plugin in ours.into_iter().chain(debians) {
        let plugin = plugin.to_string_lossy().into_owned();
        node.exec(&["install", "-D", "-m", "755", "-t", CNI_BIN, &plugin])?;
    }
    Ok(())
}

/// `restrict_oom_score_adj`: these machines lack CAP_SYS_RESOURCE. `native`: copies, on any file system.
fn configuration(handlers: &[Handler]) -> String {
    let mut text = format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_BIN}"
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    );
    for handler in handlers {
        let _ = write!(
            text,
            r#"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{}]
runtime_type = "io.containerd.runc.v2"
cni_conf_dir = "{}"
cni_max_conf_num = {}
"#,
            handler.name,
            handler.folder(),
            handler.networks.len()
        );
    }
    text
}
