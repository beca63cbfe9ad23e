use net_types::AddrSet;

use crate::{BootTime, DiskVersion, Object, Owner, Phase, Record, RequestId, Uid};

/// How far a node is with a block or floating address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is to be created.
    Claim,
    /// Who has it is to be read.
    Look,
    /// It is there and may be this node's: an update is to make it so.
    Take,
    /// It is this node's; objects of the other kind are to be read.
    Check,
    /// It is used.
    Held,
    /// It is not used, and is to go.
    Leaving,
    /// Another has it.
    Lost,
    /// The same, and nothing here uses it any more: the other one's object is not contested any longer.
    Withdraw,
}

/// A block or floating address that the node has or wants.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    pub(super) stage: Stage,
    /// What the disk says of it, from the write `recorded_in` on.
    pub(super) record: Option<Record>,
    pub(super) recorded_in: DiskVersion,
    /// Whether `record` was changed since.
    pub(super) dirty: bool,
    /// The object as it was last seen; of one that is lost, the object of who has it.
    pub(super) seen: Option<Object>,
    /// As in [`crate::Run::permits`].
    pub(super) permit: Option<BootTime>,
    /// The request about it that is on its way.
    pub(super) busy: Option<RequestId>,
    /// The last request that had been sent when a write about it was answered: what a later one reads is from after it.
    pub(super) settled: RequestId,
    /// When it is looked after again.
    pub(super) not_before: BootTime,
    /// Whose floating address it is.
    pub(super) owner: Option<Owner>,
    /// Who is in the way.
    pub(super) told: Option<String>,
    /// As [`super::Node::kept_back`].
    pub(super) in_the_way: AddrSet,
    /// Whether no other block does in its place.
    pub(super) particular: bool,
    /// Of what is lost, and of a block in which somebody is in the way: whether objects of the other kind were read since its own
    /// was.
    pub(super) listed: bool,
}

impl Holding {
    pub(super) fn new(stage: Stage) -> Self {
        Self {
            stage,
            record: None,
            recorded_in: DiskVersion(0),
            dirty: false,
            seen: None,
            permit: None,
            busy: None,
            settled: RequestId(0),
            not_before: BootTime::default(),
            owner: None,
            told: None,
            in_the_way: AddrSet::default(),
            particular: false,
            listed: false,
        }
    }

    /// Changes what the disk says.
    pub(super) fn record(&mut self, uid: Uid, phase: Phase) {
        let released = self.record.as_ref().map(|record| record.released.clone()).unwrap_or_default();
        self.record_releasing(uid, phase, released);
    }

    /// The same with the addresses that are given up.
    pub(super) fn record_releasing(&mut self, uid: Uid, phase: Phase, released: AddrSet) {
        let record = Some(Record { uid, phase, released, owner: self.owner().cloned() });
        self.dirty |= self.record != record;
        self.record = record;
    }

    /// Whose floating address it is, as it was asked for or as the disk says.
    pub(super) fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref().or_else(|| self.record.as_ref()?.owner.as_ref())
    }

    /// Whether nobody is known to be in the way.
    pub(super) fn is_alone(&self) -> bool {
        self.told.is_none() && self.in_the_way.is_empty()
    }

    pub(super) fn go_to(&mut self, stage: Stage) {
        self.stage = stage;
        self.permit = None;
        self.listed = false;
    }
}
