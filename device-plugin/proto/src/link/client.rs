//! The cluster's part: stays connected to the node's part, and reconnects.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use pool_blocks::{Request, RequestId};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer_parts;
use super::frame;
use super::limits::{FROM_CLUSTER, FROM_NODE};
use super::message::{Change, FromCluster, FromNode, Object};
use super::queue::Queue;
use super::snapshot_cache::{SnapshotCache, Subject};
use crate::brief;
use crate::published::{NodeStatus, PoolNotes, VmNames};
use crate::root_socket;

/// The time limit of a question. The node's part answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// When a change that the node's part refused is sent again: its disk may have room by then.
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// Changes that may wait for an answer. Each may take two syncs of a disk, and a question is answered behind them.
const MAX_IN_FLIGHT: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    Here,
    /// It does not answer, and why.
    Away(String),
}

/// An answer of the node's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    number: u64,
    /// Why the node is not ready, a sentence each; empty: it is ready.
    pub waiting: Vec<String>,
    /// In Prometheus' text format.
    pub metrics: String,
}

/// What the node's part wants to be asked of the API server.
#[derive(Debug)]
pub struct PoolRequest {
    /// Names the connection that it came on: another one's has the same numbers.
    connection: u64,
    id: RequestId,
    pub request: Request,
}

/// The cluster's end of the link, and what it last heard.
pub struct Link {
    cache: SnapshotCache,
    presence: watch::Sender<Presence>,
    status: watch::Sender<Arc<NodeStatus>>,
    sticky_vms: watch::Sender<VmNames>,
    pool_notes: watch::Sender<Option<PoolNotes>>,
    asked: watch::Sender<u64>,
    answer: watch::Sender<Answer>,
    connection: AtomicU64,
    pool_requests: Queue<PoolRequest>,
    /// With the connection that each is for.
    pool_answers: Queue<(u64, RequestId, pool_blocks::Answer)>,
}

/// The changes of a connection that wait for an answer.
#[derive(Default)]
struct InFlight {
    changes: Mutex<VecDeque<(u64, Subject)>>,
    fewer: Notify,
    refused: Mutex<Vec<(Instant, Subject)>>,
    /// Why each was refused last: the reason is logged when it changes.
    reasons: Mutex<BTreeMap<Subject, String>>,
}

impl Link {
    pub fn new(cache: SnapshotCache) -> Self {
        let nothing = Presence::Away("it was not looked for yet".to_owned());
        Self {
            cache,
            presence: watch::channel(nothing).0,
            status: watch::channel(Arc::default()).0,
            sticky_vms: watch::channel(VmNames::new()).0,
            pool_notes: watch::channel(None).0,
            asked: watch::channel(0).0,
            answer: watch::channel(Answer::default()).0,
            connection: AtomicU64::new(0),
            pool_requests: Queue::default(),
            pool_answers: Queue::default(),
        }
    }

    /// What is to be asked of the API server.
    pub fn pool_requests(&self) -> Queue<PoolRequest> {
        self.pool_requests.clone()
    }

    /// Answers a request, if the connection that it came on is there still.
    pub fn answer_pool_request(&self, request: &PoolRequest, answer: pool_blocks::Answer) {
        self.pool_answers.push((request.connection, request.id, answer));
    }

    /// Whether the node's part answers, now and at each change.
    pub fn presence(&self) -> watch::Receiver<Presence> {
        self.presence.subscribe()
    }

    /// What became of the LANs; the last that was heard.
    pub fn status(&self) -> watch::Receiver<Arc<NodeStatus>> {
        self.status.subscribe()
    }

    /// The virtual machines that the node keeps addresses for; the last that was heard.
    pub fn sticky_vms(&self) -> watch::Receiver<VmNames> {
        self.sticky_vms.subscribe()
    }

    /// What the node has to say of pools; the last that was heard, if anything was.
    pub fn pool_notes(&self) -> watch::Receiver<Option<PoolNotes>> {
        self.pool_notes.subscribe()
    }

    /// Asks whether the node is ready, and for its metrics.
    ///
    /// # Errors
    /// The node's part is away, or does not answer.
    pub async fn ask(&self) -> Result<Answer> {
        let (mut presence, mut answers) = (self.presence(), self.answer.subscribe());
        if let Presence::Away(why) = &*presence.borrow_and_update() {
            bail!("{why}");
        }
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let answer = answers.wait_for(|answer| answer.number >= number);
        let away = presence.wait_for(|presence| *presence != Presence::Here);
        let answer = async {
            tokio::select! {
                answer = answer => Ok(answer?.clone()),
                _ = away => bail!("it just went away"),
            }
        };
        timeout(ANSWER_TIMEOUT, answer).await.context("it does not answer")?
    }

    /// Stays connected to the socket in `folder`, without end.
    pub async fn run(&self, folder: &Path) -> std::convert::Infallible {
        let socket: PathBuf = folder.join(super::SOCKET);
        let mut pause = FIRST_PAUSE;
        loop {
            let ended = match root_socket::connect(&socket).await {
                Ok(stream) => self.converse(stream).await,
                Err(error) => Err(error),
            };
            let away =
                Presence::Away(ended.map_or_else(|error| format!("{error:#}"), |()| "it ended".to_owned()));
            let was = self.presence.send_replace(away.clone());
            if was == Presence::Here {
                pause = FIRST_PAUSE;
            }
            if let (true, Presence::Away(why)) = (was != away, &away) {
                tracing::warn!(socket = %socket.display(), "the node's part does not answer: {why}");
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Uses one connection until it ends.
    ///
    /// # Errors
    /// It ended other than by the other end's closing it.
    pub async fn converse<T: AsyncRead + AsyncWrite>(&self, stream: T) -> Result<()> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let first = timeout(ANSWER_TIMEOUT, frame::read(&mut reader, &FROM_NODE)).await;
        let version = match first.context("it does not answer")?? {
            Some((FromNode::Hello { version }, _)) => version,
            Some((FromNode::Refused { reason }, _)) => bail!("it refuses the connection: {reason}"),
            Some(_) => bail!("the program that answers is not k8slan"),
            None => return Ok(()),
        };
        let own = env!("CARGO_PKG_VERSION");
        if version != own {
            tracing::warn!("the node's part is version {version} and this is {own}: run both from one image");
        }
        frame::write(&mut writer, &FromCluster::Hello { version: own.to_owned() }, &FROM_CLUSTER).await?;
        // Nothing of an earlier connection is answered on this one.
        let connection = self.connection.fetch_add(1, Ordering::SeqCst) + 1;
        self.pool_requests.retain(|_| false);
        self.pool_answers.retain(|_| false);
        self.cache.begin();
        // What the node's part keeps addresses for is asked about anew.
        self.sticky_vms.send_if_modified(|vms| !std::mem::take(vms).is_empty());
        tracing::info!("the node's part answers");
        // Before anybody asks.
        let asked = self.asked.subscribe();
        self.presence.send_replace(Presence::Here);
        let in_flight = InFlight::default();
        tokio::select! {
            ended = self.receive(reader, &in_flight) => ended,
            ended = self.send(writer, connection, asked, &in_flight) => ended,
        }
    }

    async fn receive<T: AsyncRead>(&self, mut reader: ReadHalf<T>, in_flight: &InFlight) -> Result<()> {
        while let Some((message, _)) = frame::read(&mut reader, &FROM_NODE).await? {
            match message {
                FromNode::Hello { .. } | FromNode::Refused { .. } => bail!("it began twice"),
                FromNode::Ack { number } => {
                    if let Some(subject) = in_flight.answered(number) {
                        in_flight.accept(&subject);
                        self.cache.acknowledged(&subject);
                        if matches!(subject, Subject::Kind(_)) {
                            // What does not exist any more is gone, and there may be room.
                            in_flight.retry_now(Instant::now());
                        }
                    }
                }
                FromNode::Nack { number, reason } => {
                    if let Some(subject) = in_flight.answered(number) {
                        let reason = brief(&reason, 512);
                        if in_flight.refuse(subject.clone(), &reason) {
                            tracing::warn!("the node's part cannot take {subject:?}: {reason}");
                        }
                    }
                }
                FromNode::Status(mut status) => {
                    status.reconciled = true;
                    self.status.send_if_modified(|before| {
                        let changed = **before != *status;
                        if changed {
                            *before = Arc::from(status);
                        }
                        changed
                    });
                }
                FromNode::StickyVms(vms) => {
                    self.sticky_vms.send_if_modified(|before| {
                        let changed = *before != vms;
                        *before = vms;
                        changed
                    });
                }
                FromNode::Pools(notes) => {
                    self.pool_notes.send_if_modified(|before| {
                        let changed = before.as_ref() != Some(&notes);
                        *before = Some(notes);
                        changed
                    });
                }
                FromNode::PoolRequest { id, request } => {
                    let connection = self.connection.load(Ordering::SeqCst);
                    self.pool_requests.push(PoolRequest { connection, id, request });
                }
                FromNode::Answer { number, waiting, metrics } => {
                    self.answer.send_replace(Answer { number, waiting, metrics });
                }
            }
        }
        Ok(())
    }

    async fn send<T: AsyncWrite>(
        &self,
        mut writer: WriteHalf<T>,
        connection: u64,
        mut asked: watch::Receiver<u64>,
        in_flight: &InFlight,
    ) -> Result<()> {
        let mut next_number = 0;
        loop {
            if asked.has_changed().unwrap_or(false) {
                let number = *asked.borrow_and_update();
                frame::write(&mut writer, &FromCluster::Ask { number }, &FROM_CLUSTER).await?;
            }
            let full = in_flight.len() >= MAX_IN_FLIGHT;
            if !full && let Some((subject, change)) = self.cache.next() {
                let message = acceptable(next_number, change);
                in_flight.push(next_number, subject);
                next_number += 1;
                frame::write(&mut writer, &message, &FROM_CLUSTER).await?;
                continue;
            }
            let again = in_flight.next_again();
            let due = async {
                match again {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = asked.changed() => asked.mark_changed(),
                (of, id, answer) = self.pool_answers.pop() => if of == connection {
                    for message in answer_parts::split(id, answer) {
                        frame::write(&mut writer, &message, &FROM_CLUSTER).await?;
                    }
                },
                () = self.cache.wait(), if !full => {}
                () = in_flight.fewer.notified() => {}
                () = due => in_flight.take_due(Instant::now()).into_iter().for_each(|subject| self.cache.requeue(subject)),
            }
        }
    }
}

impl InFlight {
    fn len(&self) -> usize {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn push(&self, number: u64, subject: Subject) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push_back((number, subject));
    }

    /// Answers come in the order of the changes.
    fn answered(&self, number: u64) -> Option<Subject> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let first = changes.front().is_some_and(|(first, _)| *first == number);
        self.fewer.notify_one();
        if first { changes.pop_front().map(|(_, subject)| subject) } else { None }
    }

    /// Sends it again later. Whether the reason is another than the last one.
    fn refuse(&self, subject: Subject, reason: &str) -> bool {
        let due = Instant::now() + RETRY_DELAY;
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).push((due, subject.clone()));
        let before = self.reasons().insert(subject, reason.to_owned());
        before.as_deref() != Some(reason)
    }

    fn accept(&self, subject: &Subject) {
        self.reasons().remove(subject);
    }

    fn reasons(&self) -> MutexGuard<'_, BTreeMap<Subject, String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retry_now(&self, now: Instant) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.iter_mut().for_each(|(due, _)| *due = now);
        self.fewer.notify_one();
    }

    fn next_again(&self) -> Option<Instant> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).first().map(|(due, _)| *due)
    }

    fn take_due(&self, now: Instant) -> Vec<Subject> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let due = refused.partition_point(|(due, _)| *due <= now);
        refused.drain(..due).map(|(_, subject)| subject).collect()
    }
}

/// The change as the other end takes it: nothing that a tenant can write may keep the rest from being sent. A LAN that is
/// longer or deeper than any that the CRD means goes as one that cannot be read, so that what stands of it stays, and its
/// condition says why; a launcher pod goes without the bindings of its virtual machine.
fn acceptable(number: u64, change: Change) -> FromCluster {
    let message = FromCluster::Change { number, change };
    let excess = match frame::encode(&message, &FROM_CLUSTER) {
        Err(frame::FrameError::Excess(excess)) => excess,
        _ => return message,
    };
    match message {
        FromCluster::Change { number, change: Change::Put(Object::Lan(mut lan)) } => {
            lan.spec = serde_json::Value::String(format!("it cannot be sent to the node: {excess}"));
            FromCluster::Change { number, change: Change::Put(Object::Lan(lan)) }
        }
        FromCluster::Change {
            number,
            change: Change::Put(Object::Pod { uid, static_uid, vm: Some(mut vm), set, claims }),
        } => {
            tracing::warn!(
                uid,
                "how the interfaces of this pod's virtual machine are bound is left out: {excess}"
            );
            vm.bindings.clear();
            let pod = Object::Pod { uid, static_uid, vm: Some(vm), set, claims };
            FromCluster::Change { number, change: Change::Put(pod) }
        }
        FromCluster::Change { number, change: Change::Put(Object::LanPool(mut pool)) } => {
            pool.spec = serde_json::Value::Null;
            pool.refusal = Some(format!("the pool cannot be sent to the node: {excess}"));
            FromCluster::Change { number, change: Change::Put(Object::LanPool(pool)) }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use lan::LanKey;
    use serde_json::{Value, json};

    use super::*;
    use crate::link::message::LanObject;

    fn lan(spec: Value) -> Change {
        let key: LanKey = "a/b".parse().unwrap();
        Change::Put(Object::Lan(LanObject { key, generation: Some(1), created: None, mtu: None, spec }))
    }

    #[test]
    fn a_reason_is_new_until_it_was_said() {
        let in_flight = InFlight::default();
        let subject = Subject::Kind(crate::link::Kind::Lan);
        assert!(in_flight.refuse(subject.clone(), "full"));
        assert!(!in_flight.refuse(subject.clone(), "full"));
        assert!(in_flight.refuse(subject.clone(), "read-only"));
        in_flight.accept(&subject);
        assert!(in_flight.refuse(subject, "read-only"));
    }

    #[test]
    fn whatever_a_tenant_writes_can_be_sent() {
        let deep = (0..110).fold(json!(1), |inner, _| json!({ "": inner }));
        let wide = json!(vec![1; 60_000]);
        let long = json!("x".repeat(1 << 20));
        for (spec, words) in [(deep, "64 levels"), (wide, "50000 values"), (long, "bytes")] {
            let message = acceptable(7, lan(spec));
            frame::encode(&message, &FROM_CLUSTER).unwrap();
            let FromCluster::Change { number: 7, change: Change::Put(Object::Lan(lan)) } = message else {
                panic!("{message:?}")
            };
            assert!(lan.spec.as_str().is_some_and(|text| text.contains(words)), "{lan:?}");
        }
        let bindings: serde_json::Map<String, Value> =
            (0..60_000).map(|number| (format!("net{number}"), json!("bridge"))).collect();
        let vm = serde_json::from_value(json!({ "vm": "vyos", "bindings": bindings })).unwrap();
        let pod =
            Object::Pod { uid: "u".to_owned(), static_uid: None, vm: Some(vm), set: None, claims: None };
        let message = acceptable(1, Change::Put(pod));
        frame::encode(&message, &FROM_CLUSTER).unwrap();
        assert!(format!("{message:?}").contains("vyos"));
        let usual = lan(json!({ "vni": 7, "spokes": vec!["pod1"; 1024] }));
        assert_eq!(acceptable(1, usual.clone()), FromCluster::Change { number: 1, change: usual });
    }
}
