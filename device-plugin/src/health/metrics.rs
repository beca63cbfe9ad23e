use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Histogram, Overview};

/// Counts something that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets it to what somebody else counted.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted as it happens. What can be told from how things are is in [`Overview`].
#[derive(Debug, Default)]
pub struct Metrics {
    /// Allocate calls that were answered with a device.
    pub allocations: Counter,
    /// Allocate calls that were refused.
    pub allocations_refused: Counter,
    /// How long Allocate took.
    pub allocate: Histogram,
    /// Requests to the API server that failed.
    pub api_errors: Counter,
}

impl Metrics {
    /// Everything, in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn render(&self, now: &Overview) -> String {
        let mut out = String::new();
        let mut simple = |name: &str, kind: &str, help: &str, value: u64| {
            // Writing to a String does not fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        simple("k8slan_lans", "gauge", "LANs that are declared.", count(now.lans));
        simple("k8slan_lans_ready", "gauge", "LANs that are built on this node.", count(now.lans_ready));
        simple("k8slan_spokes", "gauge", "Spokes of this node's LANs.", count(now.spokes));
        simple("k8slan_attachments", "gauge", "Pods and VMs that are attached.", count(now.attachments));
        simple(
            "k8slan_resources_wanted",
            "gauge",
            "Resources that the kubelet should know.",
            count(now.resources_wanted),
        );
        simple(
            "k8slan_resources_registered",
            "gauge",
            "Resources whose device list the kubelet reads.",
            count(now.resources_registered),
        );
        simple(
            "k8slan_allocations_total",
            "counter",
            "Allocate calls that got a device.",
            self.allocations.get(),
        );
        simple(
            "k8slan_allocations_refused_total",
            "counter",
            "Allocate calls that were refused.",
            self.allocations_refused.get(),
        );
        simple(
            "k8slan_api_errors_total",
            "counter",
            "Requests to the API server that failed.",
            self.api_errors.get(),
        );
        let name = "k8slan_allocate_seconds";
        let _ = writeln!(out, "# HELP {name} How long an answer to Allocate took.\n# TYPE {name} histogram");
        self.allocate.write(&mut out, name);
        out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_line_is_prometheus_text() {
        let metrics = Metrics::default();
        metrics.allocations.increment();
        for micros in [50, 300, 300, 60_000_000] {
            metrics.allocate.observe(Duration::from_micros(micros));
        }
        let text = metrics.render(&Overview { lans: 2, lans_ready: 1, ..Overview::default() });
        for wanted in [
            "k8slan_lans 2\n",
            "k8slan_lans_ready 1\n",
            "k8slan_allocations_total 1\n",
            "k8slan_allocate_seconds_bucket{le=\"0.0001\"} 1\n",
            "k8slan_allocate_seconds_bucket{le=\"0.0005\"} 3\n",
            "k8slan_allocate_seconds_bucket{le=\"10\"} 3\n",
            "k8slan_allocate_seconds_bucket{le=\"+Inf\"} 4\n",
            "k8slan_allocate_seconds_count 4\n",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            assert!(name.starts_with("k8slan_") && value.parse::<f64>().is_ok(), "{line}");
        }
        let mut names: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "every metric once");
    }

    #[test]
    fn the_dashboard_asks_for_metrics_that_exist() {
        let text = include_str!("../../../install/grafana-dashboard.json");
        let dashboard: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let rendered = Metrics::default().render(&Overview::default());
        let mut asked = 0;
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let expression = target["expr"].as_str().expect("an expression");
                for word in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                    if word.starts_with("k8slan_") {
                        asked += 1;
                        assert!(
                            rendered.contains(&format!("\n{word} "))
                                || rendered.contains(&format!("\n{word}{{"))
                                || rendered.starts_with(&format!("{word} ")),
                            "{word} of {expression}"
                        );
                    }
                }
            }
        }
        assert!(asked > 5, "{asked}");
    }
}
