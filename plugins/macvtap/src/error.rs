use std::net::IpAddr;
use std::path::PathBuf;

use attach::NodeUse;
use cni::{Code, PluginError};
use ipnetwork::IpNetwork;
use net_types::{Attach, IfName, MacAddr, MacvtapMode, SpokeName};
use netplumb::Errno;
use node::{Attachment, ConfigError, LockError, PolicyError, SafeDirError, UnderlaysError};

use crate::device::DeviceError;

/// What can go wrong in this plugin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The protocol's part, or the IPAM plugin.
    #[error(transparent)]
    Cni(#[from] cni::Error),
    /// The kernel refused a network operation.
    #[error(transparent)]
    Net(#[from] netplumb::Error),
    /// Who asks, or where, cannot be used.
    #[error(transparent)]
    Call(#[from] attach::CallError),
    /// The pod's addresses and routes.
    #[error(transparent)]
    Addresses(Box<cni::Undone<attach::PodError>>),
    /// The pod's addresses and routes, as CHECK finds them.
    #[error(transparent)]
    Pod(#[from] attach::PodError),
    /// The device node.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// `/etc/k8slan/node.yaml`.
    #[error(transparent)]
    NodeConfig(#[from] ConfigError),
    /// Another program works on the same spoke.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The node's policy says no.
    #[error(transparent)]
    Policy(#[from] PolicyError),

    /// Neither `deviceID` nor `spoke` nor `master`.
    #[error(
        "nothing to attach to: the configuration has no deviceID, spoke or master. With Multus, deviceID comes from the \
         annotation k8s.v1.cni.cncf.io/resourceName of the NetworkAttachmentDefinition and a resource limit of the pod (of a virtual machine: \
         domain.resources.limits in its template)"
    )]
    NothingWanted,
    /// More than one of them.
    #[error("{0} are both given: choose one of deviceID, spoke and master")]
    SeveralWanted(String),
    /// There is no such device on this node.
    #[error(
        "device {0:?} is neither the spoke of a LAN on this node nor a macvtap of the host: is k8slan-device-plugin running \
         here, and does a LAN list it?"
    )]
    NoDevice(String),
    /// There is no record of that spoke.
    #[error(
        "spoke {0} is unknown on this node: is k8slan-device-plugin running here, and does a LAN list it?"
    )]
    NoSpoke(SpokeName),
    /// The daemon has not built the LAN.
    #[error("LAN {lan} of spoke {spoke} is not built on this node: {reason}")]
    NotReady {
        /// The spoke.
        spoke: SpokeName,
        /// Its LAN.
        lan: String,
        /// What the daemon says.
        reason: String,
    },
    /// The record cannot be read, or is not trusted.
    #[error("cannot use the record of spoke {spoke}")]
    Record {
        /// The spoke.
        spoke: String,
        /// Why.
        source: SafeDirError,
    },
    /// The record's text is not what the daemon writes.
    #[error("cannot read the record of spoke {spoke}: restart k8slan-device-plugin, which writes it anew")]
    RecordText {
        /// The spoke.
        spoke: SpokeName,
        /// Why.
        source: lan::RecordError,
    },
    /// Records of minors that do not read.
    #[error(
        "the records {} in {folder:?} cannot be read, so GC does not know whose links they stand for, and frees no address: \
         remove those files if no pod has such a link any more",
        records.join(", ")
    )]
    UnreadableRecords {
        /// Where they are.
        folder: PathBuf,
        /// Their names.
        records: Vec<String>,
    },
    /// The namespace that the record names does not carry the daemon's mark.
    #[error(
        "network namespace {netns:?} is not that of LAN {lan} (its lo carries {mark}): it was replaced by something else; \
         k8slan-device-plugin will say which"
    )]
    NotTheLan {
        /// The namespace.
        netns: PathBuf,
        /// The LAN.
        lan: String,
        /// The alias found.
        mark: String,
    },
    /// The bridge is gone.
    #[error(
        "bridge {bridge} of LAN {lan} is gone: k8slan-device-plugin puts it back within a second, try again"
    )]
    NoBridge {
        /// The bridge.
        bridge: IfName,
        /// The LAN.
        lan: String,
    },
    /// The kubelet counts this spoke.
    #[error(
        "spoke {spoke} is handed out by the kubelet and cannot be taken by name: ask for the resource \
         macvtap.k8slan.io/{prefix}{spoke} in the pod's limits"
    )]
    KubeletOnly {
        /// The spoke.
        spoke: SpokeName,
        /// What stands before it in the name of the resource.
        prefix: &'static str,
    },
    /// Type `k8slanveth` is not for this spoke.
    #[error(
        "spoke {0} takes no attachments of type k8slanveth: they are switched off on this node (the component k8slan-go of the \
         installation), or the LAN's mode is not passthru. Type macvtap does the same where the LAN says attach: veth"
    )]
    K8slanvethOff(SpokeName),
    /// Type `k8slanveth` without its spoke.
    #[error("k8slanveth needs veth, the name of a LAN's spoke")]
    NoVeth,
    /// The network configuration and the resource are not of one spoke.
    #[error(
        "veth says spoke {veth}, but the kubelet handed out {device:?}: let the annotation k8s.v1.cni.cncf.io/resourceName of the \
         NetworkAttachmentDefinition and its veth name one spoke"
    )]
    VethDiffers {
        /// In the configuration.
        veth: SpokeName,
        /// From the kubelet.
        device: String,
    },
    /// A key of another type.
    #[error(
        "{0} is not a key of type k8slanveth, which puts the veth of the spoke in veth into the pod: leave it out"
    )]
    NotOfK8slanveth(&'static str),
    /// Routes without an address.
    #[error("routes need an address of the interface: give addrs or ipam")]
    RoutesWithoutAddress,
    /// A route and its next hop are of two families.
    #[error("the route to {to} cannot go via {via}, which is of the other address family")]
    RouteFamilies {
        /// Where to.
        to: IpNetwork,
        /// The next hop.
        via: IpAddr,
    },
    /// Addresses and routes of the configuration itself.
    #[error(transparent)]
    Stated(attach::PodError),
    /// The LAN does not admit the pod's namespace.
    #[error("LAN {lan} does not admit pods of {}: its allowedNamespaces does not list it", named(namespace.as_deref()))]
    NotAdmitted {
        /// The LAN.
        lan: String,
        /// The pod's namespace, where stated.
        namespace: Option<String>,
    },
    /// `attach` differs from the spoke's.
    #[error(
        "attach {given} is asked for, but spoke {spoke} is a {have} spoke: leave attach out, or change the LAN"
    )]
    AttachDiffers {
        /// The spoke.
        spoke: SpokeName,
        /// In the configuration.
        given: Attach,
        /// In the LAN.
        have: Attach,
    },
    /// `mode` differs from the spoke's.
    #[error(
        "mode {given} is asked for, but spoke {spoke} has mode {have}: leave mode out, or change the LAN"
    )]
    ModeDiffers {
        /// The spoke.
        spoke: SpokeName,
        /// In the configuration.
        given: MacvtapMode,
        /// In the LAN.
        have: MacvtapMode,
    },
    /// The node uses the link itself.
    #[error(
        "link {link} is used by the node: {how}, which the attachment would take from it; take another \
         link; only an administrator gives it away (usedLinks in the policy of node.yaml)"
    )]
    UsedByTheNode {
        /// The link.
        link: String,
        /// What for.
        how: NodeUse,
    },
    /// What carries a LAN is not known.
    #[error(transparent)]
    Underlays(#[from] UnderlaysError),
    /// A bare veth on a master makes no sense.
    #[error("attach veth needs a spoke of a LAN: on a master, only a macvtap can be made")]
    VethWithoutSpoke,
    /// A key that does not go with an existing macvtap.
    #[error("{0} cannot be set on macvtap {1} of the host, which is moved as it is: leave it out")]
    Moved(&'static str, IfName),
    /// A live attachment holds the spoke.
    #[error("spoke {spoke} is in use by {by}: wait until it is gone, or use another spoke")]
    InUse {
        /// The spoke.
        spoke: SpokeName,
        /// Who holds it.
        by: Box<Attachment>,
    },
    /// A link of a wanted name that is not ours.
    #[error(
        "link {name} in network namespace {netns:?} was not made by k8slan, so it is not touched: remove it, or rename the spoke"
    )]
    Foreign {
        /// The link.
        name: String,
        /// Its namespace.
        netns: PathBuf,
    },
    /// There is no link of the master's name.
    #[error("master {0} does not exist on this node")]
    NoMaster(IfName),
    /// In passthru mode the macvtap takes its lower's MAC.
    #[error(
        "MAC address {mac} is asked for, but in mode passthru a macvtap has the MAC address of its master {master}: leave one \
         of them out"
    )]
    PassthruMac {
        /// The MAC address.
        mac: MacAddr,
        /// The master.
        master: String,
    },
    /// The MTU is larger than the link's below.
    #[error("MTU {mtu} does not fit on {lower}, whose MTU is {max}: ask for less, or for none")]
    MtuTooLarge {
        /// What was asked for.
        mtu: u32,
        /// The link below.
        lower: String,
        /// Its MTU.
        max: u32,
        /// The kernel's answer, where it was asked.
        source: Option<netplumb::Error>,
    },
    /// The kernel puts no macvtap on the link below.
    #[error("cannot put a macvtap in mode {mode} on {lower}: {}", why(source, *mode))]
    NotOnLower {
        /// The link below.
        lower: String,
        /// The mode asked for.
        mode: MacvtapMode,
        /// The kernel's answer.
        source: netplumb::Error,
    },
    /// The pod has an interface of that name.
    #[error("the pod has an interface {0} already: CNI_IFNAME must be new")]
    InterfaceExists(IfName),
    /// Another link in the pod has the tap's index.
    #[error("a link in the pod has index {0}, which the tap needs: the pod made it itself")]
    IndexTaken(u32),
    /// The kernel gives no minor that is free of live attachments.
    #[error("no tap minor is free of live attachments after {0} tries: is the number of taps exhausted?")]
    NoMinor(usize),
    /// The kernel shows no character device for the link.
    #[error(
        "interface {0} has no tap device in sysfs: it is not a macvtap, or the kernel lacks CONFIG_MACVTAP"
    )]
    NoTap(IfName),
    /// ADD failed, and taking it back did too.
    #[error("{}; and what was made could not all be taken back: {}", attach::chain(&**error), failures.join("; "))]
    NotUndone {
        /// Why ADD failed.
        error: Box<Self>,
        /// What stays.
        failures: Vec<String>,
    },
    /// The folder of named namespaces.
    #[error("cannot list the network namespaces in {path:?}")]
    NetnsFolder {
        /// The folder.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Several things went wrong; the others were done.
    #[error("{}", .0.iter().map(|error| attach::chain(error)).collect::<Vec<_>>().join("; "))]
    Several(Vec<Self>),
    /// CHECK: something is not as ADD promised.
    #[error("{what} is {found}, but {promised} was promised: delete the pod, so that it is attached anew")]
    Mismatch {
        /// What was looked at.
        what: String,
        /// What it is.
        found: String,
        /// What it should be.
        promised: String,
    },
    /// STATUS: nothing can be attached now.
    #[error("{0}")]
    Unavailable(String),
}

/// What a refusal means: the kernel has the same few numbers for many reasons.
fn why(error: &netplumb::Error, mode: MacvtapMode) -> &'static str {
    match (error.errno(), mode) {
        (Some(Errno::EBUSY), _) => "is it a port of a bridge or a bond? Then attach to the bridge instead",
        (Some(Errno::EADDRINUSE), _) => "another link on it has the same MAC address",
        (Some(Errno::EINVAL), MacvtapMode::Passthru) => {
            "passthru needs the link for itself; is another macvtap or macvlan on it, or is it no Ethernet link?"
        }
        _ => "is there one in mode passthru on it, which has it for itself, or is it no Ethernet link?",
    }
}

fn named(namespace: Option<&str>) -> String {
    namespace.map_or_else(
        || "an unstated namespace (K8S_POD_NAMESPACE)".to_owned(),
        |name| format!("namespace {name:?}"),
    )
}

impl Error {
    /// A mismatch found by CHECK.
    pub(crate) fn mismatch(what: impl Into<String>, found: impl ToString, promised: impl ToString) -> Self {
        Self::Mismatch { what: what.into(), found: found.to_string(), promised: promised.to_string() }
    }

    /// This error, with what could not be taken back after it.
    pub(crate) fn and_failures(self, failures: Vec<String>) -> Self {
        if failures.is_empty() { self } else { Self::NotUndone { error: Box::new(self), failures } }
    }

    /// Nothing, the one error, or all of them.
    ///
    /// # Errors
    /// If there is any.
    pub(crate) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}

/// Our own numbers, from 100 on (SPEC.md, section 5).
mod code {
    use cni::Code;

    pub(super) const KERNEL: Code = Code::plugin(100);
    pub(super) const NOT_ALLOWED: Code = Code::plugin(101);
    pub(super) const FOREIGN: Code = Code::plugin(102);
    pub(super) const EXISTS: Code = Code::plugin(103);
    pub(super) const UNTRUSTED: Code = Code::plugin(104);
    pub(super) const MISMATCH: Code = Code::plugin(110);
}

impl PluginError for Error {
    fn code(&self) -> Code {
        match self {
            Self::Cni(error) => error.code(),
            Self::Call(error) => error.code(),
            Self::NothingWanted
            | Self::SeveralWanted(_)
            | Self::AttachDiffers { .. }
            | Self::ModeDiffers { .. }
            | Self::VethWithoutSpoke
            | Self::NoVeth
            | Self::VethDiffers { .. }
            | Self::NotOfK8slanveth(_)
            | Self::RoutesWithoutAddress
            | Self::RouteFamilies { .. }
            | Self::Moved(..)
            | Self::NoMaster(_)
            | Self::PassthruMac { .. }
            | Self::MtuTooLarge { .. }
            | Self::NodeConfig(_) => Code::INVALID_CONFIG,
            Self::NoDevice(_)
            | Self::NoSpoke(_)
            | Self::NotReady { .. }
            | Self::NoBridge { .. }
            | Self::InUse { .. }
            | Self::Lock(_)
            | Self::Device(DeviceError::Lock(_))
            | Self::NoMinor(_) => Code::TRY_AGAIN,
            Self::Device(_) | Self::NetnsFolder { .. } => Code::IO,
            Self::Net(_)
            | Self::Addresses(_)
            | Self::Stated(_)
            | Self::NoTap(_)
            | Self::NotOnLower { .. } => code::KERNEL,
            Self::KubeletOnly { .. }
            | Self::K8slanvethOff(_)
            | Self::NotAdmitted { .. }
            | Self::Policy(_)
            | Self::UsedByTheNode { .. } => code::NOT_ALLOWED,
            Self::Foreign { .. } => code::FOREIGN,
            Self::InterfaceExists(_) | Self::IndexTaken(_) => code::EXISTS,
            Self::Record { .. }
            | Self::RecordText { .. }
            | Self::UnreadableRecords { .. }
            | Self::NotTheLan { .. }
            | Self::Underlays(_) => code::UNTRUSTED,
            Self::Mismatch { .. } | Self::Pod(_) => code::MISMATCH,
            Self::Unavailable(_) => Code::NOT_AVAILABLE,
            Self::NotUndone { error, .. } => error.code(),
            Self::Several(errors) => errors.first().map_or(code::KERNEL, Self::code),
        }
    }
}
