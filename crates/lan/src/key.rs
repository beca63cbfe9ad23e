use std::fmt;
use std::str::FromStr;

/// The key of a LAN: the namespace and the name of its object, written `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LanKey {
    namespace: Box<str>,
    name: Box<str>,
}

/// Why a text or a pair of names is not a LAN's key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LanKeyError {
    /// There are not two parts with a `/` between them.
    #[error("{0:?} is not a LAN's key: write <namespace>/<name>")]
    Syntax(String),
    /// The namespace is not an RFC 1123 label.
    #[error(
        "namespace {0:?} of a LAN is not a DNS label: 1 to 63 lower-case letters, digits and '-', a letter or digit first and last"
    )]
    Namespace(String),
    /// The name is not an RFC 1123 subdomain of at most [`LanKey::MAX_NAME`] bytes.
    #[error(
        "name {0:?} of a LAN is not a DNS name of 1 to {max} bytes: lower-case letters, digits, '-' and '.', \
         a letter or digit first and last in each part",
        max = LanKey::MAX_NAME
    )]
    Name(String),
}

impl LanKey {
    /// The longest name in bytes. Kubernetes allows 253, but the key of a LAN is in the alias of its links
    /// (`k8slan:lan <namespace>/<name>`), which may have 255 bytes.
    pub const MAX_NAME: usize = 180;

    /// The key of the LAN with that name in that namespace.
    ///
    /// # Errors
    /// A name that Kubernetes would refuse, or that is longer than [`LanKey::MAX_NAME`].
    pub fn new(namespace: &str, name: &str) -> Result<Self, LanKeyError> {
        if !is_label(namespace) {
            return Err(LanKeyError::Namespace(namespace.to_owned()));
        }
        if name.len() > Self::MAX_NAME || !name.split('.').all(is_label_of_any_length) {
            return Err(LanKeyError::Name(name.to_owned()));
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    /// The namespace of the LAN's object.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of the LAN's object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Whether a text is an RFC 1123 label, as the names of Kubernetes' namespaces are.
pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_label_of_any_length(text)
}

fn is_label_of_any_length(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|&b| plain(b) || b == b'-')
        && bytes.first().is_some_and(|&b| plain(b))
        && bytes.last().is_some_and(|&b| plain(b))
}

impl FromStr for LanKey {
    type Err = LanKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| LanKeyError::Syntax(text.to_owned()))?;
        Self::new(namespace, name)
    }
}

impl fmt::Display for LanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl serde::Serialize for LanKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for LanKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        for good in ["k8slan-system/lan-test", "a/b.c", "0/9"] {
            assert_eq!(good.parse::<LanKey>().unwrap().to_string(), good);
        }
        let longest = format!("{}/{}", "n".repeat(63), "l".repeat(LanKey::MAX_NAME));
        assert_eq!("k8slan:lan ".len() + longest.parse::<LanKey>().unwrap().to_string().len(), 255);
    }

    #[test]
    fn what_kubernetes_refuses_is_no_key() {
        for bad in ["", "lan", "/lan", "ns/", "ns/a/b", "Ns/a", "ns/A", "ns/-a", "ns/a..b", "ns/a b", "n.s/a"]
        {
            assert!(bad.parse::<LanKey>().is_err(), "{bad:?}");
        }
        assert!(LanKey::new("ns", &"l".repeat(LanKey::MAX_NAME + 1)).is_err());
        assert!(LanKey::new(&"n".repeat(64), "l").is_err());
    }
}
