//! What people, pods, machines and the network do.

use super::random::Random;
use super::world::{Event, MINUTE, SECOND, World};

/// What happens now and then.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    StartPod,
    StartLauncher,
    StopPod,
    GiveBack,
    GiveAndTake,
    Watch,
    Partition,
    RestartDaemon,
    Power,
    LoseDisk,
    Pause,
    ChangeNode,
    ChangeOwner,
    Reserve,
    NewLeader,
    SetClock,
    Backup,
    Island,
    Flap,
    Person,
    EditPool,
    ForgetRests,
    StartPodAt,
    Migrate,
    MakeAnew,
    Rush,
}

/// How often each happens.
const SHARES: &[(Fault, u64)] = &[
    (Fault::StartPod, 22),
    (Fault::StartLauncher, 10),
    (Fault::StopPod, 12),
    (Fault::GiveBack, 6),
    (Fault::GiveAndTake, 3),
    (Fault::Watch, 5),
    (Fault::Partition, 6),
    (Fault::RestartDaemon, 6),
    (Fault::Power, 5),
    (Fault::LoseDisk, 3),
    (Fault::Pause, 4),
    (Fault::ChangeNode, 7),
    (Fault::ChangeOwner, 1),
    (Fault::Reserve, 1),
    (Fault::NewLeader, 2),
    (Fault::SetClock, 2),
    (Fault::Backup, 1),
    (Fault::Island, 1),
    (Fault::Flap, 1),
    (Fault::Person, 2),
    (Fault::EditPool, 2),
    (Fault::ForgetRests, 3),
    (Fault::StartPodAt, 3),
    (Fault::Migrate, 3),
    (Fault::MakeAnew, 1),
    (Fault::Rush, 2),
];

/// How often each happens in one history: in most, some things happen often and others never, which brings together what hardly
/// ever meets where all happens.
pub(super) fn shares(random: &mut Random) -> Vec<(Fault, u64)> {
    let mut shares = SHARES.to_vec();
    if random.percent(70) {
        for (_, share) in &mut shares {
            *share *= random.pick(&[0, 0, 1, 1, 2, 6]).copied().unwrap_or(1);
        }
        // Without pods there is nothing to see.
        shares.push((Fault::StartPod, 15));
    }
    shares
}

impl World {
    pub(super) fn fault(&mut self) {
        let machine = self.random.index(self.machines.len());
        match self.next_fault() {
            Fault::StartPod => self.start_pod(machine),
            Fault::StartLauncher => self.start_launcher(machine),
            Fault::StopPod => self.stop_pod(machine),
            Fault::GiveBack => self.give_back(machine),
            Fault::GiveAndTake => self.give_and_take(machine),
            Fault::Watch => self.watch(machine),
            Fault::Partition => self.partition(machine),
            Fault::RestartDaemon => self.restart_daemon(machine),
            Fault::Power => self.power(machine),
            Fault::LoseDisk => self.lose_disk(machine),
            Fault::Pause => self.pause(machine),
            Fault::ChangeNode => self.change_node(machine),
            Fault::ChangeOwner => self.change_owner(),
            Fault::Reserve => self.reserve(),
            Fault::NewLeader => self.new_leader_process(),
            Fault::SetClock => {
                self.machines[machine].wall_offset =
                    self.random.between(0, 240 * MINUTE).cast_signed() - (120 * MINUTE).cast_signed()
            }
            Fault::Backup => self.backups.push(self.api.clone()),
            Fault::Island => self.island(machine),
            Fault::Flap => self.flap(machine),
            Fault::Person => self.person(),
            Fault::EditPool => self.edit_pool(),
            Fault::ForgetRests => self.forget_rests(machine),
            Fault::StartPodAt => self.start_pod_at(machine),
            Fault::Migrate => self.migrate(machine),
            Fault::MakeAnew => self.make_anew(),
            Fault::Rush => self.rush(),
        }
    }

    fn next_fault(&mut self) -> Fault {
        let all = self.shares.iter().map(|(_, share)| share).sum();
        let mut place = self.random.below(all);
        for (fault, share) in &self.shares {
            match place.checked_sub(*share) {
                Some(left) => place = left,
                None => return *fault,
            }
        }
        Fault::StartPod
    }

    /// Until it is done, or for a while.
    pub(super) fn schedule_faults(&mut self) {
        let mut time = 0;
        let hectic = self.random.percent(50);
        for _ in 0..self.random.between(20, 70) {
            time += match self.random.below(10) {
                0..=5 if hectic => self.random.between(1, 2 * SECOND),
                0..=7 => self.random.between(SECOND, 3 * MINUTE),
                _ => self.random.between(MINUTE, 35 * MINUTE),
            };
            self.at(time, Event::Fault);
        }
        self.last_fault = time;
    }

    fn new_leader_process(&mut self) {
        let number = self.random.index(self.leaders.len());
        self.leaders[number].leader = self.new_leader();
        self.note(|_| format!("leader{number} starts"));
    }
}
