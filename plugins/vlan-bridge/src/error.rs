use attach::{NetworkUse, NodeUse};
use ipnetwork::IpNetwork;
use net_types::{IfName, IfNameError, VlanId, VlanSetError};
use netplumb::VlanProtocol;
use node::{ConfigError, LockError, PolicyError, SafeDirError, UnderlaysError};

/// What can go wrong in this plugin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The protocol's part, or the IPAM plugin.
    #[error(transparent)]
    Cni(#[from] cni::Error),
    /// The kernel refused a network operation.
    #[error(transparent)]
    Net(#[from] netplumb::Error),
    /// ADD: the pod's addresses and routes.
    #[error(transparent)]
    Addresses(#[from] attach::PodError),
    /// CHECK: the pod's addresses and routes.
    #[error(transparent)]
    Pod(attach::PodError),
    /// `/etc/k8slan/node.yaml`.
    #[error(transparent)]
    NodeConfig(#[from] ConfigError),
    /// Another program works on the same bridge.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Who asks, or where, cannot be used.
    #[error(transparent)]
    Call(#[from] attach::CallError),
    /// The node's policy says no.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The folder of the ports' records.
    #[error("cannot use the records of the ports")]
    Records(#[source] SafeDirError),
    /// A record's text is damaged.
    #[error("the record of port {port} is damaged: DEL removes it")]
    RecordText {
        /// The port.
        port: IfName,
        /// Why.
        source: serde_json::Error,
    },

    /// `trunk` and `vlanTrunk`.
    #[error("trunk and vlanTrunk are both given: they are two names for the same, leave one out")]
    TrunkTwice,
    /// Two untagged VLANs.
    #[error("vlan {vlan} and nativeVlan {native} differ: a port has one untagged VLAN")]
    VlanAndNative {
        /// `vlan`
        vlan: VlanId,
        /// `nativeVlan`
        native: VlanId,
    },
    /// `nativeVlan` on an access port.
    #[error(
        "nativeVlan {native} is not allowed on an access port (vlan {vlan}): it is a trunk's untagged VLAN"
    )]
    NativeOnAccess {
        /// `vlan`
        vlan: VlanId,
        /// `nativeVlan`
        native: VlanId,
    },
    /// `nativeVlan` alone.
    #[error("nativeVlan {0} needs a trunk: for a port with one untagged VLAN, say vlan")]
    NativeWithoutTrunk(VlanId),
    /// `hairpinMode` and `promiscMode`.
    #[error("hairpinMode and promiscMode are both given: each frame would come back twice, leave one out")]
    HairpinAndPromisc,
    /// `disableContainerInterface` with IPAM.
    #[error(
        "disableContainerInterface and ipam are both given: an interface that stays down has no addresses"
    )]
    DisabledWithIpam,
    /// A list of exceptions to nothing.
    #[error("{key} needs {check}: true, without it every sender is allowed")]
    AllowedWithoutCheck {
        /// The list.
        key: &'static str,
        /// The check.
        check: &'static str,
    },
    /// VRRP router 0.
    #[error("VRRP router 0 does not exist: vrrp takes 1 to 255")]
    VrrpZero,
    /// `ipspoofchk` with nothing to allow.
    #[error(
        "ipspoofchk would drop every packet, since there is no address to allow: add ipam or allowedAddresses"
    )]
    NoAddressToAllow,
    /// An interface without a VLAN.
    #[error(
        "host, isGateway and gateway need a VLAN of its own for the node: give vlan, or nativeVlan of a trunk"
    )]
    HostInterfaceWithoutVlan,
    /// `follow` and a list.
    #[error("uplink {0} has follow: true and VLANs of its own: leave one of them out")]
    FollowAndVlans(IfName),
    /// VLANs of an uplink, none of the port.
    #[error("uplink {0} has VLANs, and the port has none, so nothing sorts by them: give vlan or trunk")]
    UplinkVlansAlone(IfName),
    /// A VLAN in both lists.
    #[error("uplink {uplink} carries VLAN {vlan} both tagged and untagged: choose one")]
    TaggedAndUntagged {
        /// The uplink.
        uplink: IfName,
        /// The VLAN.
        vlan: VlanId,
    },
    /// An uplink twice.
    #[error("uplink {0} is listed twice")]
    UplinkTwice(IfName),
    /// The bridge as its own uplink.
    #[error("uplink {0} is the bridge itself")]
    UplinkIsBridge(IfName),

    /// The bridge's name is another link's.
    #[error("{name} is {kind}, not a bridge: choose another name for bridge")]
    NotABridge {
        /// The name.
        name: IfName,
        /// What it is.
        kind: String,
    },
    /// The bridge is missing and must not be made.
    #[error(
        "bridge {0} does not exist on this node, and createBridge is false: declare it where the node's links are"
    )]
    NoBridge(IfName),
    /// The bridge came or went while the plugin worked.
    #[error("bridge {0} was changed by another program just now: try again")]
    BridgeAppeared(IfName),
    /// The bridge does not filter.
    #[error(
        "bridge {0} does not filter VLANs, so every port would see every VLAN: switch it on where the bridge is declared \
         (Talos: bridge.vlan.vlanFiltering: true in machine.network.interfaces; systemd-networkd: VLANFiltering=yes in [Bridge]; \
         ifupdown2: bridge-vlan-aware yes; NetworkManager: bridge.vlan-filtering yes), or set adopt: true"
    )]
    NotFiltering(IfName),
    /// Adoption would disturb the node.
    #[error(
        "bridge {bridge} cannot be adopted, because the node's own frames would leave in another way: {why}"
    )]
    NotAdoptable {
        /// The bridge.
        bridge: IfName,
        /// What would change.
        why: String,
    },
    /// The bridge sorts by another tag.
    #[error(
        "bridge {bridge} sorts by {have} tags, but qinq asks for {wanted}: change qinq or take another bridge"
    )]
    OtherProtocol {
        /// The bridge.
        bridge: IfName,
        /// What it does.
        have: VlanProtocol,
        /// What is asked for.
        wanted: VlanProtocol,
    },
    /// The bridge has another MTU than is asked for.
    #[error(
        "bridge {bridge} has MTU {have}, but mtu of the configuration is {asked}: a port that differs would change the \
         bridge's and with it the node's, so leave mtu out, or give the bridge this one; for less in the pod alone, chain \
         the plugin tuning"
    )]
    MtuOfBridge {
        /// The bridge.
        bridge: IfName,
        /// Its MTU.
        have: u32,
        /// `mtu`
        asked: u32,
    },
    /// An uplink has another MTU than the bridge.
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
        /// The uplink.
        uplink: IfName,
        /// Its MTU.
        have: u32,
        /// What says another.
        whose: String,
        /// What it says.
        wanted: u32,
    },
    /// An uplink has another MTU than is said of it.
    #[error(
        "uplink {uplink} has MTU {have}, but its mtu in the configuration is {stated}: change one of them"
    )]
    MtuOfUplinkStated {
        /// The uplink.
        uplink: IfName,
        /// Its MTU.
        have: u32,
        /// What is said.
        stated: u32,
    },
    /// CHECK: the port has another MTU than the bridge.
    #[error(
        "port {port} has MTU {have}, but bridge {bridge} {wanted}: give the bridge and its uplinks back what they had, or \
         delete the pod, so that it is attached anew"
    )]
    MtuOfPort {
        /// The port.
        port: String,
        /// Its MTU.
        have: u32,
        /// The bridge.
        bridge: IfName,
        /// Its MTU.
        wanted: u32,
    },
    /// A link's alternative name: locks and records go by the name itself.
    #[error("{given} is another name of the link {name}: write {name}")]
    OtherName {
        /// What stands in the configuration.
        given: IfName,
        /// The link's own name.
        name: String,
    },
    /// There is no link of the uplink's name.
    #[error("uplink {0} does not exist on this node")]
    NoUplink(IfName),
    /// The uplink is another bridge's port.
    #[error("uplink {uplink} is a port of {master}, not of {bridge}: take it out there, or name that bridge")]
    UplinkElsewhere {
        /// The uplink.
        uplink: IfName,
        /// Where it is.
        master: String,
        /// Where it should be.
        bridge: IfName,
    },
    /// The uplink is not in a bridge that is not ours.
    #[error("uplink {uplink} is not a port of bridge {bridge}, which k8slan did not make: add it there")]
    UplinkOutside {
        /// The uplink.
        uplink: IfName,
        /// The bridge.
        bridge: IfName,
    },
    /// The node uses the uplink itself.
    #[error(
        "uplink {uplink} is used by the node: {how}, which it would lose in a bridge; take another link, or have a bridge of \
         the node's own on it; only an administrator gives it away (usedLinks in the policy of node.yaml)"
    )]
    UplinkInUse {
        /// The uplink.
        uplink: String,
        /// What for.
        how: NodeUse,
    },
    /// The uplink was made for an attachment.
    #[error("uplink {0} was made by k8slan for another attachment: name a link of the node's own")]
    UplinkOurs(IfName),
    /// The bridge carries a LAN.
    #[error(
        "bridge {bridge} is used by the node: {how}; it is not changed for pods, so take another bridge; only an \
         administrator gives it away (usedLinks in the policy of node.yaml)"
    )]
    BridgeInUse {
        /// The bridge.
        bridge: IfName,
        /// What for.
        how: NodeUse,
    },
    /// What carries a LAN is not known.
    #[error(transparent)]
    Underlays(#[from] UnderlaysError),
    /// The uplink carries a VLAN in another way.
    #[error(
        "uplink {uplink} carries {have}; {wanted} would change how frames of the node, or of other ports, come and go there"
    )]
    UplinkVlans {
        /// The uplink.
        uplink: IfName,
        /// What it carries.
        have: String,
        /// What is asked for.
        wanted: String,
    },
    /// The interface's name is no link name.
    #[error("the node's link in a VLAN is named after bridge and VLAN: choose a shorter name for the bridge")]
    HostInterfaceName(#[source] IfNameError),
    /// The interface's name is taken.
    #[error("link {link} is there, and is not VLAN {vlan} on bridge {bridge}: remove or rename it")]
    HostInterfaceTaken {
        /// The name.
        link: IfName,
        /// The bridge.
        bridge: IfName,
        /// The VLAN.
        vlan: VlanId,
    },
    /// The interface has another address.
    #[error(
        "{link} has address {have}, {wanted} is asked for: change one, or set forceAddress for an address that k8slan gave"
    )]
    OtherAddress {
        /// The link.
        link: IfName,
        /// What it has.
        have: String,
        /// What is asked for.
        wanted: String,
    },
    /// The node has the network already.
    #[error(
        "{link} would get {address}, but the node has that network already: {how}; take another subnet, or leave the \
         gateway to another router; only an administrator gives it away (usedNetworks in the policy of node.yaml)"
    )]
    NetworkInUse {
        /// The node's link in the pod's VLAN.
        link: IfName,
        /// What it would get.
        address: IpNetwork,
        /// What the node has there.
        how: NetworkUse,
    },
    /// The node has the network of the pod, which its new link would lead to, too.
    #[error(
        "the node would have a link ({link}) to the pods in {network}, but it has that network already: {how}; take another \
         subnet, or leave out host; only an administrator gives it away (usedNetworks in the policy of node.yaml)"
    )]
    NetworkTwice {
        /// The node's link in the pod's VLAN.
        link: IfName,
        /// The pod's network.
        network: IpNetwork,
        /// What the node has there.
        how: NetworkUse,
    },
    /// No gateway can be told from the address.
    #[error("no gateway follows from address {0}: let the IPAM plugin name one")]
    NoGateway(IpNetwork),
    /// The pod has an interface of that name.
    #[error("the pod has an interface {0} already: CNI_IFNAME must be new")]
    InterfaceExists(IfName),
    /// A foreign link has the port's name.
    #[error("link {0} was not made by k8slan, so it is not touched: remove it")]
    Foreign(IfName),

    /// The port's name is no link name.
    #[error("no name of a port")]
    PortName(#[source] IfNameError),
    /// The VLANs of a command.
    #[error("no VLANs")]
    Vlans(#[source] VlanSetError),
    /// There is no such port.
    #[error("port {0} is not known: 'vlan-bridge trunk show' lists the ports of this node")]
    NoPort(IfName),
    /// The port is an access port.
    #[error("port {0} is not a trunk, so its VLANs cannot be changed")]
    NotATrunk(IfName),
    /// Nothing would be left of the trunk.
    #[error("port {0} would carry no tagged VLAN any more: delete the attachment instead")]
    EmptyTrunk(IfName),

    /// It failed, and taking it back did too.
    #[error("{}; and what was made could not all be taken back: {}", attach::chain(&**error), attach::chain(&**undo))]
    NotUndone {
        /// Why it failed.
        error: Box<Self>,
        /// What stays.
        undo: Box<Self>,
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
    /// CHECK: the port carries other VLANs than it should.
    #[error(
        "port {port} carries {have}, but {wanted} was promised: for a trunk, run 'vlan-bridge trunk set' with its tagged \
         VLANs again, or delete the pod, so that it is attached anew"
    )]
    Carries {
        /// The port.
        port: String,
        /// What it carries.
        have: String,
        /// What it should.
        wanted: String,
    },
    /// CHECK: an uplink lacks VLANs.
    #[error(
        "VLAN {vlans} on uplink {uplink} is missing, which the port needs: for a trunk, run 'vlan-bridge trunk set' with \
         its tagged VLANs again, or delete the pod, so that it is attached anew"
    )]
    UplinkLacks {
        /// The uplink.
        uplink: IfName,
        /// What it lacks.
        vlans: String,
    },
    /// CHECK: an uplink carries VLANs in another way.
    #[error(
        "uplink {uplink} carries {have}, so VLAN {vlans} does not come and go there as {wanted} was promised: set it right \
         with 'bridge vlan add', or delete the pods that use it, so that they are attached anew"
    )]
    UplinkCarries {
        /// The uplink.
        uplink: IfName,
        /// What it carries.
        have: String,
        /// Which are other than promised.
        vlans: String,
        /// What was promised.
        wanted: String,
    },
    /// CHECK: the trunk's last change did not come to its end.
    #[error(
        "the last change of the trunk was cut off before VLAN {vlans} was taken off uplink {uplink}: run 'vlan-bridge \
         trunk' with the same VLANs again"
    )]
    TrunkCutOff {
        /// The uplink.
        uplink: IfName,
        /// What is left on it.
        vlans: String,
    },
    /// STATUS: frames would not pass the bridge.
    #[error(
        "{chain} drops what bridge {bridge} forwards, and no rule in it names the bridge: {}",
        if *frames {
            "let its frames pass there"
        } else {
            "let its packets pass there, or set net.bridge.bridge-nf-call-iptables and bridge-nf-call-ip6tables to 0"
        }
    )]
    FramesDropped {
        /// The bridge.
        bridge: IfName,
        /// Where frames are dropped.
        chain: String,
        /// The chain sees frames, not packets.
        frames: bool,
    },
    /// STATUS: nothing can be attached now.
    #[error("{}", attach::chain(&**.0))]
    Unavailable(Box<Self>),
}

impl Error {
    /// A mismatch found by CHECK.
    pub(crate) fn mismatch(what: impl Into<String>, found: impl ToString, promised: impl ToString) -> Self {
        Self::Mismatch { what: what.into(), found: found.to_string(), promised: promised.to_string() }
    }

    /// This error, with what went wrong in taking things back after it.
    pub(crate) fn and_failures(self, undo: Option<Self>) -> Self {
        match undo {
            None => self,
            Some(undo) => Self::NotUndone { error: Box::new(self), undo: Box::new(undo) },
        }
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
