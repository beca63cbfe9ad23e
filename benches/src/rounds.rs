//! Interleaving and medians.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;

/// Rounds whose figures are thrown away: caches fill.
const WARM_UP: usize = 3;

/// What was measured, by name.
#[derive(Default)]
pub(crate) struct Series(BTreeMap<&'static str, Vec<Duration>>);

/// How figures are spread, in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Spread {
    /// Nine of ten are larger.
    pub(crate) p10: f64,
    /// Half of the figures are larger.
    pub(crate) median: f64,
    /// One of ten is larger.
    pub(crate) p90: f64,
}

impl Series {
    /// Adds one measured duration.
    pub(crate) fn add(&mut self, name: &'static str, figure: Duration) {
        self.0.entry(name).or_default().push(figure);
    }

    /// Adds what was measured at another time.
    pub(crate) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How the figures of that name are spread.
    pub(crate) fn spread(&self, name: &str) -> Result<Spread> {
        let figures = self.0.get(name).and_then(|figures| spread(figures));
        Ok(figures.ok_or_else(|| format!("{name} was not measured"))?)
    }

    /// How all of them are spread.
    pub(crate) fn spreads(&self) -> BTreeMap<&'static str, Spread> {
        self.0.iter().filter_map(|(name, figures)| Some((*name, spread(figures)?))).collect()
    }
}

/// The spread of the figures; `None` if there are none.
fn spread(figures: &[Duration]) -> Option<Spread> {
    let mut figures = figures.to_vec();
    figures.sort();
    let at =
        |tenths: usize| figures.get(figures.len() * tenths / 10).map(|figure| figure.as_secs_f64() * 1e3);
    Some(Spread { p10: at(1)?, median: at(5)?, p90: at(9)? })
}

/// Something to measure once in each round.
pub(crate) type Contender<'a> = Box<dyn FnMut(&mut Series) -> Result<()> + 'a>;

/// Measures each contender in each round, so that whatever else the machine does meets all of them; each
/// round starts with another one, so that what one leaves to the kernel to clean up meets all of them too.
pub(crate) fn interleave(rounds: usize, contenders: &mut [Contender<'_>]) -> Result<Series> {
    let mut series = Series::default();
    for round in 0..rounds + WARM_UP {
        if round == WARM_UP {
            series = Series::default();
        }
        let count = contenders.len();
        for turn in 0..count {
            if let Some(contender) = contenders.get_mut((round + turn) % count) {
                contender(&mut series)?;
            }
        }
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        let figures: Vec<_> = (1..=101).rev().map(Duration::from_millis).collect();
        let spread = spread(&figures).unwrap();
        assert_eq!([spread.p10, spread.median, spread.p90], [11.0, 51.0, 91.0]);
        assert!(super::spread(&[]).is_none());
    }

    #[test]
    fn contenders_take_turns_and_the_warm_up_is_thrown_away() {
        let order = std::cell::RefCell::new(Vec::new());
        let order = &order;
        let contender = |name: &'static str| -> Contender<'_> {
            Box::new(move |series: &mut Series| {
                order.borrow_mut().push(name);
                series.add(name, Duration::from_millis(1));
                Ok(())
            })
        };
        let series = interleave(2, &mut [contender("a"), contender("b")]).unwrap();
        assert_eq!(series.0["a"].len(), 2);
        assert_eq!(order.borrow().concat(), "abbaabbaab");
    }
}
