//! `LANBlock` and `LANAddress` objects as the protocol's, and back. Pure.

use kube::core::ObjectMeta;
use lan::pool::{AddressOwner, BlockHolder, LanAddress, LanAddressSpec, LanBlock, LanBlockSpec};
use net_types::AddrSet;
use pool_blocks::{Holder, Key, NodeName, Object, Owner, Place, Prefix, ResourceVersion, Spec, Uid};

use super::ip_claims;

/// The kinds of owners, and how each begins as a text: `vm:<namespace>/<name>`, with `/<network>` behind it or
/// not, and behind that `/<interface>` or not.
const OWNER_KINDS: [(&str, &str); 4] =
    [("VirtualMachine", "vm"), ("Pod", "pod"), ("LANReservation", "reservation"), (ip_claims::KIND, "claim")];

/// The specification of the object that a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClaimSpec {
    Block(LanBlockSpec),
    Address(LanAddressSpec),
}

/// Why an object is none that the daemons write, or cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ClaimError {
    #[error("its name does not say what its specification says")]
    Name,
    #[error("its {0} cannot be read: {1:?}")]
    Field(&'static str, String),
    #[error("a block has one holder and no owner")]
    Block,
    #[error("an address has an owner and no released addresses")]
    Address,
}

pub(super) fn block_object(block: &LanBlock) -> Result<Object, ClaimError> {
    let LanBlockSpec { pool, prefix, holder, released, contested } = &block.spec;
    let prefix: Prefix = prefix.parse().map_err(|_| field("prefix", prefix))?;
    let key = Key::block(&pool.as_str().into(), prefix);
    let ranges = released.iter().map(|text| text.parse().map_err(|_| field("released", text)));
    let released = AddrSet::union(ranges.collect::<Result<Vec<_>, _>>()?);
    let spec =
        Spec { owner: None, holders: vec![from_holder(holder)?], released, contested: nodes(contested) };
    object(key, &block.metadata, spec)
}

pub(super) fn address_object(address: &LanAddress) -> Result<Object, ClaimError> {
    let LanAddressSpec { pool, address: text, owner, holders, contested } = &address.spec;
    let key = Key::address(&pool.as_str().into(), text.parse().map_err(|_| field("address", text))?);
    let spec = Spec {
        owner: Some(owner_text(owner)?),
        holders: holders.iter().map(from_holder).collect::<Result<_, _>>()?,
        released: AddrSet::default(),
        contested: nodes(contested),
    };
    object(key, &address.metadata, spec)
}

/// What the object of this key is to say.
pub(super) fn claim_spec(key: &Key, spec: &Spec) -> Result<ClaimSpec, ClaimError> {
    let pool = key.pool.to_string();
    let contested = spec.contested.iter().map(ToString::to_string).collect();
    match key.place {
        Place::Block(prefix) => {
            let ([holder], None) = (&*spec.holders, &spec.owner) else { return Err(ClaimError::Block) };
            Ok(ClaimSpec::Block(LanBlockSpec {
                pool,
                prefix: prefix.to_string(),
                holder: to_holder(holder)?,
                released: spec.released.iter().map(|range| range.to_string()).collect(),
                contested,
            }))
        }
        Place::Address(address) => {
            let owner =
                spec.owner.as_ref().filter(|_| spec.released.is_empty()).ok_or(ClaimError::Address)?;
            Ok(ClaimSpec::Address(LanAddressSpec {
                pool,
                address: address.to_string(),
                owner: parse_owner(owner)?,
                holders: spec.holders.iter().map(to_holder).collect::<Result<_, _>>()?,
                contested,
            }))
        }
    }
}

/// An object whose name and specification say the same, so that its name is the only one that there can be.
pub(super) fn object(key: Key, metadata: &ObjectMeta, mut spec: Spec) -> Result<Object, ClaimError> {
    let name = metadata.name.as_deref().unwrap_or_default();
    if key.to_string() != name {
        return Err(ClaimError::Name);
    }
    let (uid, version) = (metadata.uid.as_deref(), metadata.resource_version.as_deref());
    let uid = uid.and_then(Uid::parse).ok_or_else(|| field("UID", uid.unwrap_or_default()))?;
    let version = version
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| field("resourceVersion", version.unwrap_or_default()))?;
    // What somebody's finalizer keeps is on its way out: no node may use it, whatever it says, and when it is gone another may have it.
    let is_deleted = metadata.deletion_timestamp.is_some();
    spec.holders.iter_mut().for_each(|holder| holder.fenced |= is_deleted);
    Ok(Object { key, uid, version: ResourceVersion(version), spec })
}

fn field(name: &'static str, text: &str) -> ClaimError {
    ClaimError::Field(name, text.to_owned())
}

fn nodes(names: &[String]) -> Vec<NodeName> {
    names.iter().map(|name| name.as_str().into()).collect()
}

fn from_holder(holder: &BlockHolder) -> Result<Holder, ClaimError> {
    let BlockHolder { node, uid, term, fenced } = holder;
    Ok(Holder {
        node: node.as_str().into(),
        uid: Uid::parse(uid).ok_or_else(|| field("holder's UID", uid))?,
        term: u64::try_from(*term).map_err(|_| field("holder's term", &term.to_string()))?,
        fenced: *fenced,
    })
}

fn to_holder(holder: &Holder) -> Result<BlockHolder, ClaimError> {
    let Holder { node, uid, term, fenced } = holder;
    let term = i64::try_from(*term).map_err(|_| field("holder's term", &term.to_string()))?;
    Ok(BlockHolder { node: node.to_string(), uid: uid.to_string(), term, fenced: *fenced })
}

pub(super) fn owner_text(owner: &AddressOwner) -> Result<Owner, ClaimError> {
    let AddressOwner { kind, namespace, name, network, interface } = owner;
    let prefix = OWNER_KINDS.iter().find(|(of, _)| of == kind).map(|(_, prefix)| prefix);
    let prefix = prefix.ok_or_else(|| field("owner's kind", kind))?;
    let interface = interface.as_ref().map(|interface| format!("/{interface}")).unwrap_or_default();
    let network = match network {
        Some(network) => format!("/{network}{interface}"),
        None if interface.is_empty() => String::new(),
        None => return Err(field("owner's interface", &interface)),
    };
    Ok(format!("{prefix}:{namespace}/{name}{network}").as_str().into())
}

pub(super) fn parse_owner(owner: &Owner) -> Result<AddressOwner, ClaimError> {
    let text = owner.as_str();
    let parsed = text.split_once(':').and_then(|(prefix, rest)| {
        let (kind, _) = OWNER_KINDS.iter().find(|(_, of)| *of == prefix)?;
        let mut parts = rest.split('/');
        let (namespace, name) = (parts.next()?, parts.next()?);
        let (network, interface) = (parts.next(), parts.next());
        let is_whole = parts.next().is_none() && [namespace, name].iter().all(|part| !part.is_empty());
        is_whole.then(|| AddressOwner {
            kind: (*kind).to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            network: network.map(str::to_owned),
            interface: interface.map(str::to_owned),
        })
    });
    parsed.ok_or_else(|| field("owner", text))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use net_types::{Addr, AddrRange};
    use proptest::prelude::*;

    use super::*;

    fn metadata(object: &Object) -> ObjectMeta {
        ObjectMeta {
            name: Some(object.key.to_string()),
            uid: Some(object.uid.to_string()),
            resource_version: Some(object.version.0.to_string()),
            ..ObjectMeta::default()
        }
    }

    fn read(object: &Object, claim: ClaimSpec) -> Result<Object, ClaimError> {
        let metadata = metadata(object);
        match claim {
            ClaimSpec::Block(spec) => block_object(&LanBlock { metadata, spec }),
            ClaimSpec::Address(spec) => address_object(&LanAddress { metadata, spec }),
        }
    }

    fn holder() -> impl Strategy<Value = Holder> {
        ("[a-z][a-z0-9.-]{0,9}", any::<u128>(), 0..1_u64 << 53, any::<bool>()).prop_map(
            |(node, uid, term, fenced)| Holder {
                node: node.as_str().into(),
                uid: Uid::from_number(uid),
                term,
                fenced,
            },
        )
    }

    fn object_of(ip: IpAddr, holders: Vec<Holder>, owner: Option<&str>) -> Object {
        let (pool, address) = ("office".into(), Addr::from(ip));
        let key = match owner {
            Some(_) => Key::address(&pool, address),
            None => Key::block(&pool, Prefix::containing(address, 28)),
        };
        let released = match (owner, AddrRange::single(address)) {
            (None, range) => AddrSet::union([range]),
            _ => AddrSet::default(),
        };
        let spec = Spec { owner: owner.map(Owner::from), holders, released, contested: vec!["x".into()] };
        Object { key, uid: Uid::from_number(7), version: ResourceVersion(9), spec }
    }

    proptest! {
        #[test]
        fn blocks_read_back(ip: IpAddr, holder in holder()) {
            let object = object_of(ip, vec![holder], None);
            let claim = claim_spec(&object.key, &object.spec).unwrap();
            prop_assert_eq!(read(&object, claim).unwrap(), object);
        }

        #[test]
        fn addresses_read_back(
            ip: IpAddr,
            holders in prop::collection::vec(holder(), 0..4),
            owner in "(vm|pod|reservation):[a-z]{1,5}/[a-z.-]{1,5}(/[a-z.-]{1,5}(/[a-z0-9.]{1,5})?)?",
        ) {
            let object = object_of(ip, holders, Some(&owner));
            let claim = claim_spec(&object.key, &object.spec).unwrap();
            prop_assert_eq!(read(&object, claim).unwrap(), object);
        }

        #[test]
        fn texts_that_are_no_owner_are_refused(text in "(vm:)?[a-z:/]{0,12}") {
            if let Ok(owner) = parse_owner(&text.as_str().into()) {
                prop_assert_eq!(owner_text(&owner).unwrap().to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_being_deleted_is_nobodys_to_use() {
        let holder = Holder { node: "w".into(), uid: Uid::from_number(1), term: 0, fenced: false };
        let object = object_of("10.0.0.16".parse().unwrap(), vec![holder], None);
        let ClaimSpec::Block(spec) = claim_spec(&object.key, &object.spec).unwrap() else {
            panic!("a block")
        };
        let mut block = LanBlock { metadata: metadata(&object), spec };
        assert!(!block_object(&block).unwrap().spec.holders[0].fenced);
        block.metadata.deletion_timestamp = Some(Time("2026-11-29T12:00:00Z".parse().unwrap()));
        assert!(block_object(&block).unwrap().spec.holders[0].fenced);
    }

    #[test]
    fn what_a_person_makes_of_an_object_is_no_claim() {
        let holder = Holder { node: "w".into(), uid: Uid::from_number(1), term: 0, fenced: false };
        let object = object_of("10.0.0.16".parse().unwrap(), vec![holder], None);
        let ClaimSpec::Block(good) = claim_spec(&object.key, &object.spec).unwrap() else {
            panic!("a block")
        };
        let edits: [fn(&mut LanBlockSpec); 5] = [
            |spec| spec.prefix = "10.0.0.17/28".into(),
            |spec| spec.prefix = "10.0.0.32/28".into(),
            |spec| spec.pool = "other".into(),
            |spec| spec.holder.uid = "x".into(),
            |spec| spec.released = vec!["10.0.0.9-10.0.0.1".into()],
        ];
        for edit in edits {
            let mut spec = good.clone();
            edit(&mut spec);
            assert!(read(&object, ClaimSpec::Block(spec.clone())).is_err(), "{spec:?}");
        }
        let two = Spec { holders: Vec::new(), ..object.spec.clone() };
        assert_eq!(claim_spec(&object.key, &two), Err(ClaimError::Block));
        let ClaimSpec::Block(spec) = claim_spec(&object.key, &object.spec).unwrap() else {
            panic!("a block")
        };
        let mut metadata = metadata(&object);
        metadata.resource_version = Some("x".into());
        assert!(block_object(&LanBlock { metadata, spec }).is_err());
    }
}
