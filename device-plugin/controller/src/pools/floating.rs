//! Finds and makes the addresses that follow their owners over nodes.

use kube::Api;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use lan::pool::{LanAddress, LanPoolSpec, ParsedPool};
use net_types::{Addr, Family};
use pool_blocks::{
    Answer, BlockLengths, CurrentPool, Float, Geometry, Key, Leader, Object, Owner, Place, PoolName,
    PoolSnapshot, Request, ResourceVersion, Spec,
};

use super::api::{Answered, MAX_REASON, NodeReader, PoolApi, list, readable};
use super::claim_api::Claim;
use super::convert::block_object;
use super::for_node::{StoredPool, block_lengths, is_accepted, is_replacing};

/// How often an address is looked for that others take meanwhile.
const ATTEMPTS: u64 = 8;

impl<N: NodeReader> PoolApi<N> {
    /// The owner's address; one is made if it has none and may. [`Answer::Object`] without one: it has none, or none is free.
    ///
    /// Two nodes that ask for one owner at once may make two addresses. After that both read the list, and take the same one of
    /// them; the leader removes the other.
    ///
    /// That of a claim, only if the claim is there, and is the pod's to use.
    pub(super) async fn float(&self, asked: &Float) -> Answered {
        let claim = match self.claim(asked).await? {
            Claim::Refused(reason) => return Ok(Answer::Forbidden(proto::brief(&reason, MAX_REASON))),
            Claim::Valid(claim) => Some(claim),
            Claim::Unneeded => None,
        };
        let answer = self.find_or_make(asked).await?;
        if let (Some(claim), Answer::Object(Some(_))) = (claim, &answer) {
            let found = self.addresses_of(&asked.pool).await?;
            let of = |family| best(&found, family, &asked.owner).and_then(address_of);
            let addresses: Vec<Addr> = Family::BOTH.into_iter().filter_map(of).collect();
            self.tell_claim(&claim, &asked.pool, &addresses).await?;
        }
        Ok(answer)
    }

    async fn find_or_make(&self, asked: &Float) -> Answered {
        if let (false, Some(address)) = (asked.create, asked.address) {
            let found = self.find(&Key::address(&asked.pool, address)).await?;
            return Ok(Answer::Object(
                found.filter(|object| object.spec.owner.as_ref() == Some(&asked.owner)),
            ));
        }
        for attempt in 0..ATTEMPTS {
            let addresses = self.addresses_of(&asked.pool).await?;
            if let Some(object) = best(&addresses, asked.family, &asked.owner) {
                return Ok(Answer::Object(Some(object.clone())));
            }
            if !asked.create {
                break;
            }
            let Some(geometry) = self.geometry(&asked.pool).await? else { return Ok(Answer::Unknown) };
            let request = match asked.address {
                Some(address) => {
                    let key = Key::address(&asked.pool, address);
                    let is_free = geometry.addresses().contains(address)
                        && addresses.iter().all(|(object, _)| object.key != key);
                    let spec = Spec { owner: Some(asked.owner.clone()), ..Spec::default() };
                    is_free.then_some(Request::Create(key, spec))
                }
                None => {
                    let mut objects: Vec<Object> = addresses.into_iter().map(|(object, _)| object).collect();
                    objects.extend(self.blocks_of(&asked.pool).await?);
                    let view = PoolSnapshot { objects, ..PoolSnapshot::default() };
                    let choice = asked.owner.choice().wrapping_add(attempt);
                    Leader::float(&geometry, asked.family, &view, &asked.owner, choice)
                }
            };
            let Some(Request::Create(key, spec)) = request else { break };
            // Whether it was made or somebody was first: what there is, the next list says.
            if let forbidden @ Answer::Forbidden(_) = self.create(&key, &spec).await? {
                return Ok(forbidden);
            }
        }
        Ok(Answer::Object(None))
    }

    /// The floating addresses of a pool, with the times at which they were made. One that cannot be read is somebody's.
    async fn addresses_of(&self, pool: &PoolName) -> Result<Vec<(Object, String)>, kube::Error> {
        let all = list(self.guarded_addresses(), &ListParams::default()).await?;
        let objects = all.iter().filter_map(|found| Some((Self::address(found)?, created(found))));
        Ok(objects.filter(|(object, _)| object.key.pool == *pool).collect())
    }

    async fn blocks_of(&self, pool: &PoolName) -> Result<Vec<Object>, kube::Error> {
        let all = list(self.guarded_blocks(), &ListParams::default()).await?;
        let objects = all.iter().filter_map(|found| readable(found, block_object));
        Ok(objects.filter(|object| object.key.pool == *pool).collect())
    }

    /// How a pool is cut into blocks by now.
    pub(super) async fn current(&self, pool: &PoolName) -> Answered {
        let current = self.claimed(pool).await?.map(|geometry| CurrentPool {
            lengths: geometry.lengths(),
            addresses: geometry.addresses().clone(),
        });
        Ok(Answer::Pool(current))
    }

    /// The pool as blocks; `None`: it is not there, or not accepted as it is now.
    async fn geometry(&self, pool: &PoolName) -> Result<Option<Geometry>, kube::Error> {
        let pools: &Api<StoredPool> = self.pools();
        let found = pools.get_opt(pool.as_str()).await?;
        Ok(found.as_ref().and_then(geometry))
    }

    async fn claimed(&self, pool: &PoolName) -> Result<Option<Geometry>, kube::Error> {
        let pools: &Api<StoredPool> = self.pools();
        let found = pools.get_opt(pool.as_str()).await?;
        Ok(found.as_ref().filter(|pool| is_accepted(pool) || is_replacing(pool)).and_then(cut))
    }
}

/// An accepted pool as blocks.
pub(super) fn geometry(pool: &StoredPool) -> Option<Geometry> {
    if is_accepted(pool) { cut(pool) } else { None }
}

fn cut(pool: &StoredPool) -> Option<Geometry> {
    let lengths = block_lengths(pool)?;
    let spec: LanPoolSpec = serde_json::from_value(pool.spec.clone()).ok()?;
    let parsed = ParsedPool::parse(&spec).ok()?;
    let lengths = BlockLengths { v4: lengths.v4, v6: lengths.v6 };
    let name = pool.metadata.name.as_deref()?.into();
    Some(Geometry::new(name, lengths, parsed.handed_out().clone()))
}

fn address_of(object: &Object) -> Option<Addr> {
    match object.key.place {
        Place::Address(address) => Some(address),
        Place::Block(_) => None,
    }
}

/// When an object was made, in a form whose order is that of time.
pub(super) fn created(address: &DeserializeGuard<LanAddress>) -> String {
    let time = kube::Resource::meta(address).creation_timestamp.as_ref();
    time.map(|time| time.0.to_string()).unwrap_or_default()
}

/// Of the addresses that an owner has: one in which a node is, else the oldest. Everybody chooses the same, since a second one is
/// made later only, and used only if the first is gone.
pub(super) fn best<'a>(
    addresses: &'a [(Object, String)],
    family: Family,
    owner: &Owner,
) -> Option<&'a Object> {
    let of_owner = addresses.iter().filter(|(object, _)| {
        let is_of_family = matches!(object.key.place, Place::Address(address) if address.family() == family);
        is_of_family && object.spec.owner.as_ref() == Some(owner)
    });
    of_owner.min_by_key(|found| rank(found)).map(|(object, _)| object)
}

/// What [`best`] goes by: the least is chosen. The API server counts versions up, and both may be of one second.
pub(super) fn rank((object, created): &(Object, String)) -> (bool, &str, ResourceVersion) {
    (object.spec.holders.is_empty(), created, object.version)
}
