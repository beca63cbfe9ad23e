//! `ipam.probe`: whether and how long a link is probed for addresses before they are used.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::Timespan;

/// How often to probe and how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTiming {
    /// How many probes are sent for each address.
    pub count: u32,
    /// The time between two probes.
    pub interval: Duration,
    /// The time after the last probe.
    pub wait: Duration,
}

impl ProbeTiming {
    /// For a wired LAN: three probes, 0.3 s in all.
    pub const QUICK: Self =
        Self { count: 3, interval: Duration::from_millis(80), wait: Duration::from_millis(140) };

    /// The most probes that may be sent for an address.
    const MAX_COUNT: u32 = 10;
    /// The longest that one round of probes may take: a pod's start waits for it.
    const MAX_ROUND: Duration = Duration::from_secs(30);

    /// How long one round of probes takes.
    fn round(&self) -> Duration {
        self.interval.saturating_mul(self.count.saturating_sub(1)).saturating_add(self.wait)
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// The message about the exceeded limit.
    fn bounded(self) -> Result<Self, String> {
        if self.count > Self::MAX_COUNT {
            return Err(format!(
                "count {} is too large: an address is asked for {} times at most",
                self.count,
                Self::MAX_COUNT
            ));
        }
        if self.round() > Self::MAX_ROUND {
            return Err(format!(
                "interval and wait are too long: one round would take {} s, and may take {} s at most",
                self.round().as_secs(),
                Self::MAX_ROUND.as_secs()
            ));
        }
        Ok(self)
    }
}

/// `ipam.probe` of a network, which the main plugin and the IPAM plugin both read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// For the main plugin, which probes.
    pub timing: ProbeTiming,
    /// For the IPAM plugin: how long an address that another host has is not handed out.
    pub quarantine: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected true, false, or an object with some of count, interval, wait and quarantine"
)]
enum Written {
    Flag(bool),
    Timing(Timing),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Timing {
    count: Option<u32>,
    interval: Option<Timespan>,
    wait: Option<Timespan>,
    quarantine: Option<Timespan>,
}

impl Probe {
    /// Reads the key; `None` if nothing is to be probed.
    ///
    /// # Errors
    /// It is malformed, or exceeds a limit.
    pub fn parse<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let quick = ProbeTiming::QUICK;
        Ok(match Option::<Written>::deserialize(deserializer)? {
            None | Some(Written::Flag(false)) => None,
            Some(Written::Flag(true)) => Some(Self { timing: quick, quarantine: None }),
            Some(Written::Timing(written)) => {
                let timing = ProbeTiming {
                    count: written.count.unwrap_or(quick.count).max(1),
                    interval: written.interval.map_or(quick.interval, Timespan::get),
                    wait: written.wait.map_or(quick.wait, Timespan::get),
                };
                let timing = timing.bounded().map_err(D::Error::custom)?;
                Some(Self { timing, quarantine: written.quarantine.map(Timespan::get) })
            }
        })
    }
}
