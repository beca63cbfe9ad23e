use std::net::IpAddr;

use attach::{NetworkUse, NodeUse};
use ipnetwork::IpNetwork;
use net_types::{IfName, IfNameError, VlanId, VlanSetError};
use netplumb::{Errno, VlanProtocol};
use node::{ConfigError, LockError, PolicyError, SafeDirError, UnderlaysError};

/// An error of this plugin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From the protocol, or from the IPAM plugin.
    #[error(transparent)]
    Cni(#[from] cni::Error),
    #[error("only root may look at trunks and change them: run it as root, for example with sudo")]
    NotRoot,
    /// A person's command.
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
    #[error(transparent)]
    NoRoom(#[from] node::NoRoom),
    /// The kernel refused a network operation.
    #[error(transparent)]
    Net(#[from] netplumb::Error),
    /// ADD: the pod's addresses and routes cannot be set.
    #[error(transparent)]
    Addresses(#[from] attach::PodError),
    /// CHECK: the pod's addresses and routes differ.
    #[error(transparent)]
    Pod(attach::PodError),
    #[error(transparent)]
    NodeConfig(#[from] ConfigError),
    /// Another program works on the same bridge.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The caller or its namespace cannot be used.
    #[error(transparent)]
    Call(#[from] attach::CallError),
    /// The node's policy refuses it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The folder with the ports' records cannot be used.
    #[error("cannot use the records of the ports")]
    Records(#[source] SafeDirError),
    /// A record's text is damaged.
    #[error("the record of port {port} is damaged: DEL removes it")]
    RecordText { port: IfName, source: serde_json::Error },

    #[error("trunk and vlanTrunk are both given: they are two names for the same, leave one out")]
    TrunkTwice,
    #[error("vlan {vlan} and nativeVlan {native} differ: a port has one untagged VLAN")]
    VlanAndNative { vlan: VlanId, native: VlanId },
    #[error(
        "nativeVlan {native} is not allowed on an access port (vlan {vlan}): it is a trunk's untagged VLAN"
    )]
    NativeOnAccess { vlan: VlanId, native: VlanId },
    #[error("nativeVlan {0} needs a trunk: for a port with one untagged VLAN, say vlan")]
    NativeWithoutTrunk(VlanId),
    #[error("hairpinMode and promiscMode are both given: each frame would come back twice, leave one out")]
    HairpinAndPromisc,
    #[error(
        "disableContainerInterface and ipam are both given: an interface that stays down has no addresses"
    )]
    DisabledWithIpam,
    #[error("{key} needs {check}: true, without it every sender is allowed")]
    AllowedWithoutCheck { key: &'static str, check: &'static str },
    #[error(
        "groupFwdMask has bit 0, 1 or 2, for groups that no bridge forwards (01:80:c2:00:00:00 to 02: spanning tree, pauses, \
         link aggregation): leave them out, 65528 (0xfff8) is all others"
    )]
    GroupNeverForwarded,
    #[error(
        "bridge {0} cannot be made: this kernel has no bridges that filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING): boot one that has \
         them, or leave out vlan, trunk and nativeVlan"
    )]
    NoVlanFiltering(IfName, #[source] netplumb::Error),
    #[error("VRRP router 0 does not exist: vrrp takes 1 to 255")]
    VrrpZero,
    #[error(
        "ipspoofchk would drop every packet, since there is no address to allow: add ipam or allowedAddresses"
    )]
    NoAddressToAllow,
    #[error(
        "host, isGateway and gateway need a VLAN of its own for the node: give vlan, or nativeVlan of a trunk"
    )]
    HostInterfaceWithoutVlan,
    #[error("uplink {0} has follow: true and VLANs of its own: leave one of them out")]
    FollowAndVlans(IfName),
    #[error("uplink {0} has VLANs, and the port has none, so nothing sorts by them: give vlan or trunk")]
    UplinkVlansAlone(IfName),
    #[error("uplink {uplink} carries VLAN {vlan} both tagged and untagged: choose one")]
    TaggedAndUntagged { uplink: IfName, vlan: VlanId },
    #[error("uplink {0} is listed twice")]
    UplinkTwice(IfName),
    #[error("uplink {0} is the bridge itself")]
    UplinkIsBridge(IfName),

    #[error("{name} is {kind}, not a bridge: choose another name for bridge")]
    NotABridge { name: IfName, kind: String },
    #[error(
        "bridge {0} does not exist on this node, and createBridge is false: declare it where the node's links are"
    )]
    NoBridge(IfName),
    #[error("bridge {0} was changed by another program just now: try again")]
    BridgeAppeared(IfName),
    #[error(
        "bridge {0} does not filter VLANs, so every port would see every VLAN: switch it on where the bridge is declared \
         (Talos: bridge.vlan.vlanFiltering: true in machine.network.interfaces; systemd-networkd: VLANFiltering=yes in [Bridge]; \
         ifupdown2: bridge-vlan-aware yes; NetworkManager: bridge.vlan-filtering yes), or set adopt: true"
    )]
    NotFiltering(IfName),
    #[error(
        "bridge {bridge} cannot be adopted, because the node's own frames would leave in another way: {why}"
    )]
    NotAdoptable { bridge: IfName, why: String },
    #[error(
        "bridge {bridge} sorts by {have} tags, but qinq asks for {wanted}: change qinq or take another bridge"
    )]
    OtherProtocol { bridge: IfName, have: VlanProtocol, wanted: VlanProtocol },
    #[error(
        "bridge {bridge} has MTU {have}, but mtu of the configuration is {asked}: a port that differs would change the \
         bridge's and with it the node's, so leave mtu out, or give the bridge this one; for less in the pod alone, chain \
         the plugin tuning"
    )]
    MtuOfBridge { bridge: IfName, have: u32, asked: u32 },
    #[error(
        "uplink {uplink} has MTU {have}, but {whose} {wanted}: {}",
        if have < wanted {
            "longer frames are lost there without a word, so give both the same"
        } else {
            "longer frames from there are lost without a word, so give both the same; if only what is not of this bridge \
             needs more, say the uplink's own MTU as its mtu in uplinks"
        }
    )]
    MtuOfUplink {
        uplink: IfName,
        have: u32,
        /// The subject of the message's second clause: the bridge, another uplink or the configuration.
        whose: String,
        /// What it says.
        wanted: u32,
    },
    #[error(
        "uplink {uplink} has MTU {have}, but its mtu in the configuration is {stated}: change one of them"
    )]
    MtuOfUplinkStated { uplink: IfName, have: u32, stated: u32 },
    #[error(
        "port {port} has MTU {have}, but bridge {bridge} {wanted}: give the bridge and its uplinks back what they had, or \
         delete the pod, so that it is attached anew"
    )]
    MtuOfPort { port: String, have: u32, bridge: IfName, wanted: u32 },
    #[error("{given} is another name of the link {name}: write {name}")]
    OtherName { given: IfName, name: String },
    #[error("uplink {0} does not exist on this node")]
    NoUplink(IfName),
    #[error("uplink {uplink} is a port of {master}, not of {bridge}: take it out there, or name that bridge")]
    UplinkElsewhere { uplink: IfName, master: String, bridge: IfName },
    #[error("uplink {uplink} is not a port of bridge {bridge}, which k8slan did not make: add it there")]
    UplinkOutside { uplink: IfName, bridge: IfName },
    #[error(
        "uplink {uplink} is used by the node: {how}, which it would lose in a bridge; take another link, or have a bridge of \
         the node's own on it; only an administrator gives it away (usedLinks in the policy of node.yaml)"
    )]
    UplinkInUse { uplink: String, how: NodeUse },
    #[error("uplink {0} was made by k8slan for another attachment: name a link of the node's own")]
    UplinkOurs(IfName),
    #[error(
        "uplink {uplink} cannot be a port of a bridge: {}",
        if *busy {
            "something has it already, as a macvlan, ipvlan or macvtap on it does, also one of another namespace; take another link"
        } else {
            "is it an Ethernet link, and no bridge itself?"
        }
    )]
    UplinkNoPort {
        uplink: String,
        /// Whether something else takes in what arrives by it.
        busy: bool,
        source: netplumb::Error,
    },
    #[error(
        "bridge {bridge} is used by the node: {how}; it is not changed for pods, so take another bridge; only an \
         administrator gives it away (usedLinks in the policy of node.yaml)"
    )]
    BridgeInUse { bridge: IfName, how: NodeUse },
    /// It is not known which links carry LANs.
    #[error(transparent)]
    Underlays(#[from] UnderlaysError),
    #[error(
        "uplink {uplink} carries {have}; {wanted} would change how frames of the node, or of other ports, come and go there"
    )]
    UplinkVlans { uplink: IfName, have: String, wanted: String },
    #[error("the node's link in a VLAN is named after bridge and VLAN: choose a shorter name for the bridge")]
    HostInterfaceName(#[source] IfNameError),
    #[error("link {link} is there, and is not VLAN {vlan} on bridge {bridge}: remove or rename it")]
    HostInterfaceTaken { link: IfName, bridge: IfName, vlan: VlanId },
    #[error(
        "{link} has address {have}, {wanted} is asked for: change one, or remove it (ip address del {have} dev {link}); forceAddress \
         replaces only an address that an attached pod brought"
    )]
    OtherAddress { link: IfName, have: String, wanted: String },
    #[error(
        "{link} would get {address}, but the node has that network already: {how}; take another subnet, or leave the \
         gateway to another router; only an administrator gives it away (usedNetworks in the policy of node.yaml)"
    )]
    NetworkInUse { link: IfName, address: IpNetwork, how: NetworkUse },
    #[error(
        "the node would have a link ({link}) to the pods in {network}, but it has that network already: {how}; take another \
         subnet, or leave out host; only an administrator gives it away (usedNetworks in the policy of node.yaml)"
    )]
    NetworkTwice { link: IfName, network: IpNetwork, how: NetworkUse },
    #[error("no gateway follows from address {0}: let the IPAM plugin name one")]
    NoGateway(IpNetwork),
    #[error(
        "the node would be the pod's gateway, but {gateway} is outside the network of the pod's address {pod}, so the node \
         would have no route back: let the IPAM plugin name a gateway in that network, or leave out isGateway and \
         isDefaultGateway where another router is the gateway"
    )]
    GatewayOutside { gateway: IpAddr, pod: IpNetwork },
    #[error("the node cannot be the pods' gateway as {address}: {why}; name another address")]
    NotTheNodes { address: IpAddr, why: &'static str },
    #[error("the pod has an interface {0} already: CNI_IFNAME must be new")]
    InterfaceExists(IfName),
    #[error("link {0} was not made by k8slan, so it is not touched: remove it")]
    Foreign(IfName),

    #[error("no name of a port")]
    PortName(#[source] IfNameError),
    #[error("no VLANs")]
    Vlans(#[source] VlanSetError),
    #[error("port {0} is not known: 'vlan-bridge trunk show' lists the ports of this node")]
    NoPort(IfName),
    #[error("port {0} is not a trunk, so its VLANs cannot be changed")]
    NotATrunk(IfName),
    #[error("port {0} would carry no tagged VLAN any more: delete the attachment instead")]
    EmptyTrunk(IfName),

    #[error(transparent)]
    NotUndone(#[from] attach::NotUndone<Self>),
    #[error(transparent)]
    Several(#[from] attach::Several<Self>),
    #[error(transparent)]
    Mismatch(#[from] attach::Mismatch),
    #[error(
        "port {port} carries {have}, but {wanted} was promised: for a trunk, run 'vlan-bridge trunk set' with its tagged \
         VLANs again, or delete the pod, so that it is attached anew"
    )]
    Carries { port: String, have: String, wanted: String },
    #[error(
        "VLAN {vlans} on uplink {uplink} is missing, which the port needs: for a trunk, run 'vlan-bridge trunk set' with \
         its tagged VLANs again, or delete the pod, so that it is attached anew"
    )]
    UplinkLacks { uplink: IfName, vlans: String },
    #[error(
        "uplink {uplink} carries {have}, so VLAN {vlans} does not come and go there as {wanted} was promised: set it right \
         with 'bridge vlan add', or delete the pods that use it, so that they are attached anew"
    )]
    UplinkCarries { uplink: IfName, have: String, vlans: String, wanted: String },
    #[error(
        "the last change of the trunk was cut off before VLAN {vlans} was taken off uplink {uplink}: run 'vlan-bridge \
         trunk' with the same VLANs again"
    )]
    TrunkCutOff { uplink: IfName, vlans: String },
    #[error(
        "{chain} drops what bridge {bridge} forwards, and no rule in it names the bridge: {}",
        if *frames {
            "let its frames pass there"
        } else {
            "let its packets pass there, or set net.bridge.bridge-nf-call-iptables and bridge-nf-call-ip6tables to 0"
        }
    )]
    FramesDropped {
        bridge: IfName,
        chain: String,
        /// Whether the chain sees frames, not packets.
        frames: bool,
    },
    /// STATUS: nothing can be attached now.
    #[error("{}", cni::chain(&**.0))]
    Unavailable(Box<Self>),
}

impl Error {
    /// A refusal of the kernel to make a link a port.
    pub(crate) fn no_port(link: &str, source: netplumb::Error) -> Self {
        match source.errno() {
            Some(errno @ (Errno::EBUSY | Errno::EINVAL | Errno::ELOOP | Errno::EOPNOTSUPP)) => {
                Self::UplinkNoPort { uplink: link.to_owned(), busy: errno == Errno::EBUSY, source }
            }
            _ => source.into(),
        }
    }
}
