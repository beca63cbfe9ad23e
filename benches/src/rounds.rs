//! Interleaving and medians.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Result;

/// Rounds whose figures are thrown away: caches fill.
const WARM_UP: usize = 3;

/// What was measured, by name.
#[derive(Default)]
pub(crate) struct Series(BTreeMap<&'static str, Vec<Duration>>);

impl Series {
    /// Adds a figure.
    pub(crate) fn add(&mut self, name: &'static str, figure: Duration) {
        self.0.entry(name).or_default().push(figure);
    }

    /// The median in milliseconds.
    pub(crate) fn median(&self, name: &str) -> Result<f64> {
        let mut figures = self.0.get(name).cloned().ok_or_else(|| format!("{name} was not measured"))?;
        figures.sort();
        let middle = figures.get(figures.len() / 2).ok_or_else(|| format!("{name} was not measured"))?;
        Ok(middle.as_secs_f64() * 1e3)
    }
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
