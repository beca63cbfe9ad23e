use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::During;
use crate::{CniCall, CniError, Daemon, Error, Namespaces, Switch};
use crate::{cgroups, cni_call, eventually, leaks, mounts, switch};

/// A simulated node: a network and mount namespace with its own `/run`, `/var/lib`, `/etc`, `/sys` and `/dev`.
///
/// `/var/lib` and what was changed in `/etc` outlive a [`Node::reboot`], nothing else does.
#[derive(Debug)]
pub struct Node {
    name: String,
    disk: PathBuf,
    host_devices: bool,
    place: Namespaces,
    cables: Vec<Cable>,
}

/// A connection to a switch, which is made again after a reboot.
#[derive(Debug)]
struct Cable {
    switch: Arc<Namespaces>,
    ifname: String,
    mtu: u32,
    port: String,
}

impl Node {
    /// A node with a `/dev` of its own.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(name: &str) -> Result<Self, Error> {
        Self::start(name, false)
    }

    /// A node that shares the machine's devtmpfs, where the kernel itself makes `/dev/tapN`. At most one of
    /// them should exist at a time: the machine has one devtmpfs for all.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn with_host_devices(name: &str) -> Result<Self, Error> {
        Self::start(name, true)
    }

    fn start(name: &str, host_devices: bool) -> Result<Self, Error> {
        static DISKS: AtomicU32 = AtomicU32::new(1);
        let disk = PathBuf::from(format!("/run/testnet/{name}-{}", DISKS.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(disk.join("var-lib")).during(|| format!("creating {}", disk.display()))?;
        let place = Self::boot(&disk, host_devices)?;
        Ok(Self { name: name.to_owned(), disk, host_devices, place, cables: Vec::new() })
    }

    fn boot(disk: &Path, host_devices: bool) -> Result<Namespaces, Error> {
        Namespaces::with_own_mounts(|| {
            mounts::bind(&disk.join("var-lib"), "/var/lib")?;
            mounts::private_etc(disk)?;
            if host_devices {
                mounts::kernels_dev()?
            } else {
                mounts::own_dev()?
            }
            mounts::own_sysfs()?;
            mounts::empty("/run")?;
            // Duplicate address detection would keep the underlay's link-local address unusable for a second.
            fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
                .during(|| "setting accept_dad".to_owned())
        })
    }

    /// The name it was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's `/var/lib` as the test process sees it: a socket in it is reached by both paths.
    #[must_use]
    pub fn var_lib(&self) -> PathBuf {
        self.disk.join("var-lib")
    }

    /// The control group beneath which a container runtime of this node is to make its own: what is in it ends
    /// with the node, and the run removes it.
    #[must_use]
    pub fn cgroup(&self) -> String {
        let mark = std::env::var(leaks::MARK).unwrap_or_default();
        let node = self.disk.file_name().unwrap_or_default();
        format!("/{}/{}", cgroups::of_run(&mark), node.to_string_lossy())
    }

    /// Gives the node a link into the switch, up, with an IPv6 link-local address and no other.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn connect(&mut self, switch: &Switch, ifname: &str, mtu: u32) -> Result<(), Error> {
        let port = switch::plug(switch, &self.place, ifname, mtu)?;
        let switch = Arc::clone(&switch.place);
        self.cables.push(Cable { switch, ifname: ifname.to_owned(), mtu, port });
        Ok(())
    }

    /// Starts a long-lived program on the node.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn_daemon(&self, argv: &[&str]) -> Result<Daemon, Error> {
        Daemon::start(&self.place, &self.disk, argv)
    }

    /// Runs a CNI plugin as a runtime on this node does; stdout of a success is returned as JSON (null if
    /// it is empty).
    ///
    /// # Errors
    /// The plugin's error document, or what it did instead of writing one.
    pub fn cni(&self, plugin: &str, verb: &str, call: &CniCall) -> Result<serde_json::Value, CniError> {
        cni_call::run(&self.place, plugin, verb, call)
    }

    /// Writes a file on the node, and the folders above it.
    ///
    /// # Errors
    /// If that fails.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]> + Sync) -> Result<(), Error> {
        self.run(|| {
            if let Some(folder) = Path::new(path).parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, content.as_ref())
        })
        .during(|| format!("writing {path} on {}", self.name))
    }

    /// Reads a text file on the node.
    ///
    /// # Errors
    /// If that fails.
    pub fn read(&self, path: &str) -> Result<String, Error> {
        self.run(|| fs::read_to_string(path)).during(|| format!("reading {path} on {}", self.name))
    }

    /// The names in a folder of the node, sorted; none if there is no such folder.
    #[must_use]
    pub fn list(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = self.run(|| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        });
        names.sort();
        names
    }

    /// Kills every process of the node and removes its links to switches: other nodes get no notice of it until
    /// [`Node::reboot`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn switch_off(&mut self) -> Result<(), Error> {
        self.end_processes()?;
        for cable in &self.cables {
            if cable.switch.link_names()?.contains(&cable.port) {
                cable.switch.ip(&format!("link delete {}", cable.port))?;
            }
        }
        Ok(())
    }

    /// Kills every process of the node and starts it again: all namespaces, mounts and links are gone, its
    /// cables are plugged in, `/var/lib` and `/etc` are as they were.
    ///
    /// # Errors
    /// If the kernel refuses, or if the old namespaces do not go.
    pub fn reboot(&mut self) -> Result<(), Error> {
        self.end_processes()?;
        self.place = Self::boot(&self.disk, self.host_devices)?;
        for cable in &mut self.cables {
            // The port disappears when the kernel has deleted the old namespace.
            let ports = |cable: &Cable| cable.switch.link_names().unwrap_or_default();
            eventually(Duration::from_secs(10), || match ports(cable).contains(&cable.port) {
                true => Err(format!("the old links of {} are still there", self.name)),
                false => Ok(()),
            })?;
            cable.port = switch::plug(&cable.switch, &self.place, &cable.ifname, cable.mtu)?;
        }
        Ok(())
    }

    /// Ends the node's processes and removes its control groups, which a kubelet would spend seconds on.
    fn end_processes(&self) -> Result<(), Error> {
        self.kill_processes();
        eventually(Duration::from_secs(10), || match cgroups::remove(&self.cgroup()).as_slice() {
            [] => Ok(()),
            left => Err(format!("control groups of {} are still there: {left:?}", self.name)),
        })
    }

    /// Kills the processes in the node's mount namespace, whatever started them, and its containers, which have mount
    /// namespaces of their own.
    fn kill_processes(&self) {
        let Ok(node) = self.place.mount_inode() else { return };
        let (wanted, group) = (format!("mnt:[{node}]"), self.cgroup());
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
            let lives_here =
                fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|ns| ns.as_os_str() == &*wanted);
            let contained = || {
                fs::read_to_string(entry.path().join("cgroup"))
                    .is_ok_and(|text| cgroups::is_in(&text, &group))
            };
            if let (Some(pid), true) = (pid, lives_here || contained())
                && pid != std::process::id().cast_signed()
            {
                // It may have ended since.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

impl Deref for Node {
    type Target = Namespaces;

    fn deref(&self) -> &Namespaces {
        &self.place
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_processes();
    }
}
