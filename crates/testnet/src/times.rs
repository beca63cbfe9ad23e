//! How long each trial took.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A trial that ran longer is named at the end.
const SLOW: Duration = Duration::from_secs(5);
/// How many of them.
const NAMED: usize = 10;

/// The times of a run's trials, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Arc<Mutex<Vec<(Duration, String)>>>);

impl Times {
    pub(crate) fn note(&self, time: Duration, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((time, name.to_owned()));
    }

    /// Where the run's time went.
    pub(crate) fn name_slow(&self) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.sort_by(|a, b| b.cmp(a));
        for (time, name) in times.iter().take_while(|(time, _)| *time >= SLOW).take(NAMED) {
            println!("{:6.1} s {name}", time.as_secs_f32());
        }
    }
}
