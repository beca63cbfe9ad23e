mod groups;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lan::{Desired, Lan, NetnsName, Plan, Step, diff, drift};
use netplumb::{Netlink, Netns};
use nix::errno::Errno;
use node::{Paths, SafeDir};

use crate::lans::Declared;
use crate::lans::apply::Apply;
use crate::lans::decision::{Decisions, Goal, decide};
use crate::lans::namespaces::Namespaces;
use crate::lans::records::Records;
use crate::lans::repair_log::RepairLog;
use crate::lans::status_builder::{BuildState, NO_UNDERLAY, StatusBuilder};
use crate::lans::taps::Taps;
use crate::lans::underlay::{FrameTakers, Underlay, UnderlayCache};
use crate::udp_port::{PortHolder, find_port_holder};
use proto::events::Dirty;
use proto::published::NodeStatus;

use groups::GroupState;

/// The result of a reconcile.
pub struct Outcome {
    /// The status to publish.
    pub status: NodeStatus,
    /// The namespaces to monitor.
    pub netns: BTreeMap<NetnsName, Netns>,
    /// When to reconcile again although nothing changed, since something failed.
    pub retry: Option<Duration>,
    /// The number of LANs that are new or changed, and are now as declared.
    pub built: usize,
    /// The number of complete LANs that somebody else had changed, and that were repaired.
    pub repaired: usize,
}

/// Keeps the LANs of this node as declared.
pub struct Reconciler {
    node: String,
    /// Whether the kubelet gives out the spokes.
    kubelet: bool,
    /// Whether the type `k8slanveth` of k8slan (Go) is switched on.
    k8slan_go: bool,
    host: Netlink,
    /// The folder with the record of the underlays.
    run: SafeDir,
    /// Which links or devices take all frames of a link of the node.
    frame_takers: FrameTakers,
    taps: Taps,
    records: Records,
    namespaces: Namespaces,
    /// Namespaces in which a pod must be gone before the next step.
    waiting: BTreeSet<NetnsName>,
    /// The number of consecutive failures, by namespace.
    failures: BTreeMap<NetnsName, u32>,
    /// The last desired state of each namespace that was reached completely.
    made: BTreeMap<NetnsName, Desired>,
    repair_log: RepairLog,
    /// Groups that a link was made to join again, until it has.
    rejoined: BTreeSet<(u32, Ipv6Addr)>,
}

/// The result of a reconcile for one LAN.
enum BuildOutcome {
    /// It was new or changed, and is now as declared.
    Built,
    /// Somebody else had changed it, and it was repaired.
    Repaired,
    /// Nothing was done, or not everything yet.
    Unchanged,
}

/// What was done in one namespace.
struct Applied {
    /// The steps except those that remove what pods left.
    worked: Vec<Step>,
    /// The steps that remain.
    left: Plan,
    error: Option<String>,
    postponed: bool,
}

impl Reconciler {
    /// Reads what an earlier daemon left on this node.
    ///
    /// # Errors
    /// A folder, a file or netlink cannot be used.
    pub fn open(node: String, paths: &Paths, kubelet: bool, k8slan_go: bool) -> Result<Self> {
        Ok(Self {
            node,
            kubelet,
            k8slan_go,
            host: Netlink::open_current()?,
            run: SafeDir::create(paths.run())?,
            frame_takers: FrameTakers::default(),
            taps: Taps::open(paths.state())?,
            records: Records::open(paths.spokes())?,
            namespaces: Namespaces::open(paths.run().join("netns"))?,
            waiting: BTreeSet::new(),
            failures: BTreeMap::new(),
            made: BTreeMap::new(),
            repair_log: RepairLog::default(),
            rejoined: BTreeSet::new(),
        })
    }

    /// Observes what changed, decides, and applies the steps.
    ///
    /// # Errors
    /// Only errors about the node as a whole; an error about one LAN is in the status.
    pub fn reconcile(&mut self, declared: &Declared, dirty: &Dirty) -> Result<Outcome> {
        self.observe(dirty)?;
        let mut decisions = self.decide(declared);
        self.taps.assign(decisions.spokes())?;

        if dirty.underlays || dirty.declared || dirty.everything {
            self.frame_takers = FrameTakers::read(&self.host)?;
        }
        // Before anything is built on a link: from then on no plugin takes it.
        let unrecorded = self.record_underlays(&decisions)?;

        // No pod is attached to what is about to be removed.
        let mut report = StatusBuilder::new(&self.node, declared);
        self.write_records(&decisions, &mut report, false);
        let going = goals(&decisions, |goal| *goal == Goal::Remove);
        for name in &going {
            let done = self.apply_plan(name, None);
            let owner = self.namespaces.observed(name).and_then(|there| there.owner().cloned());
            report.add_removal(name, owner, &done.left, done.error.as_deref());
            self.count_failures(name, &done);
        }
        if !going.is_empty() {
            decisions = self.decide(declared);
        }

        self.waiting.clear();
        let (mut built, mut repaired) = (0, 0);
        // After the underlays are recorded: a plugin that took one of them did it before it could read the record,
        // and is seen here.
        let mut underlays = UnderlayCache::new(self.frame_takers.clone());
        let group_states = self.rejoin_groups(&decisions, &mut underlays)?;
        for lan in decisions.lans.values().flatten() {
            if let Some(error) = &unrecorded {
                report.set_state(lan, BuildState::not_ready("BuildFailed", error.clone()), None);
                continue;
            }
            match self.build(lan, &decisions, (&mut underlays, group_states.get(&lan.key)), &mut report)? {
                BuildOutcome::Built => built += 1,
                BuildOutcome::Repaired => repaired += 1,
                BuildOutcome::Unchanged => {}
            }
        }
        self.write_records(&decisions, &mut report, true);
        report.add_left_as_is(&decisions, |name| {
            self.namespaces.observed(name).and_then(|there| there.owner().cloned())
        });
        self.waiting.extend(going);
        // A LAN that was removed has no underlay any more.
        let unrecorded = self.record_underlays(&decisions)?.or(unrecorded);
        let status = report.finish(
            &decisions,
            &self.in_use(),
            |spoke| self.records.get(spoke).cloned(),
            |spoke| self.taps.get(spoke),
        );

        let wanted: BTreeSet<&NetnsName> = decisions.namespaces.keys().collect();
        if let Err(error) = self.namespaces.forget_empty(|name| wanted.contains(name)) {
            tracing::warn!("{error:#}");
        }
        self.failures.retain(|name, _| wanted.contains(name));
        self.made.retain(|name, _| wanted.contains(name));
        Ok(Outcome {
            status,
            netns: self
                .namespaces
                .all_held()
                .map(|(name, held)| (name.clone(), held.netns.clone()))
                .collect(),
            retry: self
                .failures
                .values()
                .copied()
                .max()
                .map(retry_delay)
                .or(unrecorded.map(|_| retry_delay(u32::MAX))),
            built,
            repaired,
        })
    }

    fn observe(&mut self, dirty: &Dirty) -> Result<()> {
        if dirty.names || dirty.everything {
            self.namespaces.locate_all();
            for name in &self.waiting {
                self.namespaces.mark_stale(name);
            }
        }
        for name in &dirty.netns {
            self.namespaces.mark_stale(name);
        }
        if dirty.everything {
            self.namespaces.mark_all_stale();
        }
        if dirty.records || dirty.everything {
            self.records.reload()?;
        } else {
            // The daemon wrote most of them itself.
            dirty.record_files.iter().for_each(|name| self.records.read(name));
        }
        self.namespaces.refresh();
        Ok(())
    }

    fn decide(&mut self, declared: &Declared) -> Decisions {
        // Also for LANs that are not accepted: what exists may be of an earlier declaration.
        let lans = declared.lans.values().filter_map(|declaration| declaration.lan.as_ref().ok());
        for lan in lans {
            self.namespaces.ensure_located(&lan.netns);
        }
        self.namespaces.refresh();
        decide(&self.node, declared, &self.namespaces.standing(), &self.records.lans())
    }

    /// Applies the plan for a namespace, and observes the result.
    fn apply_plan(&mut self, name: &NetnsName, desired: Option<&Desired>) -> Applied {
        let failed = |left, error| Applied { worked: Vec::new(), left, error: Some(error), postponed: false };
        if let Some(trouble) = self.namespaces.trouble(name) {
            return failed(Plan::default(), trouble.to_owned());
        }
        let plan = self.plan(name, desired);
        if plan.steps.is_empty() {
            return Applied { worked: Vec::new(), left: plan, error: None, postponed: false };
        }
        if desired.is_some()
            && let Err(error) = self.namespaces.remember(name).context("remember the namespace's name")
        {
            return failed(plan, format!("{error:#}"));
        }
        for step in &plan.steps {
            tracing::debug!(netns = %name, "{step}");
        }
        let apply = Apply {
            name,
            host: &self.host,
            locks: self.records.dir(),
            spoke_of_port: &|port| self.taps.spoke_of_port(port),
        };
        let (applied, mut result) = apply.run(self.namespaces.held(name), &plan.steps);
        if let Some(held) = applied.made {
            self.namespaces.hold(name, held);
        }
        if applied.removed {
            let forgotten = self.namespaces.forget(name).context("forget the namespace's name");
            result = result.and(forgotten);
        }
        self.namespaces.locate(name);
        self.namespaces.refresh();
        let trouble = self.namespaces.trouble(name).map(str::to_owned);
        let error = result.err().map(|error| self.explain(&error, desired)).or(trouble);
        let worked = pending_steps(&plan).cloned().collect();
        Applied { worked, left: self.plan(name, desired), error, postponed: applied.postponed }
    }

    /// The text of an error; if it is only an error number, with the likely reason.
    fn explain(&self, error: &anyhow::Error, desired: Option<&Desired>) -> String {
        let text = format!("{error:#}");
        let number = error.downcast_ref::<netplumb::Error>().and_then(netplumb::Error::errno);
        match (number, desired, self.host.links()) {
            (Some(Errno::EADDRINUSE), Some(desired), Ok(links)) => {
                let PortHolder { who, advice } =
                    find_port_holder(desired.port, desired.group.get().is_ipv6(), &links);
                format!("{text}: UDP port {} is taken: {who}; {advice}", desired.port)
            }
            _ => text,
        }
    }

    fn plan(&self, name: &NetnsName, desired: Option<&Desired>) -> Plan {
        match self.namespaces.observed(name) {
            Some(observed) => diff(desired, observed),
            None => diff(desired, &lan::Observed::absent()),
        }
    }

    fn build(
        &mut self,
        lan: &Lan,
        decisions: &Decisions,
        (underlays, group_states): (&mut UnderlayCache, Option<&GroupState>),
        report: &mut StatusBuilder,
    ) -> Result<BuildOutcome> {
        let Some(underlay) = Underlay::find(lan, &self.node, &self.host, underlays)? else {
            let message = format!(
                "the LAN has no underlay on node {}: name one in vxlanDevMap or defaultVxlanDev",
                self.node
            );
            report.set_state(lan, BuildState::not_ready(NO_UNDERLAY, message), None);
            return Ok(BuildOutcome::Unchanged);
        };
        let mtu = underlay.mtu(lan);
        if let Some(goal) = decisions.namespaces.get(&lan.netns)
            && *goal != Goal::Build(lan.key.clone())
        {
            let message = format!("{}: what stands there has to go first", lan.netns.path().display());
            report.set_state(lan, BuildState::not_ready("Conflict", message), Some(&underlay));
            return Ok(BuildOutcome::Unchanged);
        }
        let desired = self.desired(lan, &underlay, mtu.as_ref().ok().copied());
        let done = self.apply_plan(&lan.netns, Some(&desired));
        self.count_failures(&lan.netns, &done);
        if done.left.obstacles.iter().any(|obstacle| matches!(obstacle, lan::Obstacle::Held { .. })) {
            self.waiting.insert(lan.netns.clone());
        }
        let state = BuildState::after(
            lan,
            &underlay,
            mtu,
            &done.left,
            done.error,
            group_states == Some(&GroupState::NotJoined),
        );
        let is_ready = state.is_ready();
        report.set_state(lan, state, Some(&underlay));
        if !is_ready {
            return Ok(BuildOutcome::Unchanged);
        }
        let before = self.made.insert(lan.netns.clone(), desired.clone());
        if done.worked.is_empty() {
            return Ok(BuildOutcome::Unchanged);
        }
        let is_new = before != Some(desired);
        match group_states {
            Some(GroupState::Rejoining(group)) => {
                self.repair_log.log(&lan.key, &format!("underlay {} had left group {group}", underlay.name));
            }
            _ if is_new => {}
            _ => self.repair_log.log(&lan.key, &drift(&done.worked)),
        }
        Ok(if is_new { BuildOutcome::Built } else { BuildOutcome::Repaired })
    }

    fn desired(&self, lan: &Lan, underlay: &Underlay, mtu: Option<net_types::Mtu>) -> Desired {
        let ports = lan.spokes.keys().filter_map(|spoke| {
            let port = self.taps.get(spoke)?.port_name();
            Some((spoke.clone(), port))
        });
        Desired {
            lan: lan.key.clone(),
            bridge: lan.bridge.clone(),
            vxlan: lan.vxlan.clone(),
            vni: lan.vni,
            group: lan.group,
            port: lan.port,
            underlay: underlay.link.as_ref().map(|link| link.index),
            mtu,
            spokes: ports.collect(),
        }
    }

    /// Counts failures, so that what fails repeatedly is retried less and less often.
    fn count_failures(&mut self, name: &NetnsName, done: &Applied) {
        if done.error.is_some() || done.postponed || pending_steps(&done.left).next().is_some() {
            *self.failures.entry(name.clone()).or_default() += 1;
        } else {
            self.failures.remove(name);
        }
    }
}

/// The steps of a plan except those that remove what pods left.
fn pending_steps(plan: &Plan) -> impl Iterator<Item = &Step> {
    plan.steps.iter().filter(|step| !matches!(step, Step::RemoveSpoke(_)))
}

fn goals(decisions: &Decisions, wanted: impl Fn(&Goal) -> bool) -> Vec<NetnsName> {
    decisions.namespaces.iter().filter(|(_, goal)| wanted(goal)).map(|(name, _)| name.clone()).collect()
}

/// 100 ms after the first failure, twice as long after each further one, 30 s at most.
fn retry_delay(failures: u32) -> Duration {
    let doubled = 100_u64 << failures.saturating_sub(1).min(10);
    Duration::from_millis(doubled.min(30_000))
}
