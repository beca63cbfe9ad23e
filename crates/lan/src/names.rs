use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The name of a LAN's network namespace: a file name below `/run/netns`.
///
/// 1 to 63 ASCII letters, digits, `_`, `-` and `.`, with a letter, a digit or `_` first, so that `ip netns exec <ns>`
/// does not take it for an option, and it is not a hidden file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsName(Box<str>);

/// A text that is not a valid name of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a valid name of a network namespace: 1 to 63 letters, digits, '_', '-' and '.', a letter, a digit or '_' first"
)]
pub struct NetnsNameError(String);

impl NetnsName {
    /// The path where the namespace is mounted: `/run/netns/<name>`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&*self.0)
    }

    /// The name as LAN objects and files write it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetnsName {
    type Err = NetnsNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let start = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let bytes = text.as_bytes();
        let good = bytes.len() <= 63
            && bytes.first().is_some_and(|&b| start(b))
            && bytes.iter().all(|&b| start(b) || b == b'-' || b == b'.');
        if good { Ok(Self(text.into())) } else { Err(NetnsNameError(text.to_owned())) }
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A multicast address that reaches other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group(IpAddr);

/// Why a text is not a multicast group for a VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum GroupError {
    #[error("{0:?} is not an IP address")]
    Syntax(String),
    #[error("{0} is not a multicast address: take one of ff00::/8 or 224.0.0.0/4, for example ff02::14")]
    NotMulticast(IpAddr),
    /// ff00:: to ff01::, also with flags set (RFC 4291, 2.7).
    #[error(
        "{0} does not leave the node (its scope is 0 or 1): take one of scope 2 or more, for example ff02::14"
    )]
    NodeLocal(IpAddr),
}

impl Group {
    /// The multicast address of the group.
    #[must_use]
    pub fn get(self) -> IpAddr {
        self.0
    }
}

impl TryFrom<IpAddr> for Group {
    type Error = GroupError;

    fn try_from(address: IpAddr) -> Result<Self, Self::Error> {
        if !address.is_multicast() {
            return Err(GroupError::NotMulticast(address));
        }
        if let IpAddr::V6(v6) = address
            && v6.octets()[1] & 0x0f < 2
        {
            return Err(GroupError::NodeLocal(address));
        }
        Ok(Self(address))
    }
}

impl FromStr for Group {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address: IpAddr = text.parse().map_err(|_| GroupError::Syntax(text.to_owned()))?;
        Self::try_from(address)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_file_names() {
        for good in ["knlvrf", "a", "_a", "lan.1-x_y", &"a".repeat(63)] {
            assert_eq!(
                good.parse::<NetnsName>().unwrap().path(),
                PathBuf::from(format!("/run/netns/{good}"))
            );
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "../a", "a b", "a\n", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<NetnsName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn groups_are_multicast_and_leave_the_node() {
        for good in ["ff02::14", "ff15::1", "FF02:0::14", "224.0.0.1", "239.1.1.1"] {
            assert!(good.parse::<Group>().is_ok(), "{good}");
        }
        let error = |text: &str| text.parse::<Group>().unwrap_err();
        assert!(matches!(error("ff02"), GroupError::Syntax(_)));
        assert!(matches!(error(""), GroupError::Syntax(_)));
        assert!(matches!(error("fe80::1"), GroupError::NotMulticast(_)));
        assert!(matches!(error("240.0.0.1"), GroupError::NotMulticast(_)));
        assert!(matches!(error("ff01::1"), GroupError::NodeLocal(_)));
        assert!(matches!(error("ff11::1"), GroupError::NodeLocal(_)));
    }
}
