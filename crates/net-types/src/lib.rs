//! Domain values that can only hold what the kernel accepts.
//!
//! Every type parses once, through [`std::str::FromStr`] or [`TryFrom`]; serde goes through the same
//! parser, so a value that exists is a value the kernel takes. Nothing here does I/O.

mod addr;
mod addr_ranges;
mod ifname;
mod mac;
mod macvtap;
mod number;
mod probe;
mod spoke;
mod timespan;
mod vlan_set;

pub use addr::{Addr, Family};
pub use addr_ranges::{AddrRange, AddrRangeError, AddrSet};
pub use ifname::{IfName, IfNameError};
pub use mac::{MacAddr, MacAddrError};
pub use macvtap::{Attach, MacvtapMode, UnknownName};
pub use number::{Mtu, OutOfRange, UdpPort, VlanId, Vni};
pub use probe::{Probe, ProbeTiming};
pub use spoke::{SpokeName, SpokeNameError};
pub use timespan::{Timespan, TimespanError};
pub use vlan_set::{VlanSet, VlanSetError};

/// Serde through `FromStr`/`TryFrom<String>` and `Display`, for the string-like types.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;
