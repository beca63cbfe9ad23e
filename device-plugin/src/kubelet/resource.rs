use net_types::SpokeName;

/// The version of the kubelet's API that is spoken here.
pub const API_VERSION: &str = "v1beta1";

/// What stands before the spoke in the name of its resource.
pub const RESOURCE_DOMAIN: &str = "macvtap.k8slan.io";

const SOCKET_PREFIX: &str = "k8slan-";
const SOCKET_SUFFIX: &str = ".sock";

/// The resource that a pod asks for to be attached to a spoke.
#[must_use]
pub fn resource_name(spoke: &SpokeName) -> String {
    format!("{RESOURCE_DOMAIN}/{spoke}")
}

/// The file name of a spoke's socket in the kubelet's plugin folder.
#[must_use]
pub fn socket_name(spoke: &SpokeName) -> String {
    format!("{SOCKET_PREFIX}{spoke}{SOCKET_SUFFIX}")
}

/// The spoke whose socket has that file name, if it is one of ours.
pub(super) fn spoke_of_socket(file_name: &str) -> Option<SpokeName> {
    file_name.strip_prefix(SOCKET_PREFIX)?.strip_suffix(SOCKET_SUFFIX)?.parse().ok()
}

/// The environment variable `K8SLAN_<what>_<spoke>`. Letters and digits of the spoke stand for
/// themselves, anything else is `_` and two hexadecimal digits, so that the variables of two spokes
/// in one container never meet.
pub(super) fn variable(what: &str, spoke: &SpokeName) -> String {
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
        assert_eq!(spoke_of_socket("k8slan-a.b-c.sock"), Some(spoke("a.b-c")));
        for other in ["kubelet.sock", "k8slan-.sock", "k8slan-a", "nvidia-gpu.sock", "k8slan-a+b.sock"] {
            assert_eq!(spoke_of_socket(other), None, "{other}");
        }
    }

    #[test]
    fn variables_of_similar_spokes_differ() {
        assert_eq!(variable("MTU", &spoke("pod1")), "K8SLAN_MTU_pod1");
        assert_eq!(variable("MTU", &spoke("a-b_c.d")), "K8SLAN_MTU_a_2db_5fc_2ed");
    }
}
