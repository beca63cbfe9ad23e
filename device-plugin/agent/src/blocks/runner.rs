//! Does what [`Manager`] decides.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use node::{Grants, Paths};
use pool_blocks::{Answer, BootTime, Disk, NodeName, PoolName, Request, RequestId};
use proto::agent_socket::{ClaimAnswer, PoolClaim, PoolClaims};
use proto::events::{Dirty, FileWatch, Wake, WatchedFolder};
use proto::health::Metrics;
use proto::link::Queue;
use proto::published::PoolNotes;
use tokio::sync::{mpsc, oneshot, watch};

use super::manager::{ClaimId, Effect, Event, GrantResult, Manager, Stored};
use super::pool_folder::{KnownPools, Pools};
use super::stored::NodeFiles;
use super::usage::Usage;
use crate::attachments::PluginPrograms;

/// Claims that wait to be taken in; more wait in their connections.
const QUEUED_CLAIMS: usize = 64;
/// How soon what this node holds is read again, if it cannot be.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// How long a change of a pool's file may be followed by others, before it is looked at.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// What the link says.
#[derive(Debug)]
pub enum LinkEvent {
    Connected,
    Disconnected,
    Answer(RequestId, Box<Answer>),
}

/// Where it says so.
pub type LinkEvents = mpsc::UnboundedSender<LinkEvent>;

struct Claim {
    claim: PoolClaim,
    answer: oneshot::Sender<ClaimAnswer>,
}

/// Where claims are sent.
pub struct Claims(Option<mpsc::Sender<Claim>>);

impl Claims {
    /// Of a node without a cluster.
    pub fn of_no_cluster() -> Self {
        Self(None)
    }
}

impl PoolClaims for Claims {
    async fn claim(&self, claim: PoolClaim) -> ClaimAnswer {
        let Some(sender) = &self.0 else {
            return proto::agent_socket::NoCluster.claim(claim).await;
        };
        let stops = || ClaimAnswer::Later("the daemon stops".to_owned());
        let (answer, answered) = oneshot::channel();
        match sender.send(Claim { claim, answer }).await {
            Ok(()) => answered.await.unwrap_or_else(|_| stops()),
            Err(_) => stops(),
        }
    }
}

/// The task that holds blocks of the cluster's pools for this node.
pub struct BlockManager {
    node: NodeName,
    metrics: Arc<Metrics>,
    manager: Manager,
    /// Why it is not known what this node holds.
    unread: Option<anyhow::Error>,
    io: Io,
    pools: Pools,
    known: watch::Receiver<Arc<KnownPools>>,
    link: mpsc::UnboundedReceiver<LinkEvent>,
    requests: Queue<(RequestId, Request)>,
    claims: mpsc::Receiver<Claim>,
    waiting: BTreeMap<ClaimId, oneshot::Sender<ClaimAnswer>>,
    last_claim: ClaimId,
    usage_error: Option<String>,
    notes: watch::Sender<Option<PoolNotes>>,
    /// The folder of pools that are files.
    pool_files: PathBuf,
}

/// What may block.
struct Io {
    files: NodeFiles,
    programs: PluginPrograms,
}

impl BlockManager {
    /// Reads what an earlier process kept. If that cannot be read, nothing is handed out until it can.
    ///
    /// # Errors
    /// A folder cannot be used.
    pub fn open(
        paths: &Paths,
        node: &str,
        pools: Pools,
        requests: Queue<(RequestId, Request)>,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, LinkEvents, Claims)> {
        let files = NodeFiles::open(paths)?;
        let (stored, unread) = match files.read() {
            Ok(stored) => (stored, None),
            Err(error) => (Stored::default(), Some(error)),
        };
        let mut known = pools.known();
        let now = known.borrow_and_update().clone();
        let node = NodeName::from(node);
        let boot_id = files.boot_id().to_owned();
        let manager = Manager::new(node.clone(), boot_id, stored, now, Arc::clone(&metrics));
        let (events, link) = mpsc::unbounded_channel();
        let (claim, claims) = mpsc::channel(QUEUED_CLAIMS);
        let io = Io { files, programs: PluginPrograms::new(paths.run().to_owned()) };
        let own = Self {
            node,
            metrics,
            manager,
            unread,
            io,
            pools,
            known,
            link,
            requests,
            claims,
            waiting: BTreeMap::new(),
            last_claim: 0,
            usage_error: None,
            notes: watch::channel(None).0,
            pool_files: paths.pools(),
        };
        Ok((own, events, Claims(Some(claim))))
    }

    /// What the cluster is to be told; `None` until it is known.
    pub fn notes(&self) -> watch::Receiver<Option<PoolNotes>> {
        self.notes.subscribe()
    }

    /// Holds blocks until the daemon ends.
    ///
    /// # Errors
    /// Another part of the daemon ended.
    pub async fn run(mut self) -> Result<()> {
        if let Some(error) = self.unread.take() {
            self = self.wait_until_read(&error).await?;
        }
        let changed = Wake::default();
        let everything = Dirty { everything: true, ..Dirty::default() };
        let folder = WatchedFolder::new(self.pool_files.clone(), |_| true, everything);
        let files = FileWatch::start(vec![folder], changed.clone())?;
        loop {
            files.add_missing_watches();
            let first = self.next_event(&changed).await?;
            // Files are synced and programs run, on a thread where nothing else waits for them.
            self = tokio::task::spawn_blocking(move || {
                self.take(first);
                self
            })
            .await
            .context("what the node holds of pools")?;
        }
    }

    /// Nothing is handed out until it is known what this node holds: a person has to do something about that.
    async fn wait_until_read(mut self, error: &anyhow::Error) -> Result<Self> {
        let reason = format!("{error:#}");
        tracing::error!("nothing of the cluster's pools is handed out: {reason}");
        self = tokio::task::spawn_blocking(move || {
            self.withdraw();
            self
        })
        .await
        .context("what the node may hand out")?;
        let mut connected = false;
        let mut again = tokio::time::interval(READ_AGAIN);
        loop {
            tokio::select! {
                event = self.link.recv() => match event.context("the link ended")? {
                    LinkEvent::Connected => connected = true,
                    LinkEvent::Disconnected => connected = false,
                    LinkEvent::Answer(..) => {}
                },
                claim = self.claims.recv() => {
                    let claim = claim.context("the agent socket ended")?;
                    // Who has gone does not need it.
                    let _ = claim.answer.send(ClaimAnswer::Later(reason.clone()));
                }
                _ = again.tick() => if let Ok(stored) = self.io.files.read() {
                    let (known, boot_id) = (self.known.borrow_and_update().clone(), self.io.files.boot_id());
                    let (node, metrics) = (self.node.clone(), Arc::clone(&self.metrics));
                    self.manager = Manager::new(node, boot_id.to_owned(), stored, known, metrics);
                    if connected {
                        let effects = self.manager.step(boot_time(), Event::Connected);
                        self.act(effects);
                    }
                    return Ok(self);
                },
            }
        }
    }

    fn withdraw(&self) {
        let grants = self.io.files.read_grants().unwrap_or_else(|error| {
            tracing::warn!("what may be handed out of pools cannot be read: {error:#}");
            BTreeMap::new()
        });
        let nothing = Grants { boot_id: self.io.files.boot_id().to_owned(), ..Grants::default() };
        for pool in grants.keys() {
            self.io.write_grants(pool, &nothing, false);
        }
    }

    async fn next_event(&mut self, changed_files: &Wake) -> Result<Event> {
        let now = boot_time();
        let due = async {
            match self.manager.wake_at(now) {
                Some(at) => {
                    let wait = Duration::from_millis(at.millis().saturating_sub(now.millis()));
                    tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
                }
                None => std::future::pending().await,
            }
        };
        Ok(tokio::select! {
            event = self.link.recv() => link_event(event.context("the link ended")?),
            claim = self.claims.recv() => {
                let claim = claim.context("the agent socket ended")?;
                take_claim(&mut self.waiting, &mut self.last_claim, claim)
            }
            changed = self.known.changed() => {
                changed.context("the folder of pools")?;
                Event::Pools(self.known.borrow_and_update().clone())
            }
            () = settle(changed_files) => {
                changed_files.take_changes();
                Event::Files
            }
            () = due => Event::Tick,
        })
    }

    /// This event and those that came meanwhile, and what follows from them.
    fn take(&mut self, first: Event) {
        let mut usage = None;
        let mut next = Some(first);
        while let Some(event) = next {
            if matches!(event, Event::Disconnected) {
                self.requests.retain(|_| false);
            }
            if matches!(event, Event::Disconnected | Event::Connected) {
                // What was said on another connection is no confirmation on this one.
                let known = self.known.borrow_and_update().clone();
                self.step(Event::Pools(known), &mut usage);
            }
            self.step(event, &mut usage);
            next = self.link.try_recv().ok().map(link_event);
            if next.is_none()
                && let Ok(claim) = self.claims.try_recv()
            {
                next = Some(take_claim(&mut self.waiting, &mut self.last_claim, claim));
            }
        }
        let gone: Vec<ClaimId> =
            self.waiting.iter().filter(|(_, answer)| answer.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.waiting.remove(&id);
            self.step(Event::Abandoned(id), &mut usage);
        }
        if let Err(error) = self.io.files.write_run(self.manager.run()) {
            tracing::warn!("after a restart, nothing is handed out before the API server answers: {error:#}");
        }
    }

    /// `usage_read`: whether the leases were read for this batch already; answers that came together go by one look.
    fn step(&mut self, mut event: Event, usage_read: &mut Option<bool>) {
        if self.manager.wants_usage(boot_time(), &event) {
            let good = usage_read.unwrap_or_else(|| {
                let usage = self.read_usage();
                let good = usage.is_some();
                let event = usage.map_or(Event::NoUsage, Event::Usage);
                let effects = self.manager.step(boot_time(), event);
                self.act(effects);
                good
            });
            *usage_read = Some(good);
            if !good {
                event = event.without_usage();
            }
        }
        let effects = self.manager.step(boot_time(), event);
        self.act(effects);
    }

    fn read_usage(&mut self) -> Option<Usage> {
        match self.io.programs.block_usage().and_then(|text| Usage::parse(&text)) {
            Ok(usage) => {
                self.usage_error = None;
                Some(usage)
            }
            Err(error) => {
                let text = format!("{error:#}");
                if self.usage_error.as_ref() != Some(&text) {
                    tracing::warn!("what this node uses of the cluster's pools cannot be read: {text}");
                    self.usage_error = Some(text);
                }
                None
            }
        }
    }

    fn act(&mut self, effects: Vec<Effect>) {
        let mut queue: std::collections::VecDeque<Effect> = effects.into();
        while let Some(effect) = queue.pop_front() {
            if let Some(event) = self.act_once(effect) {
                queue.extend(self.manager.step(boot_time(), event));
            }
        }
    }

    fn act_once(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Send(id, request) => {
                self.requests.push((id, request));
                None
            }
            Effect::WriteDisk(version, disk) => self.io.write_disk(&disk).then_some(Event::Synced(version)),
            Effect::WriteGrants { pool, grants, unless_used } => {
                let result = self.io.write_grants(&pool, &grants, unless_used);
                Some(Event::Granted(pool, result))
            }
            Effect::Reply(id, answer) => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    // Who has gone does not need it.
                    let _ = waiting.send(answer);
                }
                None
            }
            Effect::InUse(pools) => {
                self.pools.folder().set_in_use(pools);
                None
            }
            Effect::Replace(pool, spec, addresses) => {
                if let Err(error) = self.pools.folder().replace_file(&pool, &spec, addresses) {
                    tracing::warn!(pool, "a pool cannot take the place of its file: {error:#}");
                }
                None
            }
            Effect::Notes(notes) => {
                self.notes.send_replace(Some(notes));
                None
            }
        }
    }
}

impl Io {
    fn write_disk(&self, disk: &Disk) -> bool {
        let written = self.files.write_disk(disk);
        if let Err(error) = &written {
            tracing::warn!("blocks are not used before what this node holds is on disk: {error:#}");
        }
        written.is_ok()
    }

    fn write_grants(&self, pool: &PoolName, grants: &Grants, unless_used: bool) -> GrantResult {
        match self.programs.grant_blocks(pool.as_str(), grants, unless_used) {
            Ok(used) if used.is_empty() => GrantResult::Written,
            Ok(used) => GrantResult::Used(used),
            Err(error) => {
                tracing::warn!(%pool, "what may be handed out of a pool cannot be changed: {error:#}");
                GrantResult::Failed
            }
        }
    }
}

/// Waits until files changed, and for those that change with them. Cancelling it loses nothing.
async fn settle(changed_files: &Wake) {
    changed_files.wait().await;
    tokio::time::sleep(DEBOUNCE).await;
}

fn link_event(event: LinkEvent) -> Event {
    match event {
        LinkEvent::Connected => Event::Connected,
        LinkEvent::Disconnected => Event::Disconnected,
        LinkEvent::Answer(id, answer) => Event::Answer(id, *answer),
    }
}

fn take_claim(
    waiting: &mut BTreeMap<ClaimId, oneshot::Sender<ClaimAnswer>>,
    last: &mut ClaimId,
    claim: Claim,
) -> Event {
    *last += 1;
    waiting.insert(*last, claim.answer);
    Event::Claim(*last, claim.claim)
}

fn boot_time() -> BootTime {
    BootTime::from_millis(crate::sweep::boottime_ms())
}
