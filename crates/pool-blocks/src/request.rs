//! What is asked of the API server, and what it answers.

use net_types::{Addr, AddrSet, Family};
use serde::{Deserialize, Serialize};

use crate::{BlockLengths, Key, NodeState, Object, Owner, PoolName, ResourceVersion, Spec, Uid};

/// The number of a request: a read with a larger number than a write's answer was sent after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct RequestId(pub u64);

/// A request. All reads are consistent: `resourceVersion` unset, never from a cache that may be behind.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// The own `Node`, and then the objects that name it as holder.
    ReadOwn,
    /// All floating addresses of a pool.
    ListAddresses(PoolName),
    /// One object.
    Get(Key),
    /// A new object.
    Create(Key, Spec),
    /// The object as it is to be, if it is still this one in this version.
    Update(Key, Uid, ResourceVersion, Spec),
    /// The same for its end.
    Delete(Key, Uid, ResourceVersion),
    /// The floating address of an owner. [`crate::Node`] does not ask for it: who drives it does, and then joins the address.
    Float(Float),
    /// What a pool is by now, which a block that was just created may be none of. Who drives [`crate::Node`] asks for it as well.
    Pool(PoolName),
}

/// What floating address is looked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Float {
    /// The pool.
    pub pool: PoolName,
    /// Its family.
    pub family: Family,
    /// Whose it is.
    pub owner: Owner,
    /// Whether the owner gets one if it has none. Somebody else gives what is reserved.
    pub create: bool,
    /// Where it is to be, if it is made.
    pub address: Option<Addr>,
    /// Where an `IPAMClaim` is the owner: who asks by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<ClaimUser>,
}

/// The pod that asks for the address of an `IPAMClaim`, which names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimUser {
    /// The interface in the pod.
    pub interface: String,
    /// The virtual machine that it runs, if it may be on two nodes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// A pool that is accepted as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CurrentPool {
    /// The lengths of its blocks.
    pub lengths: BlockLengths,
    /// The addresses that may be handed out.
    pub addresses: AddrSet,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To [`Request::ReadOwn`]; no `Node`: there is none of this name.
    Own(Option<NodeState>, Vec<Object>),
    /// To [`Request::ListAddresses`].
    Addresses(Vec<Object>),
    /// To [`Request::Get`].
    Object(Option<Object>),
    /// To [`Request::Pool`]; `None`: it is not there, has no blocks, or is not accepted as it is now.
    Pool(Option<CurrentPool>),
    /// A create or an update was done.
    Written(Object),
    /// A delete was done.
    Deleted,
    /// A create was not done: there is one of this name.
    AlreadyExists,
    /// An update or a delete was not done: it is another object, or another version.
    Conflict,
    /// An update or a delete was not done: there is none of this name.
    NotFound,
    /// A create, an update or a delete was not done, and will not be: the API server does not take it, for this reason. To
    /// [`Request::Float`] also: why its owner has no address now.
    Forbidden(String),
    /// No answer came, or one that says nothing: it was done, was not, or will be.
    Unknown,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::geometry::addresses;
    use crate::{BootTime, Disk, Holder, Phase, Record, Run};

    fn key(text: &str) -> Key {
        Key::parse_block(text, |_, _| Some(28)).or_else(|| Key::parse_address(text)).unwrap()
    }

    #[test]
    fn json_reads_back() {
        let (block, address) = (key("office.0a000010"), key("office.10.0.0.5"));
        let holder = Holder { node: "w".into(), uid: Uid::from_number(7), term: 3, fenced: true };
        let spec = Spec {
            owner: Some("vm:a/b".into()),
            holders: vec![holder],
            released: addresses(&["10.0.0.17"]),
            contested: vec!["x".into()],
        };
        let object =
            Object { key: block.clone(), uid: Uid::from_number(9), version: ResourceVersion(4), spec };
        let update = Request::Update(block.clone(), object.uid, object.version, object.spec.clone());
        for request in
            [Request::ReadOwn, Request::Get(address.clone()), update, Request::Pool("office".into())]
        {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
        }
        let state = NodeState { uid: Uid::from_number(7), out_of_service: true };
        let lengths = BlockLengths { v4: 28, v6: 128 };
        let pool = CurrentPool { lengths, addresses: addresses(&["10.0.0.17"]) };
        for answer in
            [Answer::Own(Some(state), vec![object.clone()]), Answer::Conflict, Answer::Pool(Some(pool))]
        {
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer, "{text}");
        }
        assert_eq!(
            serde_json::to_value(Request::Get(block.clone())).unwrap(),
            json!({ "get": { "pool": "office", "block": "10.0.0.16/28" } })
        );
        for bad in ["10.0.0.17/28", "10.0.0.16/33", "10.0.0.16", "010.0.0.16/28"] {
            let read =
                serde_json::from_value::<Request>(json!({ "get": { "pool": "office", "block": bad } }));
            assert!(read.is_err(), "{bad}");
        }
        let phase = Phase::Lost { other: "x".to_owned() };
        let record = Record { uid: object.uid, phase, released: addresses(&["10.0.0.18"]), owner: None };
        let disk = Disk { records: [(block.clone(), record)].into() };
        let text = serde_json::to_string(&disk).unwrap();
        assert_eq!(serde_json::from_str::<Disk>(&text).unwrap(), disk, "{text}");
        let now = BootTime::from_millis(5);
        let run = Run { node: Some((object.uid, now)), permits: [(address, now)].into() };
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), run, "{text}");
    }
}
