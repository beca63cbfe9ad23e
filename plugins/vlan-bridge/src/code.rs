//! The code of each error: this plugin's numbers from 100 on (SPEC.md, section 5), listed in the README. Those below
//! 130 are about the node, the others are mistakes in the configuration.

use cni::{Code, PluginError};

use crate::Error;

impl PluginError for Error {
    fn code(&self) -> Code {
        match self {
            Self::Cni(error) => error.code(),
            Self::Call(error) => error.code(),
            Self::TrunkTwice => Code::plugin(132),
            Self::VlanAndNative { .. } => Code::plugin(133),
            Self::NativeOnAccess { .. } => Code::plugin(134),
            Self::NativeWithoutTrunk(_) => Code::plugin(135),
            Self::HairpinAndPromisc => Code::plugin(136),
            Self::DisabledWithIpam => Code::plugin(137),
            Self::AllowedWithoutCheck { .. } => Code::plugin(138),
            Self::VrrpZero => Code::plugin(139),
            Self::NoAddressToAllow => Code::plugin(140),
            Self::HostInterfaceWithoutVlan => Code::plugin(141),
            Self::FollowAndVlans(_) => Code::plugin(143),
            Self::UplinkVlansAlone(_) => Code::plugin(144),
            Self::TaggedAndUntagged { .. } => Code::plugin(145),
            Self::UplinkTwice(_) => Code::plugin(146),
            Self::UplinkIsBridge(_) => Code::plugin(147),
            Self::HostInterfaceName(_) => Code::plugin(149),
            Self::GatewayOutside { .. } => Code::plugin(150),
            Self::NotTheNodes { .. } => Code::plugin(151),
            Self::Output(_) => Code::IO,
            Self::GroupNeverForwarded => Code::plugin(152),
            Self::NoGateway(_)
            | Self::NodeConfig(_)
            | Self::NotRoot
            | Self::PortName(_)
            | Self::Vlans(_)
            | Self::NotATrunk(_)
            | Self::EmptyTrunk(_) => Code::INVALID_CONFIG,
            Self::Lock(_) | Self::BridgeAppeared(_) => Code::TRY_AGAIN,
            Self::Net(_) | Self::NoVlanFiltering(..) | Self::Addresses(_) => Code::plugin(100),
            Self::Policy(_) => Code::plugin(101),
            Self::NotABridge { .. } | Self::Foreign(_) | Self::HostInterfaceTaken { .. } => Code::plugin(102),
            Self::InterfaceExists(_) => Code::plugin(103),
            Self::Records(_) | Self::NoRoom(_) | Self::RecordText { .. } | Self::Underlays(_) => {
                Code::plugin(104)
            }
            Self::NotFiltering(_) => Code::plugin(120),
            Self::NotAdoptable { .. } => Code::plugin(121),
            Self::NoBridge(_) | Self::NoUplink(_) | Self::NoPort(_) | Self::OtherName { .. } => {
                Code::plugin(122)
            }
            Self::UplinkElsewhere { .. }
            | Self::UplinkOutside { .. }
            | Self::UplinkInUse { .. }
            | Self::UplinkOurs(_)
            | Self::UplinkNoPort { .. }
            | Self::BridgeInUse { .. }
            | Self::UplinkVlans { .. } => Code::plugin(123),
            Self::MtuOfBridge { .. }
            | Self::MtuOfUplink { .. }
            | Self::MtuOfUplinkStated { .. }
            | Self::MtuOfPort { .. } => Code::plugin(124),
            Self::OtherProtocol { .. } => Code::plugin(125),
            Self::OtherAddress { .. } => Code::plugin(126),
            Self::NetworkInUse { .. } | Self::NetworkTwice { .. } => Code::plugin(127),
            Self::Mismatch(_)
            | Self::Carries { .. }
            | Self::UplinkLacks { .. }
            | Self::UplinkCarries { .. }
            | Self::TrunkCutOff { .. }
            | Self::Pod(_) => Code::plugin(110),
            Self::Unavailable(_) => Code::NOT_AVAILABLE,
            Self::FramesDropped { .. } => Code::LIMITED_CONNECTIVITY,
            Self::NotUndone(both) => both.error().code(),
            Self::Several(errors) => errors.first().map_or(Code::plugin(100), Self::code),
        }
    }
}

/// The code of an invalid value of a key.
pub(crate) fn of_field(field: &str) -> Code {
    // A path, like uplinks[0].tagged.
    match field.split(['.', '[']).next() {
        Some("vlan" | "nativeVlan") => Code::plugin(130),
        Some("trunk" | "vlanTrunk") => Code::plugin(131),
        Some("uplinks") => Code::plugin(142),
        Some("bridge") => Code::plugin(148),
        _ => Code::INVALID_CONFIG,
    }
}
