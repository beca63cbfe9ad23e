use std::fmt;
use std::str::FromStr;

/// A number outside what the kernel or the standard accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given} is out of range: it must be {min} to {max}")]
pub struct OutOfRange {
    what: &'static str,
    given: String,
    min: u32,
    max: u32,
}

macro_rules! ranged {
    ($(#[$doc:meta])* $type:ident($int:ty), $what:literal, $min:literal..=$max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type($int);

        impl $type {
            /// The smallest value that the kernel or the standard accepts.
            pub const MIN: Self = Self($min);
            /// The largest value that the kernel or the standard accepts.
            pub const MAX: Self = Self($max);

            /// The value as a plain integer.
            #[must_use]
            pub const fn get(self) -> $int {
                self.0
            }

            fn out_of_range(given: impl fmt::Display) -> OutOfRange {
                OutOfRange { what: $what, given: given.to_string(), min: $min, max: $max }
            }
        }

        impl TryFrom<u64> for $type {
            type Error = OutOfRange;

            fn try_from(given: u64) -> Result<Self, Self::Error> {
                match <$int>::try_from(given) {
                    Ok(number @ $min..=$max) => Ok(Self(number)),
                    _ => Err(Self::out_of_range(given)),
                }
            }
        }

        impl FromStr for $type {
            type Err = OutOfRange;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if !text.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(Self::out_of_range(text));
                }
                text.parse::<u64>().map_err(|_| Self::out_of_range(text)).and_then(Self::try_from)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let given = i64::deserialize(deserializer)?;
                u64::try_from(given)
                    .map_err(|_| Self::out_of_range(given))
                    .and_then(Self::try_from)
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

ranged! {
    /// A VXLAN network identifier, 1 to 2^24-1 (RFC 7348). 0 is not accepted: most tools take it for "none".
    Vni(u32), "VNI", 1..=16_777_215
}

ranged! {
    /// An 802.1Q VLAN identifier, 1 to 4094 (0 is the priority tag, 4095 is reserved).
    VlanId(u16), "VLAN ID", 1..=4094
}

ranged! {
    /// A link's MTU in bytes of layer 3, 68 (the least for IPv4, RFC 791) to 65535.
    ///
    /// IPv6 needs 1280 (RFC 8200); below that the kernel takes IPv6 off the link.
    Mtu(u32), "MTU", 68..=65_535
}

ranged! {
    /// A UDP port, 1 to 65535.
    UdpPort(u16), "UDP port", 1..=65_535
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges() {
        assert_eq!(Vni::try_from(1).map(Vni::get), Ok(1));
        assert_eq!(Vni::try_from(16_777_215).map(Vni::get), Ok(16_777_215));
        assert!(Vni::try_from(0).is_err());
        assert!(Vni::try_from(1 << 24).is_err());
        assert!(VlanId::try_from(0).is_err());
        assert!(VlanId::try_from(4095).is_err());
        assert!(Mtu::try_from(67).is_err());
        assert!(Mtu::try_from(1 << 16).is_err());
        assert!(UdpPort::try_from(65_536).is_err());
    }

    #[test]
    fn text_and_serde_go_the_same_way() {
        assert_eq!("10".parse::<VlanId>().map(VlanId::get), Ok(10));
        assert!("+10".parse::<VlanId>().is_err());
        let error = serde_json::from_str::<Vni>("16777216").unwrap_err().to_string();
        assert!(error.starts_with("VNI 16777216 is out of range: it must be 1 to 16777215"), "{error}");
        assert!(serde_json::from_str::<Mtu>("-1").is_err());
        assert!(serde_json::from_str::<Mtu>("\"1500\"").is_err());
    }
}
