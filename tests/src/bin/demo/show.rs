//! Progress, line by line, with the time since the start.

use std::time::{Duration, Instant};

/// Says what is being done and how long it took.
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start }
    }

    /// Prints that a step is done.
    pub(crate) fn done(&self, what: &str) {
        println!("{:6.2} s  {what}", self.start.elapsed().as_secs_f64());
    }
}

/// A duration as milliseconds with three digits.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}
