//! Builds and keeps the LANs of a folder. In a cluster the folder is the mirror of the API server's LANs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use net_types::IfName;
use node::{Durability, Lock, NETNS_DIR, NodeConfig, Paths, SafeDir};
use tokio::sync::watch;

use crate::events::{LanLinkMonitors, watch_mounts, watch_underlays};
use crate::lan_files::LanFileReader;
use crate::lans::{Declared, Outcome, Reconciler};
use crate::leftovers;
use proto::events::{Dirty, FileWatch, Wake, WatchedFolder};
use proto::health::Metrics;
use proto::locks::{DAEMON_LOCK, lock_daemon};
use proto::published::{NodeStatus, STATUS_FILE};

/// How long events are collected before a reconcile, so that simultaneous ones cause only one.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// The least time between the starts of two reconciles, so that a storm of events costs little.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// The pause after a reconcile as a multiple of its duration, if only events of the kernel cause the next one: an
/// endless source of events then costs the node one part in so many of a core.
const REST_FACTOR: u32 = 40;
/// The longest pause, so that drift is repaired within a second nevertheless.
const MAX_REST: Duration = Duration::from_millis(500);

/// The pause after a reconcile that failed as a whole.
const FAILURE_INTERVAL: Duration = Duration::from_secs(1);

/// The options of the node's part.
pub struct Options {
    /// The folder with the LAN files.
    pub lan_dir: PathBuf,
    /// The node's name; if absent, that of `/etc/k8slan/node.yaml`.
    pub node_name: Option<String>,
    /// Whether the folder mirrors an API server's objects, of which the older one wins a conflict.
    pub mirrored: bool,
    /// Whether the kubelet gives out the spokes.
    pub kubelet: bool,
    /// Whether the names and types of k8slan (Go) are supported.
    pub k8slan_go: bool,
}

/// The lock of this node's daemon, held until it is dropped.
pub struct NodeLock {
    run: SafeDir,
    paths: Paths,
    node: String,
    _daemon_lock: Lock,
}

impl NodeLock {
    /// Acquires the lock, before anything else is changed.
    ///
    /// # Errors
    /// Another daemon runs here, the node has no name, or a folder cannot be used.
    pub fn acquire(options: &Options) -> Result<Self> {
        let config = NodeConfig::load()?;
        let Some(node) = options.node_name.clone().or_else(|| config.node_name.clone()) else {
            bail!("the node has no name: give --node-name, or set nodeName in /etc/k8slan/node.yaml");
        };
        if options.mirrored {
            SafeDir::create(&options.lan_dir)?;
        } else if !options.lan_dir.is_dir() {
            bail!("{} is not a folder: make it, and put LAN files into it", options.lan_dir.display());
        }
        let paths = config.paths();
        let run = SafeDir::create(paths.run())?;
        // Other users must not be able to lock a folder there, by opening it, nor to reach a program with a set-user-ID
        // bit that anybody left.
        for folder in [&SafeDir::create(paths.state())?, &run] {
            folder.make_private()?;
        }
        let _daemon_lock = lock_daemon(&run, DAEMON_LOCK, Duration::ZERO)?;
        leftovers::remove_node_leftovers(&paths);
        node::tell_name(&run, &node)?;
        Ok(Self { run, paths, node, _daemon_lock })
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The folders of this node.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }
}

/// Builds and keeps the LANs until `stop` is done, and leaves them as they are. `before` is the status of the daemon
/// that ran before on this boot.
pub async fn run(
    lock: NodeLock,
    options: Options,
    before: Option<NodeStatus>,
    status_sender: &watch::Sender<Arc<NodeStatus>>,
    metrics: &Metrics,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let NodeLock { run, paths, node, _daemon_lock } = lock;
    let mut stop = std::pin::pin!(stop);

    let wake = Wake::default();
    let underlays = watch_underlays(wake.clone())?;
    watch_mounts(wake.clone())?;
    let files = FileWatch::start(folders(&options.lan_dir, &paths), wake.clone())?;
    let mut links = LanLinkMonitors::new(wake.clone());
    let lans = Reconciler::open(node.clone(), &paths, options.kubelet, options.k8slan_go)?;
    tracing::info!(node, folder = %options.lan_dir.display(), "started");

    let mut work = Some(NodeState {
        lan_dir: options.lan_dir,
        mirrored: options.mirrored,
        node,
        reader: LanFileReader::default(),
        declared: Declared::default(),
        underlays,
        lans,
        run,
        last: before.unwrap_or_default(),
        written: NodeStatus::default(),
    });
    wake.mark(Dirty { everything: true, ..Dirty::default() });
    loop {
        // Before the reconcile: what changes after this point wakes it again.
        files.add_missing_watches();
        let dirty = wake.take_changes();
        let event_time = Instant::now();
        let start = Instant::now();
        // Files and netlink on a thread of their own: a large folder takes seconds to read, and deleting a link takes
        // the kernel 20 ms; probes and the kubelet's Allocate must not wait for either.
        let mut own = work.take().context("the last pass did not come back")?;
        let reconcile = tokio::task::spawn_blocking(move || {
            let outcome = own.reconcile(&dirty);
            (own, outcome)
        });
        let (own, outcome) = reconcile.await.context("a pass over the LANs")?;
        work = Some(own);
        let mut interval = MIN_INTERVAL - DEBOUNCE;
        let retry = match outcome {
            Ok(Outcome { status: now, netns, retry, built, repaired }) => {
                (0..built).for_each(|_| metrics.build.observe(event_time.elapsed()));
                metrics.drift_repairs.add(repaired);
                links.follow_namespaces(&netns);
                status_sender.send_if_modified(|before| {
                    let changed = **before != now || !before.reconciled;
                    if changed {
                        *before = Arc::new(now);
                    }
                    changed
                });
                retry
            }
            Err(error) => {
                tracing::error!("{error:#}");
                wake.mark(Dirty { everything: true, ..Dirty::default() });
                interval = FAILURE_INTERVAL;
                None
            }
        };
        let rest = (start.elapsed() * REST_FACTOR).min(MAX_REST).saturating_sub(interval);
        let next = async {
            tokio::time::sleep(interval).await;
            // A changed declaration ends the pause, and at its end no event is missed.
            drop(tokio::time::timeout(rest, wake.wait_for_declarations()).await);
            match retry {
                Some(pause) => drop(tokio::time::timeout(pause, wake.wait()).await),
                None => wake.wait().await,
            }
            tokio::time::sleep(DEBOUNCE).await;
        };
        tokio::select! {
            () = next => {}
            () = &mut stop => break,
        }
    }
    tracing::info!("stopped; the LANs stay up");
    Ok(())
}

/// Everything that a reconcile needs: what is declared, what exists, what was published.
struct NodeState {
    lan_dir: PathBuf,
    mirrored: bool,
    node: String,
    reader: LanFileReader,
    declared: Declared,
    /// The devices that are monitored.
    underlays: Arc<Mutex<BTreeSet<IfName>>>,
    lans: Reconciler,
    /// The folder that the status is written to.
    run: SafeDir,
    /// The result of the last reconcile, or what the daemon before left.
    last: NodeStatus,
    /// The status as it was written.
    written: NodeStatus,
}

impl NodeState {
    /// Reads the folder where it changed, reconciles, and writes the status.
    fn reconcile(&mut self, dirty: &Dirty) -> Result<Outcome> {
        if dirty.declared || dirty.everything {
            self.declared = match self.mirrored {
                true => self.reader.read_mirror(&self.lan_dir, &self.node),
                false => self.reader.read(&self.lan_dir),
            };
            *self.underlays.lock().unwrap_or_else(PoisonError::into_inner) =
                underlay_names(&self.declared, &self.node);
        }
        let mut outcome = self.lans.reconcile(&self.declared, dirty)?;
        outcome.status.set_transition_times(&self.last, &format!("{:.0}", Timestamp::now()));
        self.last = outcome.status.clone();
        write_status(&self.run, &mut self.written, outcome.status.clone());
        Ok(outcome)
    }
}

fn folders(lan_dir: &std::path::Path, paths: &Paths) -> Vec<WatchedFolder> {
    let declared = Dirty { declared: true, ..Dirty::default() };
    let names = Dirty { names: true, ..Dirty::default() };
    let records = Dirty { records: true, ..Dirty::default() };
    vec![
        // Files may be symbolic links to others, as in a volume of Kubernetes, so every name matters.
        WatchedFolder::new(lan_dir, |_| true, declared),
        WatchedFolder::new(NETNS_DIR, |_| true, names),
        WatchedFolder::new(paths.spokes(), |name| name.ends_with(".json") && !name.starts_with('.'), records),
    ]
}

/// The devices of the node that are underlays.
fn underlay_names(declared: &Declared, node: &str) -> BTreeSet<IfName> {
    let lans = declared.lans.values().filter_map(|declaration| declaration.lan.as_ref().ok());
    lans.filter_map(|lan| lan.underlay(node).cloned()).collect()
}

/// Writes the status where it changed, for people and for the next daemon.
fn write_status(run: &SafeDir, before: &mut NodeStatus, now: NodeStatus) {
    if *before == now {
        return;
    }
    now.log_changes(before);
    let text = now.text();
    match run.write(STATUS_FILE, text.as_bytes(), Durability::UntilReboot) {
        Ok(()) => *before = now,
        // Written again at the next change of anything.
        Err(error) => tracing::error!("cannot write the status: {:#}", anyhow::Error::from(error)),
    }
}
