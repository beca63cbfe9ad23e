//! Whether this node's part is ready, so that a rollout of a new version continues with the next node.
//!
//! Readiness is about the daemon, not about the LANs: a user who may write LANs must not be able to block an upgrade,
//! and a version that breaks existing LANs must not be rolled out further. So it requires the first reconcile of all
//! LANs, a kubelet that has registered the resources once, and each LAN that was built when the daemon started to be
//! built once by this daemon. Everything else that is wrong with a LAN is in its conditions, metrics and events.

use std::collections::BTreeMap;

use lan::{ACCEPTED, LanKey, READY};

use crate::kubelet::{self, KubeletState};
use proto::published::{LanStatus, NodeStatus};
use proto::published::{condition, holds};

/// Reasons of a LAN that is not built that are not this daemon's fault: the node's link is not what the LAN needs, or
/// another LAN has what it claims.
const NOT_THE_DAEMONS: [&str; 11] = [
    "NoUnderlay",
    "UnderlayMissing",
    "UnderlayDown",
    "UnderlayTaken",
    "NoCarrier",
    "NoMulticast",
    "NoLinkLocal",
    "NoAddress",
    "NoRoom",
    "Conflict",
    "NotDeclared",
];

/// What this daemon has not achieved yet since its start.
#[derive(Debug, Default)]
pub struct Readiness {
    /// The LANs that were built when it started, and have not been built since; with the generation of their objects.
    stood: BTreeMap<LanKey, Option<i64>>,
    kubelet_reached: bool,
}

impl Readiness {
    /// The start of a daemon after another one of this boot, with its last status.
    pub fn after(before: Option<&NodeStatus>) -> Self {
        let lans = before.into_iter().flat_map(|status| &status.lans);
        let stood = lans
            .filter(|lan| holds(lan, READY))
            .map(|lan| (lan.lan.clone(), lan.observed_generation))
            .collect();
        Self { stood, kubelet_reached: false }
    }

    /// What readiness still waits for, one sentence each; empty: ready, and it stays so.
    pub fn waiting(&mut self, now: &NodeStatus, kubelet: Option<&kubelet::Status>) -> Vec<String> {
        let mut waiting = Vec::new();
        if now.reconciled {
            let lans: BTreeMap<_, _> = now.lans.iter().rev().map(|lan| (&lan.lan, lan)).collect();
            // A LAN that was deleted or edited since then does not count.
            self.stood.retain(|key, then| lans.get(key).is_some_and(|lan| is_lost(lan, *then)));
            for key in self.stood.keys() {
                let why = lans.get(key).map(|lan| why(lan)).unwrap_or_default();
                waiting
                    .push(format!("LAN {key} stood when this daemon started, and does not any more: {why}"));
            }
        } else {
            waiting.push("the LANs have not been looked at yet".to_owned());
        }
        if let Some(kubelet) = kubelet {
            self.kubelet_reached |= now.reconciled && took_resources(kubelet);
            if !self.kubelet_reached {
                waiting.push(what_the_kubelet_lacks(kubelet));
            }
        }
        waiting
    }
}

/// Whether a LAN that was built in the generation `then` is not built now, and it is the daemon's fault.
fn is_lost(lan: &LanStatus, then: Option<i64>) -> bool {
    let excused = |kind| {
        condition(lan, kind)
            .is_some_and(|state| !state.is_true() && NOT_THE_DAEMONS.contains(&state.reason.as_str()))
    };
    !holds(lan, READY) && lan.observed_generation == then && !excused(ACCEPTED) && !excused(READY)
}

fn why(lan: &LanStatus) -> String {
    let refused = condition(lan, ACCEPTED).filter(|accepted| !accepted.is_true());
    refused.or_else(|| condition(lan, READY)).map(|state| state.message.clone()).unwrap_or_default()
}

/// Whether the kubelet runs and has registered what was offered; a refusal of one LAN's resource only concerns that
/// LAN.
fn took_resources(kubelet: &kubelet::Status) -> bool {
    kubelet.kubelet == KubeletState::Present
        && (kubelet.registered >= kubelet.wanted || (kubelet.registered > 0 && kubelet.problem.is_some()))
}

fn what_the_kubelet_lacks(kubelet: &kubelet::Status) -> String {
    let why = match (&kubelet.problem, &kubelet.kubelet) {
        (Some(problem), _) => problem.as_str(),
        (None, KubeletState::Absent) => "there is no kubelet.sock",
        (None, KubeletState::Refused(reason)) => reason.as_str(),
        (None, KubeletState::Present) => "the kubelet is being asked",
    };
    format!("{} of {} resources are registered with the kubelet: {why}", kubelet.registered, kubelet.wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A LAN, by its generation and its conditions `Accepted` and `Ready`: the reason if one is false.
    fn lan(name: &str, generation: i64, accepted: Option<&str>, ready: Option<&str>) -> serde_json::Value {
        let condition = |kind: &str, reason: Option<&str>| {
            json!({"type": kind, "status": if reason.is_none() { "True" } else { "False" },
                   "reason": reason.unwrap_or("Good"), "message": format!("{kind} {}", reason.unwrap_or("good"))})
        };
        json!({"lan": format!("a/{name}"), "observedGeneration": generation, "spokes": [],
               "conditions": [condition("Accepted", accepted), condition("Ready", ready)]})
    }

    fn status(lans: &[serde_json::Value]) -> NodeStatus {
        let status = serde_json::from_value(json!({"node": "n", "lans": lans})).unwrap();
        NodeStatus { reconciled: true, ..status }
    }

    fn kubelet(
        state: KubeletState,
        registered: usize,
        wanted: usize,
        problem: Option<&str>,
    ) -> kubelet::Status {
        kubelet::Status { kubelet: state, wanted, registered, problem: problem.map(str::to_owned) }
    }

    #[test]
    fn a_lan_that_never_stood_holds_nothing_back() {
        let now = status(&[
            lan("bad", 1, Some("Invalid"), Some("Refused")),
            lan("missing", 1, None, Some("UnderlayMissing")),
            lan("broken", 1, None, Some("BuildFailed")),
        ]);
        assert_eq!(Readiness::after(None).waiting(&now, None), Vec::<String>::new());
        // Nor one that was not built by the daemon before.
        assert_eq!(Readiness::after(Some(&now)).waiting(&now, None), Vec::<String>::new());
    }

    #[test]
    fn a_lan_that_stood_is_waited_for_until_it_stands() {
        let stood = status(&[lan("x", 3, None, None), lan("y", 1, None, None)]);
        for (accepted, ready, words) in [
            (None, Some("BuildFailed"), "Ready BuildFailed"),
            (None, Some("Waiting"), "Ready Waiting"),
            (Some("Invalid"), Some("Refused"), "Accepted Invalid"),
        ] {
            let mut readiness = Readiness::after(Some(&stood));
            let lost = status(&[lan("x", 3, accepted, ready), lan("y", 1, None, None)]);
            let waiting = readiness.waiting(&lost, None);
            assert_eq!(
                waiting,
                [format!("LAN a/x stood when this daemon started, and does not any more: {words}")]
            );
            assert!(readiness.waiting(&stood, None).is_empty());
            // Later failures have nothing to do with the start.
            assert!(readiness.waiting(&lost, None).is_empty());
        }
    }

    #[test]
    fn what_others_did_meanwhile_is_not_the_daemons_loss() {
        let stood = status(&[lan("x", 3, None, None)]);
        for now in [
            lan("x", 4, Some("Invalid"), Some("Refused")),
            lan("x", 4, None, Some("BuildFailed")),
            lan("x", 3, Some("Conflict"), Some("Refused")),
            lan("x", 3, None, Some("UnderlayMissing")),
            lan("x", 3, None, Some("NoRoom")),
            lan("z", 1, None, None),
        ] {
            assert!(
                Readiness::after(Some(&stood)).waiting(&status(std::slice::from_ref(&now)), None).is_empty(),
                "{now}"
            );
        }
    }

    #[test]
    fn the_first_pass_and_the_kubelet_are_waited_for_once() {
        let mut readiness = Readiness::after(None);
        let none = kubelet(KubeletState::Absent, 0, 0, None);
        let before = NodeStatus::default();
        assert_eq!(readiness.waiting(&before, Some(&none)).len(), 2);
        let now = status(&[]);
        assert_eq!(
            readiness.waiting(&now, Some(&none)),
            ["0 of 0 resources are registered with the kubelet: there is no kubelet.sock"]
        );
        let asked = kubelet(KubeletState::Present, 1, 2, None);
        assert_eq!(
            readiness.waiting(&now, Some(&asked)),
            ["1 of 2 resources are registered with the kubelet: the kubelet is being asked"]
        );
        // A refused resource only concerns its LAN.
        assert!(
            Readiness::after(None)
                .waiting(&now, Some(&kubelet(KubeletState::Present, 1, 2, Some("refused"))))
                .is_empty()
        );
        assert!(
            !Readiness::after(None)
                .waiting(&now, Some(&kubelet(KubeletState::Present, 0, 2, Some("refused"))))
                .is_empty()
        );
        assert!(readiness.waiting(&now, Some(&kubelet(KubeletState::Present, 2, 2, None))).is_empty());
        // A restart of the kubelet, or a later LAN, changes nothing.
        assert!(readiness.waiting(&now, Some(&none)).is_empty());
        assert!(readiness.waiting(&now, Some(&asked)).is_empty());
    }
}
