//! What the leader does: the LANs' status, their finalizer, and the reports of nodes that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::runtime::events;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use lan::{DeletionPolicy, LanNode, LanStatus};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::aggregate_status::{AggregateInput, FINALIZER, aggregate_status};
use super::definitions::{self, DefinitionRequest};
use super::event_dedup::{DueEvent, EventDedup};
use super::event_publisher::{self, EventPublisher};
use super::k8slan_go_definitions::{self, K8slanGoDefinitions};
use super::mtu::{self, Rise};
use super::pending_pods::PendingPods;
use super::resources::{lan_nodes, resource};
use super::{chain, lan_object};

const MANAGER: &str = "k8slan-leader";

/// Changes come in bursts, above all when a node comes up; they are summed up once.
const DEBOUNCE: Duration = Duration::from_millis(300);
const RETRY: Duration = Duration::from_secs(5);

/// The leader's work.
pub struct Leader {
    client: Client,
    publisher: EventPublisher,
    /// How long all nodes must have had room for more before a LAN's MTU rises.
    hold: Duration,
    /// Whether LANs have the definitions that k8slan (Go) would make.
    k8slan_go: bool,
}

/// What a leader remembers from one summary to the next.
#[derive(Default)]
struct LeaderState {
    event_dedup: EventDedup,
    /// Larger MTUs that are waited for, by the LAN's UID: also where the CRD is an older one, and the status does not keep them.
    rises: BTreeMap<String, Rise>,
    /// When to sum up again although nothing changes.
    recheck: Option<Instant>,
}

impl LeaderState {
    fn recheck_at(&mut self, at: Option<Instant>) {
        self.recheck = [self.recheck, at].into_iter().flatten().min();
    }
}

/// What the nodes say of a LAN.
#[derive(Default)]
struct NodeReports {
    /// Those whose kubelet is heard.
    alive: Vec<LanNode>,
    /// What they have room for, and what those have that are silent at the moment: a node that comes and goes
    /// must not change the LAN's MTU.
    rooms: Vec<i64>,
    /// Whether something was attached on one that is silent, when it was last heard.
    used_where_silent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CachedKind {
    Lan,
    LanNode,
    Node,
    Definition,
}

#[derive(Default)]
struct Cache {
    objects: BTreeMap<CachedKind, BTreeMap<(String, String), DynamicObject>>,
    fresh: BTreeMap<CachedKind, BTreeMap<(String, String), DynamicObject>>,
    complete: BTreeSet<CachedKind>,
}

impl Leader {
    /// Leads through this client, on the node of this name.
    #[must_use]
    pub fn new(client: Client, node: &str) -> Self {
        let publisher = EventPublisher::new(client.clone(), node);
        Self { client, publisher, hold: mtu::RISE_DELAY, k8slan_go: false }
    }

    /// Waits so long, and not ten minutes, before a LAN's MTU rises.
    #[must_use]
    pub fn rising_after(self, hold: Duration) -> Self {
        Self { hold, ..self }
    }

    /// Whether LANs have the definitions that k8slan (Go) would make.
    #[must_use]
    pub fn naming_as_k8slan_go(self, k8slan_go: bool) -> Self {
        Self { k8slan_go, ..self }
    }

    /// Does the leader's work until it is dropped.
    pub async fn run(&self) {
        let unplaced = PendingPods::new(self.client.clone(), self.publisher.clone(), lan_nodes());
        tokio::join!(self.watch_and_reconcile(), unplaced.run());
    }

    async fn watch_and_reconcile(&self) {
        let lan_nodes = lan_nodes();
        let nodes = resource("", "v1", "Node", "nodes");
        let watches =
            [
                (CachedKind::Lan, lan_object::lans()),
                (CachedKind::LanNode, lan_nodes),
                (CachedKind::Node, nodes),
                (CachedKind::Definition, definitions::resource()),
            ]
            .map(|(kind, resource)| {
                let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
                let config =
                    match kind {
                        // k8slan (Go)'s own have no label.
                        CachedKind::Definition if !self.k8slan_go => watcher::Config::default()
                            .labels(&format!("{}={}", definitions::LABEL, definitions::OURS)),
                        _ => watcher::Config::default(),
                    };
                let events = watch_objects(api, config).default_backoff();
                events.map(move |event| (kind, event)).boxed()
            });
        let mut events = stream::select_all(watches);
        let mut cache = Cache::default();
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
                        if cache.apply(kind, event) && cache.is_complete() {
                            let soon = Instant::now() + DEBOUNCE;
                            due = Some(due.map_or(soon, |due| due.min(soon)));
                        }
                    }
                    // A cluster without Multus knows no definitions; who wants some is told in the LAN's status.
                    Err(error) if kind == CachedKind::Definition => {
                        tracing::debug!(error = chain(&error), "no network attachment definitions can be read");
                    }
                    Err(error) => tracing::warn!(?kind, error = chain(&error), "the leader does not hear the API server"),
                },
                () = settled => {
                    state.recheck = None;
                    if let Err(error) = self.aggregate_lans(&mut cache, &mut state).await {
                        tracing::warn!(error = chain(&error), "the leader cannot write");
                        state.recheck_at(Some(Instant::now() + RETRY));
                    }
                    due = state.recheck;
                }
                else => return,
            }
        }
    }

    async fn aggregate_lans(&self, cache: &mut Cache, state: &mut LeaderState) -> Result<(), kube::Error> {
        let now = Timestamp::now();
        let alive = cache.node_liveness();
        let mut node_reports: BTreeMap<(String, String), NodeReports> = BTreeMap::new();
        for ((namespace, name), report) in cache.all(CachedKind::LanNode) {
            let report = report.clone().try_parse::<LanNode>().ok().and_then(LanNode::with_conditions);
            let Some(report) = report else { continue };
            let spec = &report.spec;
            let Some(is_alive) = alive.get(&spec.node) else {
                self.delete_report(namespace, name).await?;
                continue;
            };
            let node_reports = node_reports.entry((namespace.clone(), spec.lan.clone())).or_default();
            node_reports.rooms.extend(spec.room.or(spec.mtu));
            match is_alive {
                true => node_reports.alive.push(report),
                false => node_reports.used_where_silent |= !spec.attachments.is_empty(),
            }
        }
        let problems = self.reconcile_definitions(cache).await?;
        let uids: BTreeSet<&str> = cache.all(CachedKind::Lan).map(|(_, lan)| uid(lan)).collect();
        state.event_dedup.retain(|lan| uids.contains(lan));
        state.rises.retain(|lan, _| uids.contains(lan.as_str()));
        let mut result = Ok(());
        for (key, lan) in cache.all(CachedKind::Lan) {
            let node_reports = node_reports.remove(key).unwrap_or_default();
            // One LAN that cannot be written must not keep the others from it.
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
        lan: &DynamicObject,
        node_reports: &NodeReports,
        definitions: Option<Vec<String>>,
        now: Timestamp,
        state: &mut LeaderState,
    ) -> Result<(), kube::Error> {
        let status = serde_json::from_value::<LanStatus>(lan.data["status"].clone()).ok();
        let policy = serde_json::from_value::<DeletionPolicy>(lan.data["spec"]["deletionPolicy"].clone());
        let deleting = lan.metadata.deletion_timestamp.is_some();
        let asked = lan.data["spec"]["mtu"].as_i64();
        let last = status.as_ref().and_then(|status| status.mtu);
        let told = status.as_ref().and_then(|status| status.mtu_rise.as_ref());
        let remembered = state.rises.remove(uid(lan));
        let mut rise = told.and_then(|told| Rise::parse(told, self.hold, now)).or(remembered);
        let mtu = mtu::effective(asked, last, node_reports.rooms.iter().copied(), &mut rise, self.hold, now);
        state.recheck_at(rise.map(|rise| Instant::now() + rise.waits(now)));
        if let Some(rise) = rise {
            state.rises.insert(uid(lan).to_owned(), rise);
        }
        let input = AggregateInput {
            generation: lan.metadata.generation.unwrap_or_default(),
            deleting,
            force: matches!(policy, Ok(DeletionPolicy::Force)),
            status: status.as_ref(),
            definitions,
            mtu,
            mtu_rise: rise.map(Rise::to_status),
            mtu_is_asked_for: asked.is_some(),
            nodes: node_reports.alive.iter().collect(),
            used_where_silent: node_reports.used_where_silent,
        };
        let aggregated = aggregate_status(&input, &format!("{now:.0}"));
        let namespace = lan.metadata.namespace.as_deref().unwrap_or_default();
        let name = lan.metadata.name.as_deref().unwrap_or_default();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &lan_object::lans());
        // First, since it is what a LAN that is deleted now waits for.
        if let Some(finalizers) = finalizers(lan, aggregated.hold) {
            // Only as it was seen: somebody else's finalizer must not be lost.
            let version = &lan.metadata.resource_version;
            let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": version } });
            ignore_not_found_or_conflict(
                api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await,
            )?;
            if deleting {
                // What is still to be said of it is said when it is seen again, waiting for somebody else.
                return Ok(());
            }
        }
        if status.as_ref() != Some(&aggregated.status) {
            let patch = json!({
                "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN",
                "metadata": { "name": name, "namespace": namespace },
                "status": aggregated.status,
            });
            let params = PatchParams::apply(MANAGER).force();
            ignore_not_found_or_conflict(api.patch_status(name, &params, &Patch::Apply(&patch)).await)?;
        }
        let (due, later) = state.event_dedup.due(
            uid(lan),
            status.as_ref(),
            &aggregated.status,
            &aggregated.details,
            Instant::now(),
        );
        state.recheck_at(later);
        for due_event in due {
            self.publish(lan, &due_event).await?;
            state.event_dedup.mark_published(
                uid(lan),
                &due_event,
                &aggregated.status,
                &aggregated.details,
                Instant::now(),
            );
        }
        Ok(())
    }

    async fn publish(&self, lan: &DynamicObject, due_event: &DueEvent) -> Result<(), kube::Error> {
        let DueEvent { action, warning, reason, note, .. } = due_event;
        let event = events::Event {
            type_: if *warning { events::EventType::Warning } else { events::EventType::Normal },
            reason: reason.clone(),
            note: Some(note.clone()),
            action: (*action).to_owned(),
            secondary: None,
        };
        // What is not published stands in the status alone.
        self.publisher.publish(&event_publisher::reference("lan.k8slan.io/v1beta1", "LAN", lan), &event).await
    }

    /// Makes the definitions that LANs ask for, and says by LAN what could not be made.
    async fn reconcile_definitions(
        &self,
        cache: &mut Cache,
    ) -> Result<BTreeMap<(String, String), Vec<String>>, kube::Error> {
        let mut problems = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        let mut k8slan_go_definitions = K8slanGoDefinitions::default();
        for (key, lan) in cache.all(CachedKind::Lan) {
            let Ok(spec) = serde_json::from_value::<lan::LanSpec>(lan.data["spec"].clone()) else { continue };
            let Ok(lan_key) = lan_object::key(lan) else { continue };
            // A spoke that two LANs name belongs to the accepted one, and so does its definition.
            let conditions = lan.data["status"]["conditions"].as_array().into_iter().flatten();
            let mut refused = conditions.filter(|c| c["type"] == "Accepted" && c["status"] == "False");
            if lan.metadata.deletion_timestamp.is_some() || refused.next().is_some() {
                continue;
            }
            if self.k8slan_go {
                k8slan_go_definitions.add(&lan_key, uid(lan), &spec);
            }
            let Some(asked) = &spec.network_attachments else { continue };
            let request = DefinitionRequest {
                key: &lan_key,
                uid: lan.metadata.uid.as_deref().unwrap_or_default(),
                spokes: &spec.spokes,
                allowed: spec.allowed_namespaces.as_deref(),
                asked,
            };
            let mut definitions = definitions::desired(&request);
            if !cache.complete.contains(&CachedKind::Definition) {
                let why = "NetworkAttachmentDefinitions cannot be listed: is Multus installed, and may k8slan read them?";
                definitions.problems.push(why.to_owned());
                definitions.objects.clear();
            }
            problems.insert(key.clone(), definitions.problems);
            for (object_key, object) in definitions.objects {
                wanted.entry(object_key).or_insert((key.clone(), object));
            }
        }
        if !cache.complete.contains(&CachedKind::Definition) {
            return Ok(problems);
        }
        let mut theirs = BTreeSet::new();
        for (object_key, (key, object)) in k8slan_go_definitions.definitions() {
            let there = cache.objects.get(&CachedKind::Definition).and_then(|all| all.get(&object_key));
            if let Some(there) = there.filter(|there| !definitions::is_ours(there))
                && k8slan_go_definitions::is_made_for_lan(there, &object)
            {
                // What somebody changed stays as it is, and goes with its LAN.
                if !k8slan_go_definitions::is_unchanged(there, &object) {
                    continue;
                }
                theirs.insert(object_key.clone());
            }
            wanted.entry(object_key).or_insert((key, object));
        }
        let ours = |object: &DynamicObject| definitions::is_ours(object);
        let unwanted: Vec<_> = cache
            .all(CachedKind::Definition)
            .filter(|(object_key, object)| ours(object) && !wanted.contains_key(*object_key))
            .map(|(object_key, object)| (object_key.clone(), definitions::of_lan(object).map(str::to_owned)))
            .collect();
        for (object_key, lan) in unwanted {
            tracing::info!(definition = ?object_key, lan, "no longer asked for");
            let gone = self.definitions(&object_key.0).delete(&object_key.1, &DeleteParams::default()).await;
            ignore_not_found_or_conflict(gone)?;
            cache.remove(CachedKind::Definition, &object_key);
        }
        for (object_key, (key, object)) in wanted {
            let api = self.definitions(&object_key.0);
            let existing = cache.get(CachedKind::Definition, &object_key);
            let existing = existing.filter(|object| ours(object) || theirs.contains(&object_key));
            let result = match existing {
                Some(existing) if definitions::is_current(existing, &object) => continue,
                Some(_) => api.patch(&object_key.1, &PatchParams::default(), &Patch::Merge(&object)).await,
                None => match serde_json::from_value::<DynamicObject>(object) {
                    Ok(object) => api.create(&kube::api::PostParams::default(), &object).await,
                    Err(_) => continue,
                },
            };
            let problem = match result {
                // Known at once: what the watch tells of it comes later than the next look, where there are many.
                Ok(made) => {
                    cache.insert(CachedKind::Definition, made);
                    continue;
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    match self.get_definition(&object_key).await? {
                        // Made by the leader before, and not told yet.
                        Some(found) if ours(&found) => {
                            cache.insert(CachedKind::Definition, found);
                            continue;
                        }
                        _ => format!(
                            "{}/{} exists and is not k8slan's: it is left as it is; rename it, or the spoke",
                            object_key.0, object_key.1
                        ),
                    }
                }
                Err(kube::Error::Api(status)) => {
                    format!("{}/{}: {}", object_key.0, object_key.1, status.message)
                }
                Err(error) => return Err(error),
            };
            problems.entry(key).or_default().push(problem);
        }
        Ok(problems)
    }

    /// A definition as it is now. Asked for as a list, which the daemon may do anyway.
    async fn get_definition(
        &self,
        (namespace, name): &(String, String),
    ) -> Result<Option<DynamicObject>, kube::Error> {
        let list = ListParams::default().fields(&format!("metadata.name={name}"));
        Ok(self.definitions(namespace).list(&list).await?.items.into_iter().next())
    }

    fn definitions(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &definitions::resource())
    }

    /// The report of a node that is no more.
    async fn delete_report(&self, namespace: &str, name: &str) -> Result<(), kube::Error> {
        let resource = resource("lan.k8slan.io", "v1beta1", "LANNode", "lannodes");
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        ignore_not_found_or_conflict(api.delete(name, &DeleteParams::default()).await)
    }
}

fn uid(object: &DynamicObject) -> &str {
    object.metadata.uid.as_deref().unwrap_or_default()
}

/// Its namespace and name.
fn object_key(object: &DynamicObject) -> (String, String) {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// The finalizers that a LAN should have, if those are others than it has.
fn finalizers(lan: &DynamicObject, hold: bool) -> Option<Vec<String>> {
    let mut finalizers = lan.metadata.finalizers.clone().unwrap_or_default();
    let held = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    match (held, hold) {
        (true, false) => finalizers.retain(|finalizer| finalizer != FINALIZER),
        // None can be put on an object that is deleted.
        (false, true) if lan.metadata.deletion_timestamp.is_none() => finalizers.push(FINALIZER.to_owned()),
        _ => return None,
    }
    Some(finalizers)
}

/// An object that went meanwhile needs nothing more, and one that changed is seen again.
fn ignore_not_found_or_conflict<T>(answer: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}

impl Cache {
    /// Whether everything that a summary needs was listed; definitions are not among it.
    fn is_complete(&self) -> bool {
        [CachedKind::Lan, CachedKind::LanNode, CachedKind::Node]
            .iter()
            .all(|kind| self.complete.contains(kind))
    }

    /// Takes an event in, and says whether anything is to be summed up again.
    fn apply(&mut self, kind: CachedKind, event: Event<DynamicObject>) -> bool {
        match event {
            Event::Init => {
                self.fresh.insert(kind, BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                self.fresh.entry(kind).or_default().insert(object_key(&object), strip_unused(kind, object));
                false
            }
            Event::InitDone => {
                self.objects.insert(kind, self.fresh.remove(&kind).unwrap_or_default());
                self.complete.insert(kind);
                true
            }
            Event::Apply(object) => {
                let (key, object) = (object_key(&object), strip_unused(kind, object));
                let last = self.objects.entry(kind).or_default().insert(key, object.clone());
                // A node's heartbeat means nothing here.
                kind != CachedKind::Node || last.is_none_or(|last| last.data != object.data)
            }
            Event::Delete(object) => {
                self.objects.entry(kind).or_default().remove(&object_key(&object)).is_some()
            }
        }
    }

    fn get(&self, kind: CachedKind, object_key: &(String, String)) -> Option<&DynamicObject> {
        self.objects.get(&kind)?.get(object_key)
    }

    /// Takes in what this process wrote.
    fn insert(&mut self, kind: CachedKind, object: DynamicObject) {
        self.objects.entry(kind).or_default().insert(object_key(&object), strip_unused(kind, object));
    }

    /// Takes in what this process deleted.
    fn remove(&mut self, kind: CachedKind, object_key: &(String, String)) {
        self.objects.entry(kind).or_default().remove(object_key);
    }

    fn all(&self, kind: CachedKind) -> impl Iterator<Item = (&(String, String), &DynamicObject)> {
        self.objects.get(&kind).into_iter().flatten()
    }

    /// The nodes that there are, and whether the kubelet of each is heard.
    fn node_liveness(&self) -> BTreeMap<String, bool> {
        let nodes = self.all(CachedKind::Node);
        nodes.map(|((_, name), node)| (name.clone(), node.data["ready"] == json!(true))).collect()
    }
}

/// Of nodes, only what is looked at is kept: there are hundreds, and each is large.
fn strip_unused(kind: CachedKind, mut object: DynamicObject) -> DynamicObject {
    object.metadata.managed_fields = None;
    if kind == CachedKind::Node {
        let conditions = object.data["status"]["conditions"].as_array();
        let ready = conditions.and_then(|list| list.iter().find(|c| c["type"] == "Ready"));
        let ready = ready.is_none_or(|condition| condition["status"] == "True");
        object.metadata.annotations = None;
        object.metadata.labels = None;
        object.data = Value::Object(serde_json::Map::from_iter([("ready".to_owned(), json!(ready))]));
    }
    object
}
