use net_types::MacAddr;
use sha2::{Digest, Sha256};

/// A stable MAC address: the same parts give the same address on every node and after every restart.
///
/// The parts name what has the address, such as the LAN, the spoke and the owner. The address is locally
/// administered, with 46 bits of the SHA-256 of the parts.
#[must_use]
pub fn stable_mac(parts: &[&str]) -> MacAddr {
    let mut hash = Sha256::new();
    for part in parts {
        // The length distinguishes ("ab", "c") from ("a", "bc").
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, ..] = digest;
    MacAddr::local([a, b, c, d, e, f])
}

/// As [`stable_mac`], but different for every seed; without a seed the same as [`stable_mac`].
#[must_use]
pub(crate) fn seeded_mac(seed: &str, parts: &[&str]) -> MacAddr {
    match seed {
        "" => stable_mac(parts),
        seed => stable_mac(&[&["seed", seed], parts].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_another_address_and_none_the_same() {
        let parts = ["k8slan-system/lan-test", "pod1", ""];
        assert_eq!(seeded_mac("", &parts), stable_mac(&parts));
        let (one, other) = (seeded_mac("one", &parts), seeded_mac("other", &parts));
        assert!(one != other && one != stable_mac(&parts) && one == seeded_mac("one", &parts));
        // These values must never change, like those below.
        assert_eq!(one.to_string(), "ba:9b:82:ce:6d:01");
    }

    #[test]
    fn the_same_parts_give_the_same_address_for_ever() {
        // This value must never change: every VM would get a new address.
        assert_eq!(stable_mac(&["k8slan-system/lan-test", "pod1", ""]).to_string(), "82:f4:a7:cd:82:d5");
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(stable_mac(&["ab", "c"]), stable_mac(&["a", "bc"]));
        assert_ne!(stable_mac(&["a"]), stable_mac(&["a", ""]));
    }
}
