use std::fmt;

use serde::{Deserialize, Serialize};

/// The interface of a container in a network, to which addresses are leased.
///
/// The three together are what the CNI specification calls an attachment's identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`
    pub container: String,
    /// `CNI_IFNAME`
    pub interface: String,
    /// `name` in the configuration.
    pub network: String,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container {}, interface {}, network {}", self.container, self.interface, self.network)
    }
}

/// The owner of an address, which outlives containers.
///
/// As text `<namespace>/<pod>/<network>`, `vm:<namespace>/<name>/<network>` for a KubeVirt VM, or `claim:<namespace>/<name>/<network>`
/// for an `IPAMClaim`.
/// Reservations may leave the network out. What a further interface of it in that network has is that of
/// `<owner>/<interface>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owner(String);

impl Owner {
    /// The owner "this pod in this network".
    #[must_use]
    pub fn pod(namespace: &str, pod: &str, network: &str) -> Self {
        Self(format!("{namespace}/{pod}/{network}"))
    }

    /// The owner "this virtual machine in this network".
    #[must_use]
    pub fn vm(namespace: &str, name: &str, network: &str) -> Self {
        Self(format!("vm:{namespace}/{name}/{network}"))
    }

    /// The owner "this `IPAMClaim` in this network".
    #[must_use]
    pub fn claim(namespace: &str, name: &str, network: &str) -> Self {
        Self(format!("claim:{namespace}/{name}/{network}"))
    }

    /// The same for a further interface in that network.
    #[must_use]
    pub fn on_interface(&self, interface: &str) -> Self {
        Self(format!("{self}/{interface}"))
    }

    /// Parses an owner from a store or a command line.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_vm(&self) -> bool {
        self.0.starts_with("vm:")
    }

    #[must_use]
    pub fn is_claim(&self) -> bool {
        self.0.starts_with("claim:")
    }

    /// The owner without its network, the form that reservations may use.
    #[must_use]
    pub fn in_any_network(&self) -> &str {
        match self.0.match_indices('/').nth(1) {
            Some((slash, _)) => self.0.get(..slash).unwrap_or(&self.0),
            None => &self.0,
        }
    }

    /// The name by which the cluster keeps an address for it, as in [`node::FloatingGrant`].
    #[must_use]
    pub fn floating_name(&self) -> String {
        if self.is_vm() || self.is_claim() { self.0.clone() } else { format!("pod:{}", self.0) }
    }

    /// Whether `name`, of a reservation or a command line, means this owner.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.0 == name || self.in_any_network() == name
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An attachment that holds an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseHolder {
    pub attachment: Attachment,
    /// `<namespace>/<name>` of the pod, if the runtime passed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The pod's UID, if the runtime passed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The path and inode of the network namespace, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<(String, u64)>,
    /// Whether the pod runs the virtual machine that owns the address, or has the claim that does, as the daemon's record or the
    /// pod's name says; absent where no machine does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<bool>,
    /// When the address was given to it.
    pub since: Millis,
}

impl LeaseHolder {
    /// Whether both are sandboxes of one pod, of which at most one is in use. A pod's name is not enough: the next pod
    /// of a StatefulSet has it, too.
    #[must_use]
    pub fn is_of_same_pod(&self, other: &Self) -> bool {
        self.uid.is_some() && self.uid == other.uid
    }

    /// Whether both are launcher pods of the machine that owns the address, and do not only claim it.
    #[must_use]
    pub fn is_launcher_as(&self, other: &Self) -> bool {
        self.launcher == Some(true) && other.launcher == Some(true)
    }

    /// Whether its network namespace still exists; `false` if that is not known.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let netns = self.netns.as_ref();
        netns.is_some_and(|(path, inode)| node::NetnsRef { path: path.into(), inode: *inode }.is_live())
    }
}

impl fmt::Display for LeaseHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pod {
            Some(pod) => write!(f, "pod {pod} ({})", self.attachment),
            None => self.attachment.fmt(f),
        }
    }
}

/// A point in time: milliseconds since the machine was booted, suspended or not (`CLOCK_BOOTTIME`).
///
/// Leases do not outlive the boot, and this clock is never set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The current time.
    #[must_use]
    pub fn now() -> Self {
        let clock = nix::time::ClockId::CLOCK_BOOTTIME;
        let time = clock.now().map(std::time::Duration::from).unwrap_or_default();
        Self(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    #[must_use]
    pub fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_named_with_and_without_their_network() {
        let pod = Owner::pod("default", "web-0", "iot");
        assert_eq!(pod.as_str(), "default/web-0/iot");
        assert!(pod.is_named("default/web-0") && pod.is_named("default/web-0/iot"));
        assert!(
            !pod.is_named("default/web") && !pod.is_named("default/web-0/dmz") && !pod.is_named("default")
        );
        let vm = Owner::vm("default", "vyos", "trunk");
        assert!(vm.is_named("vm:default/vyos") && !vm.is_named("default/vyos"));
        let second = vm.on_interface("net2");
        assert_eq!(second.floating_name(), "vm:default/vyos/trunk/net2");
        assert!(second.is_named("vm:default/vyos") && !vm.is_named(second.as_str()));
        let claim = Owner::claim("default", "web.lan", "lan");
        assert!(claim.is_claim() && !claim.is_vm() && claim.floating_name() == claim.as_str());
        assert_eq!(claim.in_any_network(), "claim:default/web.lan");
        assert_eq!(Owner::from_text("router").in_any_network(), "router");
    }
}
