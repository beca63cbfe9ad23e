//! What the API server says of many blocks or addresses, in several messages.

use pool_blocks::{Answer, Object, RequestId};

use super::frame;
use super::limits::FROM_CLUSTER;
use super::message::FromCluster;

/// How many objects are tried in one message: a message takes some 2,700 at most.
const IN_ONE: usize = 2_048;
/// How many messages come before the last one: 65,000 objects, more than a node has blocks or a pool has machines. All of
/// them are in memory at once.
const MAX_PARTS: usize = 32;

/// The messages of an answer. One that is too long is none: the node asks again.
pub(super) fn split(id: RequestId, answer: Answer) -> Vec<FromCluster> {
    let count = match &answer {
        Answer::Own(_, objects) | Answer::Addresses(objects) => objects.len(),
        _ => 0,
    };
    let whole = FromCluster::PoolAnswer { id, answer };
    if count <= IN_ONE && fits(&whole) {
        return vec![whole];
    }
    let parts = match whole {
        FromCluster::PoolAnswer { answer: Answer::Own(node, objects), .. } => {
            in_parts(id, &objects, Answer::Own(node, Vec::new()))
        }
        FromCluster::PoolAnswer { answer: Answer::Addresses(objects), .. } => {
            in_parts(id, &objects, Answer::Addresses(Vec::new()))
        }
        _ => None,
    };
    parts.unwrap_or_else(|| {
        tracing::warn!(
            count,
            "what the API server says of blocks and addresses of pools is too much for the node"
        );
        vec![FromCluster::PoolAnswer { id, answer: Answer::Unknown }]
    })
}

fn in_parts(id: RequestId, objects: &[Object], last: Answer) -> Option<Vec<FromCluster>> {
    let mut messages = Vec::new();
    for objects in objects.chunks(IN_ONE).take(MAX_PARTS + 1) {
        push_parts(id, objects, &mut messages)?;
    }
    messages.push(FromCluster::PoolAnswer { id, answer: last });
    Some(messages)
}

/// Halves what does not fit.
fn push_parts(id: RequestId, objects: &[Object], messages: &mut Vec<FromCluster>) -> Option<()> {
    let part = FromCluster::PoolAnswerPart { id, objects: objects.to_vec() };
    if fits(&part) {
        messages.push(part);
        return (messages.len() <= MAX_PARTS).then_some(());
    }
    if objects.len() < 2 {
        return None;
    }
    let (first, second) = objects.split_at(objects.len() / 2);
    push_parts(id, first, messages)?;
    push_parts(id, second, messages)
}

fn fits(message: &FromCluster) -> bool {
    frame::encode(message, &FROM_CLUSTER).is_ok()
}

/// The parts of an answer that came so far. The other end may be in anybody's hands.
#[derive(Debug, Default)]
pub(super) struct Parts {
    of: Option<RequestId>,
    count: usize,
    objects: Vec<Object>,
}

/// There are too many parts, or of two answers at once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfOrder;

impl Parts {
    pub(super) fn take(&mut self, id: RequestId, objects: Vec<Object>) -> Result<(), OutOfOrder> {
        if self.count == MAX_PARTS || *self.of.get_or_insert(id) != id {
            return Err(OutOfOrder);
        }
        self.count += 1;
        self.objects.extend(objects);
        Ok(())
    }

    /// The whole answer, whose last message this is.
    pub(super) fn complete(&mut self, id: RequestId, last: Answer) -> Result<Answer, OutOfOrder> {
        let Self { of, mut objects, .. } = std::mem::take(self);
        match (of, last) {
            (None, last) => Ok(last),
            (Some(of), _) if of != id => Err(OutOfOrder),
            (Some(_), Answer::Own(node, rest)) => {
                objects.extend(rest);
                Ok(Answer::Own(node, objects))
            }
            (Some(_), Answer::Addresses(rest)) => {
                objects.extend(rest);
                Ok(Answer::Addresses(objects))
            }
            (Some(_), _) => Err(OutOfOrder),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use pool_blocks::{Holder, Key, NodeState, ResourceVersion, Spec, Uid};

    use super::*;

    const ID: RequestId = RequestId(7);

    fn objects(count: u32) -> Vec<Object> {
        let object = |number: u32| {
            let uid = Uid::from_number(u128::MAX - u128::from(number));
            let holder = Holder { node: "worker-17.example.org".into(), uid, term: 3, fenced: false };
            let owner = format!("vm:customer-{number}/machine/network");
            let spec = Spec { owner: Some(owner.as_str().into()), holders: vec![holder], ..Spec::default() };
            let address = Ipv4Addr::from(0x0a00_0000 + number);
            let key = Key::parse_address(&format!("office.{address}")).unwrap();
            Object { key, uid, version: ResourceVersion(1 << 40), spec }
        };
        (0..count).map(object).collect()
    }

    fn joined(messages: Vec<FromCluster>) -> Result<Answer, OutOfOrder> {
        let mut parts = Parts::default();
        for message in messages {
            frame::encode(&message, &FROM_CLUSTER).unwrap();
            match message {
                FromCluster::PoolAnswerPart { id, objects } => parts.take(id, objects)?,
                FromCluster::PoolAnswer { id, answer } => return parts.complete(id, answer),
                other => panic!("{other:?}"),
            }
        }
        panic!("no last message")
    }

    #[test]
    fn whatever_a_node_has_and_a_pool_has_comes_whole() {
        let state = NodeState { uid: Uid::from_number(7), out_of_service: false };
        for answer in [
            Answer::Own(Some(state), Vec::new()),
            Answer::Own(Some(state), objects(5_000)),
            Answer::Addresses(objects(2_000)),
            Answer::Addresses(objects(20_000)),
        ] {
            assert!(joined(split(ID, answer.clone())).as_ref() == Ok(&answer));
        }
        // What has long texts fits as well.
        let mut long = objects(2_000);
        long.iter_mut().for_each(|object| object.spec.contested = vec!["x".repeat(250).as_str().into(); 4]);
        let long = Answer::Own(None, long);
        assert!(joined(split(ID, long.clone())).as_ref() == Ok(&long));
        let most = vec![objects(1).remove(0); IN_ONE * MAX_PARTS + 1];
        assert_eq!(joined(split(ID, Answer::Addresses(most))), Ok(Answer::Unknown));
        assert_eq!(joined(split(ID, Answer::Deleted)), Ok(Answer::Deleted));
    }

    #[test]
    fn parts_are_of_one_answer_and_not_without_end() {
        let mut parts = Parts::default();
        for _ in 0..MAX_PARTS {
            parts.take(ID, objects(1)).unwrap();
        }
        assert_eq!(parts.take(ID, Vec::new()), Err(OutOfOrder));
        let began = || {
            let mut parts = Parts::default();
            parts.take(ID, objects(1)).unwrap();
            parts
        };
        assert_eq!(began().take(RequestId(8), Vec::new()), Err(OutOfOrder));
        assert_eq!(began().complete(RequestId(8), Answer::Addresses(Vec::new())), Err(OutOfOrder));
        assert_eq!(began().complete(ID, Answer::Deleted), Err(OutOfOrder));
        let mut parts = began();
        parts.complete(ID, Answer::Addresses(Vec::new())).unwrap();
        assert_eq!(
            parts.complete(RequestId(8), Answer::Addresses(Vec::new())),
            Ok(Answer::Addresses(Vec::new()))
        );
    }
}
