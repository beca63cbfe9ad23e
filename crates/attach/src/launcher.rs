use net_types::IfName;

/// Whether an interface is for the guest of a VM: KubeVirt names those `pod` and eleven hexadecimal digits
/// (`GenerateHashedInterfaceName` in its `pkg/network/namescheme`).
#[must_use]
pub fn is_launcher_link(ifname: &IfName) -> bool {
    const DIGITS: usize = 11;
    ifname.as_str().strip_prefix("pod").is_some_and(|hash| {
        hash.len() == DIGITS && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kubevirts_names() {
        let is = |name: &str| is_launcher_link(&name.parse().unwrap());
        assert!(is("pod16477688c0e"));
        assert!(!is("net1") && !is("pod1") && !is("pod16477688C0E") && !is("pod16477688c0e1"));
    }
}
