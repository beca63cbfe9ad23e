//! Time as one machine's CLOCK_BOOTTIME has it: it goes on while the machine sleeps, no time service sets it, and it says nothing
//! to another machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the machine's boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct BootTime(u64);

impl BootTime {
    /// So many milliseconds after the boot.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the boot.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The time so much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// For how long a node may allocate without the API server, and after which the leader may free what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    whole: Duration,
    node_percent: u32,
}

impl Horizon {
    /// Thirty minutes, of which a node uses 0.8: the clocks of two machines may go 10 % apart in each direction.
    pub const DEFAULT: Self = Self { whole: Duration::from_secs(1_800), node_percent: 80 };

    /// How long the leader waits after it saw the fence, on its own clock.
    #[must_use]
    pub fn for_leader(self) -> Duration {
        self.whole
    }

    /// How long a node may allocate after it *sent* the request whose answer showed that a block is its own.
    #[must_use]
    pub fn for_node(self) -> Duration {
        self.whole / 100 * self.node_percent
    }

    /// How often a node reads what it holds: three of four reads may fail before it must stop.
    #[must_use]
    pub fn between_reads(self) -> Duration {
        self.for_node() / 4
    }

    /// With a node's share that is wrong.
    #[cfg(test)]
    pub(crate) fn with_node_percent(self, node_percent: u32) -> Self {
        Self { node_percent, ..self }
    }
}
