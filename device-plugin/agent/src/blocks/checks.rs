//! Answers of the API server come through the cluster's part, which may be in anybody's hands.

use net_types::Addr;
use pool_blocks::{Answer, Key, Object, Place, Request};

/// The longest reason why something is not taken, in bytes.
const MAX_REASON: usize = 512;

/// The answer, if it is one to this request; objects that nobody here knows are left out of lists.
pub(crate) fn checked(request: &Request, answer: Answer, knows: impl Fn(&Object) -> bool) -> Answer {
    let is_about = |object: &Object, key: &Key| object.key == *key;
    let fits = match (request, answer) {
        (Request::ReadOwn, Answer::Own(node, mut objects)) => {
            objects.retain(&knows);
            Some(Answer::Own(node, objects))
        }
        (Request::ListAddresses(pool), Answer::Addresses(mut objects)) => {
            let is_address = |key: &Key| key.pool == *pool && matches!(key.place, Place::Address(_));
            objects.retain(|object| is_address(&object.key));
            Some(Answer::Addresses(objects))
        }
        (Request::Get(key), Answer::Object(object)) => {
            let same = object.as_ref().is_none_or(|object| is_about(object, key));
            same.then_some(Answer::Object(object))
        }
        (Request::Create(key, _) | Request::Update(key, ..), Answer::Written(object)) => {
            is_about(&object, key).then_some(Answer::Written(object))
        }
        (Request::Create(..), Answer::AlreadyExists) => Some(Answer::AlreadyExists),
        (Request::Update(..) | Request::Delete(..), answer @ (Answer::Conflict | Answer::NotFound)) => {
            Some(answer)
        }
        (Request::Delete(..), Answer::Deleted) => Some(Answer::Deleted),
        (
            Request::Create(..) | Request::Update(..) | Request::Delete(..) | Request::Float(_),
            Answer::Forbidden(reason),
        ) => Some(Answer::Forbidden(node::one_line(&proto::brief(&reason, MAX_REASON)))),
        (Request::Pool(_), answer @ Answer::Pool(_)) => Some(answer),
        (Request::Float(asked), Answer::Object(object)) => {
            let fits = |object: &Object| {
                let is_address = |address: &Addr| address.family() == asked.family;
                let place = matches!(&object.key.place, Place::Address(address) if is_address(address));
                place && object.key.pool == asked.pool && object.spec.owner.as_ref() == Some(&asked.owner)
            };
            object.as_ref().is_none_or(fits).then_some(Answer::Object(object))
        }
        _ => None,
    };
    fits.unwrap_or(Answer::Unknown)
}
