//! Removes what pods left behind.
//!
//! Multus calls no secondary plugin for a pod whose DEL was lost. So after pods or namespaces were deleted, the
//! daemon looks itself: an attachment with a pod's UID is a suspect if the API server does not know the pod any more
//! and its network namespace (path and inode) is gone. What still is so after a grace period is removed by the
//! plugins' own DEL and by `ipam-pool sweep`: this module removes nothing by itself.
//!
//! Attachments without a pod's UID (podman, ctr) are ignored. While the API server does not answer, nothing is swept.

mod candidates;
mod suspects;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use node::{NETNS_DIR, Paths};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::attachments::{AttachmentKey, Leases, PluginPrograms, StickyOwner, Traces};
use crate::cluster_objects::LivePods;
use proto::events::{Dirty, FileWatch, Wake, WatchedFolder};
use proto::health::Metrics;
use proto::published::VmNames;

use candidates::Candidates;
pub(crate) use candidates::boottime_ms;
use suspects::Suspects;

/// The grace period of a suspect. A runtime's own DEL comes within seconds.
const GRACE: Duration = Duration::from_secs(60);
/// Replaces the grace period, in milliseconds, in tests; only root can set it for the daemon.
const GRACE_VARIABLE: &str = "K8SLAN_SWEEP_GRACE_MS";

/// Changes come in bursts: those within this time cause one sweep.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// Leases of other main plugins have no event when they become stale.
const FULL_SWEEP_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);

/// The sweep of one node.
pub struct Sweep {
    paths: Paths,
    cluster: ClusterView,
    programs: PluginPrograms,
    suspects: Suspects,
    metrics: Arc<Metrics>,
    settle: Duration,
    /// The pods in the last sweep, and when leases were last read.
    before: BTreeSet<String>,
    leases_at: Option<Instant>,
    /// When stores without leases were last removed: at the daemon's start first.
    stores_at: Instant,
    /// The virtual machines that were gone in the last sweep.
    deleted_vms: VmNames,
}

/// What the sweep hears from the cluster's part, and what it tells it.
pub struct ClusterView {
    pub live_pods: watch::Receiver<LivePods>,
    /// Virtual machines that addresses are kept for and that were deleted.
    pub deleted_vms: watch::Receiver<VmNames>,
    /// Virtual machines that addresses are kept for while no pod runs them here.
    pub sticky_vms: watch::Sender<VmNames>,
}

/// How long something must be gone before what it left is removed.
pub fn grace() -> Duration {
    let asked = std::env::var(GRACE_VARIABLE).ok().and_then(|text| text.parse().ok());
    asked.map_or(GRACE, Duration::from_millis)
}

impl Sweep {
    /// A sweep with its grace period.
    pub fn new(paths: Paths, cluster: ClusterView, metrics: Arc<Metrics>) -> Self {
        let grace = grace();
        let programs = PluginPrograms::new(paths.run().to_owned());
        let (before, leases_at) = (BTreeSet::new(), None);
        let suspects = Suspects::new(grace);
        let (settle, deleted_vms) = (DEBOUNCE.min(grace), VmNames::new());
        let stores_at = Instant::now();
        Self {
            paths,
            cluster,
            programs,
            suspects,
            metrics,
            settle,
            before,
            leases_at,
            stores_at,
            deleted_vms,
        }
    }

    /// Sweeps until the daemon ends.
    ///
    /// # Errors
    /// The folders cannot be watched.
    pub async fn run(self) -> Result<()> {
        let wake = Wake::default();
        let changed = Dirty { names: true, ..Dirty::default() };
        let folders = vec![WatchedFolder::new(NETNS_DIR, |_| true, changed)];
        let files = FileWatch::start(folders, wake.clone())?;
        let (mut pods, mut vms) = (self.cluster.live_pods.clone(), self.cluster.deleted_vms.clone());
        let mut own = Some(self);
        loop {
            files.add_missing_watches();
            wake.take_changes();
            pods.mark_unchanged();
            vms.mark_unchanged();
            let mut sweep = own.take().context("the last look did not come back")?;
            // Netlink and other processes, on a thread where nothing else waits for them.
            let look = tokio::task::spawn_blocking(move || {
                let next = sweep.sweep_once();
                (sweep, next)
            });
            let (sweep, next) = look.await.context("a look for what pods left")?;
            let settle = sweep.settle;
            own = Some(sweep);
            let due = async {
                match next {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wake.wait() => tokio::time::sleep(settle).await,
                Ok(()) = pods.changed() => tokio::time::sleep(settle).await,
                Ok(()) = vms.changed() => tokio::time::sleep(settle).await,
                () = due => {}
            }
        }
    }

    /// One sweep; returns when the next one is due although nothing changes.
    fn sweep_once(&mut self) -> Option<Instant> {
        let again = Instant::now() + self.suspects.grace();
        match self.try_sweep() {
            Ok(next) => next,
            Err(error) => {
                self.metrics.sweep_errors.increment();
                tracing::warn!("cannot look for what pods left behind: {error:#}");
                Some(again)
            }
        }
    }

    fn try_sweep(&mut self) -> Result<Option<Instant>> {
        let Some(pods) = self.cluster.live_pods.borrow().clone() else {
            self.suspects.clear();
            return Ok(None);
        };
        let deleted_vms = self.cluster.deleted_vms.borrow().clone();
        let (as_of, now) = (boottime_ms(), Instant::now());
        let due = self.leases_are_due(now, &pods, &deleted_vms);
        let leases = if due { self.programs.leases(&self.paths)? } else { Leases::default() };
        let candidates = Candidates::read(&self.paths, &leases.held)?;
        let mut gone = self.suspects.update(now, &candidates, &pods);
        gone.retain(|key| {
            let Some(traces) = candidates.traces(key) else { return false };
            let removed = self.remove(key, traces);
            if !removed {
                self.suspects.postpone(key, now);
            }
            removed
        });
        let freed = self.free_leases(as_of, &leases, &candidates, &gone, &deleted_vms)?;
        for key in &gone {
            self.metrics.swept.increment();
            tracing::info!(
                container = key.container,
                interface = key.ifname,
                pod = candidates.pod(key),
                "swept: pod and network namespace are gone"
            );
        }
        if now.duration_since(self.stores_at) >= FULL_SWEEP_INTERVAL {
            self.programs.remove_unused_stores(&self.paths)?;
            self.stores_at = now;
        }
        if due {
            let leases = if freed { self.programs.leases(&self.paths)? } else { leases };
            let kept: VmNames =
                leases.kept.iter().filter_map(StickyOwner::idle_vm).map(str::to_owned).collect();
            self.cluster.sticky_vms.send_if_modified(|before| {
                let changed = *before != kept;
                *before = kept;
                changed
            });
        }
        Ok(Some(self.suspects.next().unwrap_or(now + FULL_SWEEP_INTERVAL)))
    }

    /// Frees the leases of dead attachments, and addresses kept for deleted machines; returns whether there were any.
    fn free_leases(
        &self,
        as_of: u64,
        leases: &Leases,
        candidates: &Candidates,
        gone: &BTreeSet<AttachmentKey>,
        deleted_vms: &VmNames,
    ) -> Result<bool> {
        let held =
            gone.iter().filter(|key| candidates.traces(key).is_some_and(|traces| traces.lease)).count();
        let is_gone = |kept: &&StickyOwner| kept.idle_vm().is_some_and(|vm| deleted_vms.contains(vm));
        let kept = leases.kept.iter().filter(is_gone).count();
        if held + kept == 0 {
            return Ok(false);
        }
        let live = leases.held.iter().map(|lease| &lease.key).filter(|key| !gone.contains(*key));
        let owners = leases.kept.iter().filter(|kept| !is_gone(kept)).map(|kept| kept.owner.as_str());
        self.programs.free_leases(as_of, live, owners)?;
        for kept in leases.kept.iter().filter(is_gone) {
            tracing::info!(owner = kept.owner, "freed: the virtual machine is gone");
        }
        self.metrics.swept_leases.add(held + kept);
        Ok(true)
    }

    /// Whether to read leases, which starts a process: after a pod or machine was deleted, while there are suspects,
    /// and from time to time.
    fn leases_are_due(&mut self, now: Instant, pods: &BTreeSet<String>, deleted_vms: &VmNames) -> bool {
        let went = !self.before.is_subset(pods) || self.deleted_vms != *deleted_vms;
        self.before.clone_from(pods);
        self.deleted_vms.clone_from(deleted_vms);
        let long_ago = self.leases_at.is_none_or(|at| now.duration_since(at) >= FULL_SWEEP_INTERVAL);
        let due = went || long_ago || self.suspects.next().is_some();
        if due {
            self.leases_at = Some(now);
        }
        due
    }

    /// Removes an attachment; returns whether all of it is gone.
    fn remove(&self, key: &AttachmentKey, traces: &Traces) -> bool {
        let mut removed = true;
        for (there, plugin) in [(traces.macvtap, "macvtap"), (traces.vlan_bridge, "vlan-bridge")] {
            if there && let Err(error) = self.programs.del(plugin, key) {
                self.metrics.sweep_errors.increment();
                tracing::warn!(container = key.container, interface = key.ifname, "cannot sweep: {error:#}");
                removed = false;
            }
        }
        removed
    }
}
