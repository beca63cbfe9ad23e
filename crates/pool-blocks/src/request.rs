//! What is asked of the API server, and what it answers.

use crate::{Key, NodeState, Object, PoolName, ResourceVersion, Spec, Uid};

/// The number of a request: a read with a larger number than a write's answer was sent after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A request. All reads are consistent: `resourceVersion` unset, never from a cache that may be behind.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Request::ReadOwn`]; no `Node`: there is none of this name.
    Own(Option<NodeState>, Vec<Object>),
    /// To [`Request::ListAddresses`].
    Addresses(Vec<Object>),
    /// To [`Request::Get`].
    Object(Option<Object>),
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
    /// No answer came, or one that says nothing: it was done, was not, or will be.
    Unknown,
}
