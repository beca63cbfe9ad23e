//! The leader's work: the LANs' status, their finalizer and definitions, and the reports of nodes that were removed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::runtime::events;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, Resource};
use lan::{DeletionPolicy, LanNode};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::aggregate_status::{AggregateInput, FINALIZER, aggregate_status};
use super::event_dedup::{DueEvent, EventDedup};
use super::event_publisher::{self, EventPublisher};
use super::guarded::Guarded;
use super::lan_object::{self, StoredLan, uid};
use super::mtu::{self, Rise};
use super::net_attach_defs::{self, DefinitionKeeper};
use super::pending_pods::PendingPods;
use super::pools::{PoolApi, PoolLeader, Rights};
use super::stores::{ObjectKey, StoreEvent, Stores};
use super::{chain, ignore_not_found_or_conflict};

const MANAGER: &str = "k8slan-leader";

/// Changes come in bursts, for example when a node starts; the leader waits this long and handles them at once.
const DEBOUNCE: Duration = Duration::from_millis(300);
const RETRY: Duration = Duration::from_secs(5);

pub struct Leader {
    client: Client,
    publisher: EventPublisher,
    /// How long all nodes must have had room for more before a LAN's MTU rises.
    hold: Duration,
    definitions: DefinitionKeeper,
    pools: PoolLeader<Client>,
}

/// What the leader remembers from one reconcile to the next.
#[derive(Default)]
struct LeaderState {
    event_dedup: EventDedup,
    /// Larger MTUs that will be set if all nodes keep room for them, by the LAN's UID. The status keeps them too, but
    /// not with an older CRD.
    rises: BTreeMap<String, Rise>,
    /// When to reconcile again although nothing changes.
    recheck: Option<Instant>,
}

impl LeaderState {
    fn recheck_at(&mut self, at: Option<Instant>) {
        self.recheck = [self.recheck, at].into_iter().flatten().min();
    }
}

/// The reports of nodes on one LAN.
#[derive(Default)]
struct NodeReports {
    /// Of nodes whose kubelet is heard.
    alive: Vec<LanNode>,
    /// The MTUs that these nodes have room for, and those that are silent at the moment: a node that comes and goes
    /// must not change the LAN's MTU.
    rooms: Vec<i64>,
    /// The nodes that have a report.
    reported: BTreeSet<String>,
    /// [`AggregateInput::attached_where_silent`].
    attached_where_silent: BTreeSet<String>,
    /// [`AggregateInput::unreported`].
    unreported: BTreeSet<String>,
}

impl NodeReports {
    /// Finds the nodes that have something attached by the LAN's status, and have no report. `alive`: whether each node
    /// is heard; a node that was removed has nothing attached.
    fn find_unreported(&mut self, attached_on: &[String], alive: &BTreeMap<String, bool>) {
        for node in attached_on.iter().filter(|node| !self.reported.contains(*node)) {
            match alive.get(node) {
                Some(true) => self.unreported.insert(node.clone()),
                Some(false) => self.attached_where_silent.insert(node.clone()),
                None => continue,
            };
        }
    }
}

type StoreEvents = BoxStream<'static, (&'static str, Result<StoreEvent, watcher::Error>)>;

/// A kind that the cluster may lack.
const DEFINITIONS: &str = "NetworkAttachmentDefinition";

impl Leader {
    /// `node` is the name of the node that the leader runs on.
    #[must_use]
    pub fn new(client: Client, node: &str) -> Self {
        let publisher = EventPublisher::new(client.clone(), node);
        let definitions = DefinitionKeeper::new(client.clone());
        let pools = PoolLeader::new(client.clone(), node, PoolApi::new(client.clone(), Rights::Leader));
        Self { client, publisher, hold: mtu::RISE_DELAY, definitions, pools }
    }

    /// Shortens the ten minutes that a LAN's MTU waits before it rises.
    #[must_use]
    pub fn rising_after(self, hold: Duration) -> Self {
        Self { hold, ..self }
    }

    /// Whether to make the definitions that k8slan (Go) would make.
    #[must_use]
    pub fn naming_as_k8slan_go(mut self, k8slan_go: bool) -> Self {
        self.definitions.k8slan_go = k8slan_go;
        self
    }

    /// Runs until it is dropped.
    pub async fn run(&self) {
        let unplaced = PendingPods::new(self.client.clone(), self.publisher.clone());
        tokio::join!(self.watch_and_reconcile(), unplaced.run(), self.pools.run());
    }

    async fn watch_and_reconcile(&self) {
        let mut events = stream::select_all(self.watches());
        let mut stores = Stores::default();
        let mut state = LeaderState::default();
        let mut due: Option<Instant> = None;
        loop {
            let settled = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((kind, event)) = events.next() => match event {
                    Ok(event) => {
                        if stores.apply(event) && stores.are_listed() {
                            let soon = Instant::now() + DEBOUNCE;
                            due = Some(due.map_or(soon, |due| due.min(soon)));
                        }
                    }
                    // A cluster without Multus lacks the kind; a LAN that asks for definitions has this in its
                    // status.
                    Err(error) if kind == DEFINITIONS => {
                        tracing::debug!(error = chain(&error), "no network attachment definitions can be read");
                    }
                    Err(error) => tracing::warn!(kind, error = chain(&error), "a watch of the leader failed and is retried"),
                },
                () = settled => {
                    state.recheck = None;
                    if let Err(error) = self.aggregate_lans(&mut stores, &mut state).await {
                        tracing::warn!(error = chain(&error), "cannot write the LANs' status; retried in a few seconds");
                        state.recheck_at(Some(Instant::now() + RETRY));
                    }
                    due = state.recheck;
                }
                else => return,
            }
        }
    }

    /// The watches, each with the name of its kind.
    fn watches(&self) -> [StoreEvents; 4] {
        let client = || self.client.clone();
        let all = watcher::Config::default();
        // The definitions of k8slan (Go) have no label.
        let definitions = match self.definitions.k8slan_go {
            true => all.clone(),
            false => all.clone().labels(&format!("{}={}", net_attach_defs::LABEL, net_attach_defs::OURS)),
        };
        let lans = Api::all_with(client(), &lan_object::lans());
        let definition_api = Api::all_with(client(), &net_attach_defs::resource());
        [
            watch("LAN", lans, all.clone(), StoreEvent::Lan),
            watch("LANNode", Api::all(client()), all.clone(), StoreEvent::Report),
            watch("Node", Api::all(client()), all, StoreEvent::Node),
            watch(DEFINITIONS, definition_api, definitions, StoreEvent::Definition),
        ]
    }

    async fn aggregate_lans(&self, stores: &mut Stores, state: &mut LeaderState) -> Result<(), kube::Error> {
        let now = Timestamp::now();
        let alive = stores.node_liveness();
        let mut node_reports: BTreeMap<ObjectKey, NodeReports> = BTreeMap::new();
        for ((namespace, name), report) in stores.reports.all() {
            let report = report.0.as_ref().ok().and_then(|report| report.clone().with_conditions());
            let Some(report) = report else { continue };
            let spec = &report.spec;
            let Some(is_alive) = alive.get(&spec.node) else {
                self.delete_report(&namespace, &name).await?;
                continue;
            };
            let node_reports = node_reports.entry((namespace, spec.lan.clone())).or_default();
            node_reports.rooms.extend(spec.room.or(spec.mtu));
            node_reports.reported.insert(spec.node.clone());
            if *is_alive {
                node_reports.alive.push(report);
            } else if !spec.attachments.is_empty() {
                node_reports.attached_where_silent.insert(spec.node.clone());
            }
        }
        let lans = stores.lans.all();
        let problems = self.definitions.reconcile(&lans, &mut stores.definitions).await?;
        let uids: BTreeSet<&str> = lans.values().map(|lan| uid(&lan.metadata)).collect();
        state.event_dedup.retain(|lan| uids.contains(lan));
        state.rises.retain(|lan, _| uids.contains(lan.as_str()));
        let mut result = Ok(());
        for (key, lan) in &lans {
            let mut node_reports = node_reports.remove(key).unwrap_or_default();
            let status = lan.status.as_ref().and_then(Guarded::valid);
            let attached_on = status.map(|status| &*status.attached_on).unwrap_or_default();
            node_reports.find_unreported(attached_on, &alive);
            // A LAN that cannot be written must not prevent the others from being written.
            if let Err(error) =
                self.aggregate_lan(lan, &node_reports, problems.get(key).cloned(), now, state).await
            {
                result = Err(error);
            }
        }
        result
    }

    async fn aggregate_lan(
        &self,
        lan: &StoredLan,
        node_reports: &NodeReports,
        definitions: Option<Vec<String>>,
        now: Timestamp,
        state: &mut LeaderState,
    ) -> Result<(), kube::Error> {
        let status = lan.status.as_ref().and_then(Guarded::valid);
        let lan_uid = uid(&lan.metadata);
        let deleting = lan.metadata.deletion_timestamp.is_some();
        let asked = lan_object::asked_mtu(lan);
        let last = status.and_then(|status| status.mtu);
        let told = status.and_then(|status| status.mtu_rise.as_ref());
        let remembered = state.rises.remove(lan_uid);
        let mut rise = told.and_then(|told| Rise::parse(told, self.hold, now)).or(remembered);
        let mtu = mtu::effective(asked, last, node_reports.rooms.iter().copied(), &mut rise, self.hold, now);
        state.recheck_at(rise.map(|rise| Instant::now() + rise.waits(now)));
        if let Some(rise) = rise {
            state.rises.insert(lan_uid.to_owned(), rise);
        }
        let input = AggregateInput {
            generation: lan.metadata.generation.unwrap_or_default(),
            deleting,
            force: lan_object::deletion_policy(lan) == DeletionPolicy::Force,
            status,
            definitions,
            mtu,
            mtu_rise: rise.map(Rise::to_status),
            mtu_is_asked_for: asked.is_some(),
            nodes: node_reports.alive.iter().collect(),
            attached_where_silent: node_reports.attached_where_silent.clone(),
            unreported: node_reports.unreported.clone(),
        };
        let aggregated = aggregate_status(&input, &format!("{now:.0}"));
        let namespace = lan.metadata.namespace.as_deref().unwrap_or_default();
        let name = lan.metadata.name.as_deref().unwrap_or_default();
        let api: Api<StoredLan> = Api::namespaced_with(self.client.clone(), namespace, &lan_object::lans());
        // First the finalizer: a LAN that is deleted now waits for it.
        if let Some(finalizers) = finalizers(&lan.metadata, aggregated.hold) {
            // The patch holds only if nobody changed the object: another controller's finalizer must not be lost.
            let version = &lan.metadata.resource_version;
            let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": version } });
            ignore_not_found_or_conflict(
                api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await,
            )?;
            if deleting {
                // The status is written when the object is seen again, if it waits for another controller.
                return Ok(());
            }
        }
        if status != Some(&aggregated.status) {
            let patch = json!({
                "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN",
                "metadata": { "name": name, "namespace": namespace },
                "status": aggregated.status,
            });
            let params = PatchParams::apply(MANAGER).force();
            ignore_not_found_or_conflict(api.patch_status(name, &params, &Patch::Apply(&patch)).await)?;
        }
        let before = status.map(|status| &*status.conditions);
        let conditions = &aggregated.status.conditions;
        let (due, later) =
            state.event_dedup.due(lan_uid, before, conditions, &aggregated.details, Instant::now());
        state.recheck_at(later);
        for due_event in due {
            self.publish(lan, &due_event).await?;
            state.event_dedup.mark_published(
                lan_uid,
                &due_event,
                conditions,
                &aggregated.details,
                Instant::now(),
            );
        }
        Ok(())
    }

    async fn publish(&self, lan: &StoredLan, due_event: &DueEvent) -> Result<(), kube::Error> {
        let DueEvent { action, warning, reason, note, .. } = due_event;
        let event = events::Event {
            type_: if *warning { events::EventType::Warning } else { events::EventType::Normal },
            reason: reason.clone(),
            note: Some(note.clone()),
            action: (*action).to_owned(),
            secondary: None,
        };
        // An event that cannot be published is in the status only.
        self.publisher
            .publish(&event_publisher::reference("lan.k8slan.io/v1beta1", "LAN", &lan.metadata), &event)
            .await
    }

    /// Deletes the report of a node that was removed.
    async fn delete_report(&self, namespace: &str, name: &str) -> Result<(), kube::Error> {
        let api: Api<LanNode> = Api::namespaced(self.client.clone(), namespace);
        ignore_not_found_or_conflict(api.delete(name, &DeleteParams::default()).await)
    }
}

/// The events of one kind. A watch that fails is restarted by itself.
fn watch<K>(
    kind: &'static str,
    api: Api<K>,
    config: watcher::Config,
    of: fn(Event<K>) -> StoreEvent,
) -> StoreEvents
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    watch_objects(api, config).default_backoff().map_ok(of).map(move |event| (kind, event)).boxed()
}

/// The finalizers that a LAN should have, if they differ from those that it has.
fn finalizers(lan: &ObjectMeta, hold: bool) -> Option<Vec<String>> {
    let mut finalizers = lan.finalizers.clone().unwrap_or_default();
    let held = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    match (held, hold) {
        (true, false) => finalizers.retain(|finalizer| finalizer != FINALIZER),
        // A finalizer cannot be added to an object that is deleted.
        (false, true) if lan.deletion_timestamp.is_none() => finalizers.push(FINALIZER.to_owned()),
        _ => return None,
    }
    Some(finalizers)
}
