use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use testnet::{Daemon, Error, Node, Switch, eventually, program};

use crate::LanFile;

/// A simulated node with the daemon on it, started by hand on a folder of LAN files.
#[derive(Debug)]
pub struct Worker {
    daemon: Mutex<Option<Daemon>>,
    node: Node,
    options: Vec<String>,
}

impl Worker {
    /// Where the LAN files lie on the node.
    pub const LANS: &str = "/etc/k8slan/lans";

    /// Where a kubelet has its plugins' sockets.
    pub const KUBELET: &str = "/var/lib/kubelet/device-plugins";

    /// A node with the underlay `eth1` of this MTU, and no LAN yet; the daemon runs.
    ///
    /// # Errors
    /// If the kernel refuses, or the daemon cannot be started.
    pub fn new(name: &str, switch: &Switch, mtu: u32) -> Result<Self, Error> {
        let mut node = Node::new(name)?;
        node.connect(switch, "eth1", mtu)?;
        Self::on(node)
    }

    /// The same on a node that is set up already.
    ///
    /// # Errors
    /// If the daemon cannot be started.
    pub fn on(node: Node) -> Result<Self, Error> {
        Self::start(node, &[])
    }

    /// The same where the daemon has further options.
    ///
    /// # Errors
    /// If the daemon cannot be started.
    pub fn with_options(node: Node, options: &[&str]) -> Result<Self, Error> {
        Self::start(node, options)
    }

    /// The same where a kubelet hands the spokes out; the kubelet itself is the caller's.
    ///
    /// # Errors
    /// If the daemon cannot be started.
    pub fn with_kubelet(node: Node) -> Result<Self, Error> {
        Self::start(node, &["--kubelet-dir", Self::KUBELET])
    }

    fn start(node: Node, options: &[&str]) -> Result<Self, Error> {
        node.run(|| std::fs::create_dir_all(Self::LANS))
            .map_err(|source| Error::System { operation: format!("creating {}", Self::LANS), source })?;
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let worker = Self { daemon: Mutex::new(None), node, options };
        worker.start_daemon()?;
        Ok(worker)
    }

    /// Starts the daemon.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_daemon(&self) -> Result<(), Error> {
        let path = program("k8slan-device-plugin");
        let path = path.to_string_lossy();
        let mut argv = vec![&*path, "node", "--lan-dir", Self::LANS, "--node-name", self.node.name()];
        argv.extend(self.options.iter().map(String::as_str));
        *self.daemon() = Some(self.node.spawn_daemon(&argv)?);
        Ok(())
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process ID of the running daemon.
    #[must_use]
    pub fn daemon_id(&self) -> Option<u32> {
        self.daemon().as_ref().map(Daemon::id)
    }

    /// What the running daemon has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon().as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// Ends the daemon as an administrator does.
    ///
    /// # Errors
    /// If it does not end, or ends with another code than 0.
    pub fn stop_daemon(&self) -> Result<(), Error> {
        let Some(daemon) = self.daemon().take() else { return Ok(()) };
        let status = daemon.terminate()?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Command {
            command: "k8slan-device-plugin, SIGTERM".to_owned(),
            status,
            output: String::new(),
        })
    }

    /// Ends the daemon with SIGKILL.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill_daemon(&self) -> Result<(), Error> {
        match self.daemon().take() {
            Some(daemon) => daemon.kill().map(drop),
            None => Ok(()),
        }
    }

    /// Reboots the node and starts the daemon, as the service manager would.
    ///
    /// # Errors
    /// As [`Node::reboot`].
    pub fn reboot(&mut self) -> Result<(), Error> {
        self.lose_power()?;
        self.start_daemon()
    }

    /// Reboots the node and starts nothing on it.
    ///
    /// # Errors
    /// As [`Node::reboot`].
    pub fn lose_power(&mut self) -> Result<(), Error> {
        self.kill_daemon()?;
        self.node.reboot()
    }

    /// Writes a LAN's file, as an editor does: complete at once.
    ///
    /// # Errors
    /// If that fails.
    pub fn put(&self, lan: &LanFile) -> Result<(), Error> {
        self.put_text(&format!("{}.yaml", lan.name), &lan.yaml())
    }

    /// Writes a file into the folder of LANs.
    ///
    /// # Errors
    /// If that fails.
    pub fn put_text(&self, file: &str, text: &str) -> Result<(), Error> {
        let (hidden, path) = (format!("{}/.{file}.new", Self::LANS), format!("{}/{file}", Self::LANS));
        self.node.write(&hidden, text)?;
        self.node
            .run(|| std::fs::rename(&hidden, &path))
            .map_err(|source| Error::System { operation: format!("renaming {hidden}"), source })
    }

    /// Removes a LAN's file.
    ///
    /// # Errors
    /// If that fails.
    pub fn remove(&self, lan: &LanFile) -> Result<(), Error> {
        let path = format!("{}/{}.yaml", Self::LANS, lan.name);
        self.node
            .run(|| std::fs::remove_file(&path))
            .map_err(|source| Error::System { operation: format!("removing {path}"), source })
    }

    /// The record of a spoke, `None` if there is none.
    #[must_use]
    pub fn record(&self, spoke: &str) -> Option<Value> {
        let text = self.node.read(&format!("/run/k8slan/spokes/{spoke}.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Waits up to ten seconds for a spoke whose LAN is built, and returns its record.
    ///
    /// # Errors
    /// With the record as it is, after that time.
    pub fn ready(&self, spoke: &str) -> Result<Value, Error> {
        self.record_where(spoke, |record| record["ready"] == true)
    }

    /// Waits up to ten seconds until the record says that the LAN of a spoke is not built, for a reason that
    /// contains `words`.
    ///
    /// # Errors
    /// With the record as it is, after that time.
    pub fn not_ready(&self, spoke: &str, words: &str) -> Result<Value, Error> {
        self.record_where(spoke, |record| {
            record["ready"] == false && record["reason"].as_str().is_some_and(|reason| reason.contains(words))
        })
    }

    fn record_where(&self, spoke: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value, Error> {
        eventually(Duration::from_secs(10), || match self.record(spoke) {
            Some(record) if wanted(&record) => Ok(record),
            other => Err(format!("{}: the record of {spoke} is {other:?}", self.node.name())),
        })
    }

    /// Waits up to ten seconds for `/run/k8slan/status.json` to satisfy `wanted`.
    ///
    /// # Errors
    /// With the status as it is, after that time.
    pub fn status(&self, wanted: impl Fn(&str) -> bool) -> Result<String, Error> {
        eventually(Duration::from_secs(10), || {
            let status = self.node.read("/run/k8slan/status.json").unwrap_or_default();
            if wanted(&status) {
                Ok(status)
            } else {
                Err(format!("{}: the status is {status}", self.node.name()))
            }
        })
    }
}

impl Deref for Worker {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}
