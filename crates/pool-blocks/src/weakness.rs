//! The protocol without one of its protections, for the simulation to show that it finds what that breaks.

/// A protection that is missing. Outside tests there is none that could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weakness {
    /// A node allocates for a whole horizon, though clocks go at different rates.
    #[cfg(test)]
    UsesTheWholeHorizon,
    /// A node counts from when the answer came, not from when the request was sent.
    CountsFromTheAnswer,
    /// A node deletes without the resourceVersion.
    DeletesAnyVersion,
    /// A leaving block is used again without an update.
    ReusesWithoutUpdate,
    /// A block that the disk does not know is used without an update.
    AdoptsWithoutUpdate,
    /// A block is used before its UID is on the disk.
    UsesBeforeSync,
    /// A block is deleted before the disk says that it is left.
    DeletesBeforeSync,
    /// A new block is used without a read of the floating addresses in it.
    ClaimsWithoutReading,
    /// A floating address is used without a read of the block around it.
    FloatsWithoutReading,
    /// A read that was sent before the write counts as one that was sent after it.
    ReadsBeforeWriting,
    /// An address is released in the object before the disk says so.
    ReleasesBeforeSync,
    /// A node without its disk allocates before it knows what its pods have.
    #[cfg(test)]
    DoesNotCount,
    /// A node goes on with a block after a read that shows it fenced.
    IgnoresFences,
    /// A node's clock is the wall's.
    #[cfg(test)]
    GoesByWallTime,
    /// A node that finds another in its block does not say so there.
    DoesNotContest,
    /// The leader frees as soon as the object is fenced.
    FreesAtOnce,
    /// The leader waits for the horizon without a fence.
    FreesUnfenced,
    /// The leader deletes an address without its owner while nodes are in it.
    DropsHeldAddresses,
    /// The leader frees whatever version the object has by then.
    FreesAnyVersion,
    /// A node in doubt about a claimed block forgets it.
    ForgetsWhatIsGone,
    /// The leader knows a fence by the node's `term`, not by the object's version.
    KnowsFencesByTerm,
    /// Who lost an address is not named, and names nobody but who has its object.
    NamesHoldersAlone,
    /// A process takes what the one before did not use, or used though another was in the way, for checked.
    DoesNotCheckAgain,
    /// A pod gets an address that another pod of the node had while its owner had it, too.
    GivesWhatFloats,
}

impl Weakness {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: &[Self] = &[
        Self::UsesTheWholeHorizon,
        Self::CountsFromTheAnswer,
        Self::DeletesAnyVersion,
        Self::ReusesWithoutUpdate,
        Self::AdoptsWithoutUpdate,
        Self::UsesBeforeSync,
        Self::DeletesBeforeSync,
        Self::ClaimsWithoutReading,
        Self::FloatsWithoutReading,
        Self::ReadsBeforeWriting,
        Self::ReleasesBeforeSync,
        Self::DoesNotCount,
        Self::IgnoresFences,
        Self::GoesByWallTime,
        Self::DoesNotContest,
        Self::FreesAtOnce,
        Self::FreesUnfenced,
        Self::DropsHeldAddresses,
        Self::FreesAnyVersion,
        Self::ForgetsWhatIsGone,
        Self::KnowsFencesByTerm,
        Self::NamesHoldersAlone,
        Self::DoesNotCheckAgain,
        Self::GivesWhatFloats,
    ];
}

/// Which protection is missing, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weakened {
    #[cfg(test)]
    missing: Option<Weakness>,
}

impl Weakened {
    #[cfg(test)]
    pub(crate) fn by(missing: Option<Weakness>) -> Self {
        Self { missing }
    }

    /// Whether this protection is missing: in a product, never.
    #[cfg(test)]
    pub(crate) fn lacks(self, protection: Weakness) -> bool {
        self.missing == Some(protection)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "as in tests")]
    pub(crate) fn lacks(self, _: Weakness) -> bool {
        false
    }
}
