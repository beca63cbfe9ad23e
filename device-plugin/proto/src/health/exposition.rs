use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Histogram;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add(&self, count: usize) {
        self.0.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For a number that is counted elsewhere.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Prometheus' text format, version 0.0.4.
#[derive(Default)]
pub(super) struct Exposition(String);

impl Exposition {
    pub(super) fn one(&mut self, kind: &str, name: &str, help: &str, value: u64) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: usize) {
        self.one("gauge", name, help, u64::try_from(value).unwrap_or(u64::MAX));
    }

    /// One number for each value of a label; nothing where there is none.
    pub(super) fn labelled(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (String, u64)>,
    ) {
        let mut values = values.peekable();
        if values.peek().is_some() {
            let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        for (value, number) in values {
            let _ = writeln!(self.0, "{name}{{{label}=\"{value}\"}} {number}");
        }
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.one("counter", name, help, counter.get());
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram");
        histogram.write(&mut self.0, name);
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}
