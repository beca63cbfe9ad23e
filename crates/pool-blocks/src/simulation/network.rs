//! Messages: delayed, lost, repeated.

use super::bias::Bias;
use super::world::{Event, MINUTE, SECOND, World};
use crate::{Answer, Key, NodeName, Object, Request, RequestId};

impl World {
    pub(super) fn delay(&mut self) -> u64 {
        if self.calm {
            return self.random.between(5, 50);
        }
        let luck = if self.slow { self.random.between(60, 99) } else { self.random.below(100) };
        match luck {
            0..=79 => self.random.between(5, 300),
            80..=92 => self.random.between(300, 9 * SECOND),
            93..=97 => self.random.between(9 * SECOND, 3 * MINUTE),
            _ => self.random.between(3 * MINUTE, 50 * MINUTE),
        }
    }

    /// How often a message arrives.
    pub(super) fn copies(&mut self) -> usize {
        match self.random.below(100) {
            _ if self.calm => 1,
            0..=3 => 0,
            4..=8 => 2,
            _ => 1,
        }
    }

    pub(super) fn send(&mut self, machine: usize, id: RequestId, request: Request) {
        self.note(|w| format!("{} -> {id:?} {request:?}", w.machines[machine].name));
        let incarnation = self.machines[machine].incarnation;
        self.at(
            self.now + self.patience,
            Event::Answer { machine, incarnation, id, answer: Answer::Unknown },
        );
        if self.machines[machine].partitioned {
            return;
        }
        for _ in 0..self.copies() {
            let delay = self.delay();
            self.at(self.now + delay, Event::Request { machine, incarnation, id, request: request.clone() });
        }
    }

    pub(super) fn request_arrives(
        &mut self,
        machine: usize,
        incarnation: u64,
        id: RequestId,
        request: Request,
    ) {
        let from = self.machines[machine].name.clone();
        let text = if self.trace.is_some() { format!("{request:?}") } else { String::new() };
        let deleted = match &request {
            Request::Delete(key, uid, _) => Some((key.clone(), *uid)),
            _ => None,
        };
        let left = match &request {
            Request::Delete(key, ..) => Some(key),
            Request::Update(key, _, _, spec) => Some(key).filter(|_| spec.holder(&from).is_none()),
            _ => None,
        };
        let is_own = |key: &&Key| self.api.objects.get(*key).is_some_and(|o| o.spec.holder(&from).is_some());
        let left = left.filter(is_own).cloned();
        let is_list = matches!(request, Request::ListAddresses(_));
        let is_write = matches!(request, Request::Create(..) | Request::Update(..) | Request::Delete(..));
        let answer = if is_write && !self.calm && self.random.percent(2) {
            Answer::Forbidden("no".to_owned())
        } else {
            self.api.answer(&from, request)
        };
        if matches!(answer, Answer::Written(_) | Answer::Deleted) {
            self.note(|_| format!("api: done for {from}: {text}"));
            self.check_disk(machine, deleted.as_ref(), &answer);
            self.check_left(machine, left.as_ref());
        }
        if self.machines[machine].partitioned || (!self.calm && self.random.percent(3)) {
            return;
        }
        let takes_time = is_list && self.bias == Some(Bias::LateLists) && !self.calm;
        let delay = if takes_time { self.random.between(SECOND, 2 * MINUTE) } else { self.delay() };
        self.at(self.now + delay, Event::Answer { machine, incarnation, id, answer });
    }

    pub(super) fn leader_request_arrives(&mut self, request: Request) {
        let text = if self.trace.is_some() { format!("{request:?}") } else { String::new() };
        let deletes = match &request {
            Request::Delete(key, ..) => Some(key.clone()),
            _ => None,
        };
        let before = match &request {
            Request::Delete(key, ..) | Request::Update(key, ..) => self.api.objects.get(key).cloned(),
            _ => None,
        };
        let answer = self.api.answer(&NodeName::from("leader"), request);
        match (&answer, &before) {
            (Answer::Deleted, Some(before)) => self.end_rests(&before.key, &before.spec, None),
            (Answer::Written(after), Some(before)) => {
                self.end_rests(&before.key, &before.spec, Some(&after.spec))
            }
            _ => {}
        }
        if let (Some(key), Answer::Deleted) = (deletes, &answer) {
            let is_unfenced = |object: &Object| object.spec.holders.iter().any(|holder| !holder.fenced);
            if before.as_ref().is_some_and(is_unfenced) && !self.excuses.versions_again {
                self.fail(format!("the leader frees {key}, which is not fenced"));
            } else if self.excuses.double.is_none() {
                self.check_freed(&key);
            }
        }
        self.note(|_| {
            format!(
                "api: {} for the leader: {text}",
                if matches!(answer, Answer::Written(_) | Answer::Deleted) { "done" } else { "refused" }
            )
        });
    }
}
