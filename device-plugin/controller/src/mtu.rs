//! The one MTU of a LAN whose nodes have room for different MTUs. Pure.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use lan::MtuRise;

/// How long all nodes must have had room for more before a LAN's MTU rises.
pub(super) const RISE_DELAY: Duration = Duration::from_secs(600);

/// A larger MTU that will be set if all nodes keep room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rise {
    to: i64,
    due: Timestamp,
}

impl Rise {
    /// From the LAN's status, so that a new leader continues the waiting of the last one. A time that a leader would
    /// not have written is ignored.
    pub(super) fn parse(told: &MtuRise, hold: Duration, now: Timestamp) -> Option<Self> {
        let due = told.at.parse().ok()?;
        (due <= later(now, hold)).then_some(Self { to: told.to, due })
    }

    /// The form in the LAN's status.
    pub(super) fn to_status(self) -> MtuRise {
        MtuRise { to: self.to, at: self.due.to_string() }
    }

    /// The time until the MTU may rise.
    pub(super) fn waits(self, now: Timestamp) -> Duration {
        self.due.duration_since(now).try_into().unwrap_or_default()
    }
}

/// `now` and `hold`, rounded up to whole seconds.
fn later(now: Timestamp, hold: Duration) -> Timestamp {
    let up = i64::from(now.subsec_nanosecond() > 0);
    let hold = i64::try_from(hold.as_secs()).unwrap_or(i64::from(u32::MAX));
    Timestamp::from_second(now.as_second() + up + hold).unwrap_or(Timestamp::MAX)
}

/// The MTU that a LAN should have: the one that its author sets, or else the smallest that a node has room for.
///
/// `last` is the present one. The MTU falls at once, because a frame that is too large for one node is lost. It rises
/// when all nodes had room for more during the whole of `hold`, to the largest that all of them had: a node that
/// comes and goes costs its LANs one change of the MTU, and not one each time.
pub(super) fn effective(
    asked: Option<i64>,
    last: Option<i64>,
    rooms: impl Iterator<Item = i64>,
    rise: &mut Option<Rise>,
    hold: Duration,
    now: Timestamp,
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
    let waited = rise.get_or_insert(Rise { to: least, due: later(now, hold) });
    waited.to = waited.to.min(least);
    if now < waited.due {
        return Some(last);
    }
    let to = waited.to;
    *rise = None;
    Some(to)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::SignedDuration;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_asked_for_counts() {
        let mut rise = None;
        assert_eq!(
            effective(Some(1300), Some(1426), [1400].into_iter(), &mut rise, RISE_DELAY, Timestamp::now()),
            Some(1300)
        );
        assert_eq!(effective(None, None, [].into_iter(), &mut rise, RISE_DELAY, Timestamp::now()), None);
        // Silent nodes change nothing.
        assert_eq!(
            effective(None, Some(1426), [].into_iter(), &mut rise, RISE_DELAY, Timestamp::now()),
            Some(1426)
        );
    }

    #[test]
    fn it_falls_at_once_and_rises_late() {
        let (mut rise, start) = (None, Timestamp::from_second(1_796_000_000).unwrap());
        let mut at = |seconds: i64, last: i64, rooms: &[i64]| {
            let now = start + SignedDuration::from_secs(seconds);
            effective(None, Some(last), rooms.iter().copied(), &mut rise, RISE_DELAY, now).unwrap()
        };
        assert_eq!(at(0, 8926, &[8926, 1426]), 1426);
        assert_eq!(at(1, 1426, &[8926, 8926]), 1426);
        assert_eq!(at(300, 1426, &[8000, 8926]), 1426);
        assert_eq!(at(600, 1426, &[8926, 8926]), 1426);
        assert_eq!(at(601, 1426, &[8926, 8926]), 8000, "the most that all had all the time");
        // The small one comes back meanwhile: the waiting starts again.
        assert_eq!(at(700, 1426, &[8926]), 1426);
        assert_eq!(at(1200, 1426, &[1426]), 1426);
        assert_eq!(at(1301, 1426, &[8926]), 1426);
    }

    #[test]
    fn a_new_leader_goes_on_where_the_last_one_was() {
        let start = Timestamp::from_second(1_796_000_000).unwrap();
        let after = |seconds| start + SignedDuration::from_secs(seconds);
        let mut rise = None;
        effective(None, Some(1426), [8926].into_iter(), &mut rise, RISE_DELAY, start);
        let told = rise.unwrap().to_status();
        assert_eq!((told.to, &*told.at), (8926, "2026-11-30T01:03:20Z"), "{told:?}");
        let mut next = Rise::parse(&told, RISE_DELAY, after(500));
        assert_eq!(
            effective(None, Some(1426), [8926].into_iter(), &mut next, RISE_DELAY, after(500)),
            Some(1426)
        );
        assert_eq!(
            effective(None, Some(1426), [8926].into_iter(), &mut next, RISE_DELAY, after(601)),
            Some(8926)
        );
        // No MTU waits longer than a leader would wait, whatever the status contains.
        for at in ["2036-11-30T11:43:21Z", "soon"] {
            let strange = MtuRise { to: 8926, at: at.to_owned() };
            assert_eq!(Rise::parse(&strange, RISE_DELAY, start), None);
        }
    }

    proptest! {
        /// However rooms come and go, the LAN never has more than the smallest, and rises once in ten minutes.
        #[test]
        fn never_too_large_and_never_flapping(
            rooms in proptest::collection::vec((proptest::collection::vec(0_i64..4, 1..4), 1_i64..200), 1..100)
        ) {
            let (mut rise, mut last, mut now) = (None, None, Timestamp::now());
            let mut rose: Option<Timestamp> = None;
            for (rooms, seconds) in rooms {
                now += SignedDuration::from_secs(seconds);
                let next = effective(None, last, rooms.iter().map(|room| 1400 + room), &mut rise, RISE_DELAY, now);
                prop_assert!(next <= rooms.iter().map(|room| 1400 + room).min());
                if last.is_some() && next > last {
                    prop_assert!(rose.is_none_or(|rose| now.duration_since(rose) >= SignedDuration::from_secs(600)));
                    rose = Some(now);
                }
                last = next;
            }
        }
    }
}
