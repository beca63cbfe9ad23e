//! Histories in which what hardly ever meets is brought together on purpose: their seeds are those from [`FIRST`] on.

use super::faults::Fault;
use super::world::Allowed;

/// The first seed of a history with a bias; those below have none.
pub(super) const FIRST: u64 = 1 << 32;

/// What is brought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    /// A machine is said to be in service for a moment, reads that, and then nobody hears it.
    Flaps,
    /// Lists of addresses take their time, while blocks and addresses are claimed.
    LateLists,
    /// Backups are restored, and daemons restart.
    Restores,
}

impl Bias {
    pub(super) fn of(seed: u64) -> Option<Self> {
        let kinds = [Self::Flaps, Self::LateLists, Self::Restores];
        seed.checked_sub(FIRST).and_then(|number| kinds.get(usize::try_from(number % 3).ok()?).copied())
    }

    pub(super) fn allowed(self) -> Allowed {
        Allowed { people: self == Self::Restores, false_statements: self == Self::Flaps }
    }

    pub(super) fn shares(self) -> Vec<(Fault, u64)> {
        let shares: &[(Fault, u64)] = match self {
            Self::Flaps => &[(Fault::Flap, 1), (Fault::StartPod, 20), (Fault::StopPod, 10)],
            Self::LateLists => &[
                (Fault::Rush, 8),
                (Fault::StartPod, 10),
                (Fault::StartLauncher, 10),
                (Fault::Reserve, 10),
                (Fault::GiveAndTake, 4),
                (Fault::StopPod, 10),
                (Fault::GiveBack, 10),
            ],
            Self::Restores => &[
                (Fault::StartPod, 20),
                (Fault::StartLauncher, 20),
                (Fault::Reserve, 4),
                (Fault::Person, 4),
                (Fault::Backup, 2),
                (Fault::RestartDaemon, 10),
            ],
        };
        shares.to_vec()
    }
}
