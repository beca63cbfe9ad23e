use std::collections::BTreeMap;

use lan::{
    ACCEPTED, Condition, Lan, LanKey, NetnsName, Obstacle, Plan, READY, SpokeReadiness, SpokeRecord, Step,
    TapIndex,
};
use net_types::{Attach, Mtu, SpokeName};

use super::decision::{Decisions, Goal, Refusal};
use super::desired_records::InUse;
use super::underlay::Underlay;
use super::{Declaration, Declared};
use proto::brief;
use proto::published::{LanStatus, NodeStatus, RemovedSpoke, SpokeStatus};

/// Whether an accepted LAN is built on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BuildState {
    mtu: Option<Mtu>,
    ready: Condition,
}

/// The reason of a LAN that names other nodes and not this one.
pub(super) const NO_UNDERLAY: &str = "NoUnderlay";

/// The known facts about the underlay.
#[derive(Clone, Debug, Default)]
struct UnderlayInfo {
    name: Option<String>,
    room: Option<Mtu>,
}

/// Collects the results of a reconcile for the status.
pub(super) struct StatusBuilder {
    status: NodeStatus,
    sources: BTreeMap<LanKey, (String, Option<i64>)>,
    states: BTreeMap<LanKey, (BuildState, UnderlayInfo)>,
    /// Namespaces that are removed or stay as they are, with their LANs and the reasons.
    others: Vec<(NetnsName, Option<LanKey>, &'static str, String)>,
    failed: BTreeMap<SpokeName, String>,
}

impl BuildState {
    pub(super) fn not_ready(reason: &'static str, message: String) -> Self {
        Self { mtu: None, ready: Condition::new(READY, false, reason, message) }
    }

    /// Whether the LAN is built.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.is_true()
    }

    /// The state after all steps that could be applied.
    pub(super) fn after(
        lan: &Lan,
        underlay: &Underlay,
        mtu: Result<Mtu, (&'static str, String)>,
        left: &Plan,
        error: Option<String>,
        deaf: bool,
    ) -> Self {
        if let Some(obstacle) = left.obstacles.iter().find(|obstacle| obstacle.blocks_lan()) {
            let message = format!("{}: {obstacle}", lan.netns.path().display());
            return Self::not_ready("Conflict", message);
        }
        if let Some(error) = error {
            // The kernel's own texts for a defective underlay are only "IPv6 support disabled by administrator" and
            // "No such device".
            let why = underlay.complaint(lan, false).map(|(_, why)| format!("; {why}")).unwrap_or_default();
            return Self::not_ready("BuildFailed", format!("{error}{why}"));
        }
        let mtu = match mtu {
            Ok(mtu) => mtu,
            Err((reason, message)) => return Self::not_ready(reason, message),
        };
        let undone = left.steps.iter().find(|step| !matches!(step, Step::RemoveSpoke(_)));
        if let Some(step) = undone {
            let message = format!("it does not stay as it is made; to do again: {step}");
            return Self { mtu: Some(mtu), ..Self::not_ready("Unstable", message) };
        }
        let mut message = format!("built, MTU {mtu}");
        let rest = left.obstacles.iter().map(|obstacle| match obstacle {
            Obstacle::NameTaken { .. } => format!("{}: {obstacle}", lan.netns.path().display()),
            _ => obstacle.to_string(),
        });
        // Pods of one node need no carrier: the LAN is ready, with the defect in the message.
        let (reason, complaint) = match underlay.complaint(lan, deaf) {
            Some((reason, complaint)) => (reason, Some(complaint)),
            None => ("Built", None),
        };
        for more in complaint.into_iter().chain(rest) {
            message.push_str("; ");
            message.push_str(&more);
        }
        Self { mtu: Some(mtu), ready: Condition::new(READY, true, reason, message) }
    }
}

impl StatusBuilder {
    pub(super) fn new(node: &str, declared: &Declared) -> Self {
        let status = NodeStatus {
            reconciled: true,
            node: node.to_owned(),
            lans: Vec::new(),
            unread: declared.unread.clone(),
            ignored: declared.ignored.clone(),
        };
        let source = |lan: &Declaration| (lan.source.clone(), lan.generation);
        let sources = declared.lans.iter().map(|(key, lan)| (key.clone(), source(lan))).collect();
        let (states, others, failed) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { status, sources, states, others, failed }
    }

    /// Sets the state of an accepted LAN.
    pub(super) fn set_state(&mut self, lan: &Lan, state: BuildState, underlay: Option<&Underlay>) {
        let below = UnderlayInfo {
            name: underlay.map(|underlay| underlay.name.to_string()),
            room: underlay.and_then(|underlay| underlay.room(lan)),
        };
        self.states.insert(lan.key.clone(), (state, below));
    }

    /// Adds a namespace that is being removed, with what is left in it.
    pub(super) fn add_removal(
        &mut self,
        name: &NetnsName,
        owner: Option<LanKey>,
        left: &Plan,
        error: Option<&str>,
    ) {
        let obstacles = left.obstacles.iter().map(ToString::to_string);
        let steps = left.steps.iter().map(|step| format!("still to do: {step}"));
        let why: Vec<String> = error.map(str::to_owned).into_iter().chain(obstacles).chain(steps).collect();
        if !why.is_empty() {
            self.others.push((name.clone(), owner, "Removing", why.join("; ")));
        }
    }

    /// Adds the namespaces that stay as they are.
    pub(super) fn add_left_as_is(
        &mut self,
        decisions: &Decisions,
        owner: impl Fn(&NetnsName) -> Option<LanKey>,
    ) {
        for (name, goal) in &decisions.namespaces {
            if let Goal::Leave(why) = goal {
                self.others.push((name.clone(), owner(name), "Left", why.clone()));
            }
        }
    }

    /// Adds that a spoke's record could not be written.
    pub(super) fn set_record_error(&mut self, spoke: &SpokeName, error: String) {
        self.failed.insert(spoke.clone(), error);
    }

    /// The state for the records of an accepted LAN's spokes.
    pub(super) fn spoke_state(&self, lan: &LanKey) -> Option<SpokeReadiness> {
        let (state, _) = self.states.get(lan)?;
        Some(match state.mtu.filter(|_| state.is_ready()) {
            Some(mtu) => SpokeReadiness::Ready { mtu },
            None => SpokeReadiness::NotReady { reason: state.ready.message.clone() },
        })
    }

    /// The complete status. `record` returns the record of a spoke, `tap` its index.
    pub(super) fn finish(
        mut self,
        decisions: &Decisions,
        in_use: &[InUse],
        record: impl Fn(&SpokeName) -> Option<SpokeRecord>,
        tap: impl Fn(&SpokeName) -> Option<TapIndex>,
    ) -> NodeStatus {
        let users: BTreeMap<&SpokeName, &str> =
            in_use.iter().map(|used| (&used.spoke, used.who.as_str())).collect();
        let spoke = |name: &SpokeName| (record(name), users.get(name).map(|who| (*who).to_owned()));
        for (key, lan) in &decisions.lans {
            let status = match lan {
                Ok(lan) => self.accepted(lan, in_use, &spoke),
                Err(refusal) => {
                    let stands = self.others.iter().find(|(_, owner, ..)| owner.as_ref() == Some(key));
                    let how = match stands {
                        Some((netns, _, "Left", _)) => {
                            format!(
                                "refused; what stands of it in {} is left as it is",
                                netns.path().display()
                            )
                        }
                        Some((_, _, _, why)) => format!("refused, and being removed: {why}"),
                        None => "refused".to_owned(),
                    };
                    LanStatus {
                        lan: key.clone(),
                        source: self.source(key),
                        observed_generation: self.generation(key),
                        netns: stands.map(|(netns, ..)| netns.to_string()),
                        conditions: self.conditions(
                            key,
                            Condition::new(ACCEPTED, false, refusal.reason, refusal.message.clone()),
                            Condition::new(READY, false, "Refused", how),
                        ),
                        underlay: None,
                        mtu: None,
                        room: None,
                        elsewhere: refusal.elsewhere,
                        spokes: refused_spokes((key, refusal), in_use, &spoke, &tap),
                        removed_spokes: Vec::new(),
                    }
                }
            };
            self.status.lans.push(status);
        }
        for (netns, owner, reason, why) in &self.others {
            let Some(key) = owner.as_ref().filter(|key| !decisions.lans.contains_key(key)) else { continue };
            self.status.lans.push(LanStatus {
                lan: key.clone(),
                source: None,
                observed_generation: None,
                netns: Some(netns.to_string()),
                conditions: vec![
                    Condition::new(ACCEPTED, false, "NotDeclared", "no file declares it"),
                    Condition::new(READY, false, *reason, why.clone()),
                ],
                underlay: None,
                mtu: None,
                room: None,
                elsewhere: false,
                spokes: Vec::new(),
                removed_spokes: removed_spokes(key, in_use, |used| used.netns == *netns),
            });
        }
        self.status.lans.sort_by(|a, b| (&a.lan, &a.netns).cmp(&(&b.lan, &b.netns)));
        self.status
    }

    fn source(&self, lan: &LanKey) -> Option<String> {
        self.sources.get(lan).map(|(source, _)| source.clone())
    }

    fn generation(&self, lan: &LanKey) -> Option<i64> {
        self.sources.get(lan).and_then(|(_, generation)| *generation)
    }

    /// The conditions of a declared LAN, with its generation.
    fn conditions(&self, lan: &LanKey, accepted: Condition, ready: Condition) -> Vec<Condition> {
        [accepted, ready].map(|condition| condition.observing(self.generation(lan))).into()
    }

    fn accepted(
        &self,
        lan: &Lan,
        in_use: &[InUse],
        spoke: &impl Fn(&SpokeName) -> (Option<SpokeRecord>, Option<String>),
    ) -> LanStatus {
        let nothing = || BuildState::not_ready("Waiting", "not looked at yet".to_owned());
        let (mut state, below) =
            self.states.get(&lan.key).cloned().unwrap_or_else(|| (nothing(), UnderlayInfo::default()));
        for (netns, owner, _, why) in &self.others {
            if owner.as_ref() == Some(&lan.key) {
                state.ready.message.push_str(&format!("; its former namespace {netns}: {why}"));
            }
        }
        let spokes = lan.spokes.iter().filter_map(|(name, how)| {
            let (record, used_by) = spoke(name);
            let record = record?;
            let reason = match (self.failed.get(name), &record.state) {
                (Some(error), _) => Some(error.clone()),
                (None, SpokeReadiness::NotReady { reason }) => Some(reason.clone()),
                (None, SpokeReadiness::Ready { .. }) => None,
            };
            Some(SpokeStatus {
                name: name.clone(),
                attach: how.attach,
                tap_index: record.tap_index,
                k8slanveth: record.k8slanveth,
                ready: reason.is_none(),
                reason,
                used_by,
            })
        });
        let is_there = |used: &InUse| used.netns == lan.netns && lan.spokes.contains_key(&used.spoke);
        LanStatus {
            elsewhere: state.ready.reason == NO_UNDERLAY,
            removed_spokes: removed_spokes(&lan.key, in_use, |used| !is_there(used)),
            lan: lan.key.clone(),
            source: self.source(&lan.key),
            observed_generation: self.generation(&lan.key),
            netns: Some(lan.netns.to_string()),
            conditions: self.conditions(
                &lan.key,
                Condition::new(
                    ACCEPTED,
                    true,
                    "Accepted",
                    "the spec is valid and conflicts with no other LAN",
                ),
                state.ready,
            ),
            underlay: below.name,
            mtu: state.mtu,
            room: below.room,
            spokes: spokes.collect(),
        }
    }
}

/// Spokes that pods use and that the LAN does not list any more.
fn removed_spokes(lan: &LanKey, in_use: &[InUse], is_removed: impl Fn(&InUse) -> bool) -> Vec<RemovedSpoke> {
    let left = in_use.iter().filter(|used| used.lan.as_ref() == Some(lan) && is_removed(used));
    left.map(|used| RemovedSpoke { name: used.spoke.clone(), used_by: used.who.clone() }).collect()
}

/// The longest part of a LAN's message that each of its spokes repeats, in bytes.
const MAX_REASON: usize = 160;

/// The spokes of a refused LAN, so that the kubelet knows them as existing but unhealthy. Spokes in use are included
/// even if the refused LAN does not list them: existing links are left as they are, and pods are attached to them.
fn refused_spokes(
    (lan, refusal): (&LanKey, &Refusal),
    in_use: &[InUse],
    spoke: &impl Fn(&SpokeName) -> (Option<SpokeRecord>, Option<String>),
    tap: &impl Fn(&SpokeName) -> Option<TapIndex>,
) -> Vec<SpokeStatus> {
    let used = in_use.iter().filter(|used| used.lan.as_ref() == Some(lan));
    let used = used.filter_map(|used| Some((used.spoke.clone(), spoke(&used.spoke).0?.attach)));
    let mut spokes: BTreeMap<SpokeName, Attach> = used.collect();
    spokes.extend(refusal.spokes.iter().map(|(name, attach)| (name.clone(), *attach)));
    let spokes = spokes.into_iter().filter_map(|(name, attach)| {
        Some(SpokeStatus {
            tap_index: tap(&name)?,
            used_by: spoke(&name).1,
            name,
            attach,
            k8slanveth: false,
            ready: false,
            reason: Some(format!("its LAN is not accepted: {}", brief(&refusal.message, MAX_REASON))),
        })
    });
    spokes.collect()
}
