use net_types::Family;
use serde::{Deserialize, Serialize};

/// The length of the blocks of a new pool with so many addresses of a family.
///
/// Blocks of one address serve any number of nodes from a small pool; blocks of 16 to 64 make one write serve as many pods.
#[must_use]
pub fn block_length(family: Family, addresses: u128) -> u8 {
    let bits = family.bits();
    match addresses {
        0..=256 => bits,
        257..=4_096 => bits - 4,
        4_097..=65_536 => bits - 5,
        _ => bits - 6,
    }
}

/// The lengths of a pool's blocks, as its status has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct BlockLengths {
    /// Of IPv4, 0 to 32.
    pub v4: u8,
    /// Of IPv6, 0 to 128.
    pub v6: u8,
}

impl BlockLengths {
    /// What a new pool gets that has so many addresses of each family.
    #[must_use]
    pub fn for_pool(v4: u128, v6: u128) -> Self {
        Self { v4: block_length(Family::V4, v4), v6: block_length(Family::V6, v6) }
    }

    /// Of one family.
    #[must_use]
    pub fn of(self, family: Family) -> u8 {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}
