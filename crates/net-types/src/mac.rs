use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// An Ethernet address that a link can have: unicast and not all zeros.
///
/// The same rule as the kernel's `is_valid_ether_addr`. Text is six pairs of hexadecimal digits
/// with `:` or `-` between them, or three groups of four with `.` between them, as switches write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr([u8; 6]);

/// Why a text or six bytes are not the address of a link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum MacAddrError {
    #[error("{0:?} is not a MAC address: give six pairs of hexadecimal digits like 02:00:00:00:00:01")]
    Syntax(String),
    #[error("MAC address {0} is a multicast address, a link needs a unicast one (an even first byte)")]
    Multicast(String),
    #[error("MAC address 00:00:00:00:00:00 cannot be used: give another unicast address")]
    Zero,
}

impl MacAddr {
    /// The six bytes in the order in which a frame has them.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// A locally administered unicast address from any six bytes, for addresses derived from a hash.
    ///
    /// Sets the local bit and clears the group bit of the first byte.
    #[must_use]
    pub fn local(mut bytes: [u8; 6]) -> Self {
        bytes[0] = bytes[0] & 0xfc | 0x02;
        Self(bytes)
    }

    /// The IPv6 link-local address that is derived from it by default (RFC 4291, appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl TryFrom<[u8; 6]> for MacAddr {
    type Error = MacAddrError;

    fn try_from(bytes: [u8; 6]) -> Result<Self, Self::Error> {
        if bytes == [0; 6] {
            return Err(MacAddrError::Zero);
        }
        let mac = Self(bytes);
        if bytes[0] & 1 == 1 {
            return Err(MacAddrError::Multicast(mac.to_string()));
        }
        Ok(mac)
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || MacAddrError::Syntax(text.to_owned());
        if let Some(pairs) = as_pairs(text) {
            return pairs.parse().map_err(|error| match error {
                MacAddrError::Syntax(_) => syntax(),
                other => other,
            });
        }
        let separator = match text.as_bytes().get(2) {
            Some(b':') => ':',
            Some(b'-') => '-',
            _ => return Err(syntax()),
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(syntax)?;
            // from_str_radix would accept a sign.
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(syntax());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| syntax())?;
        }
        if parts.next().is_some() {
            return Err(syntax());
        }
        Self::try_from(bytes)
    }
}

/// `0200.5e10.00ff` with pairs of digits.
fn as_pairs(text: &str) -> Option<String> {
    let groups: Vec<&str> = text.split('.').collect();
    let whole = groups.len() == 3 && groups.iter().all(|group| group.len() == 4 && group.is_ascii());
    whole.then(|| {
        let pairs: Vec<String> =
            groups.iter().map(|group| format!("{}:{}", &group[..2], &group[2..])).collect();
        pairs.join(":")
    })
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

crate::serde_as_text!(MacAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_all_separators_and_writes_colons() {
        for text in ["02:00:5e:10:00:ff", "02-00-5E-10-00-FF", "0200.5E10.00ff"] {
            assert_eq!(text.parse::<MacAddr>().unwrap().to_string(), "02:00:5e:10:00:ff");
        }
    }

    #[test]
    fn refuses_what_is_no_address() {
        for bad in [
            "",
            "+5:00:00:00:00:01",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02-00:00-00:00-01",
            "é2:00",
            "0200.5e10.00f",
            "0200.5e10",
            "0200.5e10.00ff.0000",
            "02:0.5e10.00ff",
            "0200:5e10:00ff",
        ] {
            assert!(matches!(bad.parse::<MacAddr>(), Err(MacAddrError::Syntax(_))), "{bad:?}");
        }
        assert!(matches!("01:00:5e:00:00:01".parse::<MacAddr>(), Err(MacAddrError::Multicast(_))));
        assert_eq!("00:00:00:00:00:00".parse::<MacAddr>(), Err(MacAddrError::Zero));
    }

    #[test]
    fn derived_addresses_are_local_unicast() {
        assert_eq!(MacAddr::local([0xff; 6]).octets()[0], 0xfe);
        assert!(MacAddr::try_from(MacAddr::local([1, 0, 0, 0, 0, 0]).octets()).is_ok());
    }
}
