use std::collections::BTreeMap;

use lan::observed::LinkKind;
use lan::{Lan, LanKey, NetnsName, Observed, SpokeReadiness, SpokeRecord, TapIndex};
use net_types::{Attach, IfName, MacvtapMode, SpokeName};

use super::decision::{Decisions, Goal};
use super::records::Records;
use proto::k8slan_go::takes_veths;

/// A spoke that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InUse {
    pub(super) spoke: SpokeName,
    /// The namespace that its links are in.
    pub(super) netns: NetnsName,
    /// The LAN of this namespace.
    pub(super) lan: Option<LanKey>,
    pub(super) bridge: Option<IfName>,
    pub(super) who: String,
}

/// The input from which the records are computed.
pub(super) struct DesiredRecords<'a> {
    pub(super) decisions: &'a Decisions,
    /// Whether the kubelet gives out the spokes.
    pub(super) kubelet: bool,
    /// Whether the type `k8slanveth` of k8slan (Go) is switched on.
    pub(super) k8slan_go: bool,
    pub(super) in_use: &'a [InUse],
    /// The existing records.
    pub(super) there: &'a Records,
    /// The tap index of every spoke that has one.
    pub(super) tap: &'a dyn Fn(&SpokeName) -> Option<TapIndex>,
    /// Whether a LAN is built; `None` if that is not known yet, and a record keeps its state.
    pub(super) state: &'a dyn Fn(&Lan) -> Option<SpokeReadiness>,
}

impl DesiredRecords<'_> {
    /// The desired records.
    pub(super) fn wanted(&self) -> BTreeMap<SpokeName, SpokeRecord> {
        let mut wanted = self.records_of_left_namespaces();
        wanted.extend(self.accepted());
        wanted.extend(self.held());
        wanted
    }

    /// The records for namespaces that stay as they are: no new pod is admitted, and DEL still works.
    fn records_of_left_namespaces(&self) -> BTreeMap<SpokeName, SpokeRecord> {
        let mut records = BTreeMap::new();
        for (netns, goal) in &self.decisions.namespaces {
            let Goal::Leave(why) = goal else { continue };
            for record in self.there.all().filter(|record| record.netns == netns.path()) {
                let reason = format!("the LAN stands, but takes no pods: {why}");
                let record = SpokeRecord { state: SpokeReadiness::NotReady { reason }, ..record.clone() };
                records.insert(record.spoke.clone(), record);
            }
        }
        records
    }

    fn accepted(&self) -> BTreeMap<SpokeName, SpokeRecord> {
        let mut records = BTreeMap::new();
        for lan in self.decisions.lans.values().flatten() {
            let state = (self.state)(lan);
            for (spoke, how) in &lan.spokes {
                let Some(tap_index) = (self.tap)(spoke) else { continue };
                let before = self.there.get(spoke).filter(|record| {
                    record.lan == lan.key && record.netns == lan.netns.path() && record.bridge == lan.bridge
                });
                let building = || SpokeReadiness::NotReady { reason: "the LAN is being built".to_owned() };
                let state = state
                    .clone()
                    .or_else(|| before.map(|record| record.state.clone()))
                    .unwrap_or_else(building);
                let record = SpokeRecord {
                    lan: lan.key.clone(),
                    spoke: spoke.clone(),
                    netns: lan.netns.path(),
                    bridge: lan.bridge.clone(),
                    tap_index,
                    attach: how.attach,
                    mode: how.mode,
                    allowed_namespaces: lan
                        .allowed_namespaces
                        .as_ref()
                        .map(|set| set.iter().cloned().collect()),
                    kubelet: self.kubelet,
                    k8slanveth: self.k8slan_go && takes_veths(how),
                    state,
                };
                records.insert(spoke.clone(), record);
            }
        }
        records
    }

    /// The records for spokes that a pod still uses in a former place. Two macvtaps with one index would give the
    /// second pod the first one's LAN, so a spoke waits until the pod is gone, wherever it is to be next.
    fn held(&self) -> BTreeMap<SpokeName, SpokeRecord> {
        let mut records = BTreeMap::new();
        for used in self.in_use {
            if self.is_at_home(used) {
                continue;
            }
            let (Some(lan), Some(tap_index)) = (used.lan.clone(), (self.tap)(&used.spoke)) else { continue };
            let path = used.netns.path();
            let reason =
                format!("spoke {} is still used by {} on LAN {lan}, which it left", used.spoke, used.who);
            let state = SpokeReadiness::NotReady { reason };
            let before = self.there.get(&used.spoke).filter(|record| record.netns == path);
            let record = match (before, &used.bridge) {
                (Some(before), _) => SpokeRecord { state, ..before.clone() },
                (None, Some(bridge)) => SpokeRecord {
                    lan,
                    spoke: used.spoke.clone(),
                    netns: path,
                    bridge: bridge.clone(),
                    tap_index,
                    attach: Attach::Macvtap,
                    mode: MacvtapMode::Passthru,
                    allowed_namespaces: Some(Vec::new()),
                    kubelet: self.kubelet,
                    k8slanveth: false,
                    state,
                },
                (None, None) => continue,
            };
            records.insert(used.spoke.clone(), record);
        }
        records
    }

    /// Whether a spoke is used in its declared place, or in one that stays as it is.
    fn is_at_home(&self, used: &InUse) -> bool {
        match self.decisions.namespaces.get(&used.netns) {
            Some(Goal::Build(key)) => {
                let lan = self.decisions.lans.get(key).and_then(|lan| lan.as_ref().ok());
                lan.is_some_and(|lan| lan.spokes.contains_key(&used.spoke))
            }
            Some(Goal::Leave(_)) => !self.is_wanted_elsewhere(used),
            Some(Goal::Remove) | None => false,
        }
    }

    fn is_wanted_elsewhere(&self, used: &InUse) -> bool {
        let mut accepted = self.decisions.lans.values().flatten();
        accepted.any(|lan| lan.netns != used.netns && lan.spokes.contains_key(&used.spoke))
    }
}

/// Our bridge in a namespace.
pub(super) fn bridge(observed: &Observed) -> Option<IfName> {
    let bridge =
        observed.links.iter().find(|link| link.is_ours() && matches!(link.kind, LinkKind::Bridge { .. }))?;
    bridge.if_name()
}

#[cfg(test)]
mod tests {
    use lan::LanSpec;

    use super::*;
    use crate::lans::decision::Refusal;

    fn key(name: &str) -> LanKey {
        format!("t/{name}").parse().unwrap()
    }

    fn lan(name: &str, ns: &str, spokes: &[&str]) -> Lan {
        let spec: LanSpec = serde_json::from_value(serde_json::json!({
            "ns": ns, "bridge": "br", "vxlan": "vx", "vni": 1, "defaultVxlanDev": "eth0", "spokes": spokes,
            "allowedNamespaces": ["web"],
        }))
        .unwrap();
        Lan::new(key(name), &spec).unwrap()
    }

    fn used(spoke: &str, ns: &str, of: &str) -> InUse {
        InUse {
            spoke: spoke.parse().unwrap(),
            netns: ns.parse().unwrap(),
            lan: Some(key(of)),
            bridge: Some("br".parse().unwrap()),
            who: "pod web/nginx".into(),
        }
    }

    /// Decisions with these built LANs and these other goals.
    fn decisions(built: &[Lan], others: &[(&str, Goal)]) -> Decisions {
        let mut decisions = Decisions::default();
        for lan in built {
            decisions.lans.insert(lan.key.clone(), Ok(lan.clone()));
            decisions.namespaces.insert(lan.netns.clone(), Goal::Build(lan.key.clone()));
        }
        let others = others.iter().map(|(ns, goal)| (ns.parse().unwrap(), goal.clone()));
        decisions.namespaces.extend(others);
        decisions
    }

    type There = BTreeMap<SpokeName, SpokeRecord>;

    fn wanted(decisions: &Decisions, in_use: &[InUse], there: &There, mtu: Option<u64>) -> There {
        let tap = |spoke: &SpokeName| TapIndex::try_from((1 << 30) + spoke.as_str().len() as u32).ok();
        let state = |_: &Lan| mtu.map(|mtu| SpokeReadiness::Ready { mtu: mtu.try_into().unwrap() });
        let there = &Records::from_map(there);
        DesiredRecords { decisions, kubelet: false, k8slan_go: true, in_use, there, tap: &tap, state: &state }
            .wanted()
    }

    fn record_of<'a>(records: &'a There, spoke: &str) -> &'a SpokeRecord {
        &records[&spoke.parse::<SpokeName>().unwrap()]
    }

    fn reason(record: &SpokeRecord) -> &str {
        match &record.state {
            SpokeReadiness::NotReady { reason } => reason,
            SpokeReadiness::Ready { .. } => panic!("{record:?}"),
        }
    }

    #[test]
    fn a_built_lans_spokes_are_ready_and_nothing_is_promised_before() {
        let built = decisions(&[lan("a", "n", &["p", "q"])], &[]);
        let before = wanted(&built, &[], &There::new(), None);
        assert_eq!(reason(record_of(&before, "p")), "the LAN is being built");
        let ready = wanted(&built, &[], &before, Some(1426));
        assert_eq!(record_of(&ready, "q").state, SpokeReadiness::Ready { mtu: 1426.try_into().unwrap() });
        assert_eq!(record_of(&ready, "q").allowed_namespaces.as_deref(), Some(&["web".to_owned()][..]));
        // The state stays while the LAN is checked again, but not for another bridge.
        assert_eq!(wanted(&built, &[], &ready, None), ready);
        let mut other = lan("a", "n", &["p"]);
        other.bridge = "other".parse().unwrap();
        reason(record_of(&wanted(&decisions(&[other], &[]), &[], &ready, None), "p"));
    }

    #[test]
    fn a_spoke_that_nobody_wants_has_no_record_unless_a_pod_has_it() {
        let there = wanted(&decisions(&[lan("a", "n", &["p"])], &[]), &[], &There::new(), Some(1426));
        let without = decisions(&[lan("a", "n", &[])], &[]);
        assert_eq!(wanted(&without, &[], &there, Some(1426)), There::new());
        let held = wanted(&without, &[used("p", "n", "a")], &there, Some(1426));
        assert!(reason(record_of(&held, "p")).contains("still used by pod web/nginx on LAN t/a"));
        // Also without the former record.
        let again = wanted(&without, &[used("p", "n", "a")], &There::new(), Some(1426));
        assert_eq!(record_of(&again, "p").allowed_namespaces, Some(Vec::new()));
    }

    #[test]
    fn a_spoke_in_use_waits_wherever_it_is_wanted_next() {
        let moved = decisions(&[lan("b", "m", &["p"])], &[("n", Goal::Remove)]);
        let records = wanted(&moved, &[used("p", "n", "a")], &There::new(), Some(1426));
        assert_eq!(record_of(&records, "p").lan, key("a"));
        assert!(reason(record_of(&records, "p")).contains("still used"));
        assert_eq!(record_of(&wanted(&moved, &[], &records, Some(1426)), "p").lan, key("b"));
        // In its declared place it is as ready as any.
        let home = wanted(&moved, &[used("p", "m", "b")], &There::new(), Some(1426));
        assert_eq!(record_of(&home, "p").state, SpokeReadiness::Ready { mtu: 1426.try_into().unwrap() });
    }

    #[test]
    fn what_is_left_as_it_stands_takes_nobody_in() {
        let there = wanted(&decisions(&[lan("a", "n", &["p"])], &[]), &[], &There::new(), Some(1426));
        let mut left = decisions(&[], &[("n", Goal::Leave("vni: nonsense".into()))]);
        let refusal = Refusal {
            reason: "Invalid",
            message: "vni: nonsense".into(),
            spokes: BTreeMap::new(),
            elsewhere: false,
        };
        left.lans.insert(key("a"), Err(refusal));
        for in_use in [&[][..], &[used("p", "n", "a")]] {
            let records = wanted(&left, in_use, &there, None);
            assert_eq!(reason(record_of(&records, "p")), "the LAN stands, but takes no pods: vni: nonsense");
            assert_eq!(record_of(&records, "p").netns, record_of(&there, "p").netns);
        }
        // A spoke that another LAN lists by now, and no pod uses, belongs to that LAN.
        left.lans.insert(key("b"), Ok(lan("b", "m", &["p"])));
        assert_eq!(record_of(&wanted(&left, &[], &there, Some(1426)), "p").lan, key("b"));
        let used = wanted(&left, &[used("p", "n", "a")], &there, Some(1426));
        assert!(reason(record_of(&used, "p")).contains("still used"));
    }
}
