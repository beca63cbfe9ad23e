//! The leader's work on pools: it accepts them, says how they stand, and takes back what nodes have that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::events::EventType;
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use lan::pool::{LanAddress, LanBlock, LanPoolNode, LanPoolStatus, LanReservation};
use pool_blocks::{Answer, BootTime, Horizon, Key, Object, Owner, Place, PoolSnapshot, Request};
use serde_json::json;
use tokio::time::Instant;

use super::api::{NodeReader, PoolApi, list, readable};
use super::conditions::NodeNotes;
use super::convert::{address_object, block_object};
use super::events::PoolEvents;
use super::for_node::{StoredPool, name, pools, status};
use super::foreign::{self, Foreign};
use super::held::Held;
use super::leader_cache::{Cache, WatchEvent, of_node, watches};
use super::namespaces::selector;
use super::owners;
use super::reservations::{self, Decision, Scene};
use super::status::{changed_statuses, is_about_to_be_accepted};
use super::watched::refusal_code;
use crate::event_publisher::EventPublisher;
use crate::{chain, ignore_not_found_or_conflict};

/// Changes come in bursts; this long they are collected.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// How often everything is looked at although nothing changes: time passes for what is fenced.
const INTERVAL: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);
/// How often it is asked whether owners exist whose addresses nobody uses.
const OWNERS_INTERVAL: Duration = Duration::from_secs(300);
/// How often the Services are looked at whose load balancers may have addresses of pools.
const SERVICES_INTERVAL: Duration = Duration::from_secs(300);
/// How many of the protocol's writes run at once.
const AT_ONCE: usize = 16;

/// The leader of the cluster's pools.
pub struct PoolLeader<N> {
    client: Client,
    publisher: EventPublisher,
    api: PoolApi<N>,
}

/// The objects of a pool.
#[derive(Default)]
struct OfPool {
    addresses: Vec<(Object, String)>,
    blocks: Vec<Object>,
}

/// What the leader remembers from one look to the next.
struct Memory {
    leader: pool_blocks::Leader,
    /// The owners of addresses that nobody uses, as far as they exist, and when that was asked last.
    owners: Option<(BTreeSet<Owner>, Instant)>,
    /// The addresses of load balancers, and when they were asked for last.
    balancers: Option<(Foreign, Instant)>,
    events: PoolEvents,
}

impl<N: NodeReader> PoolLeader<N> {
    /// `node` is the one that the leader runs on; `api` has the leader's rights.
    #[must_use]
    pub fn new(client: Client, node: &str, api: PoolApi<N>) -> Self {
        let publisher = EventPublisher::new(client.clone(), node);
        Self { client, publisher, api }
    }

    /// Runs until it is dropped.
    pub async fn run(&self) {
        let mut events = stream::select_all(watches(&self.client));
        let mut cache = Cache::default();
        let leader = pool_blocks::Leader::new(Horizon::DEFAULT);
        let events_of_pools = PoolEvents::new(self.publisher.clone());
        let mut memory = Memory { leader, owners: None, balancers: None, events: events_of_pools };
        let mut due = Instant::now() + INTERVAL;
        loop {
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(event) => {
                        if let WatchEvent::Pools(Event::Delete(pool)) = &event {
                            self.tell_of_deletion(pool, &cache, &memory.events).await;
                        }
                        if cache.apply(event) && cache.is_listed() {
                            due = due.min(Instant::now() + DEBOUNCE);
                        }
                    }
                    Err(error) if refusal_code(&error) == Some(404) => {
                        tracing::debug!(error = chain(&error), "the cluster has no pools");
                    }
                    Err(error) => tracing::warn!(error = chain(&error), "a watch of the leader's for pools failed and is retried"),
                },
                () = tokio::time::sleep_until(due) => {
                    due = Instant::now() + INTERVAL;
                    if cache.is_listed() && let Err(error) = self.reconcile(&cache, &mut memory).await {
                        tracing::warn!(error = chain(&error), "the pools' status cannot be written; retried in a few seconds");
                        due = Instant::now() + RETRY;
                    }
                }
                else => return,
            }
        }
    }

    /// What fails about one pool or reservation keeps nothing from the others.
    async fn reconcile(&self, cache: &Cache, memory: &mut Memory) -> Result<(), kube::Error> {
        let snapshot = cache.snapshot();
        let objects = snapshot.objects.clone();
        let returned = self.free(cache, memory, snapshot).await;
        let foreign = self.foreign(cache, memory).await;
        let (pools, written) =
            self.write_statuses(&objects, &cache.notes(), &foreign, &mut memory.events).await?;
        let reserved = self.reserve(cache, &pools).await;
        let told = tell_returned(&pools, &returned, &memory.events).await;
        let deleted = self.delete_notes(cache).await;
        written.and(reserved).and(told).and(deleted)
    }

    /// Who has addresses beside pods. What cannot be asked is as it was.
    async fn foreign(&self, cache: &Cache, memory: &mut Memory) -> Foreign {
        let is_old = memory.balancers.as_ref().is_none_or(|(_, asked)| asked.elapsed() >= SERVICES_INTERVAL);
        if cache.has_pools() && is_old {
            let found = foreign::of_load_balancers(&self.client).await.unwrap_or_else(|error| {
                tracing::debug!(error = chain(&error), "cannot list the Services that have load balancers");
                memory.balancers.take().map(|(before, _)| before).unwrap_or_default()
            });
            memory.balancers = Some((found, Instant::now()));
        }
        let mut foreign = cache.node_addresses();
        foreign.extend(memory.balancers.iter().flat_map(|(balancers, _)| balancers.clone()));
        foreign
    }

    /// Takes back what nodes and owners have that are gone. Returns how many blocks of each pool.
    async fn free(
        &self,
        cache: &Cache,
        memory: &mut Memory,
        mut snapshot: PoolSnapshot,
    ) -> BTreeMap<String, usize> {
        snapshot.owners = self.owners(cache, &snapshot.objects, memory).await;
        let requests = memory.leader.reconcile(boot_time(), &snapshot);
        let addresses = cache.addresses();
        let surplus = owners::surplus(&addresses).into_iter();
        let surplus = surplus.map(|one| Request::Delete(one.key.clone(), one.uid, one.version));
        let requests: Vec<Request> = requests.into_iter().chain(surplus).collect();
        let answers = stream::iter(requests).map(|request| self.carry_out(request));
        let answers: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
        let mut returned = BTreeMap::new();
        for (request, answer) in answers {
            if let (Request::Delete(key @ Key { place: Place::Block(_), .. }, ..), Answer::Deleted) =
                (request, answer)
            {
                *returned.entry(key.pool.to_string()).or_default() += 1;
            }
        }
        returned
    }

    /// The owners of addresses that exist. Whether those do whose addresses nobody uses is asked now and then; until it is known,
    /// they exist.
    async fn owners(&self, cache: &Cache, objects: &[Object], memory: &mut Memory) -> BTreeSet<Owner> {
        let mut owners: BTreeSet<Owner> =
            objects.iter().filter_map(|object| object.spec.owner.clone()).collect();
        let unused = owners::of_unused(objects);
        // Without the kind, which a cluster gets with its definitions, nobody knows who has reserved what.
        if !cache.reservations.is_listed() {
            return owners;
        }
        let is_old = memory.owners.as_ref().is_none_or(|(_, asked)| asked.elapsed() >= OWNERS_INTERVAL);
        if !unused.is_empty() && is_old {
            match owners::existing(&self.client, &unused, &cache.reservations()).await {
                Ok(existing) => {
                    let gone = unused.difference(&existing).cloned().collect();
                    memory.owners = Some((gone, Instant::now()));
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot ask whether the owners of addresses exist");
                    memory.owners = None;
                }
            }
        }
        if let Some((gone, _)) = &memory.owners {
            owners.retain(|owner| !(gone.contains(owner) && unused.contains(owner)));
        }
        owners
    }

    /// Makes the addresses that are reserved, and says how each reservation stands.
    async fn reserve(&self, cache: &Cache, pools: &[StoredPool]) -> Result<(), kube::Error> {
        let reservations = cache.reservations();
        let named: BTreeSet<&str> = reservations.iter().map(|one| one.spec.pool.as_str()).collect();
        let mut in_pools: BTreeMap<String, OfPool> = BTreeMap::new();
        for found in cache.addresses().into_iter().filter(|(one, _)| named.contains(one.key.pool.as_str())) {
            in_pools.entry(found.0.key.pool.to_string()).or_default().addresses.push(found);
        }
        for found in cache.blocks().into_iter().filter(|one| named.contains(one.key.pool.as_str())) {
            in_pools.entry(found.key.pool.to_string()).or_default().blocks.push(found);
        }
        let now = format!("{:.0}", Timestamp::now());
        let mut done = Ok(());
        for (index, reservation) in reservations.iter().enumerate() {
            let of_pool = |name: &str| name == reservation.spec.pool;
            let pool = pools.iter().find(|pool| of_pool(&name(pool)));
            let namespace = reservation.namespace().unwrap_or_default();
            let is_allowed = match pool {
                Some(pool) => match self.is_allowed(pool, &namespace).await {
                    Ok(is_allowed) => is_allowed,
                    Err(error) => {
                        done = done.and(Err(error));
                        continue;
                    }
                },
                None => false,
            };
            let older: Vec<&LanReservation> =
                reservations.iter().take(index).copied().filter(|older| of_pool(&older.spec.pool)).collect();
            let OfPool { addresses, blocks } = in_pools.entry(reservation.spec.pool.clone()).or_default();
            let scene = Scene { pool, is_allowed, addresses, blocks, older: &older };
            let Decision { request, status } = reservations::decide(reservation, &scene, &now);
            if let Some(request) = request {
                self.api.answer(&request).await;
            }
            if reservation.status.as_ref() != Some(&status) {
                let api: Api<LanReservation> = Api::namespaced(self.client.clone(), &namespace);
                let version = &reservation.metadata.resource_version;
                let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
                let name = reservation.name_any();
                let written = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
                done = done.and(ignore_not_found_or_conflict(written));
            }
        }
        done
    }

    /// Whether a pool gives addresses to a namespace.
    async fn is_allowed(&self, pool: &StoredPool, namespace: &str) -> Result<bool, kube::Error> {
        if let Some(allowed) = pool.spec["allowedNamespaces"].as_array() {
            return Ok(allowed.iter().any(|name| name == namespace));
        }
        let Some(selector) = selector(&pool.spec) else { return Ok(true) };
        let selector: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let parameters =
            ListParams::default().labels(&selector.join(",")).fields(&format!("metadata.name={namespace}"));
        let found: Vec<PartialObjectMeta<Namespace>> =
            list(&Api::all(self.client.clone()), &parameters).await?;
        Ok(!found.is_empty())
    }

    async fn carry_out(&self, request: Request) -> (Request, Answer) {
        let answer = self.api.answer(&request).await;
        (request, answer)
    }

    /// Accepts and refuses pools by a consistent list of them, and writes how each stands, once. `objects` are their blocks and
    /// floating addresses.
    ///
    /// # Errors
    /// The API server does not answer; what was written before is written.
    pub async fn accept(&self, objects: &[Object]) -> Result<(), kube::Error> {
        let mut events = PoolEvents::new(self.publisher.clone());
        self.write_statuses(objects, &BTreeMap::new(), &Foreign::new(), &mut events).await?.1
    }

    /// Returns the list, and the first of what failed about one of them.
    async fn write_statuses(
        &self,
        objects: &[Object],
        notes: &BTreeMap<String, NodeNotes>,
        foreign: &Foreign,
        events: &mut PoolEvents,
    ) -> Result<(Vec<StoredPool>, Result<(), kube::Error>), kube::Error> {
        let api: Api<StoredPool> = Api::all_with(self.client.clone(), &pools());
        let pools = list(&api, &ListParams::default()).await?;
        let now = format!("{:.0}", Timestamp::now());
        let (read, read_notes);
        let (objects, notes) = if pools.iter().any(is_about_to_be_accepted) {
            read = self.list_objects().await?;
            read_notes = self.list_notes().await?;
            (&*read, &read_notes)
        } else {
            (objects, notes)
        };
        let changed = changed_statuses(&pools, objects, notes, foreign, &now);
        events.retain(&pools);
        let nothing = NodeNotes::new();
        let mut done = Ok(());
        for pool in &pools {
            let name = name(pool);
            let next = changed.get(&name);
            let written = match next {
                Some(next) => write_status(&api, pool, next).await,
                None => Ok(true),
            };
            let told = match (&written, next.or(status(pool))) {
                (Ok(true), Some(now)) => {
                    events.tell(pool, &now.conditions, notes.get(&name).unwrap_or(&nothing)).await
                }
                _ => Ok(()),
            };
            done = done.and(written.map(drop)).and(told);
        }
        Ok((pools, done))
    }

    /// A consistent list of all blocks and floating addresses.
    async fn list_objects(&self) -> Result<Vec<Object>, kube::Error> {
        let blocks: Api<DeserializeGuard<LanBlock>> = Api::all(self.client.clone());
        let addresses: Api<DeserializeGuard<LanAddress>> = Api::all(self.client.clone());
        let blocks = list(&blocks, &ListParams::default()).await?;
        let addresses = list(&addresses, &ListParams::default()).await?;
        let blocks = blocks.iter().filter_map(|block| readable(block, block_object));
        let addresses = addresses.iter().filter_map(|address| readable(address, address_object));
        Ok(blocks.chain(addresses).collect())
    }

    /// A consistent list of what nodes say of pools. A server without the kind has none.
    async fn list_notes(&self) -> Result<BTreeMap<String, NodeNotes>, kube::Error> {
        let api: Api<DeserializeGuard<LanPoolNode>> = Api::all(self.client.clone());
        let all = match list(&api, &ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            answer => answer?,
        };
        let mut notes: BTreeMap<String, NodeNotes> = BTreeMap::new();
        for (pool, node, note) in all.iter().filter_map(of_node) {
            notes.entry(pool).or_default().insert(node, note);
        }
        Ok(notes)
    }

    /// The object is gone, and has no condition any more.
    async fn tell_of_deletion(&self, pool: &StoredPool, cache: &Cache, events: &PoolEvents) {
        let Some(note) = Held::of(&name(pool), &cache.objects()).when_deleted() else { return };
        if let Err(error) = events.publish(pool, EventType::Warning, "DeletedInUse", &note).await {
            tracing::warn!(error = chain(&error), "who has addresses of a deleted pool cannot be published");
        }
    }

    /// Deletes what nodes said that were removed.
    async fn delete_notes(&self, cache: &Cache) -> Result<(), kube::Error> {
        let api: Api<LanPoolNode> = Api::all(self.client.clone());
        for (name, (_, node, _)) in cache.notes.iter().filter_map(|(name, note)| Some((name, note.as_ref()?)))
        {
            if cache.nodes.iter().all(|(known, _)| known != node) {
                ignore_not_found_or_conflict(api.delete(name, &DeleteParams::default()).await)?;
            }
        }
        Ok(())
    }
}

/// A clock that fails stands still, and then nothing is freed.
fn boot_time() -> BootTime {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from);
    BootTime::from_millis(now.ok().and_then(|now| u64::try_from(now.as_millis()).ok()).unwrap_or(0))
}

/// Returns whether it was written: what was decided about a version holds for that version alone.
async fn write_status(
    api: &Api<StoredPool>,
    pool: &StoredPool,
    next: &LanPoolStatus,
) -> Result<bool, kube::Error> {
    let version = &pool.metadata.resource_version;
    let patch = json!({ "metadata": { "resourceVersion": version }, "status": next });
    let written = api.patch_status(&name(pool), &PatchParams::default(), &Patch::Merge(&patch)).await;
    let is_written = written.is_ok();
    ignore_not_found_or_conflict(written)?;
    Ok(is_written)
}

async fn tell_returned(
    pools: &[StoredPool],
    returned: &BTreeMap<String, usize>,
    events: &PoolEvents,
) -> Result<(), kube::Error> {
    for pool in pools {
        if let Some(count) = returned.get(&name(pool)) {
            let note =
                format!("{count} blocks of nodes that are gone or out of service can be claimed again");
            events.publish(pool, EventType::Normal, "BlocksReturned", &note).await?;
        }
    }
    Ok(())
}
