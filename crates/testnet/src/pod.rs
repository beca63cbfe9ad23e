use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::error::During;
use crate::{CniCall, CniError, Error, Namespaces, Node};

/// A network namespace on a node; it cannot outlive a reboot of that node.
#[derive(Debug)]
pub struct Netns<'node> {
    place: Namespaces,
    node: PhantomData<&'node Node>,
}

impl<'node> Netns<'node> {
    pub(crate) fn at(node: &'node Node, path: &str) -> Result<Self, Error> {
        Ok(Self { place: Namespaces::at(node, path)?, node: PhantomData })
    }
}

impl Deref for Netns<'_> {
    type Target = Namespaces;

    fn deref(&self) -> &Namespaces {
        &self.place
    }
}

impl Node {
    /// A pod's network namespace, where containerd would put it: `/var/run/netns/cni-…`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn pod(&self, name: &str) -> Result<Pod<'_>, Error> {
        Pod::new(self, name)
    }

    /// The network namespace mounted at `path` on this node, for example a LAN's `/run/netns/<ns>`.
    ///
    /// # Errors
    /// If there is none.
    pub fn netns(&self, path: &str) -> Result<Netns<'_>, Error> {
        Netns::at(self, path)
    }
}

/// A pod's sandbox: a network namespace with loopback up, mounted as a container runtime does it.
#[derive(Debug)]
pub struct Pod<'node> {
    node: &'node Node,
    name: String,
    container: String,
    path: String,
    place: Namespaces,
}

impl<'node> Pod<'node> {
    pub(crate) fn new(node: &'node Node, name: &str) -> Result<Self, Error> {
        static SANDBOXES: AtomicU32 = AtomicU32::new(1);
        let number = SANDBOXES.fetch_add(1, Ordering::Relaxed);
        let path = format!("/var/run/netns/cni-{number:08x}-{name}");
        let place = node.with_new_net(|| {
            std::fs::create_dir_all("/var/run/netns").during(|| "creating /var/run/netns".to_owned())?;
            std::fs::write(&path, "").during(|| format!("creating {path}"))?;
            let source = Some("/proc/thread-self/ns/net");
            mount(source, path.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .during(|| format!("mounting a namespace on {path}"))
        })?;
        // As long as containerd's: 64 hexadecimal digits.
        let container = format!("{number:08x}{:056x}", std::process::id());
        Ok(Self { node, name: name.to_owned(), container, path, place })
    }

    /// The name it was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of its network namespace on the node.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The container ID of the sandbox.
    #[must_use]
    pub fn container(&self) -> &str {
        &self.container
    }

    /// The node that it runs on.
    #[must_use]
    pub fn node(&self) -> &'node Node {
        self.node
    }

    /// The call of a runtime to a plugin about this pod: as Multus makes it, with the pod's name, namespace `default`
    /// and UID in `CNI_ARGS`.
    #[must_use]
    pub fn call(&self, ifname: &str, config: &Value) -> CniCall {
        CniCall {
            container: self.container.clone(),
            netns: Some(self.path.clone()),
            ifname: ifname.to_owned(),
            args: format!(
                "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid-{}",
                self.name, self.container, self.container
            ),
            path: None,
            config: config.to_string(),
            under: Vec::new(),
        }
    }

    /// ADD of a plugin for this pod.
    ///
    /// # Errors
    /// As [`Node::cni`].
    pub fn add(&self, plugin: &str, ifname: &str, config: &Value) -> Result<Value, CniError> {
        self.node.cni(plugin, "ADD", &self.call(ifname, config))
    }

    /// DEL of a plugin for this pod.
    ///
    /// # Errors
    /// As [`Node::cni`].
    pub fn del(&self, plugin: &str, ifname: &str, config: &Value) -> Result<Value, CniError> {
        self.node.cni(plugin, "DEL", &self.call(ifname, config))
    }

    /// Unmounts the namespace, as a runtime does when it removes a sandbox. The kernel deletes the links in it as
    /// soon as nothing else holds the namespace.
    ///
    /// # Errors
    /// If the mount is gone already.
    pub fn remove(self) -> Result<(), Error> {
        self.node.run(|| {
            nix::mount::umount2(self.path.as_str(), nix::mount::MntFlags::MNT_DETACH)
                .during(|| format!("unmounting {}", self.path))?;
            std::fs::remove_file(&self.path).during(|| format!("removing {}", self.path))
        })
    }
}

impl Deref for Pod<'_> {
    type Target = Namespaces;

    fn deref(&self) -> &Namespaces {
        &self.place
    }
}
