use net_types::MacAddr;
use sha2::{Digest, Sha256};

/// A stable MAC address: the same parts give the same address on every node and after every restart.
///
/// The parts are what the address stands for, such as the LAN, the spoke and the owner. The address
/// is locally administered, with 46 bits of the SHA-256 of the parts.
#[must_use]
pub fn stable_mac(parts: &[&str]) -> MacAddr {
    let mut hash = Sha256::new();
    for part in parts {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, ..] = digest;
    MacAddr::local([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_parts_give_the_same_address_for_ever() {
        // Fixed here: a change would give every VM a new address.
        assert_eq!(stable_mac(&["k8slan-system/lan-test", "pod1", ""]).to_string(), "82:f4:a7:cd:82:d5");
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(stable_mac(&["ab", "c"]), stable_mac(&["a", "bc"]));
        assert_ne!(stable_mac(&["a"]), stable_mac(&["a", ""]));
    }
}
