use std::net::IpAddr;
use std::path::PathBuf;

use attach::NodeUse;
use cni::{Code, PluginError};
use ipnetwork::IpNetwork;
use net_types::{Attach, IfName, MacAddr, MacvtapMode, SpokeName};
use netplumb::Errno;
use node::{Attachment, ConfigError, LockError, PolicyError, SafeDirError, UnderlaysError};

use crate::device::DeviceError;

/// An error of this plugin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From the protocol, or from the IPAM plugin.
    #[error(transparent)]
    Cni(#[from] cni::Error),
    /// The kernel refused a network operation.
    #[error(transparent)]
    Net(#[from] netplumb::Error),
    /// The caller or its namespace cannot be used.
    #[error(transparent)]
    Call(#[from] attach::CallError),
    /// ADD: the pod's addresses and routes cannot be set.
    #[error(transparent)]
    Addresses(#[from] attach::PodError),
    /// CHECK: the pod's addresses and routes differ.
    #[error(transparent)]
    Pod(attach::PodError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    NodeConfig(#[from] ConfigError),
    /// Another program works on the same spoke.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The node's policy refuses it.
    #[error(transparent)]
    Policy(#[from] PolicyError),

    #[error(
        "nothing to attach to: the configuration has no deviceID, spoke or master. With Multus, deviceID comes from the \
         annotation k8s.v1.cni.cncf.io/resourceName of the NetworkAttachmentDefinition and a resource limit of the pod (of a virtual machine: \
         domain.resources.limits in its template)"
    )]
    NothingWanted,
    #[error("{0} are both given: choose one of deviceID, spoke and master")]
    SeveralWanted(String),
    #[error(
        "device {0:?} is neither the spoke of a LAN on this node nor a macvtap of the host: is k8slan-device-plugin running \
         here, and does a LAN list it?"
    )]
    NoDevice(String),
    #[error(
        "spoke {0} is unknown on this node: is k8slan-device-plugin running here, and does a LAN list it?"
    )]
    NoSpoke(SpokeName),
    #[error("LAN {lan} of spoke {spoke} is not built on this node: {reason}")]
    NotReady { spoke: SpokeName, lan: String, reason: String },
    #[error("cannot use the record of spoke {spoke}")]
    Record { spoke: String, source: SafeDirError },
    #[error("cannot read the record of spoke {spoke}: restart k8slan-device-plugin, which writes it anew")]
    RecordText { spoke: SpokeName, source: lan::RecordError },
    #[error(
        "the records {} in {folder:?} cannot be read, so GC does not know whose links they stand for, and frees no address: \
         remove those files if no pod has such a link any more",
        records.join(", ")
    )]
    UnreadableRecords { folder: PathBuf, records: Vec<String> },
    #[error(
        "network namespace {netns:?} is not that of LAN {lan} (its lo carries {mark}): it was replaced by something else; \
         k8slan-device-plugin will say which"
    )]
    NotTheLan { netns: PathBuf, lan: String, mark: String },
    #[error(
        "bridge {bridge} of LAN {lan} is gone: k8slan-device-plugin puts it back within a second, try again"
    )]
    NoBridge { bridge: IfName, lan: String },
    #[error(
        "spoke {spoke} is handed out by the kubelet and cannot be taken by name: ask for the resource \
         macvtap.k8slan.io/{prefix}{spoke} in the pod's limits"
    )]
    KubeletOnly {
        spoke: SpokeName,
        /// The part of the resource's name before the spoke.
        prefix: &'static str,
    },
    #[error(
        "spoke {0} takes no attachments of type k8slanveth: they are switched off on this node (the component k8slan-go of the \
         installation), or the LAN's mode is not passthru. Type macvtap does the same where the LAN says attach: veth"
    )]
    K8slanvethOff(SpokeName),
    #[error("k8slanveth needs veth, the name of a LAN's spoke")]
    NoVeth,
    #[error(
        "veth says spoke {veth}, but the kubelet handed out {device:?}: let the annotation k8s.v1.cni.cncf.io/resourceName of the \
         NetworkAttachmentDefinition and its veth name one spoke"
    )]
    VethDiffers { veth: SpokeName, device: String },
    #[error(
        "{0} is not a key of type k8slanveth, which puts the veth of the spoke in veth into the pod: leave it out"
    )]
    NotOfK8slanveth(&'static str),
    #[error("routes need an address of the interface: give addrs or ipam")]
    RoutesWithoutAddress,
    #[error("the route to {to} cannot go via {via}, which is of the other address family")]
    RouteFamilies { to: IpNetwork, via: IpAddr },
    #[error("LAN {lan} does not admit pods of {}: its allowedNamespaces does not list it", named(namespace.as_deref()))]
    NotAdmitted { lan: String, namespace: Option<String> },
    #[error(
        "attach {given} is asked for, but spoke {spoke} is a {have} spoke: leave attach out, or change the LAN"
    )]
    AttachDiffers { spoke: SpokeName, given: Attach, have: Attach },
    #[error(
        "mode {given} is asked for, but spoke {spoke} has mode {have}: leave mode out, or change the LAN"
    )]
    ModeDiffers { spoke: SpokeName, given: MacvtapMode, have: MacvtapMode },
    #[error(
        "link {link} is used by the node: {how}, which the attachment would take from it; take another \
         link; only an administrator gives it away (usedLinks in the policy of node.yaml)"
    )]
    UsedByTheNode { link: String, how: NodeUse },
    /// It is not known which links carry LANs.
    #[error(transparent)]
    Underlays(#[from] UnderlaysError),
    #[error("attach veth needs a spoke of a LAN: on a master, only a macvtap can be made")]
    VethWithoutSpoke,
    #[error("{0} cannot be set on macvtap {1} of the host, which is moved as it is: leave it out")]
    Moved(&'static str, IfName),
    #[error("spoke {spoke} is in use by {by}: wait until it is gone, or use another spoke")]
    InUse { spoke: SpokeName, by: Box<Attachment> },
    #[error(
        "link {name} in network namespace {netns:?} was not made by k8slan, so it is not touched: remove it, or rename the spoke"
    )]
    Foreign { name: String, netns: PathBuf },
    #[error("master {0} does not exist on this node")]
    NoMaster(IfName),
    /// In passthru mode the macvtap has its master's MAC address.
    #[error(
        "MAC address {mac} is asked for, but in mode passthru a macvtap has the MAC address of its master {master}: leave one \
         of them out"
    )]
    PassthruMac { mac: MacAddr, master: String },
    #[error("MTU {mtu} does not fit on {lower}, whose MTU is {max}: ask for less, or for none")]
    MtuTooLarge {
        mtu: u32,
        lower: String,
        max: u32,
        /// The kernel's refusal, if it came to that.
        source: Option<netplumb::Error>,
    },
    #[error("cannot put a macvtap in mode {mode} on {lower}: {}", why(source, *mode))]
    NotOnLower { lower: String, mode: MacvtapMode, source: netplumb::Error },
    #[error("the pod has an interface {0} already: CNI_IFNAME must be new")]
    InterfaceExists(IfName),
    #[error("a link in the pod has index {0}, which the tap needs: the pod made it itself")]
    IndexTaken(u32),
    #[error("no tap minor is free of live attachments after {0} tries: is the number of taps exhausted?")]
    NoMinor(usize),
    #[error(
        "interface {0} has no tap device in sysfs: it is not a macvtap, or the kernel lacks CONFIG_MACVTAP"
    )]
    NoTap(IfName),
    #[error(transparent)]
    NotUndone(#[from] attach::NotUndone<Self>),
    #[error("cannot list the network namespaces in {path:?}")]
    NetnsFolder { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Several(#[from] attach::Several<Self>),
    #[error(transparent)]
    Mismatch(#[from] attach::Mismatch),
    #[error("{0}")]
    Unavailable(String),
}

/// The likely reason of a refusal: the kernel uses the same few numbers for many.
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

/// This plugin's codes, from 100 on (SPEC.md, section 5).
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
            Self::Net(_) | Self::Addresses(_) | Self::NoTap(_) | Self::NotOnLower { .. } => code::KERNEL,
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
            Self::Mismatch(_) | Self::Pod(_) => code::MISMATCH,
            Self::Unavailable(_) => Code::NOT_AVAILABLE,
            Self::NotUndone(both) => both.error().code(),
            Self::Several(errors) => errors.first().map_or(code::KERNEL, Self::code),
        }
    }
}
