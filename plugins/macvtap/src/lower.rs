//! What an attachment is put on: decided and checked before anything is created.

use attach::{GuestLink, NodeUse};
use cni::Request;
use lan::SpokeRecord;
use net_types::{Attach, IfName, MacvtapMode, Mtu, SpokeName};
use netplumb::{Errno, Link, LinkKind, Netlink, Netns};
use node::{Lock, Paths, Resource, Underlays};
use twox_hash::XxHash64;

use crate::config::{Config, Wanted};
use crate::k8slanveth::K8slanVeth;
use crate::lan_side::{self, LanSide};
use crate::{Call, Error};

/// What an attachment is put on.
pub(crate) enum Lower {
    /// A spoke of a LAN.
    Spoke {
        /// The namespace of the LAN.
        side: Box<LanSide>,
        /// The keys of type `k8slanveth`, if the configuration has that type.
        keys: Option<K8slanVeth>,
        /// The lock that keeps other programs off the spoke.
        _lock: Lock,
    },
    /// A link of the host that gets a macvtap.
    Master(Host),
    /// A macvtap of the host that is moved into the pod.
    Moved(Host),
}

impl Lower {
    /// Whether the pod gets a veth, as KubeVirt's bridge binding needs it.
    pub(crate) fn is_veth(&self) -> bool {
        matches!(self, Self::Spoke { side, keys, .. } if attach(side.record(), keys.as_ref()) == Attach::Veth)
    }

    /// Whether the lower link, one of the node, is promiscuous for the macvtap. `mode`: that of the configuration.
    pub(crate) fn hears_everything(&self, mode: Option<MacvtapMode>) -> bool {
        match self {
            // Its lower link is deleted with it.
            Self::Spoke { .. } => false,
            Self::Master(_) => mode == Some(MacvtapMode::Passthru),
            Self::Moved(host) => is_promiscuous_below(&host.link),
        }
    }

    /// The keys of type `k8slanveth`, if the attachment has that type.
    pub(crate) fn k8slanveth(&self) -> Option<&K8slanVeth> {
        match self {
            Self::Spoke { keys, .. } => keys.as_ref(),
            Self::Master(_) | Self::Moved(_) => None,
        }
    }
}

/// Whether a macvtap makes its lower link promiscuous, as one in mode passthru does.
pub(crate) fn is_promiscuous_below(link: &Link) -> bool {
    matches!(&link.kind, LinkKind::Macvtap(macvtap)
        if macvtap.mode == Some(MacvtapMode::Passthru) && !macvtap.nopromisc)
}

/// What the pod gets of a spoke: as the LAN says, unless the type decides it.
pub(crate) fn attach(record: &SpokeRecord, keys: Option<&K8slanVeth>) -> Attach {
    if keys.is_some() { Attach::Veth } else { record.attach }
}

/// A link of the host, and a socket in its namespace.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    pub(crate) netlink: Netlink,
    pub(crate) link: Link,
}

impl Host {
    /// Checks that the node does not use a link that only the pod is to have: a macvtap that is moved into it, or the
    /// lower link of one in mode passthru. In the other modes the node keeps what is addressed to it.
    ///
    /// # Errors
    /// The node uses it, and its policy does not allow it.
    fn leaves_the_node_its_own(&self, call: &Call<'_>) -> Result<(), Error> {
        if self.is_given(call) {
            return Ok(());
        }
        let underlays = Underlays::read(&call.node.paths())?;
        match NodeUse::find(&self.netlink, &self.link, &underlays)? {
            Some(how) => Err(Error::UsedByTheNode { link: self.link.name.clone(), how }),
            None => Ok(()),
        }
    }

    /// Translates a refusal to change a macvtap that was moved: its MTU cannot exceed its lower link's.
    pub(crate) fn explain_mtu(&self, mtu: Option<Mtu>, source: netplumb::Error) -> Error {
        let lower = self.link.lower.and_then(|lower| self.netlink.link_by_index(lower).ok()?);
        match (mtu, lower) {
            (Some(mtu), Some(lower)) if source.errno() == Some(Errno::EINVAL) && mtu.get() > lower.mtu => {
                Error::MtuTooLarge { mtu: mtu.get(), lower: lower.name, max: lower.mtu, source: Some(source) }
            }
            _ => source.into(),
        }
    }

    /// Whether the policy allows the link in any case, used or not.
    fn is_given(&self, call: &Call<'_>) -> bool {
        let used = Resource::UsedLink(&self.link.name);
        call.node.policy.as_ref().is_some_and(|policy| policy.check(call.pod_namespace(), used).is_ok())
    }

    /// Checks that no LAN was declared on the link since the first check: the daemon records its underlays before it
    /// builds a LAN.
    ///
    /// # Errors
    /// A LAN was declared on it.
    pub(crate) fn still_carries_no_lan(&self, call: &Call<'_>, mode: MacvtapMode) -> Result<(), Error> {
        if mode != MacvtapMode::Passthru || self.is_given(call) {
            return Ok(());
        }
        match NodeUse::lan(&self.link, &Underlays::read(&call.node.paths())?) {
            Some(how) => Err(Error::UsedByTheNode { link: self.link.name.clone(), how }),
            None => Ok(()),
        }
    }
}

/// What a request names.
pub(crate) enum Named {
    /// A spoke with a record, and the keys of type `k8slanveth`, if it has that type.
    Spoke(Box<SpokeRecord>, Option<K8slanVeth>),
    /// A master or a macvtap of the host.
    Other(Wanted),
}

/// Finds out whether a request names a spoke.
///
/// # Errors
/// The configuration names nothing, or a record is not trusted.
pub(crate) fn named(request: &Request<Config>, paths: &Paths) -> Result<Named, Error> {
    let device = request.runtime_config.device_id.as_deref();
    let keys = K8slanVeth::parse(request)?;
    let wanted = match &keys {
        Some(keys) => Wanted::Spoke(keys.spoke(request.config.device(device))?),
        None => request.config.wanted(device)?,
    };
    let spoke = match &wanted {
        Wanted::Spoke(spoke) => Some(spoke.clone()),
        // A macvtap of the host may have a name that a spoke cannot have.
        Wanted::Device(id) => id.parse::<SpokeName>().ok(),
        Wanted::Master(_) => None,
    };
    let record = spoke.map(|spoke| lan_side::read_record(paths, &spoke)).transpose()?.flatten();
    Ok(record.map_or(Named::Other(wanted), |record| Named::Spoke(Box::new(record), keys)))
}

impl Lower {
    /// Decides what the attachment is put on, and whether it may be.
    ///
    /// # Errors
    /// A mistake in the configuration, something missing, or a refusal.
    pub(crate) fn resolve(call: &Call<'_>) -> Result<Self, Error> {
        let paths = call.node.paths();
        match named(call.request, &paths)? {
            Named::Spoke(record, keys) => {
                let lock = lan_side::lock(&paths, &record.spoke)?;
                // The former holder of the lock may have changed the record, so it is read again.
                let record = lan_side::read_record(&paths, &record.spoke)?
                    .ok_or_else(|| Error::NoSpoke(record.spoke.clone()))?;
                admit(call, &record, keys.as_ref())?;
                call.suits_guest(match attach(&record, keys.as_ref()) {
                    Attach::Veth => GuestLink::Veth,
                    Attach::Macvtap => GuestLink::Macvtap,
                })?;
                let side = LanSide::open(record)?;
                Ok(Self::Spoke { side: Box::new(side), keys, _lock: lock })
            }
            Named::Other(Wanted::Spoke(spoke)) => Err(Error::NoSpoke(spoke)),
            Named::Other(wanted) => Self::host(call, wanted),
        }
    }

    fn host(call: &Call<'_>, wanted: Wanted) -> Result<Self, Error> {
        let config = &call.request.config;
        let macvtap_only = || match config.attach {
            Some(Attach::Veth) => Err(Error::VethWithoutSpoke),
            Some(Attach::Macvtap) | None => Ok(()),
        };
        let netns = Netns::current()?;
        let netlink = Netlink::open(&netns)?;
        match wanted {
            Wanted::Master(master) => {
                macvtap_only()?;
                let link = netlink.link_by_name(&master)?.ok_or(Error::NoMaster(master))?;
                allow(call, &link.name)?;
                call.suits_guest(GuestLink::MacvtapWithoutDevice)?;
                let host = Host { netns, netlink, link };
                if config.mode == Some(MacvtapMode::Passthru) {
                    host.leaves_the_node_its_own(call)?;
                }
                Ok(Self::Master(host))
            }
            Wanted::Device(id) => match device_link(&netlink, &id)? {
                Some(link) if matches!(link.kind, LinkKind::Macvtap(_)) => {
                    macvtap_only()?;
                    allow(call, &link.name)?;
                    call.suits_guest(GuestLink::Macvtap)?;
                    if config.mode.is_some()
                        && let Some(name) = link.if_name()
                    {
                        return Err(Error::Moved("mode", name));
                    }
                    let host = Host { netns, netlink, link };
                    host.leaves_the_node_its_own(call)?;
                    Ok(Self::Moved(host))
                }
                _ => Err(Error::NoDevice(id)),
            },
            Wanted::Spoke(spoke) => Err(Error::NoSpoke(spoke)),
        }
    }
}

/// The link of the host that a device ID means: the one with that name, or, as KubeVirt's device plugin names its
/// macvtaps in versions after 0.13.1 (`TemporaryInterfaceName` in its `pkg/util`), the one named by a hash of it,
/// since a link's name is short.
///
/// # Errors
/// The kernel refuses the request.
pub(crate) fn device_link(netlink: &Netlink, id: &str) -> Result<Option<Link>, Error> {
    // First as newer versions name it: a link that an older one left may still have the other name.
    match (netlink.link_by_name(&hashed_name(id))?, id.parse()) {
        (None, Ok(name)) => Ok(netlink.link_by_name(&name)?),
        (found, _) => Ok(found),
    }
}

/// `mvt` and the low 48 bits of the device ID's xxHash64.
fn hashed_name(id: &str) -> IfName {
    let hash = XxHash64::oneshot(0, id.as_bytes()) & 0xffff_ffff_ffff;
    format!("mvt{hash:012x}")
        .parse()
        .unwrap_or_else(|_| unreachable!("15 letters and digits are a link's name"))
}

/// Whether the node's policy lets the pod use a link of the host.
fn allow(call: &Call<'_>, link: &str) -> Result<(), Error> {
    match &call.node.policy {
        Some(policy) => Ok(policy.check(call.pod_namespace(), Resource::Master(link))?),
        None => Ok(()),
    }
}

/// Checks whether the pod may have this spoke, in the way that its configuration asks for.
fn admit(call: &Call<'_>, record: &SpokeRecord, keys: Option<&K8slanVeth>) -> Result<(), Error> {
    let config = &call.request.config;
    let spoke = || record.spoke.clone();
    match keys {
        Some(_) if !record.k8slanveth => return Err(Error::K8slanvethOff(spoke())),
        Some(_)
            if record.kubelet
                && config.device(call.request.runtime_config.device_id.as_deref()).is_none() =>
        {
            return Err(Error::KubeletOnly { spoke: spoke(), prefix: "k8slan-veth-" });
        }
        None if record.kubelet && config.spoke.is_some() => {
            return Err(Error::KubeletOnly { spoke: spoke(), prefix: "" });
        }
        Some(_) | None => {}
    }
    if !record.allows(call.pod_namespace()) {
        let namespace = call.pod_namespace().map(str::to_owned);
        return Err(Error::NotAdmitted { lan: record.lan.to_string(), namespace });
    }
    if let Some(given) = config.attach.filter(|given| *given != attach(record, keys)) {
        return Err(Error::AttachDiffers { spoke: record.spoke.clone(), given, have: record.attach });
    }
    // A NAD with another mode could circumvent the LAN owner's decision about foreign MAC addresses.
    if let Some(given) = config.mode.filter(|given| *given != record.mode) {
        return Err(Error::ModeDiffers { spoke: record.spoke.clone(), given, have: record.mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_kubevirts_plugin_is_named_by_its_hash() {
        assert_eq!(hashed_name("dataplaneabMvp7").as_str(), "mvt594e6d1dc44b");
        assert_eq!(hashed_name("").as_str().len(), 15);
    }
}
