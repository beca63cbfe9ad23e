use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lan::LanKey;

/// For how long an identical repair of the same LAN is not logged again.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);

/// Logs repairs, so that the cause of the drift can be found; identical repairs are only logged from time to time, so
/// that the log does not fill the disk.
#[derive(Default)]
pub(super) struct RepairLog(BTreeMap<(LanKey, String), LoggedRepair>);

struct LoggedRepair {
    at: Instant,
    /// The number of repairs since the last log line.
    more: u32,
}

impl RepairLog {
    /// Logs a repair, or only counts it if an identical one was logged shortly before.
    pub(super) fn log(&mut self, lan: &LanKey, what: &str) {
        if let Some(text) = self.text(lan, what, Instant::now()) {
            tracing::info!(%lan, "repaired: {text}");
        }
    }

    fn text(&mut self, lan: &LanKey, what: &str, now: Instant) -> Option<String> {
        if what.is_empty() {
            return None;
        }
        let is_recent = |logged: &LoggedRepair| now.duration_since(logged.at) < REPEAT_INTERVAL;
        let key = (lan.clone(), what.to_owned());
        let more = match self.0.get_mut(&key) {
            Some(logged) if is_recent(logged) => {
                logged.more += 1;
                return None;
            }
            Some(logged) => logged.more,
            None => 0,
        };
        self.0.retain(|_, logged| is_recent(logged));
        self.0.insert(key, LoggedRepair { at: now, more: 0 });
        Some(if more == 0 { what.to_owned() } else { format!("{what} (and {more} times before)") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_counted() {
        let (mut all, start) = (RepairLog::default(), Instant::now());
        let (a, b): (LanKey, LanKey) = ("x/a".parse().unwrap(), "x/b".parse().unwrap());
        let mut at = |lan: &LanKey, what: &str, seconds| {
            all.text(lan, what, start + Duration::from_secs(seconds)).unwrap_or_default()
        };
        assert_eq!(at(&a, "vx2 was gone", 0), "vx2 was gone");
        assert_eq!((at(&a, "vx2 was gone", 1), at(&a, "vx2 was gone", 9)), (String::new(), String::new()));
        assert_eq!(at(&b, "vx2 was gone", 9), "vx2 was gone");
        assert_eq!(at(&a, "vx2 was gone", 11), "vx2 was gone (and 2 times before)");
        assert_eq!((at(&a, "vx2 was down", 12), at(&a, "", 13)), ("vx2 was down".to_owned(), String::new()));
    }
}
