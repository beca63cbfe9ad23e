use std::fmt;

use net_types::SpokeName;

/// The version of the kubelet's device plugin API.
pub const API_VERSION: &str = "v1beta1";

/// The part of a resource's name before the slash.
pub const RESOURCE_DOMAIN: &str = "macvtap.k8slan.io";
/// What the name of a resource begins with.
pub const RESOURCE_PREFIX: &str = "macvtap.k8slan.io/";

const SOCKET_PREFIX: &str = "k8slan-";
const SOCKET_SUFFIX: &str = ".sock";

/// The name of a resource after [`RESOURCE_DOMAIN`]: the spoke's, or another one that leads to a spoke.
///
/// 1 to 63 letters, digits, `-`, `_` and `.`, with a letter or digit first and last, as Kubernetes requires.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceName(Box<str>);

impl ResourceName {
    /// `None` if the text is not a name.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let good = bytes.len() <= 63
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
        good.then(|| Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&SpokeName> for ResourceName {
    fn from(spoke: &SpokeName) -> Self {
        Self(spoke.as_str().into())
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The resource that a pod requests to be attached to a spoke; `name` is the spoke's, or a [`ResourceName`].
#[must_use]
pub fn resource_name(name: &impl fmt::Display) -> String {
    format!("{RESOURCE_PREFIX}{name}")
}

/// The file name of a resource's socket in the kubelet's plugin folder.
#[must_use]
pub fn socket_name(name: &impl fmt::Display) -> String {
    format!("{SOCKET_PREFIX}{name}{SOCKET_SUFFIX}")
}

/// The resource whose socket has that file name; `None` if it is not one of k8slan's.
pub fn resource_of_socket(file_name: &str) -> Option<ResourceName> {
    ResourceName::new(file_name.strip_prefix(SOCKET_PREFIX)?.strip_suffix(SOCKET_SUFFIX)?)
}

/// The environment variable `K8SLAN_<what>_<spoke>`. Letters and digits of the spoke are kept, each other character
/// is `_` and two hexadecimal digits, so that the variables of two spokes in one container differ.
pub fn variable(what: &str, spoke: &SpokeName) -> String {
    let mut name = format!("K8SLAN_{what}_");
    for byte in spoke.as_str().bytes() {
        if byte.is_ascii_alphanumeric() {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("_{byte:02x}"));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoke(name: &str) -> SpokeName {
        name.parse().unwrap()
    }

    #[test]
    fn names_of_the_document() {
        assert_eq!(resource_name(&spoke("pod2")), "macvtap.k8slan.io/pod2");
        assert_eq!(socket_name(&spoke("pod2")), "k8slan-pod2.sock");
    }

    #[test]
    fn only_our_sockets_are_recognised() {
        assert_eq!(resource_of_socket("k8slan-a.b-c.sock"), Some((&spoke("a.b-c")).into()));
        let name = resource_of_socket("k8slan-k8slan-veth-lan-a.sock").unwrap();
        assert_eq!(name.as_str(), "k8slan-veth-lan-a");
        assert_eq!(ResourceName::new(&"a".repeat(64)), None);
        for other in ["kubelet.sock", "k8slan-.sock", "k8slan-a", "nvidia-gpu.sock", "k8slan-a+b.sock"] {
            assert_eq!(resource_of_socket(other), None, "{other}");
        }
    }

    #[test]
    fn variables_of_similar_spokes_differ() {
        assert_eq!(variable("MTU", &spoke("pod1")), "K8SLAN_MTU_pod1");
        assert_eq!(variable("MTU", &spoke("a-b_c.d")), "K8SLAN_MTU_a_2db_5fc_2ed");
    }
}
