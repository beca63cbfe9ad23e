//! Which owners of floating addresses exist.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::ListParams;
use kube::core::{ApiResource, GroupVersionKind, PartialObjectMeta};
use kube::{Api, Client};
use lan::pool::{AddressOwner, LanReservation};
use net_types::Family;
use pool_blocks::{Object, Owner, Place};

use super::api::list;
use super::convert::parse_owner;
use super::floating::rank;
use super::ip_claims;
use super::reservations;

/// The kinds that may own an address beside a reservation: the group, the version, the kind and its plural. An owner of the first
/// column exists while there is an object of any of its rows with its name.
const KINDS: [(&str, &str, &str, &str, &str); 4] = [
    ("VirtualMachine", "kubevirt.io", "v1", "VirtualMachine", "virtualmachines"),
    ("VirtualMachine", "kubevirt.io", "v1", "VirtualMachineInstance", "virtualmachineinstances"),
    ("Pod", "", "v1", "Pod", "pods"),
    (ip_claims::KIND, ip_claims::GROUP, ip_claims::VERSION, ip_claims::KIND, ip_claims::PLURAL),
];

/// The owners of addresses in which no node is: of others nobody asks whether they exist.
pub(super) fn of_unused(objects: &[Object]) -> BTreeSet<Owner> {
    let unused = objects.iter().filter(|object| object.spec.holders.is_empty());
    unused.filter_map(|object| object.spec.owner.clone()).collect()
}

/// Those of `owners` that exist, by consistent lists. One that cannot be judged exists.
///
/// # Errors
/// The API server does not answer.
pub(super) async fn existing(
    client: &Client,
    owners: &BTreeSet<Owner>,
    reservations: &[&LanReservation],
) -> Result<BTreeSet<Owner>, kube::Error> {
    let reserved: BTreeSet<Owner> = reservations.iter().map(|one| reservations::owner(one)).collect();
    let mut found = BTreeSet::new();
    let mut asked: BTreeMap<(String, String), Vec<(String, Owner)>> = BTreeMap::new();
    for owner in owners {
        match parse_owner(owner) {
            _ if reserved.contains(owner) => drop(found.insert(owner.clone())),
            Ok(AddressOwner { kind, .. }) if kind == "LANReservation" => {}
            Ok(AddressOwner { kind, namespace, name, .. }) => {
                asked.entry((kind, namespace)).or_default().push((name, owner.clone()));
            }
            Err(_) => drop(found.insert(owner.clone())),
        }
    }
    for ((kind, namespace), owners) in asked {
        let names = names(client, &kind, &namespace).await?;
        let is_there = |name: &str| names.as_ref().is_none_or(|names| names.contains(name));
        found.extend(owners.into_iter().filter(|(name, _)| is_there(name)).map(|(_, owner)| owner));
    }
    Ok(found)
}

/// The names of all objects of an owner's kind in a namespace; `None`: the API server does not know the kind.
async fn names(
    client: &Client,
    kind: &str,
    namespace: &str,
) -> Result<Option<BTreeSet<String>>, kube::Error> {
    let mut names = BTreeSet::new();
    for (_, group, version, kind, plural) in KINDS.iter().filter(|(of, ..)| *of == kind) {
        let kind = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        let api: Api<PartialObjectMeta> = Api::namespaced_with(client.clone(), namespace, &resource);
        match list(&api, &ListParams::default()).await {
            Ok(objects) => names.extend(objects.into_iter().filter_map(|object| object.metadata.name)),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(names))
}

/// Second addresses of owners, in which no node is: two nodes asked for one owner at once.
pub(super) fn surplus(addresses: &[(Object, String)]) -> Vec<&Object> {
    let mut by_owner: BTreeMap<_, Vec<&(Object, String)>> = BTreeMap::new();
    for found @ (Object { key, spec, .. }, _) in addresses {
        if let (Place::Address(address), Some(owner)) = (key.place, &spec.owner) {
            by_owner.entry((&key.pool, address.family() == Family::V4, owner)).or_default().push(found);
        }
    }
    let mut surplus = Vec::new();
    for of_owner in by_owner.values().filter(|of_owner| of_owner.len() > 1) {
        let first = of_owner.iter().min_by_key(|found| rank(found)).map(|(object, _)| &object.key);
        let others = of_owner.iter().map(|(object, _)| object).filter(|object| Some(&object.key) != first);
        surplus.extend(others.filter(|object| object.spec.holders.is_empty()));
    }
    surplus
}

#[cfg(test)]
mod tests {
    use pool_blocks::{Holder, Key, ResourceVersion, Spec, Uid};

    use super::*;

    fn address(key: &str, owner: &str, node: Option<&str>, created: &str) -> (Object, String) {
        let holder =
            |node: &str| Holder { node: node.into(), uid: Uid::from_number(1), term: 0, fenced: false };
        let holders = node.into_iter().map(holder).collect();
        let spec = Spec { owner: Some(owner.into()), holders, ..Spec::default() };
        let key = Key::parse_address(key).unwrap();
        (Object { key, uid: Uid::from_number(9), version: ResourceVersion(3), spec }, created.to_owned())
    }

    #[test]
    fn of_two_addresses_of_an_owner_the_unused_one_goes() {
        let all = [
            address("p.10.0.0.1", "vm:a/b", None, "1"),
            address("p.10.0.0.2", "vm:a/b", Some("w"), "2"),
            address("p.10.0.0.3", "vm:a/c", None, "2"),
            address("p.10.0.0.4", "vm:a/c", None, "1"),
            address("q.10.0.0.4", "vm:a/c", None, "1"),
            address("p.10.0.0.5", "vm:a/d", Some("w"), "1"),
            address("p.10.0.0.6", "vm:a/d", Some("x"), "1"),
        ];
        let names: Vec<String> = surplus(&all).iter().map(|object| object.key.to_string()).collect();
        assert_eq!(names, ["p.10.0.0.1", "p.10.0.0.3"]);
        let objects: Vec<Object> = all.into_iter().map(|(object, _)| object).collect();
        let owners: Vec<String> = of_unused(&objects).iter().map(ToString::to_string).collect();
        assert_eq!(owners, ["vm:a/b", "vm:a/c"]);
    }
}
