//! What becomes of a `LANReservation`: the floating address that it asks for, and how it stands. Pure.

use kube::ResourceExt;
use lan::pool::{LanReservation, LanReservationStatus, ReservationOwner};
use lan::{Condition, READY, set_transition_times};
use net_types::{Addr, Family};
use node::Reserved;
use pool_blocks::{Key, Leader, Object, Owner, Place, PoolSnapshot, Request, Spec};

use super::floating::{best, geometry};
use super::for_node::StoredPool;

/// The cluster, as a reservation of one pool sees it.
pub(super) struct Scene<'a> {
    /// `None`: there is none of that name.
    pub(super) pool: Option<&'a StoredPool>,
    /// Whether the pool gives addresses to the reservation's namespace.
    pub(super) is_allowed: bool,
    /// The floating addresses of the pool, with the times at which they were made.
    pub(super) addresses: &'a [(Object, String)],
    /// The blocks of the pool.
    pub(super) blocks: &'a [Object],
    /// The reservations of the pool that are older.
    pub(super) older: &'a [&'a LanReservation],
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) request: Option<Request>,
    pub(super) status: LanReservationStatus,
}

/// Why a reservation waits, or is refused: a reason in one word, and a sentence.
type Refusal = (&'static str, String);

/// Decides about a reservation, by what is there now.
pub(super) fn decide(reservation: &LanReservation, scene: &Scene<'_>, now: &str) -> Decision {
    let owner = owner(reservation);
    let (request, address, ready) = match place(reservation, &owner, scene) {
        Ok(Outcome::Has(object)) => {
            let address = address_of(object);
            let ready = match (around(object, scene.blocks), object.spec.owner.as_ref() == Some(&owner)) {
                (Some(node), true) => {
                    let text = format!(
                        "node {node} has the block around it, and gives the address up when no pod there has it"
                    );
                    Err(("Pending", text))
                }
                (None, true) => Ok(()),
                (_, false) => Err(("Proposed", format!("the address goes to {owner}"))),
            };
            let give = Spec { owner: Some(owner.clone()), ..object.spec.clone() };
            let request = (object.spec.owner.as_ref() != Some(&owner))
                .then(|| Request::Update(object.key.clone(), object.uid, object.version, give));
            (request, address, ready)
        }
        Ok(Outcome::Make(request)) => {
            (Some(request), None, Err(("Proposed", "the address is made".to_owned())))
        }
        Err(refusal) => (None, None, Err(refusal)),
    };
    let condition = match ready {
        Ok(()) => Condition::new(READY, true, "Reserved", String::new()),
        Err((reason, message)) => Condition::new(READY, false, reason, message),
    };
    let mut conditions = vec![condition.observing(reservation.metadata.generation)];
    let before = reservation.status.clone().unwrap_or_default();
    set_transition_times(&mut conditions, &before.conditions, now);
    Decision {
        request,
        status: LanReservationStatus { address: address.map(|one| one.to_string()), conditions },
    }
}

enum Outcome<'a> {
    /// The address is there, perhaps without its owner.
    Has(&'a Object),
    Make(Request),
}

fn place<'a>(reservation: &LanReservation, owner: &Owner, scene: &Scene<'a>) -> Result<Outcome<'a>, Refusal> {
    let spec = &reservation.spec;
    let namespace = reservation.namespace().unwrap_or_default();
    let pool = scene.pool.ok_or_else(|| ("NoPool", format!("there is no LANPool {}", spec.pool)))?;
    if !scene.is_allowed {
        let text = format!("the pool {} gives no addresses to the namespace {namespace}", spec.pool);
        return Err(("NamespaceNotAllowed", text));
    }
    let geometry = geometry(pool).ok_or_else(|| {
        (
            "PoolNotReady",
            format!("the pool {} is not accepted, or does not hand out addresses in blocks", spec.pool),
        )
    })?;
    let asked = spec.address.as_deref().map(str::parse::<Addr>).transpose();
    let asked = asked.map_err(|_| ("Invalid", format!("{:?} is not an address", spec.address.as_deref())))?;
    if let Some(address) = asked.filter(|address| !geometry.addresses().contains(*address)) {
        return Err(("Outside", format!("the pool {} does not hand out {address}", spec.pool)));
    }
    let has_v4 = geometry.block_count(Family::V4) > 0;
    let family = asked.map_or(if has_v4 { Family::V4 } else { Family::V6 }, |address| address.family());
    let mut of_owner = scene.older.iter().filter(|older| self::owner(older) == *owner);
    if let Some(older) = of_owner.find(|older| family_of(older).is_none_or(|of| of == family)) {
        let text = format!("{owner} has its address of the pool by the reservation {}", older.name_any());
        return Err(("OwnerHasAnother", text));
    }
    // Before its owner was said, it was the reservation's own.
    let own = self_owner(reservation);
    if let Some(address) = asked {
        let key = Key::address(geometry.pool(), address);
        return match scene.addresses.iter().find(|(object, _)| object.key == key) {
            None => Ok(Outcome::Make(create(key, owner))),
            Some((object, _)) if object.spec.owner.as_ref() == Some(owner) => Ok(Outcome::Has(object)),
            Some((object, _)) if object.spec.owner.as_ref() == Some(&own) => Ok(Outcome::Has(object)),
            Some((object, _)) => {
                let who = object.spec.holder_text();
                Err((
                    "Taken",
                    format!(
                        "{address} is {who}'s: `kubectl delete lanaddress {key}` frees it when no node has it"
                    ),
                ))
            }
        };
    }
    let found = best(scene.addresses, family, owner).or_else(|| best(scene.addresses, family, &own));
    if let Some(object) = found {
        return Ok(Outcome::Has(object));
    }
    let before = reservation.status.as_ref().and_then(|status| status.address.as_deref()?.parse().ok());
    let again = before.map(|address: Addr| Key::address(geometry.pool(), address)).filter(|key| {
        let is_there = scene.addresses.iter().any(|(object, _)| object.key == *key);
        !is_there && address_of_key(key).is_some_and(|address| geometry.addresses().contains(address))
    });
    if let Some(key) = again {
        return Ok(Outcome::Make(create(key, owner)));
    }
    let objects = scene.addresses.iter().map(|(object, _)| object).chain(scene.blocks).cloned().collect();
    let view = PoolSnapshot { objects, ..PoolSnapshot::default() };
    let request = Leader::float(&geometry, family, &view, owner, owner.choice());
    request.map(Outcome::Make).ok_or_else(|| {
        (
            "NoAddressLeft",
            format!("no address of the pool {} is in nobody's block and follows nobody", spec.pool),
        )
    })
}

fn create(key: Key, owner: &Owner) -> Request {
    Request::Create(key, Spec { owner: Some(owner.clone()), ..Spec::default() })
}

/// The node whose block an address is in that it did not give up yet.
fn around(object: &Object, blocks: &[Object]) -> Option<String> {
    let address = address_of(object)?;
    let block = blocks.iter().find(|block| {
        let is_in = matches!(block.key.place, Place::Block(prefix) if prefix.range().contains(address));
        is_in && !block.spec.released.contains(address)
    })?;
    Some(block.spec.holder_text())
}

fn address_of(object: &Object) -> Option<Addr> {
    address_of_key(&object.key)
}

fn address_of_key(key: &Key) -> Option<Addr> {
    match key.place {
        Place::Address(address) => Some(address),
        Place::Block(_) => None,
    }
}

fn family_of(reservation: &LanReservation) -> Option<Family> {
    let known = reservation.spec.address.as_deref();
    let known = known.or_else(|| reservation.status.as_ref()?.address.as_deref());
    known.and_then(|text| text.parse::<Addr>().ok()).map(|address| address.family())
}

/// Whose address it is to be.
pub(super) fn owner(reservation: &LanReservation) -> Owner {
    let namespace = reservation.namespace().unwrap_or_default();
    match &reservation.spec.owner {
        Some(ReservationOwner { kind, name }) => {
            let prefix = if kind == "Pod" { "pod" } else { "vm" };
            format!("{prefix}:{namespace}/{name}").as_str().into()
        }
        None => self_owner(reservation),
    }
}

fn self_owner(reservation: &LanReservation) -> Owner {
    let namespace = reservation.namespace().unwrap_or_default();
    format!("reservation:{namespace}/{}", reservation.name_any()).as_str().into()
}

/// What the nodes are told of it; `None`: it reserves nothing.
pub(super) fn reserved(reservation: &LanReservation) -> Option<Reserved> {
    let status = reservation.status.as_ref();
    let ready = status.and_then(|status| lan::find_condition(&status.conditions, READY));
    // Whoever starts before it is made waits for it.
    if ready.is_some_and(|ready| !ready.is_true() && !matches!(ready.reason.as_str(), "Pending" | "Proposed"))
    {
        return None;
    }
    let address = status.and_then(|status| status.address.as_deref()?.parse().ok());
    let owner = reservation.spec.owner.is_some().then(|| owner(reservation).to_string());
    (address.is_some() || owner.is_some()).then_some(Reserved { owner, address })
}

#[cfg(test)]
mod tests {
    use net_types::AddrSet;
    use pool_blocks::{Holder, ResourceVersion, Uid};
    use serde_json::{Value, json};

    use super::*;

    fn reservation(name: &str, spec: Value, status: Value) -> LanReservation {
        let mut spec = spec;
        spec["pool"] = "office".into();
        serde_json::from_value(json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANReservation",
            "metadata": { "name": name, "namespace": "default" }, "spec": spec, "status": status,
        }))
        .unwrap()
    }

    fn pool(spec: Value) -> StoredPool {
        serde_json::from_value(json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool",
            "metadata": { "name": "office", "generation": 1 }, "spec": spec,
            "status": { "blockLengthV4": 28, "blockLengthV6": 124, "conditions": [{
                "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1,
                "lastTransitionTime": "2026-11-29T12:00:00Z" }] },
        }))
        .unwrap()
    }

    fn object(key: &str, owner: Option<&str>, node: Option<&str>) -> Object {
        let key = Key::parse_address(key).or_else(|| Key::parse_block(key, |_, _| Some(28))).unwrap();
        let holder =
            |node: &str| Holder { node: node.into(), uid: Uid::from_number(1), term: 0, fenced: false };
        let holders = node.into_iter().map(holder).collect();
        let spec = Spec { owner: owner.map(Owner::from), holders, ..Spec::default() };
        Object { key, uid: Uid::from_number(9), version: ResourceVersion(3), spec }
    }

    struct Site {
        pool: StoredPool,
        addresses: Vec<(Object, String)>,
        blocks: Vec<Object>,
    }

    impl Site {
        fn new() -> Self {
            let pool = pool(json!({ "subnets": ["10.0.0.0/24", "fd00::/120"] }));
            Self { pool, addresses: Vec::new(), blocks: Vec::new() }
        }

        fn decide(&self, reservation: &LanReservation, older: &[&LanReservation]) -> (String, String) {
            let Self { pool, addresses, blocks } = self;
            let scene = Scene { pool: Some(pool), is_allowed: true, addresses, blocks, older };
            told(&decide(reservation, &scene, "2026-11-29T12:00:00Z"))
        }
    }

    /// What is asked for, and the reason with the address.
    fn told(decision: &Decision) -> (String, String) {
        let request = match &decision.request {
            None => String::new(),
            Some(Request::Create(key, spec)) => format!("+ {key} {}", spec.owner.as_ref().unwrap()),
            Some(Request::Update(key, _, _, spec)) => format!("= {key} {}", spec.owner.as_ref().unwrap()),
            Some(other) => format!("{other:?}"),
        };
        let status = &decision.status;
        (request, format!("{} {}", status.conditions[0].reason, status.address.as_deref().unwrap_or("-")))
    }

    fn texts(pair: (&str, &str)) -> (String, String) {
        (pair.0.to_owned(), pair.1.to_owned())
    }

    #[test]
    fn an_address_is_made_and_found_and_given_to_who_is_said_later() {
        let mut site = Site::new();
        let web = json!({ "address": "10.0.0.50", "owner": { "kind": "VirtualMachine", "name": "web" } });
        let fixed = reservation("web", web.clone(), json!({}));
        assert_eq!(site.decide(&fixed, &[]), texts(("+ office.10.0.0.50 vm:default/web", "Proposed -")));
        site.addresses.push((object("office.10.0.0.50", Some("vm:default/web"), Some("a")), String::new()));
        assert_eq!(site.decide(&fixed, &[]), texts(("", "Reserved 10.0.0.50")));
        let second =
            reservation("again", json!({ "owner": { "kind": "VirtualMachine", "name": "web" } }), json!({}));
        assert_eq!(site.decide(&second, &[&fixed]), texts(("", "OwnerHasAnother -")));
        // Any address, for nobody yet.
        let any = reservation("eip", json!({}), json!({}));
        let (made, reason) = site.decide(&any, &[&fixed]);
        assert!(made.starts_with("+ office.10.0.0.") && made.ends_with(" reservation:default/eip"), "{made}");
        assert_eq!(reason, "Proposed -");
        site.addresses
            .push((object("office.10.0.0.7", Some("reservation:default/eip"), None), String::new()));
        assert_eq!(site.decide(&any, &[]), texts(("", "Reserved 10.0.0.7")));
        let given = reservation("eip", json!({ "owner": { "kind": "Pod", "name": "db-0" } }), json!({}));
        assert_eq!(
            site.decide(&given, &[]),
            texts(("= office.10.0.0.7 pod:default/db-0", "Proposed 10.0.0.7"))
        );
        // Somebody deleted it: the same again.
        site.addresses.clear();
        let deleted = reservation("eip", json!({}), json!({ "address": "10.0.0.7" }));
        assert_eq!(
            site.decide(&deleted, &[]),
            texts(("+ office.10.0.0.7 reservation:default/eip", "Proposed -"))
        );
        let six = reservation("six", json!({ "address": "fd00::50" }), json!({}));
        assert!(site.decide(&six, &[]).0.starts_with("+ office.fd00.0000."));
    }

    #[test]
    fn what_it_waits_for_is_told() {
        let mut site = Site::new();
        let fixed = reservation("web", json!({ "address": "10.0.0.50" }), json!({}));
        site.addresses.push((object("office.10.0.0.50", Some("vm:b/db"), Some("a")), String::new()));
        assert_eq!(site.decide(&fixed, &[]), texts(("", "Taken -")));
        site.addresses[0].0.spec.owner = Some("reservation:default/web".into());
        site.blocks.push(object("office.0a000030", None, Some("b")));
        assert_eq!(site.decide(&fixed, &[]), texts(("", "Pending 10.0.0.50")));
        let address = "10.0.0.50".parse().unwrap();
        site.blocks[0].spec.released = AddrSet::union([net_types::AddrRange::single(address)]);
        assert_eq!(site.decide(&fixed, &[]), texts(("", "Reserved 10.0.0.50")));
        let outside = reservation("x", json!({ "address": "10.0.1.5" }), json!({}));
        assert_eq!(site.decide(&outside, &[]), texts(("", "Outside -")));
        let gateway = reservation("x", json!({ "address": "10.0.0.1" }), json!({}));
        assert_eq!(site.decide(&gateway, &[]), texts(("", "Outside -")));
        site.pool.metadata.generation = Some(2);
        assert_eq!(site.decide(&fixed, &[]), texts(("", "PoolNotReady -")));
        let mut scene = Scene { pool: None, is_allowed: true, addresses: &[], blocks: &[], older: &[] };
        assert_eq!(told(&decide(&fixed, &scene, "")), texts(("", "NoPool -")));
        (scene.pool, scene.is_allowed) = (Some(&site.pool), false);
        assert_eq!(told(&decide(&fixed, &scene, "")), texts(("", "NamespaceNotAllowed -")));
    }

    #[test]
    fn nodes_are_told_of_what_is_reserved_and_of_what_is_on_its_way() {
        let owner = json!({ "owner": { "kind": "VirtualMachine", "name": "web" } });
        let ready = |holds: &str, reason: &str| {
            json!({ "address": "10.0.0.7", "conditions": [{
                "type": "Ready", "status": holds, "reason": reason, "message": "", "lastTransitionTime": "2026-11-29T12:00:00Z" }] })
        };
        let web = || Some("vm:default/web".to_owned());
        let at = || Some("10.0.0.7".parse().unwrap());
        for (spec, status, expected) in [
            (owner.clone(), json!({}), Some(Reserved { owner: web(), address: None })),
            (owner.clone(), ready("True", "Reserved"), Some(Reserved { owner: web(), address: at() })),
            (owner.clone(), ready("False", "Pending"), Some(Reserved { owner: web(), address: at() })),
            (owner, ready("False", "Taken"), None),
            (json!({}), ready("True", "Reserved"), Some(Reserved { owner: None, address: at() })),
            (json!({}), json!({}), None),
        ] {
            assert_eq!(reserved(&reservation("r", spec, status)), expected);
        }
    }
}
