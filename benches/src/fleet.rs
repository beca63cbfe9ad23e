//! A cluster of simulated nodes: Kubernetes' own API server with its etcd, and the daemon's two processes on each node.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use k8slan_tests::real_server::{ADMIN, ClusterClient, Place, Program, RealServer};
use serde_json::{Value, json};
use testnet::{Daemon, Node, Stop, Switch, eventually};

use crate::Result;

/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(120);

/// The whole cluster. What is dropped first is ended first.
pub(crate) struct Fleet {
    pub(crate) workers: Vec<Worker>,
    pub(crate) server: RealServer,
    control: Node,
    dir: tempfile::TempDir,
    _switch: Switch,
}

/// A node and the daemon's processes on it.
pub(crate) struct Worker {
    /// The part that talks to the API server, the node's part.
    pub(crate) daemons: [Daemon; 2],
    pub(crate) node: Node,
    /// The network namespace of all of its pods: an IPAM plugin does nothing in it.
    pub(crate) netns: String,
    /// Among all nodes.
    pub(crate) number: u32,
}

/// A name that the simulated node has in the cluster.
fn name(number: usize) -> String {
    format!("worker{number:02}")
}

/// The API server's program; an explanation where this machine has none.
pub(crate) fn program() -> std::result::Result<Program, String> {
    Program::whole().map_err(|stop| match stop {
        Stop::Skipped(why) | Stop::Failed(why) => why,
    })
}

impl Fleet {
    /// Starts the API server with `install/` in it, and that many nodes.
    pub(crate) fn start(program: &Program, nodes: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let switch = Switch::new()?;
        let mut control = Node::new("control")?;
        let address = Ipv4Addr::new(10, 99, 0, 1);
        attach(&mut control, &switch, address)?;
        let place = Place { dir: dir.path(), address, audit: Some("- level: Metadata\n") };
        let server = RealServer::start(program, place, |program| control.command(program)).map_err(failed)?;
        let mut fleet = Self { workers: Vec::new(), server, control, dir, _switch: switch };
        let admin = fleet.admin()?;
        admin.install().map_err(failed)?;
        let mut workers = Vec::new();
        for number in 0..nodes {
            let mut node = Node::new(&name(number))?;
            let last = u8::try_from(number)?.checked_add(10).ok_or("too many nodes")?;
            attach(&mut node, &fleet._switch, Ipv4Addr::new(10, 99, 0, last))?;
            let object = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": node.name(), "labels": { "kubernetes.io/hostname": node.name() } },
            });
            admin.apply(&object)?;
            let token = admin.daemon_token(node.name()).map_err(failed)?;
            let kubeconfig = fleet.dir.path().join(format!("kubeconfig.{}", node.name()));
            std::fs::write(&kubeconfig, fleet.server.kubeconfig_of_token(&token).to_string())?;
            workers.push(Worker::start(node, &kubeconfig, u32::try_from(number)?)?);
        }
        drop(admin);
        fleet.workers = workers;
        Ok(fleet)
    }

    /// A client that may do everything.
    pub(crate) fn admin(&self) -> Result<ClusterClient<'_>> {
        ClusterClient::new(&self.control, &self.server.kubeconfig(ADMIN)).map_err(failed)
    }

    /// The file of a kubeconfig that may do everything, for programs.
    pub(crate) fn admin_file(&self) -> Result<String> {
        let path = self.dir.path().join("kubeconfig.admin");
        std::fs::write(&path, self.server.kubeconfig(ADMIN).to_string())?;
        Ok(path.display().to_string())
    }

    /// Makes a pool and waits until all nodes may claim blocks of it.
    pub(crate) fn make_pool(&self, name: &str, spec: &Value) -> Result<()> {
        let pool = json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": name }, "spec": spec,
        });
        self.admin()?.apply(&pool)?;
        let path = format!("/var/lib/k8slan/blocks/pools/{name}.json");
        for worker in &self.workers {
            eventually(LIMIT, || match worker.node.read(&path) {
                Ok(text) if text.contains("\"blocks\"") => Ok(()),
                other => Err(format!("{}: {other:?}\n{}", worker.node.name(), worker.log())),
            })?;
        }
        Ok(())
    }

    /// Where the server's processes run.
    pub(crate) fn control(&self) -> &Node {
        &self.control
    }
}

impl Worker {
    fn start(node: Node, kubeconfig: &Path, number: u32) -> Result<Self> {
        let program = testnet::program("k8slan-device-plugin");
        let program = program.to_string_lossy();
        let own = node.spawn_daemon(&[
            &*program,
            "node",
            "--mirrored",
            "--lan-dir",
            "/var/lib/k8slan/lans",
            "--node-name",
            node.name(),
        ])?;
        let config = format!("KUBECONFIG={}", kubeconfig.display());
        let api = node.spawn_daemon(&[
            "env",
            &config,
            &*program,
            "cluster",
            "--api-only",
            "--node-name",
            node.name(),
        ])?;
        let netns = node.pod("pod")?.path().to_owned();
        Ok(Self { daemons: [api, own], node, netns, number })
    }

    fn log(&self) -> String {
        self.daemons.iter().map(Daemon::log).collect()
    }
}

fn attach(node: &mut Node, switch: &Switch, address: Ipv4Addr) -> Result<()> {
    node.connect(switch, "eth0", 1500)?;
    node.ip(&format!("addr add {address}/24 dev eth0"))?;
    Ok(())
}

/// A test's failure as one of the bench.
pub(crate) fn failed(stop: Stop) -> crate::Error {
    match stop {
        Stop::Skipped(why) | Stop::Failed(why) => why.into(),
    }
}
