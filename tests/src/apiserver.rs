//! An API server for tests, over real HTTP: it stores any kind of object and can be slow, refuse, forget
//! its history (410 Gone) and hang up.
//!
//! It knows what a client sees: lists and watches with resource versions, conflicts, finalizers, status
//! subresources, and server-side apply as far as one field belongs to one manager. It validates nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::access::{Access, Rules};

/// A running API server; dropping it ends it.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

struct Shared {
    store: Mutex<Store>,
    /// The newest resource version, and how often watches were hung up on.
    news: watch::Sender<(u64, u64)>,
}

#[derive(Default)]
struct Store {
    version: u64,
    uids: u64,
    /// By collection, then by `<namespace>/<name>`.
    objects: BTreeMap<Collection, BTreeMap<String, Value>>,
    history: Vec<Change>,
    /// Changes up to this one are forgotten.
    forgotten: u64,
    /// What each manager last applied, by collection, object and manager.
    applied: BTreeMap<(Collection, String, String), Value>,
    faults: Faults,
    requests: Vec<String>,
    /// What clients may do; `None`: everything.
    rules: Option<Rules>,
    accesses: BTreeSet<Access>,
    refused: BTreeSet<Access>,
}

#[derive(Clone)]
struct Change {
    version: u64,
    collection: Collection,
    kind: &'static str,
    object: Value,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Collection {
    group_version: String,
    plural: String,
}

/// What the server does wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Closes every new connection at once.
    pub refuse: bool,
    /// Waits before it answers anything.
    pub delay: Duration,
    /// Answers this code to requests whose method and path contain the text.
    pub errors: Vec<(String, u16)>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

struct Target {
    collection: Collection,
    namespace: Option<String>,
    name: Option<String>,
    status: bool,
    /// The field selector, as far as it is one: `<path>=<value>`.
    field: Option<(String, String)>,
    /// The label selector, as far as it is equalities.
    labels: Vec<(String, String)>,
}

impl ApiServer {
    /// Starts one on a free port of the loopback.
    ///
    /// # Errors
    /// No port can be had.
    pub fn start() -> io::Result<Self> {
        Self::start_on(std::net::TcpListener::bind(("127.0.0.1", 0))?)
    }

    /// Starts one on a socket, which may be of another network namespace.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn start_on(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { store: Mutex::default(), news: watch::channel((0, 0)).0 });
        runtime.spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { shared, address, runtime: Some(runtime) })
    }

    /// The URL of the server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what it does wrong; open watches are hung up on.
    pub fn fault(&self, edit: impl FnOnce(&mut Faults)) {
        edit(&mut self.shared.lock().faults);
        self.hang_up();
    }

    /// Ends every open watch, as a restart of the server does.
    pub fn hang_up(&self) {
        self.shared.news.send_modify(|news| news.1 += 1);
    }

    /// Forgets the history: whoever watches from an older version is told 410 Gone.
    pub fn forget_history(&self) {
        let mut store = self.shared.lock();
        store.version += 1;
        store.forgotten = store.version;
        store.history.clear();
        drop(store);
        self.hang_up();
    }

    /// Creates an object or replaces it.
    ///
    /// # Panics
    /// It has no `apiVersion`, or no name.
    pub fn put(&self, plural: &str, mut object: Value) {
        let collection = Collection {
            group_version: object["apiVersion"].as_str().expect("an apiVersion").to_owned(),
            plural: plural.to_owned(),
        };
        let key = key_of(&object);
        let mut store = self.shared.lock();
        let existing = store.objects.get(&collection).and_then(|objects| objects.get(&key)).cloned();
        if let (Some(existing), Some(metadata)) = (existing, object["metadata"].as_object_mut()) {
            for (name, value) in existing["metadata"].as_object().expect("metadata") {
                metadata.entry(name.clone()).or_insert(value.clone());
            }
            if object.get("status").is_none() && existing.get("status").is_some() {
                object["status"] = existing["status"].clone();
            }
        }
        store.save(&collection, object);
        self.shared.tell(&store);
    }

    /// Deletes an object, as a client would.
    pub fn delete(&self, plural: &str, group_version: &str, key: &str) {
        let collection = Collection { group_version: group_version.to_owned(), plural: plural.to_owned() };
        let mut store = self.shared.lock();
        store.delete(&collection, key);
        self.shared.tell(&store);
    }

    /// The stored object, by `<namespace>/<name>`.
    #[must_use]
    pub fn get(&self, plural: &str, group_version: &str, key: &str) -> Option<Value> {
        let collection = Collection { group_version: group_version.to_owned(), plural: plural.to_owned() };
        self.shared.lock().objects.get(&collection)?.get(key).cloned()
    }

    /// The keys of all objects of a kind.
    #[must_use]
    pub fn keys(&self, plural: &str, group_version: &str) -> BTreeSet<String> {
        let collection = Collection { group_version: group_version.to_owned(), plural: plural.to_owned() };
        self.shared.lock().objects.get(&collection).into_iter().flat_map(|o| o.keys().cloned()).collect()
    }

    /// Allows clients what these rules say, and answers 403 to everything else. What they did before is forgotten.
    pub fn enforce(&self, rules: Rules) {
        let mut store = self.shared.lock();
        store.rules = Some(rules);
        store.accesses.clear();
        store.refused.clear();
    }

    /// What clients did since then, in RBAC's words.
    #[must_use]
    pub fn accesses(&self) -> BTreeSet<Access> {
        self.shared.lock().accesses.clone()
    }

    /// What clients tried and were not allowed to do.
    #[must_use]
    pub fn refused(&self) -> BTreeSet<Access> {
        self.shared.lock().refused.clone()
    }

    /// The requests so far, as `<method> <path and query>`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, store: &Store) {
        self.news.send_modify(|news| news.0 = store.version);
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        if shared.lock().faults.refuse {
            continue;
        }
        let shared = Arc::clone(&shared);
        let (watched, mut news) = (Arc::clone(&shared), shared.news.subscribe());
        let refused = async move { while news.changed().await.is_ok() && !watched.lock().faults.refuse {} };
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(shared, request).await) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // A client that goes away ends its connection with an error.
                _ = connection => {}
                () = refused => {}
            }
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let line = format!("{} {}", parts.method, parts.uri);
    // Before the faults are read: whoever changes them then hangs up on this request, too.
    let hung_up = shared.news.borrow().1;
    let faults = {
        let mut store = shared.lock();
        store.requests.push(line.clone());
        store.faults.clone()
    };
    tokio::time::sleep(faults.delay).await;
    if let Some((_, code)) = faults.errors.iter().find(|(text, _)| line.contains(text)) {
        return failure(*code, "Injected", "a fault that the test asked for");
    }
    if let Some(resources) = shared.lock().resources(parts.uri.path()) {
        return response(200, &resources);
    }
    let Some(mut target) = Target::parse(parts.uri.path()) else {
        return failure(404, "NotFound", "the server could not find the requested resource");
    };
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| {
            (name.to_owned(), value.replace("%2F", "/").replace("%3D", "=").replace("%2C", ","))
        })
        .collect();
    let selector = query.get("fieldSelector").and_then(|selector| selector.split_once('='));
    target.field = selector.map(|(path, value)| (path.to_owned(), value.to_owned()));
    let equal = |term: &str| term.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let terms = query.get("labelSelector").map(String::as_str).unwrap_or_default().split(',');
    target.labels = terms.filter_map(equal).collect();
    let apply = parts
        .headers
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply"));
    let watches = parts.method == Method::GET && query.get("watch").is_some_and(|watch| watch == "true");
    if let Some(denied) = shared.lock().authorize(&parts.method, &target, watches, apply) {
        return failure(403, "Forbidden", &denied);
    }
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if watches {
        return watch_collection(&shared, target, &query, hung_up);
    }
    let mut store = shared.lock();
    let result = match (parts.method, target.name.is_some()) {
        (Method::GET, false) => Ok(store.list(&target)),
        (Method::GET, true) => store.existing(&target),
        (Method::POST, false) => store.create(&target, body),
        (Method::PUT, true) => store.replace(&target, body),
        (Method::PATCH, true) => {
            let manager = query.get("fieldManager").cloned().unwrap_or_default();
            store.patch(&target, &body, apply.then_some(manager.as_str()))
        }
        (Method::DELETE, true) => store.existing(&target).and_then(|existing| {
            is_meant(&existing, &body["preconditions"])?;
            store.delete(&target.collection, &target.key());
            Ok(existing)
        }),
        _ => Err((405, "MethodNotAllowed", "not here".to_owned())),
    };
    shared.tell(&store);
    drop(store);
    match result {
        Ok(value) => response(200, &value),
        Err((code, reason, message)) => {
            let mut refused = status(code, reason, &message);
            refused["details"] = json!({ "name": target.name, "kind": target.collection.plural });
            response(code, &refused)
        }
    }
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/');
        let group_version = match parts.next()? {
            "api" => parts.next()?.to_owned(),
            "apis" => format!("{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let mut rest: Vec<&str> = parts.collect();
        let mut namespace = None;
        if rest.len() > 2 && rest[0] == "namespaces" {
            namespace = Some(rest[1].to_owned());
            rest.drain(..2);
        }
        let collection = Collection { group_version, plural: (*rest.first()?).to_owned() };
        let name = rest.get(1).map(|name| (*name).to_owned());
        Some(Self {
            collection,
            namespace,
            name,
            status: rest.get(2) == Some(&"status"),
            field: None,
            labels: Vec::new(),
        })
    }

    /// Whether a list or watch of this target has the object in it.
    fn selects(&self, object: &Value) -> bool {
        let field = self.field.as_ref().is_none_or(|(path, wanted)| {
            let found = object.pointer(&format!("/{}", path.replace('.', "/"))).and_then(Value::as_str);
            // What is not there is an empty text to a server.
            found.unwrap_or_default() == wanted
        });
        let labels = &object["metadata"]["labels"];
        field
            && self.labels.iter().all(|(name, value)| labels[name] == *value)
            && in_namespace(object, self.namespace.as_deref())
    }

    fn key(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        format!("{}/{name}", self.namespace.as_deref().unwrap_or_default())
    }
}

fn key_of(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

type Refused = (u16, &'static str, String);

impl Store {
    /// The kinds of a version of an API group (`/apis/<group>/<version>`), once there was an object of it.
    fn resources(&self, path: &str) -> Option<Value> {
        let group_version = path.strip_prefix("/apis/")?;
        let of_group =
            || self.objects.iter().filter(|(collection, _)| collection.group_version == group_version);
        of_group().next()?;
        let kind = |objects: &BTreeMap<String, Value>| objects.values().next().map(|o| o["kind"].clone());
        let resources: Vec<Value> = of_group()
            .filter_map(|(collection, objects)| {
                let kind = kind(objects)?;
                let name = &collection.plural;
                Some(json!({
                    "name": name, "singularName": "", "kind": kind, "namespaced": true, "verbs": ["list"],
                }))
            })
            .collect();
        Some(json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
        }))
    }

    /// Notes what a request does, and says why it may not.
    fn authorize(&mut self, method: &Method, target: &Target, watches: bool, apply: bool) -> Option<String> {
        let verbs: &[&str] = match (method, target.name.is_some()) {
            (&Method::GET, _) if watches => &["watch"],
            (&Method::GET, false) => &["list"],
            (&Method::GET, true) => &["get"],
            (&Method::POST, _) => &["create"],
            (&Method::PUT, _) => &["update"],
            // Who applies what is not there creates it, and must be allowed to.
            (&Method::PATCH, _) if apply && !target.status && self.existing(target).is_err() => {
                &["patch", "create"]
            }
            (&Method::PATCH, _) => &["patch"],
            (&Method::DELETE, true) => &["delete"],
            (&Method::DELETE, false) => &["deletecollection"],
            _ => &["unknown"],
        };
        let group = target.collection.group_version.rsplit_once('/').map_or("", |(group, _)| group);
        let resource = match target.status {
            true => format!("{}/status", target.collection.plural),
            false => target.collection.plural.clone(),
        };
        let mut denied = None;
        for verb in verbs {
            let access = Access {
                verb: (*verb).to_owned(),
                group: group.to_owned(),
                resource: resource.clone(),
                namespace: target.namespace.clone(),
                name: target.name.clone(),
            };
            if self.rules.as_ref().is_some_and(|rules| !rules.allow(&access)) {
                denied = Some(format!(
                    "User \"test\" cannot {verb} resource \"{resource}\" in API group \"{group}\""
                ));
                self.refused.insert(access.clone());
            }
            self.accesses.insert(access);
        }
        denied
    }

    fn list(&self, target: &Target) -> Value {
        let objects = self.objects.get(&target.collection);
        let items: Vec<_> =
            objects.into_iter().flat_map(BTreeMap::values).filter(|object| target.selects(object)).collect();
        json!({
            "apiVersion": target.collection.group_version, "kind": "List",
            "metadata": { "resourceVersion": self.version.to_string() }, "items": items,
        })
    }

    fn existing(&self, target: &Target) -> Result<Value, Refused> {
        let object = self.objects.get(&target.collection).and_then(|objects| objects.get(&target.key()));
        object.cloned().ok_or_else(|| {
            (404, "NotFound", format!("{} \"{}\" not found", target.collection.plural, target.key()))
        })
    }

    fn create(&mut self, target: &Target, mut object: Value) -> Result<Value, Refused> {
        if let Some(namespace) = &target.namespace {
            object["metadata"]["namespace"] = json!(namespace);
        }
        if self.objects.get(&target.collection).is_some_and(|o| o.contains_key(&key_of(&object))) {
            return Err((409, "AlreadyExists", format!("{} already exists", key_of(&object))));
        }
        Ok(self.save(&target.collection, object))
    }

    fn replace(&mut self, target: &Target, object: Value) -> Result<Value, Refused> {
        let existing = self.existing(target)?;
        let wanted = &object["metadata"]["resourceVersion"];
        if wanted.is_string() && *wanted != existing["metadata"]["resourceVersion"] {
            return Err((
                409,
                "Conflict",
                "the object has been modified; please apply your changes to the latest version".into(),
            ));
        }
        let mut next = existing.clone();
        if target.status {
            next["status"] = object["status"].clone();
        } else {
            let status = existing.get("status").cloned();
            next = object;
            for field in ["uid", "creationTimestamp", "generation", "deletionTimestamp"] {
                if let Some(value) = existing["metadata"].get(field) {
                    next["metadata"][field] = value.clone();
                }
            }
            if let Some(status) = status {
                next["status"] = status;
            }
        }
        Ok(self.save(&target.collection, next))
    }

    /// A merge patch, or, with a manager, an apply.
    fn patch(&mut self, target: &Target, patch: &Value, manager: Option<&str>) -> Result<Value, Refused> {
        let mut next = match self.existing(target) {
            Ok(object) => {
                is_meant(&object, &patch["metadata"])?;
                object
            }
            Err(_) if manager.is_some() && !target.status => json!({
                "apiVersion": patch["apiVersion"], "kind": patch["kind"],
                "metadata": { "name": target.name, "namespace": target.namespace },
            }),
            Err(refused) => return Err(refused),
        };
        let mut patch = patch.clone();
        let part = |keep: bool, patch: &mut Value| {
            if let Some(fields) = patch.as_object_mut() {
                fields.retain(|name, _| (name == "status") == keep);
            }
        };
        if target.status {
            part(true, &mut patch);
        } else if target.collection.plural == "lans" {
            part(false, &mut patch);
        }
        if let Some(manager) = manager {
            let scope = if target.status { format!("{manager} status") } else { manager.to_owned() };
            let key = (target.collection.clone(), target.key(), scope);
            let before = self.applied.insert(key, patch.clone()).unwrap_or(Value::Null);
            take_away(&mut next, &before, &patch);
        }
        merge(&mut next, &patch, manager.is_some());
        Ok(self.save(&target.collection, next))
    }

    fn save(&mut self, collection: &Collection, mut object: Value) -> Value {
        let key = key_of(&object);
        let before = self.objects.get(collection).and_then(|objects| objects.get(&key)).cloned();
        let metadata = &mut object["metadata"];
        match &before {
            Some(before) => metadata["resourceVersion"] = before["metadata"]["resourceVersion"].clone(),
            None => {
                self.uids += 1;
                metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.uids));
                if metadata.get("creationTimestamp").is_none() {
                    metadata["creationTimestamp"] = json!("2026-11-21T07:00:00Z");
                }
                metadata["generation"] = json!(1);
            }
        }
        if let Some(before) = &before {
            if *before == object {
                return object;
            }
            if before.get("spec") != object.get("spec") {
                let generation = before["metadata"]["generation"].as_i64().unwrap_or(1);
                object["metadata"]["generation"] = json!(generation + 1);
            }
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let finalizers = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if object["metadata"].get("deletionTimestamp").is_some() && !finalizers {
            self.objects.entry(collection.clone()).or_default().insert(key.clone(), object.clone());
            self.remove(collection, &key);
            return object;
        }
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.objects.entry(collection.clone()).or_default().insert(key, object.clone());
        self.history.push(Change {
            version: self.version,
            collection: collection.clone(),
            kind,
            object: object.clone(),
        });
        object
    }

    fn delete(&mut self, collection: &Collection, key: &str) {
        let Some(object) = self.objects.get(collection).and_then(|objects| objects.get(key)) else { return };
        let finalizers = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if finalizers {
            let mut object = object.clone();
            object["metadata"]["deletionTimestamp"] = json!("2026-11-21T08:00:00Z");
            self.save(collection, object);
        } else {
            self.remove(collection, key);
        }
    }

    fn remove(&mut self, collection: &Collection, key: &str) {
        let Some(mut object) = self.objects.get_mut(collection).and_then(|objects| objects.remove(key))
        else {
            return;
        };
        self.applied.retain(|(c, k, _), _| c != collection || k != key);
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let uid = object["metadata"]["uid"].clone();
        self.history.push(Change {
            version: self.version,
            collection: collection.clone(),
            kind: "DELETED",
            object,
        });
        // What the garbage collector does.
        let owned = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid))
        };
        let orphans: Vec<_> = self
            .objects
            .iter()
            .flat_map(|(collection, objects)| {
                let owned = objects.iter().filter(|(_, object)| owned(object));
                owned.map(|(key, _)| (collection.clone(), key.clone())).collect::<Vec<_>>()
            })
            .collect();
        for (collection, key) in orphans {
            self.delete(&collection, &key);
        }
    }
}

/// Whether an object is the one, in the version, that a change is meant for.
fn is_meant(existing: &Value, wanted: &Value) -> Result<(), Refused> {
    for field in ["uid", "resourceVersion"] {
        if wanted[field].is_string() && wanted[field] != existing["metadata"][field] {
            return Err((409, "Conflict", format!("the object has another {field} by now")));
        }
    }
    Ok(())
}

fn in_namespace(object: &Value, namespace: Option<&str>) -> bool {
    namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
}

/// Takes away what a manager applied before and applies no more.
fn take_away(object: &mut Value, before: &Value, now: &Value) {
    // A list whose items are known by their type.
    if let (Some(items), Some(before), Some(now)) = (object.as_array_mut(), before.as_array(), now.as_array())
    {
        let has = |list: &[Value], item: &Value| list.iter().any(|other| other["type"] == item["type"]);
        items.retain(|item| !item["type"].is_string() || !has(before, item) || has(now, item));
        return;
    }
    let (Some(fields), Some(before)) = (object.as_object_mut(), before.as_object()) else { return };
    for (name, value) in before {
        match now.get(name) {
            None => {
                fields.remove(name);
            }
            Some(now) => {
                if let Some(field) = fields.get_mut(name) {
                    take_away(field, value, now);
                }
            }
        }
    }
}

fn merge(object: &mut Value, patch: &Value, apply: bool) {
    match (object, patch) {
        (Value::Object(fields), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() && !apply {
                    fields.remove(name);
                } else {
                    merge(fields.entry(name.clone()).or_insert(Value::Null), value, apply);
                }
            }
        }
        (Value::Array(items), Value::Array(patch))
            if apply && !patch.is_empty() && patch.iter().all(|item| item["type"].is_string()) =>
        {
            for value in patch {
                match items.iter_mut().find(|item| item["type"] == value["type"]) {
                    Some(item) => merge(item, value, apply),
                    None => items.push(value.clone()),
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

fn watch_collection(
    shared: &Arc<Shared>,
    target: Target,
    query: &BTreeMap<String, String>,
    hung_up: u64,
) -> Response<Body> {
    let from: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or_default();
    let news = shared.news.subscribe();
    struct Watching {
        shared: Arc<Shared>,
        news: watch::Receiver<(u64, u64)>,
        hung_up: u64,
        from: u64,
        target: Target,
        gone: bool,
    }
    let state = Watching { shared: Arc::clone(shared), news, hung_up, from, target, gone: false };
    let events = futures_util::stream::unfold(state, |mut state| async move {
        loop {
            if state.gone || state.news.borrow_and_update().1 != state.hung_up {
                return None;
            }
            let mut lines = Vec::new();
            {
                let store = state.shared.lock();
                if state.from < store.forgotten {
                    state.gone = true;
                    let status = status(410, "Expired", "too old resource version");
                    lines.extend(
                        serde_json::to_vec(&json!({ "type": "ERROR", "object": status })).unwrap_or_default(),
                    );
                    lines.push(b'\n');
                }
                for change in store.history.iter().filter(|change| change.version > state.from) {
                    if change.collection == state.target.collection && state.target.selects(&change.object) {
                        let line = json!({ "type": change.kind, "object": change.object });
                        lines.extend(serde_json::to_vec(&line).unwrap_or_default());
                        lines.push(b'\n');
                    }
                }
                state.from = state.from.max(store.version);
            }
            if !lines.is_empty() {
                return Some((Ok::<_, Infallible>(Frame::data(Bytes::from(lines))), state));
            }
            if state.news.changed().await.is_err() {
                return None;
            }
        }
    });
    let body = BodyExt::boxed_unsync(StreamBody::new(events));
    Response::builder().header("content-type", "application/json").body(body).expect("a response")
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

fn failure(code: u16, reason: &str, message: &str) -> Response<Body> {
    response(code, &status(code, reason, message))
}

fn response(code: u16, value: &Value) -> Response<Body> {
    let bytes = Bytes::from(serde_json::to_vec(value).expect("JSON"));
    let mut response = Response::new(Full::new(bytes).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).expect("a status code");
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}
