//! Carries out the protocol's requests at the API server.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{DeserializeGuard, ObjectMeta};
use kube::{Api, Client, Resource};
use lan::pool::{LanAddress, LanBlock};
use pool_blocks::{Answer, Float, Key, NodeName, NodeState, Object, Place, PoolName, Request, Spec, Uid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::convert::{ClaimError, ClaimSpec, address_object, block_object, claim_spec, object};
use super::for_node::{StoredPool, pools};
use crate::chain;

/// How many objects a list is read by.
const PAGE: u32 = 500;
/// The time limit of a request; then its answer is unknown.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The label of a block by which its node finds it. It only makes a list shorter: what the list holds is compared with the
/// holder, and a block whose label somebody took away is missed, which can only take a permission away. Each write sets it again.
pub(super) const NODE_LABEL: &str = "lan.k8slan.io/node";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The longest reason why something is not taken, in bytes.
pub(super) const MAX_REASON: usize = 512;

/// Whose objects may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Those of this node.
    Node(NodeName),
    /// Those of all nodes.
    Leader,
}

/// Reads the node's own `Node`; a server of custom resources alone has none.
pub trait NodeReader: Send + Sync + 'static {
    /// A consistent read; `None`: there is none of this name.
    fn read(&self, name: &NodeName) -> impl Future<Output = Result<Option<NodeState>, kube::Error>> + Send;
}

impl NodeReader for Client {
    async fn read(&self, name: &NodeName) -> Result<Option<NodeState>, kube::Error> {
        let node = Api::<Node>::all(self.clone()).get_opt(name.as_str()).await?;
        Ok(node.as_ref().and_then(node_state))
    }
}

/// What a `Node` says that matters here.
pub(super) fn node_state(node: &Node) -> Option<NodeState> {
    let uid = node.metadata.uid.as_deref().and_then(Uid::parse)?;
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let out_of_service = taints.into_iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE);
    Some(NodeState { uid, out_of_service })
}

/// The objects of pools at the API server, as one node or the leader may change them. All reads are consistent: no
/// `resourceVersion` is given, and nothing is cached.
pub struct PoolApi<N> {
    rights: Rights,
    nodes: N,
    client: Client,
    blocks: Api<LanBlock>,
    addresses: Api<LanAddress>,
    guarded_blocks: Api<DeserializeGuard<LanBlock>>,
    guarded_addresses: Api<DeserializeGuard<LanAddress>>,
    pools: Api<StoredPool>,
}

/// Why a request has no certain answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the object {name} is none that k8slan writes: {error}")]
    Malformed { name: String, error: ClaimError },
    #[error("the API server gave no answer in time")]
    Timeout,
    #[error("{0} is not this node's")]
    Foreign(Key),
}

pub(super) type Answered = Result<Answer, RequestError>;

impl PoolApi<Client> {
    /// With the API server's own nodes.
    #[must_use]
    pub fn new(client: Client, rights: Rights) -> Self {
        Self::with_nodes(client.clone(), rights, client)
    }
}

impl<N: NodeReader> PoolApi<N> {
    /// With the nodes of `nodes`.
    #[must_use]
    pub fn with_nodes(client: Client, rights: Rights, nodes: N) -> Self {
        Self {
            rights,
            nodes,
            client: client.clone(),
            blocks: Api::all(client.clone()),
            addresses: Api::all(client.clone()),
            guarded_blocks: Api::all(client.clone()),
            guarded_addresses: Api::all(client.clone()),
            pools: Api::all_with(client, &pools()),
        }
    }

    pub(super) const fn guarded_blocks(&self) -> &Api<DeserializeGuard<LanBlock>> {
        &self.guarded_blocks
    }

    pub(super) const fn guarded_addresses(&self) -> &Api<DeserializeGuard<LanAddress>> {
        &self.guarded_addresses
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) const fn pools(&self) -> &Api<StoredPool> {
        &self.pools
    }

    /// Carries a request out. Whatever is not a certain answer is [`Answer::Unknown`], and the log says why.
    pub async fn answer(&self, request: &Request) -> Answer {
        let answered = tokio::time::timeout(TIMEOUT, self.carry_out(request)).await;
        match answered.unwrap_or(Err(RequestError::Timeout)) {
            Ok(answer) => {
                match (&answer, request) {
                    (Answer::Forbidden(reason), Request::Float(Float { owner, user: Some(_), .. })) => {
                        tracing::warn!(%owner, reason, "a pod gets no address by the claim that it names");
                    }
                    (Answer::Forbidden(reason), _) => tracing::warn!(
                        ?request,
                        reason,
                        "the API server does not take a request about a pool's block"
                    ),
                    _ => {}
                }
                answer
            }
            Err(error) => {
                tracing::warn!(
                    ?request,
                    error = chain(&error),
                    "a request about a pool's block has no certain answer"
                );
                Answer::Unknown
            }
        }
    }

    async fn carry_out(&self, request: &Request) -> Answered {
        if let Some(key) = self.foreign(request) {
            return Err(RequestError::Foreign(key.clone()));
        }
        match request {
            Request::ReadOwn => self.read_own().await,
            Request::ListAddresses(pool) => self.list_addresses(pool).await,
            Request::Get(key) => self.get(key).await,
            Request::Create(key, spec) => self.create(key, spec).await,
            Request::Update(key, uid, version, spec) => {
                changed(self.update(key, *uid, &version.0.to_string(), spec).await)
            }
            Request::Float(asked) => self.float(asked).await,
            Request::Pool(pool) => self.current(pool).await,
            Request::Delete(key, uid, version) => {
                let preconditions = Preconditions {
                    uid: Some(uid.to_string()),
                    resource_version: Some(version.0.to_string()),
                };
                changed(self.delete(key, preconditions).await)
            }
        }
    }

    /// What the request would change that is another node's, as far as the request says it: an update may also leave an address,
    /// and contest what another has. What a delete is about says the admission policy.
    fn foreign<'a>(&self, request: &'a Request) -> Option<&'a Key> {
        let Rights::Node(own) = &self.rights else { return None };
        let is_own = |spec: &Spec| spec.holders.iter().all(|holder| holder.node == *own);
        match request {
            Request::Create(key, spec) => (spec.holders.is_empty() || !is_own(spec)).then_some(key),
            Request::Update(key, _, _, spec) => {
                let is_block = matches!(key.place, Place::Block(_));
                (is_block && !is_own(spec) && !spec.contested.contains(own)).then_some(key)
            }
            _ => None,
        }
    }

    /// The `Node` first: what is read after it holds for a node that is as it says.
    async fn read_own(&self) -> Answered {
        let Rights::Node(own) = &self.rights else { return Ok(Answer::Unknown) };
        let node = self.nodes.read(own).await?;
        let label = format!("{NODE_LABEL}={}", label_value(own.as_str()));
        let blocks = list(&self.guarded_blocks, &ListParams::default().labels(&label)).await?;
        let addresses = list(&self.guarded_addresses, &ListParams::default()).await?;
        let is_own = |object: &Object| object.spec.holder(own).is_some();
        let blocks = blocks.iter().filter_map(|block| readable(block, block_object)).filter(is_own);
        let blocks: Vec<Object> = blocks.collect();
        // Those in its blocks too, whoever has them: it is to give them up.
        let around = |object: &Object| match object.key.place {
            Place::Address(address) => blocks.iter().any(|block| {
                block.key.pool == object.key.pool
                    && matches!(block.key.place, Place::Block(prefix) if prefix.range().contains(address))
                    && !block.spec.released.contains(address)
            }),
            Place::Block(_) => false,
        };
        let addresses = addresses.iter().filter_map(|address| readable(address, address_object));
        let addresses: Vec<Object> = addresses.filter(|object| is_own(object) || around(object)).collect();
        Ok(Answer::Own(node, blocks.into_iter().chain(addresses).collect()))
    }

    /// What cannot be read is somebody's all the same: its name alone keeps others off.
    async fn list_addresses(&self, pool: &PoolName) -> Answered {
        let all = list(&self.guarded_addresses, &ListParams::default()).await?;
        let objects =
            all.iter().filter_map(|found| Self::address(found).filter(|object| object.key.pool == *pool));
        Ok(Answer::Addresses(objects.collect()))
    }

    /// The floating address; of one that cannot be read, what its name says.
    pub(super) fn address(found: &DeserializeGuard<LanAddress>) -> Option<Object> {
        readable(found, address_object).or_else(|| unreadable_address(found.meta()))
    }

    async fn get(&self, key: &Key) -> Answered {
        self.find(key).await.map(Answer::Object)
    }

    /// One object, if it is there. What cannot be read is somebody's all the same, and its name keeps others off.
    pub(super) async fn find(&self, key: &Key) -> Result<Option<Object>, RequestError> {
        let name = key.to_string();
        match key.place {
            Place::Block(_) => {
                let found = self.guarded_blocks.get_opt(&name).await?;
                found.map(|found| named(key, readable(&found, block_object), found.meta())).transpose()
            }
            Place::Address(_) => {
                let found = self.guarded_addresses.get_opt(&name).await?;
                found.map(|found| named(key, readable(&found, address_object), found.meta())).transpose()
            }
        }
    }

    pub(super) async fn create(&self, key: &Key, spec: &Spec) -> Answered {
        let (name, parameters) = (key.to_string(), PostParams::default());
        let made = match expect(key, claim_spec(key, spec))? {
            ClaimSpec::Block(spec) => {
                let labels = [(NODE_LABEL.to_owned(), label_value(&spec.holder.node))].into();
                let mut block = LanBlock::new(&name, spec);
                block.metadata.labels = Some(labels);
                self.blocks.create(&parameters, &block).await.map(|block| block_object(&block))
            }
            ClaimSpec::Address(spec) => {
                let address = LanAddress::new(&name, spec);
                self.addresses.create(&parameters, &address).await.map(|address| address_object(&address))
            }
        };
        match made {
            Ok(object) => Ok(Answer::Written(expect(key, object)?)),
            Err(error) if is(&error, 409, "AlreadyExists") => Ok(Answer::AlreadyExists),
            Err(error) => forbidden(error.into()),
        }
    }

    async fn update(&self, key: &Key, uid: Uid, version: &str, spec: &Spec) -> Answered {
        let (name, parameters) = (key.to_string(), PatchParams::default());
        let metadata = json!({ "uid": uid, "resourceVersion": version });
        let object = match expect(key, claim_spec(key, spec))? {
            ClaimSpec::Block(spec) => {
                let mut patch = patch(metadata, &spec, &["released", "contested"]);
                // The labels of another node's block stay, right or wrong: the policy holds others to its specification.
                if matches!(&self.rights, Rights::Node(own) if own.as_str() == spec.holder.node) {
                    patch["metadata"]["labels"] = json!({ NODE_LABEL: label_value(&spec.holder.node) });
                }
                block_object(&self.blocks.patch(&name, &parameters, &Patch::Merge(&patch)).await?)
            }
            ClaimSpec::Address(spec) => {
                let patch = patch(metadata, &spec, &["holders", "contested"]);
                address_object(&self.addresses.patch(&name, &parameters, &Patch::Merge(&patch)).await?)
            }
        };
        Ok(Answer::Written(expect(key, object)?))
    }

    async fn delete(&self, key: &Key, preconditions: Preconditions) -> Answered {
        let name = key.to_string();
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        // What somebody's finalizer keeps is still there.
        let kept = match key.place {
            Place::Block(_) => is_kept(self.blocks.delete(&name, &parameters).await?.left()),
            Place::Address(_) => is_kept(self.addresses.delete(&name, &parameters).await?.left()),
        };
        Ok(if kept { Answer::Unknown } else { Answer::Deleted })
    }
}

/// What the API server says to an update or a delete whose object is not as it was meant.
fn changed(answered: Answered) -> Answered {
    match answered {
        Err(RequestError::Api(error)) if is(&error, 409, "Conflict") => Ok(Answer::Conflict),
        Err(RequestError::Api(error)) if is(&error, 404, "NotFound") => Ok(Answer::NotFound),
        Err(error) => forbidden(error),
        answered => answered,
    }
}

/// What the API server does not take is not done, now or later.
fn forbidden(error: RequestError) -> Answered {
    match error {
        RequestError::Api(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => {
            Ok(Answer::Forbidden(proto::brief(&status.message, MAX_REASON)))
        }
        error => Err(error),
    }
}

fn is(error: &kube::Error, code: u16, reason: &str) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code && status.reason == reason)
}

fn is_kept(deleted: Option<impl Resource>) -> bool {
    deleted.is_some_and(|object| object.meta().finalizers.as_ref().is_some_and(|all| !all.is_empty()))
}

/// A merge patch, which leaves alone what this version does not know. Fields that the specification leaves out are removed.
fn patch(metadata: Value, spec: &impl Serialize, optional: &[&str]) -> Value {
    let mut patch = json!({ "metadata": metadata, "spec": spec });
    for field in optional {
        if patch["spec"].get(field).is_none() {
            patch["spec"][field] = Value::Null;
        }
    }
    patch
}

/// All objects of a kind, in pages of one moment.
pub(super) async fn list<K>(api: &Api<K>, parameters: &ListParams) -> Result<Vec<K>, kube::Error>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut parameters = parameters.clone().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// The object, if it is one that the daemons write.
pub(super) fn readable<K>(
    found: &DeserializeGuard<K>,
    read: impl Fn(&K) -> Result<Object, ClaimError>,
) -> Option<Object>
where
    DeserializeGuard<K>: Resource,
{
    let object = match &found.0 {
        Ok(object) => read(object).map_err(|error| error.to_string()),
        Err(invalid) => Err(invalid.error.clone()),
    };
    let name = found.meta().name.as_deref();
    object.inspect_err(|error| tracing::warn!(name, error, "an object of a pool that cannot be read")).ok()
}

fn unreadable_address(metadata: &ObjectMeta) -> Option<Object> {
    unreadable(Key::parse_address(metadata.name.as_deref()?)?, metadata).ok()
}

/// The object of this key: one that says something else, such as another length of the block, is none that can be read.
fn named(key: &Key, read: Option<Object>, metadata: &ObjectMeta) -> Result<Object, RequestError> {
    match read.filter(|object| object.key == *key) {
        Some(object) => Ok(object),
        None => expect(key, unreadable(key.clone(), metadata)),
    }
}

fn unreadable(key: Key, metadata: &ObjectMeta) -> Result<Object, ClaimError> {
    let name = key.to_string();
    object(key, &ObjectMeta { name: Some(name), ..metadata.clone() }, Spec::unreadable())
}

fn expect<T>(key: &Key, result: Result<T, ClaimError>) -> Result<T, RequestError> {
    result.map_err(|error| RequestError::Malformed { name: key.to_string(), error })
}

/// A node's name as a label's value, which is shorter: a long one as its hash.
pub(super) fn label_value(node: &str) -> String {
    use sha2::Digest as _;
    if node.len() <= 63 {
        return node.to_owned();
    }
    sha2::Sha256::digest(node.as_bytes()).iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_something_else_than_its_name_is_somebodys() {
        let key = Key::parse_block("office.0a000010", |_, _| Some(28)).unwrap();
        let metadata = ObjectMeta {
            name: Some("office.0a000010".to_owned()),
            uid: Some("0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b".to_owned()),
            resource_version: Some("7".to_owned()),
            ..ObjectMeta::default()
        };
        let other = Key::parse_block("office.0a000010", |_, _| Some(32)).unwrap();
        let other = object(other, &metadata, Spec::default()).unwrap();
        for read in [None, Some(other)] {
            let found = named(&key, read, &metadata).unwrap();
            assert!(found.key == key && !found.spec.is_readable(), "{found:?}");
        }
        let good = object(key.clone(), &metadata, Spec::default()).unwrap();
        assert_eq!(named(&key, Some(good.clone()), &metadata).unwrap(), good);
        assert!(named(&key, None, &ObjectMeta::default()).is_err());
    }
}
