//! The one MTU of a LAN whose nodes have room for different ones. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How long all nodes must have had room for more before a LAN's MTU rises.
pub(super) const HOLD: Duration = Duration::from_secs(600);

/// A larger MTU that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rise {
    to: i64,
    due: Instant,
}

impl Rise {
    /// When the MTU may rise.
    pub(super) fn due(self) -> Instant {
        self.due
    }
}

/// The MTU that a LAN should have: what its author asks for, or else the smallest that a node has room for.
///
/// `last` is what it has. It falls at once, since a frame that is too large for one node is lost. It rises
/// when all nodes had room for more for the whole of `hold`, to the most that all of them had: a node that
/// comes and goes costs its LANs one change of MTU, and not one each time.
pub(super) fn effective(
    asked: Option<i64>,
    last: Option<i64>,
    rooms: impl Iterator<Item = i64>,
    rise: &mut Option<Rise>,
    hold: Duration,
    now: Instant,
) -> Option<i64> {
    if asked.is_some() {
        *rise = None;
        return asked;
    }
    let Some(least) = rooms.min() else { return last };
    let Some(last) = last.filter(|last| *last < least) else {
        *rise = None;
        return Some(least);
    };
    let waited = rise.get_or_insert(Rise { to: least, due: now + hold });
    waited.to = waited.to.min(least);
    if now < waited.due() {
        return Some(last);
    }
    let to = waited.to;
    *rise = None;
    Some(to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_asked_for_counts() {
        let mut rise = None;
        assert_eq!(
            effective(Some(1300), Some(1426), [1400].into_iter(), &mut rise, HOLD, Instant::now()),
            Some(1300)
        );
        assert_eq!(effective(None, None, [].into_iter(), &mut rise, HOLD, Instant::now()), None);
        // Nodes that are silent change nothing.
        assert_eq!(effective(None, Some(1426), [].into_iter(), &mut rise, HOLD, Instant::now()), Some(1426));
    }

    #[test]
    fn it_falls_at_once_and_rises_late() {
        let (mut rise, start) = (None, Instant::now());
        let mut at = |seconds: u64, last: i64, rooms: &[i64]| {
            let now = start + Duration::from_secs(seconds);
            effective(None, Some(last), rooms.iter().copied(), &mut rise, HOLD, now).unwrap()
        };
        assert_eq!(at(0, 8926, &[8926, 1426]), 1426);
        assert_eq!(at(1, 1426, &[8926, 8926]), 1426);
        assert_eq!(at(300, 1426, &[8000, 8926]), 1426);
        assert_eq!(at(600, 1426, &[8926, 8926]), 1426);
        assert_eq!(at(601, 1426, &[8926, 8926]), 8000, "the most that all had all the time");
        // The small one comes back meanwhile: the waiting begins anew.
        assert_eq!(at(700, 1426, &[8926]), 1426);
        assert_eq!(at(1200, 1426, &[1426]), 1426);
        assert_eq!(at(1301, 1426, &[8926]), 1426);
    }

    proptest! {
        /// However rooms come and go, the LAN never has more than the smallest, and rises once in ten minutes.
        #[test]
        fn never_too_large_and_never_flapping(
            rooms in proptest::collection::vec((proptest::collection::vec(0_i64..4, 1..4), 1_u64..200), 1..100)
        ) {
            let (mut rise, mut last, mut now) = (None, None, Instant::now());
            let mut rose: Option<Instant> = None;
            for (rooms, seconds) in rooms {
                now += Duration::from_secs(seconds);
                let next = effective(None, last, rooms.iter().map(|room| 1400 + room), &mut rise, HOLD, now);
                prop_assert!(next <= rooms.iter().map(|room| 1400 + room).min());
                if last.is_some() && next > last {
                    prop_assert!(rose.is_none_or(|rose| now - rose >= HOLD));
                    rose = Some(now);
                }
                last = next;
            }
        }
    }
}
