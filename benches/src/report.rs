//! The table, and the same as JSON.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

use crate::Result;
use crate::rounds::Spread;

/// The results of all comparisons.
#[derive(Serialize)]
pub(crate) struct Report {
    kernel: String,
    processors: usize,
    load_before: f64,
    rounds: usize,
    pub(crate) sections: Vec<Section>,
}

/// The result of one comparison.
#[derive(Serialize)]
pub(crate) struct Section {
    /// What is compared, in a line.
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
    /// How the times were spread.
    pub(crate) spreads: BTreeMap<&'static str, Spread>,
}

/// Our figure, with another one to compare it with.
#[derive(Serialize)]
pub(crate) struct Row {
    /// The operation that was measured.
    pub(crate) what: String,
    /// The unit of both figures.
    pub(crate) unit: &'static str,
    /// The figure of our program.
    pub(crate) ours: f64,
    /// The name of the program with the other figure.
    pub(crate) beside: Option<String>,
    /// The figure of the other program.
    pub(crate) theirs: Option<f64>,
    /// Our figure divided by the other one.
    pub(crate) ratio: Option<f64>,
    /// The same of the best tenth of the rounds, which other work on the machine disturbs least.
    pub(crate) undisturbed: Option<f64>,
    /// The largest ratio that is wanted.
    pub(crate) target: Option<f64>,
    /// The largest figure of ours that is wanted.
    pub(crate) limit: Option<f64>,
}

impl Row {
    /// A figure of ours alone.
    pub(crate) fn alone(what: impl Into<String>, unit: &'static str, ours: f64) -> Self {
        let what = what.into();
        Self {
            what,
            unit,
            ours,
            beside: None,
            theirs: None,
            ratio: None,
            undisturbed: None,
            target: None,
            limit: None,
        }
    }

    /// Our time beside another's, by the medians.
    pub(crate) fn times(
        what: impl Into<String>,
        ours: Spread,
        whose: impl Into<String>,
        theirs: Spread,
    ) -> Self {
        let row = Self::alone(what, "ms", ours.median).beside(whose, theirs.median);
        Self { undisturbed: Some(ours.p10 / theirs.p10), ..row }
    }

    /// Adds another program's figure to compare with.
    pub(crate) fn beside(self, whose: impl Into<String>, theirs: f64) -> Self {
        Self { beside: Some(whose.into()), theirs: Some(theirs), ratio: Some(self.ours / theirs), ..self }
    }

    /// The ratio is wanted to be at most this.
    pub(crate) fn at_most(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    /// The figure itself is wanted to be at most this.
    pub(crate) fn within(self, limit: f64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// What is measured, and the most that is wanted of it.
    fn aim(&self) -> Option<(f64, f64)> {
        match (self.ratio, self.target, self.limit) {
            (Some(ratio), Some(target), _) => Some((ratio, target)),
            (_, _, limit) => Some((self.ours, limit?)),
        }
    }

    fn is_missed(&self) -> bool {
        self.aim().is_some_and(|(found, wanted)| found > wanted)
    }

    pub(crate) fn print(&self) {
        let figure = |value: f64| format!("{value:.2} {}", self.unit);
        print!("  {:<44} {:>12}", self.what, figure(self.ours));
        if let (Some(whose), Some(theirs), Some(ratio)) = (&self.beside, self.theirs, self.ratio) {
            print!("   {whose:<22} {:>12}   {:>8}", figure(theirs), times(ratio));
        }
        if let Some(undisturbed) = self.undisturbed {
            print!("  (best tenth {})", times(undisturbed));
        }
        if let Some((_, wanted)) = self.aim() {
            print!("   {} (at most {wanted:.2})", if self.is_missed() { "MISSED" } else { "met" });
        }
        println!();
    }
}

/// A ratio, with enough digits for one that is far from 1.
fn times(ratio: f64) -> String {
    if ratio < 0.01 { format!("{ratio:.4} x") } else { format!("{ratio:.2} x") }
}

impl Section {
    /// What this machine lacks something for.
    pub(crate) fn left_out(title: &str, why: &str) -> Self {
        Self { title: format!("{title}: left out, {why}"), rows: Vec::new(), spreads: BTreeMap::new() }
    }

    /// Prints the section's part of the table.
    pub(crate) fn print(&self) {
        println!("\n{}", self.title);
        self.rows.iter().for_each(Row::print);
    }
}

impl Report {
    pub(crate) fn new(rounds: usize) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        println!("Linux {kernel}, {processors} processors; medians of {rounds} rounds, interleaved");
        // The first of five numbers: the last minute's.
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load_before: f64 = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default();
        if load_before > processors as f64 / 4.0 {
            println!(
                "the machine is busy (load {load_before}): starts of processes wait, ratios are blurred"
            );
        }
        Self { kernel, processors, load_before, rounds, sections: Vec::new() }
    }

    /// Says which targets were missed, and saves everything to `target/bench.json`.
    pub(crate) fn conclude(&self) -> Result<()> {
        let rows = || self.sections.iter().flat_map(|section| &section.rows);
        let missed: Vec<_> = rows().filter(|row| row.is_missed()).collect();
        let targets = rows().filter(|row| row.aim().is_some()).count();
        println!("\n{} of {targets} targets met", targets - missed.len());
        for row in missed {
            let beside = row.beside.as_ref().map(|whose| format!(" beside {whose}")).unwrap_or_default();
            let (found, wanted) = row.aim().unwrap_or_default();
            println!("MISSED: {}{beside}: {found:.2} instead of {wanted:.2}", row.what);
        }
        let path = testnet::workspace().join("target/bench.json");
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).map_err(|error| format!("writing {}: {error}", path.display()))?;
        println!("saved to {}", path.display());
        Ok(())
    }
}
