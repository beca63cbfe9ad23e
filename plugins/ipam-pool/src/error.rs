use cni::{Code, PluginError};
use lan::pool::PoolSpecError;
use net_types::MacAddrError;

use crate::blocks::Question;
use crate::store::StoreError;
use crate::{
    Addr, AllocError, BlockError, ClaimError, NamespaceError, NetworkError, PoolFileError, RangeError,
    RangeSetError, RequestedIpsError,
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cni(#[from] cni::Error),
    #[error(transparent)]
    Node(#[from] node::ConfigError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Pool(#[from] PoolFileError),
    #[error(transparent)]
    Policy(#[from] node::PolicyError),
    #[error(transparent)]
    Alloc(#[from] AllocError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blocks(#[from] BlockError),
    /// The requested addresses cannot be given.
    #[error(transparent)]
    RequestedIps(#[from] RequestedIpsError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(
        "sticky: pod needs the pod's namespace and name, and the runtime does not pass both (K8S_POD_NAMESPACE, \
         K8S_POD_NAME; podman passes no namespace): set sticky: none, and request an address by its IP"
    )]
    NoPod,
    /// The VM that shall keep the address is not known.
    #[error(
        "a guest's address belongs to its virtual machine (sticky: vm, the default for virt-launcher \
         pods), but it is not known which one this pod runs: set the annotation's cni-args to {{\"vm\": \
         \"<name>\"}}, or run the node daemon, which finds it through the pod's owner; with sticky: none a \
         guest loses its address when it migrates"
    )]
    NoVm,
    /// As `NoVm`, but the node daemon may record the VM soon.
    #[error(
        "a guest's address belongs to its virtual machine, and the node daemon has not recorded yet which \
         one this launcher pod runs: try again"
    )]
    VmNotYet,
    /// The node daemon may record soon that a StatefulSet made the pod.
    #[error(
        "a StatefulSet's pod keeps its address (sticky: Auto), and the node daemon has not recorded yet whether this is one: try \
         again"
    )]
    PodNotYet,
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The VM's name is invalid, or its record cannot be used.
    #[error("cannot tell which virtual machine the pod runs")]
    Guest(#[from] node::GuestError),
    #[error("cannot tell whether a StatefulSet made the pod")]
    Set(#[from] node::PodRecordError),
    /// The caller's list of conflicts is malformed.
    #[error("{variable} is {value:?}: expected <address>=<MAC>, separated by commas")]
    Conflicts {
        variable: &'static str,
        value: String,
        /// The error in the MAC address, if that is what is wrong.
        source: Option<MacAddrError>,
    },
    /// CHECK.
    #[error("prevResult has {address}, but this attachment does not hold it in {pool}")]
    NotHeld { address: Addr, pool: String },
    /// CHECK.
    #[error("this attachment holds {address} in {pool}, but prevResult does not have it")]
    NotPromised { address: Addr, pool: String },
    #[error("this attachment holds no address in {0}")]
    NothingHeld(String),
    /// CHECK.
    #[error("prevResult has no interface {0} of the pod: it is not the result of this attachment")]
    NoInterface(net_types::IfName),
    #[error("not ready, ADD would fail")]
    NotReady(#[source] Box<Self>),
    #[error("{first}, and {others} more")]
    Several {
        #[source]
        first: Box<Self>,
        others: usize,
    },
}

impl Error {
    /// What this node would have to have for the request to succeed.
    pub(crate) fn question(&self) -> Option<Question> {
        match self {
            Self::Alloc(error) => Question::any_of(&error.wanted()?),
            Self::Blocks(BlockError::NotJoined { question, .. }) => Some((**question).clone()),
            _ => None,
        }
    }
}

impl PluginError for Error {
    fn code(&self) -> Code {
        match self {
            Self::Cni(error) => error.code(),
            Self::Node(_) => Code::plugin(119),
            Self::Network(error) => network_code(error),
            Self::Pool(error) => pool_code(error),
            Self::Policy(_) => Code::plugin(138),
            Self::Alloc(error) => alloc_code(error),
            Self::Store(error) => store_code(error),
            Self::Blocks(BlockError::Read(..) | BlockError::BootId(_)) => Code::IO,
            Self::Blocks(_) => Code::TRY_AGAIN,
            Self::RequestedIps(RequestedIpsError::NoRange { .. }) => Code::plugin(135),
            Self::RequestedIps(RequestedIpsError::OneEach { .. }) => Code::plugin(179),
            Self::Namespace(error) if error.is_temporary() => Code::TRY_AGAIN,
            Self::Namespace(_) => Code::plugin(178),
            Self::NoPod => Code::plugin(136),
            Self::NoVm => Code::plugin(137),
            Self::VmNotYet | Self::PodNotYet => Code::TRY_AGAIN,
            Self::Claim(ClaimError::NotYet | ClaimError::VmNotYet) => Code::TRY_AGAIN,
            Self::Claim(ClaimError::Record(_)) => Code::plugin(176),
            Self::Claim(ClaimError::Name(_)) => Code::plugin(183),
            Self::Claim(ClaimError::NotShared { .. }) => Code::plugin(184),
            Self::Claim(ClaimError::NotKept { .. }) => Code::plugin(185),
            Self::Guest(node::GuestError::Name(_)) => Code::plugin(175),
            Self::Guest(_) | Self::Set(_) => Code::plugin(176),
            Self::Conflicts { .. } => Code::ENVIRONMENT,
            Self::NotHeld { .. } => Code::plugin(150),
            Self::NotPromised { .. } => Code::plugin(151),
            Self::NothingHeld(_) => Code::plugin(152),
            Self::NoInterface(_) => Code::plugin(153),
            Self::NotReady(_) => Code::NOT_AVAILABLE,
            Self::Several { first, .. } => first.code(),
        }
    }
}

fn network_code(error: &NetworkError) -> Code {
    match error {
        NetworkError::Syntax(_) => Code::INVALID_CONFIG,
        NetworkError::Value { key, .. } => value_code(key),
        NetworkError::NoRanges => Code::plugin(115),
        NetworkError::PoolAnd(_) | NetworkError::ExcludeOfCluster(_) => Code::plugin(116),
        NetworkError::RangeSet(error) => range_set_code(error),
        NetworkError::ListsOverlap { .. } => Code::plugin(108),
        NetworkError::TooMany(_) => Code::plugin(167),
        NetworkError::Spanning { .. } => Code::plugin(126),
        NetworkError::Scope(_) => Code::plugin(174),
        NetworkError::ReadBridge(_) => Code::IO,
        NetworkError::ResolvConf { .. } | NetworkError::NoResolvConf(_) => Code::plugin(118),
        NetworkError::Pool(error) => pool_code(error),
        NetworkError::Inventory { .. } => Code::plugin(127),
        NetworkError::Sticky { .. } => Code::plugin(177),
    }
}

/// The code for a key whose value is invalid.
fn value_code(key: &str) -> Code {
    match key {
        "ipam.exclude" => Code::plugin(109),
        "ipam.reservations" => Code::plugin(111),
        "ipam.resolvConf" => Code::plugin(118),
        "ipam.pool" => Code::plugin(121),
        "ipam.sticky" => Code::plugin(160),
        "ipam.order" => Code::plugin(161),
        "ipam.cooldown" => Code::plugin(162),
        "ipam.probe" => Code::plugin(163),
        "ipam.routes" => Code::plugin(164),
        "ipam.dns" => Code::plugin(165),
        "ipam.scope" => Code::plugin(174),
        "runtimeConfig.ipRanges" => Code::plugin(166),
        _ => Code::plugin(117),
    }
}

fn range_set_code(error: &RangeSetError) -> Code {
    match error {
        RangeSetError::Range(_, error) => range_code(error),
        RangeSetError::Empty => Code::plugin(168),
        RangeSetError::Families(..) => Code::plugin(107),
        RangeSetError::Overlap(..) => Code::plugin(108),
        RangeSetError::Exclude(_) => Code::plugin(109),
        RangeSetError::ExcludeOutside(_) => Code::plugin(110),
        RangeSetError::Reservation { .. } => Code::plugin(111),
        RangeSetError::ReservationOutside { .. } => Code::plugin(112),
        RangeSetError::ReservedTwice { .. } => Code::plugin(113),
        RangeSetError::OwnerTwice { .. } => Code::plugin(169),
        RangeSetError::ReservedGateway { .. } => Code::plugin(114),
    }
}

fn range_code(error: &RangeError) -> Code {
    match error {
        RangeError::Subnet(_) => Code::plugin(100),
        RangeError::HostBits { .. } => Code::plugin(101),
        RangeError::Address { .. } => Code::plugin(102),
        RangeError::Outside { .. } => Code::plugin(103),
        RangeError::Reversed { .. } => Code::plugin(104),
        RangeError::Empty { .. } | RangeError::NoHosts { .. } => Code::plugin(105),
        RangeError::Gateway { .. } => Code::plugin(106),
    }
}

/// As [`range_set_code`] has it of the older kind of file.
fn spec_code(error: &PoolSpecError) -> Code {
    match error {
        PoolSpecError::Range(error) => range_code(error),
        PoolSpecError::Empty | PoolSpecError::NothingLeft => Code::plugin(168),
        PoolSpecError::SubnetsAndRanges => Code::plugin(170),
        PoolSpecError::Overlap { .. } => Code::plugin(108),
        PoolSpecError::Exclude(_) => Code::plugin(109),
        PoolSpecError::ExcludeOutside(_) => Code::plugin(110),
    }
}

fn pool_code(error: &PoolFileError) -> Code {
    match error {
        PoolFileError::Unknown { .. } => Code::plugin(120),
        PoolFileError::Twice(_) => Code::plugin(181),
        PoolFileError::Name(_) => Code::plugin(121),
        PoolFileError::UnknownKey { .. } => Code::plugin(122),
        PoolFileError::Syntax { .. } => Code::plugin(170),
        PoolFileError::Kind { .. } => Code::plugin(171),
        PoolFileError::OfCluster { .. } => Code::plugin(122),
        PoolFileError::Misnamed { .. } => Code::plugin(123),
        PoolFileError::Overlap { .. } => Code::plugin(124),
        PoolFileError::NoPart { .. } => Code::plugin(125),
        PoolFileError::NoNodeName(_) => Code::plugin(172),
        PoolFileError::Spanning { .. } => Code::plugin(126),
        PoolFileError::Inventory(_) => Code::plugin(127),
        PoolFileError::Part { .. } => Code::plugin(128),
        PoolFileError::NodesAndScope(_) => Code::plugin(173),
        PoolFileError::Scope { .. } => Code::plugin(174),
        PoolFileError::Read(..) => Code::plugin(129),
        PoolFileError::Object(..) => Code::INVALID_CONFIG,
        PoolFileError::Spec(_, error) => spec_code(error),
        PoolFileError::RangeSet(_, error) => range_set_code(error),
    }
}

fn alloc_code(error: &AllocError) -> Code {
    match error {
        AllocError::Exhausted { .. } => Code::plugin(130),
        AllocError::Held { .. } => Code::plugin(131),
        AllocError::Refused { .. } => Code::plugin(132),
        AllocError::Conflict { .. } => Code::plugin(133),
        AllocError::HoldsAnother { .. } => Code::plugin(134),
        AllocError::SubnetRemoved { .. } => Code::plugin(139),
        AllocError::Migrating { .. } => Code::plugin(180),
        AllocError::VmInUse { .. } => Code::plugin(182),
        AllocError::StillInUse { .. } => Code::TRY_AGAIN,
        AllocError::Store(error) => store_code(error),
    }
}

fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::Damaged { .. } => DAMAGED,
        StoreError::Newer { .. } => Code::plugin(141),
        StoreError::Full { .. } => Code::plugin(142),
        StoreError::ReadOnly { .. } => Code::plugin(143),
        StoreError::Locked { .. } => Code::TRY_AGAIN,
        StoreError::Folder(_) => Code::plugin(144),
        StoreError::Io { .. } => Code::IO,
    }
}

/// Also written by the crash handler, when reading a damaged store ends the process.
pub(crate) const DAMAGED: Code = Code::plugin(140);
