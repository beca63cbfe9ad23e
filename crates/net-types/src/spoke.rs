use std::fmt;
use std::str::FromStr;

use crate::{IfName, IfNameError};

/// The name of a LAN's spoke: a link name that is also the name part of a Kubernetes qualified name.
///
/// It names the veth end that carries the macvtap, the kubelet's device and the resource `macvtap.k8slan.io/<spoke>`,
/// so it must be valid as a link name and as a qualified name: 1 to 15 letters, digits, `-`, `_` and `.`, with a
/// letter or digit first and last.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpokeName(IfName);

/// Why a text is not a spoke's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum SpokeNameError {
    #[error("spoke name: {0}")]
    NoLinkName(IfNameError),
    #[error(
        "spoke name {0:?} cannot be a resource name: letters, digits, '-', '_' and '.' only, a letter or digit first and last"
    )]
    NoQualifiedName(String),
    /// KubeVirt takes every link whose name begins with `tap` for one of its own.
    #[error("spoke name {0:?} begins like the links that KubeVirt makes itself (tap…), choose another")]
    Reserved(String),
}

impl SpokeName {
    /// The spoke's name as the name of its link.
    #[must_use]
    pub fn link(&self) -> &IfName {
        &self.0
    }

    /// The name as LAN objects and files write it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for SpokeName {
    type Err = SpokeNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name: IfName = text.parse().map_err(SpokeNameError::NoLinkName)?;
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        let inner = bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b));
        if !inner || !edge(bytes.first()) || !edge(bytes.last()) {
            return Err(SpokeNameError::NoQualifiedName(text.to_owned()));
        }
        if is_kubevirt_tap(text) {
            return Err(SpokeNameError::Reserved(text.to_owned()));
        }
        Ok(Self(name))
    }
}

/// KubeVirt's own tap links are `tap` and eleven hexadecimal digits, or `tap` and a number.
fn is_kubevirt_tap(text: &str) -> bool {
    text.strip_prefix("tap")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl fmt::Display for SpokeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

crate::serde_as_text!(SpokeName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_names_are_spokes() {
        for good in ["pod1", "pod2", "a", "web.blue-1_x"] {
            assert!(good.parse::<SpokeName>().is_ok(), "{good}");
        }
    }

    #[test]
    fn refuses_what_either_side_refuses() {
        for bad in
            ["", "a-name-of-16-byt", "-a", "a-", ".a", "a/b", "a:b", "a+b", "ä", "tap0", "tapdeadbeef012"]
        {
            assert!(bad.parse::<SpokeName>().is_err(), "{bad}");
        }
    }
}
