//! Taking away what pods left behind.
//!
//! Multus tells secondary plugins nothing of pods that went while DEL was lost. So the daemon looks itself, when pods
//! or namespaces went: an attachment that carries a pod's UID, whose pod the API server does not know any more, and
//! whose network namespace (path and inode) is gone, is suspicious. What still is so after a grace is removed, by the
//! plugins' own DEL and by `ipam-pool sweep`: nothing here knows how to remove anything.
//!
//! What carries no pod's UID (podman, ctr) is never looked at. While the API server is not heard, nothing is swept.

mod found;
mod programs;
mod suspects;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use node::{Paths, SafeDir};
use tokio::time::Instant;

use crate::events::{FileWatch, Folder, Wake};
use crate::health::Metrics;
use crate::kept_vms::{self, Vms};
use crate::lans::{Dirty, NETNS_DIR};
use crate::live_pods::{self, LivePods};
pub(crate) use found::{Key, Traces, Unseen, attached, attachments, is_live};
pub(crate) use programs::Programs;

use found::Found;
use programs::{Kept, Leases};
use suspects::Suspects;

/// How long something stays suspicious before it goes. A runtime's own DEL comes within seconds.
const GRACE: Duration = Duration::from_secs(60);
/// Another grace, in milliseconds, for tests; whoever starts the daemon is root.
const GRACE_VARIABLE: &str = "K8SLAN_SWEEP_GRACE_MS";

/// Changes come in bursts: what comes in this time is one look.
const SETTLE: Duration = Duration::from_secs(1);
/// Leases of other main plugins leave no trace that has an event.
const LEISURE: Duration = Duration::from_secs(6 * 60 * 60);

/// The sweep of one node.
pub(crate) struct Sweep {
    paths: Paths,
    programs: Programs,
    suspects: Suspects,
    metrics: Arc<Metrics>,
    settle: Duration,
    /// The pods at the last look, and when leases were last looked at.
    before: BTreeSet<String>,
    leases_at: Option<Instant>,
    /// The machines that were gone at the last look.
    gone_vms: Vms,
}

/// How long something must be gone before what it left goes, too.
pub(crate) fn grace() -> Duration {
    let asked = std::env::var(GRACE_VARIABLE).ok().and_then(|text| text.parse().ok());
    asked.map_or(GRACE, Duration::from_millis)
}

impl Sweep {
    /// A sweep with its grace.
    pub(crate) fn new(paths: Paths, metrics: Arc<Metrics>) -> Self {
        let grace = grace();
        let programs = Programs::new(paths.run().to_owned());
        let (before, leases_at) = (BTreeSet::new(), None);
        let suspects = Suspects::new(grace);
        let (settle, gone_vms) = (SETTLE.min(grace), Vms::new());
        Self { paths, programs, suspects, metrics, settle, before, leases_at, gone_vms }
    }

    /// Sweeps for ever.
    ///
    /// # Errors
    /// The folders cannot be watched.
    pub(crate) async fn run(self) -> Result<()> {
        let wake = Wake::default();
        let list: PathBuf = self.paths.run().join(live_pods::FOLDER);
        let news = || Dirty { names: true, ..Dirty::default() };
        let folders = vec![
            Folder::new(list, |name| name == live_pods::FILE || name == kept_vms::GONE, news()),
            Folder::new(NETNS_DIR, |_| true, news()),
        ];
        let files = FileWatch::start(folders, wake.clone())?;
        let mut own = Some(self);
        loop {
            files.place();
            wake.take();
            let mut sweep = own.take().context("the last look did not come back")?;
            // Netlink and processes: nobody else waits for them.
            let look = tokio::task::spawn_blocking(move || {
                let next = sweep.look();
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
                () = due => {}
            }
        }
    }

    /// One look; returns when the next one is due although nothing changed.
    fn look(&mut self) -> Option<Instant> {
        let again = Instant::now() + self.suspects.grace();
        match self.try_look() {
            Ok(next) => next,
            Err(error) => {
                self.metrics.sweep_errors.increment();
                tracing::warn!("cannot look for what pods left behind: {error:#}");
                Some(again)
            }
        }
    }

    fn try_look(&mut self) -> Result<Option<Instant>> {
        let Some(answers) = SafeDir::open(&self.paths.run().join(live_pods::FOLDER))? else {
            return Ok(None);
        };
        let Some(pods) = LivePods::read_heard(&answers)? else {
            self.suspects.clear();
            return Ok(None);
        };
        let gone_vms = kept_vms::read(&answers, kept_vms::GONE)?;
        let (as_of, now) = (found::now(), Instant::now());
        let due = self.may_have_lost_leases(now, &pods, &gone_vms);
        let leases = if due { self.programs.leases(&self.paths)? } else { Leases::default() };
        let found = Found::look(&self.paths, &leases.held)?;
        let mut gone = self.suspects.look(now, &found, &pods);
        gone.retain(|key| {
            let Some(traces) = found.traces(key) else { return false };
            let removed = self.remove(key, traces);
            if !removed {
                self.suspects.put_off(key, now);
            }
            removed
        });
        let freed = self.free_leases(as_of, &leases, &found, &gone, &gone_vms)?;
        for key in &gone {
            self.metrics.swept.increment();
            tracing::info!(
                container = key.container,
                interface = key.ifname,
                pod = found.pod(key),
                "swept: pod and network namespace are gone"
            );
        }
        if due {
            let leases = if freed { self.programs.leases(&self.paths)? } else { leases };
            let kept = leases.kept.iter().filter_map(Kept::idle_vm).map(str::to_owned).collect();
            kept_vms::write(&SafeDir::create(&self.paths.told())?, kept_vms::KEPT, &kept)?;
        }
        Ok(Some(self.suspects.next().unwrap_or(now + LEISURE)))
    }

    /// Frees what the dead held, and what is kept for machines that are gone; says whether there was anything.
    fn free_leases(
        &self,
        as_of: u64,
        leases: &Leases,
        found: &Found,
        gone: &BTreeSet<Key>,
        gone_vms: &Vms,
    ) -> Result<bool> {
        let held = gone.iter().filter(|key| found.traces(key).is_some_and(|traces| traces.lease)).count();
        let is_gone = |kept: &&Kept| kept.idle_vm().is_some_and(|vm| gone_vms.contains(vm));
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

    /// Whether to look at leases, which takes a process: when a pod or machine went, while anything is
    /// suspicious, and now and then.
    fn may_have_lost_leases(&mut self, now: Instant, pods: &LivePods, gone_vms: &Vms) -> bool {
        let uids: BTreeSet<String> = pods.pods.iter().map(|pod| pod.uid.clone()).collect();
        let went = !self.before.is_subset(&uids) || self.gone_vms != *gone_vms;
        self.before = uids;
        self.gone_vms.clone_from(gone_vms);
        let long_ago = self.leases_at.is_none_or(|at| now.duration_since(at) >= LEISURE);
        let due = went || long_ago || self.suspects.next().is_some();
        if due {
            self.leases_at = Some(now);
        }
        due
    }

    /// Removes an attachment; says whether all of it is gone.
    fn remove(&self, key: &Key, traces: &Traces) -> bool {
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

/// Whether a file may be run.
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
