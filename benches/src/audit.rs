//! What was asked of the API server, by its audit log.

use std::collections::BTreeMap;

use k8slan_tests::real_server::RealServer;
use serde_json::Value;

use crate::Result;
use crate::fleet::failed;

/// Who asks, by the names that the audit log has.
pub(crate) const DAEMON: &str = "system:serviceaccount:k8slan-system:k8slan";
pub(crate) const ADMIN: &str = "admin";

/// The requests of one user in a part of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    /// By verb and resource.
    pub(crate) by_kind: BTreeMap<String, usize>,
    /// Creates, updates, patches and deletes.
    pub(crate) writes: usize,
    /// Gets and lists.
    pub(crate) reads: usize,
    /// Writes that were refused, since somebody else was first.
    pub(crate) conflicts: usize,
    /// How long each took at the server, in milliseconds, ascending.
    pub(crate) latencies: Vec<f64>,
}

impl Requests {
    /// What `user` asked from this number of the log on, of resources that `counts` names. Watches that last are not counted.
    pub(crate) fn read(
        server: &RealServer,
        from: usize,
        user: &str,
        counts: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut all = Self::default();
        for event in server.audit(from).map_err(failed)? {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (verb, resource) = (text(&event["verb"]), text(&event["objectRef"]["resource"]));
            if event["user"]["username"] != user || verb == "watch" || !counts(&resource) {
                continue;
            }
            *all.by_kind.entry(format!("{verb} {resource}")).or_default() += 1;
            match verb.as_str() {
                "get" | "list" => all.reads += 1,
                _ => all.writes += 1,
            }
            // 422: the test in a JSON patch.
            if matches!(event["responseStatus"]["code"].as_u64(), Some(409 | 422)) {
                all.conflicts += 1;
            }
            all.latencies.extend(latency(&event));
        }
        all.latencies.sort_by(f64::total_cmp);
        Ok(all)
    }

    /// The latency that this share of them does not exceed.
    pub(crate) fn latency(&self, share: f64) -> f64 {
        let nth = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(nth.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// How many of this verb and resource.
    pub(crate) fn of(&self, kind: &str) -> usize {
        self.by_kind.get(kind).copied().unwrap_or_default()
    }
}

fn latency(event: &Value) -> Option<f64> {
    let at = |field: &str| -> Option<f64> {
        // 2026-11-30T10:00:00.123456Z
        let time = event[field].as_str()?.split_once('T')?.1.trim_end_matches('Z').to_owned();
        let mut parts = time.split(':').map(str::parse::<f64>);
        let mut next = || parts.next()?.ok();
        Some(next()? * 3600.0 + next()? * 60.0 + next()?)
    };
    let seconds = at("stageTimestamp")? - at("requestReceivedTimestamp")?;
    Some(seconds.rem_euclid(86_400.0) * 1e3)
}
