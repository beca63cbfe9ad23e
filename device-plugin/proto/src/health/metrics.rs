use std::sync::atomic::AtomicBool;

use super::exposition::{Counter, Exposition};
use super::{HealthSummary, Histogram, PoolMetrics};

/// What the node's part counts when it happens. Numbers that follow from the present state are in [`HealthSummary`].
#[derive(Debug, Default)]
pub struct Metrics {
    /// Allocate calls that were answered with a device.
    pub allocations: Counter,
    pub allocations_refused: Counter,
    /// The duration of Allocate.
    pub allocate: Histogram,
    /// The duration of building a new or changed LAN, from reading its declaration to writing the records of its
    /// spokes.
    pub build: Histogram,
    /// Times that a built LAN differed from its declaration and was repaired.
    pub drift_repairs: Counter,
    /// Attachments of dead pods that were removed.
    pub swept: Counter,
    /// Attachments of dead pods, and deleted virtual machines, whose leases were freed.
    pub swept_leases: Counter,
    /// Errors in reading or removing leftovers.
    pub sweep_errors: Counter,
    /// Pools of the cluster.
    pub pools: PoolMetrics,
}

/// The counters of the cluster's part.
#[derive(Debug, Default)]
pub struct ApiMetrics {
    /// Whether the API server has sent the LANs since the start.
    pub lans_heard: AtomicBool,
    /// Whether the node's part has stored them since the start.
    pub lans_stored: AtomicBool,
    /// Requests about LANs that the API server did not answer, or refused.
    pub lan_errors: Counter,
    /// Requests about pods and virtual machines.
    pub pod_errors: Counter,
}

impl Metrics {
    /// All metrics, in Prometheus' text format.
    #[must_use]
    pub fn render(&self, now: &HealthSummary) -> String {
        let mut out = Exposition::default();
        out.gauge("k8slan_lans", "LANs that are declared.", now.lans);
        out.gauge("k8slan_lans_ready", "LANs that are built on this node.", now.lans_ready);
        out.gauge("k8slan_spokes", "Spokes of this node's LANs.", now.spokes);
        out.gauge("k8slan_attachments", "Spokes with an attached pod or VM.", now.attachments);
        out.gauge("k8slan_resources_wanted", "Resources that the kubelet should know.", now.resources_wanted);
        out.gauge(
            "k8slan_resources_registered",
            "Resources whose device list the kubelet reads.",
            now.resources_registered,
        );
        out.counter("k8slan_allocations_total", "Allocate calls that got a device.", &self.allocations);
        out.counter(
            "k8slan_allocations_refused_total",
            "Allocate calls that were refused.",
            &self.allocations_refused,
        );
        out.counter(
            "k8slan_drift_repairs_total",
            "Times that a LAN which stood had been changed by somebody else, and was put right.",
            &self.drift_repairs,
        );
        out.counter(
            "k8slan_swept_attachments_total",
            "Attachments of dead pods that were removed.",
            &self.swept,
        );
        out.counter(
            "k8slan_swept_leases_total",
            "Dead pods' attachments, and virtual machines that are gone, whose leases were freed.",
            &self.swept_leases,
        );
        out.counter(
            "k8slan_sweep_errors_total",
            "What a sweep could not look at or remove.",
            &self.sweep_errors,
        );
        out.histogram("k8slan_allocate_seconds", "How long an answer to Allocate took.", &self.allocate);
        out.histogram(
            "k8slan_build_seconds",
            "How long it took to build a new or changed LAN, from the look at what is declared to the spokes' records.",
            &self.build,
        );
        self.pools.write(&mut out);
        out.into_text()
    }
}

impl ApiMetrics {
    /// All metrics, in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = Exposition::default();
        let errors = self.lan_errors.get() + self.pod_errors.get();
        out.one("counter", "k8slan_api_errors_total", "Requests to the API server that failed.", errors);
        out.into_text()
    }
}

/// The metric of a cluster's part: whether the node's part answers.
#[must_use]
pub fn node_up(up: bool) -> String {
    let mut out = Exposition::default();
    out.gauge("k8slan_node_up", "Whether the node's part of k8slan answers.", usize::from(up));
    out.into_text()
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
        let text = metrics.render(&HealthSummary { lans: 2, lans_ready: 1, ..HealthSummary::default() });
        let text = [text, ApiMetrics::default().render(), node_up(false)].concat();
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
        let text = include_str!("../../../../install/grafana-dashboard.json");
        let dashboard: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let metrics = Metrics::default();
        metrics.pools.set_counts([("office".to_owned(), crate::health::PoolCounts::default())].into());
        let rendered =
            [metrics.render(&HealthSummary::default()), ApiMetrics::default().render(), node_up(true)]
                .concat();
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
