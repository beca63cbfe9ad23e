//! How much of its peer's messages the node's part acts on in a second.

use std::time::Duration;

use tokio::time::Instant;

/// A message costs one token, and one more for each block of bytes.
const BLOCK: usize = 4096;
/// Tokens that can be spent at once: enough for a snapshot of the most objects that there may be.
const BURST: u32 = 32_768;
/// What a connection costs, beside its messages.
const CONNECTION: u32 = 64;
/// How many come back in a second. The API server of a living cluster says far less.
const PER_SECOND: u32 = 256;

/// A token bucket. It outlives connections, so that a new one does not fill it.
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: BURST.into(), at: now }
    }

    /// Takes what a message costs; returns how long to wait before it is acted on.
    pub(super) fn take(&mut self, now: Instant, len: usize) -> Duration {
        self.spend(now, u32::try_from(1 + len / BLOCK).unwrap_or(u32::MAX))
    }

    /// Takes what a new connection costs; returns how long to wait before it is served.
    pub(super) fn connect(&mut self, now: Instant) -> Duration {
        self.spend(now, CONNECTION)
    }

    fn spend(&mut self, now: Instant, cost: u32) -> Duration {
        let back = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(PER_SECOND);
        self.tokens = (self.tokens + back).min(BURST.into()) - f64::from(cost);
        self.at = now;
        Duration::from_secs_f64((-self.tokens).max(0.0) / f64::from(PER_SECOND))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_free_and_a_flood_is_slow() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        for _ in 0..BURST {
            assert_eq!(bucket.take(start, 100), Duration::ZERO);
        }
        let mut now = start;
        for _ in 0..10 * PER_SECOND {
            now += bucket.take(now, 100);
        }
        let took = now - start;
        assert!((Duration::from_millis(9_900)..=Duration::from_millis(10_100)).contains(&took), "{took:?}");
        // A long message costs as much as many short ones.
        let pause = bucket.take(now, 1 << 20);
        assert!(pause > Duration::from_millis(900), "{pause:?}");
        assert_eq!(bucket.take(now + Duration::from_secs(3600), 100), Duration::ZERO);
        // Time alone fills it no higher than it was at first.
        let later = now + Duration::from_secs(7200);
        let waits = (0..=BURST).filter(|_| !bucket.take(later, 100).is_zero()).count();
        assert_eq!(waits, 1);
    }
}
