//! The node's part: one connection, whose other end may be in anybody's hands.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool_blocks::{Request, RequestId};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer_parts::{OutOfOrder, Parts};
use super::frame::{self, FrameError};
use super::limits::{FROM_CLUSTER, FROM_NODE};
use super::message::{Change, FromCluster, FromNode};
use super::queue::Queue;
use super::rate::Bucket;
use crate::brief;
use crate::health::HealthSource;
use crate::published::{NodeStatus, PoolNotes, VmNames};
use crate::root_socket::RootSocket;

/// How long a new connection may take to say the first word, and how long it may leave what it is told unread.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that wait to be read; then no more is read from the other end.
const MAX_UNREAD: usize = 256;
/// The longest version, in bytes.
const MAX_VERSION: usize = 64;
/// The longest reason of a refusal, and the longest text of the other end in a log, in bytes.
const MAX_REASON: usize = 512;
/// The pause after a connection that was refused, and after one that broke the rules.
const REFUSAL_PAUSE: Duration = Duration::from_millis(5);
const OFFENCE_PAUSE: Duration = Duration::from_secs(1);

/// Where the objects of the API server go. The calls may block, and come one after the other.
pub trait ClusterObjects: Send + 'static {
    /// Makes a change; on disk, too, where it belongs there.
    ///
    /// # Errors
    /// Why it was not made.
    fn apply(&mut self, change: Change) -> Result<(), String>;

    /// The API server's answer to a request of this connection, or to none.
    fn pool_answer(&mut self, id: RequestId, answer: pool_blocks::Answer);

    /// A connection began: what is in [`Published::pool_requests`] from now on is sent on it.
    fn connected(&mut self);

    /// The connection ended: nothing is heard of the API server, and the next connection sends everything again.
    fn disconnected(&mut self);
}

/// What the node's part tells the other one.
#[derive(Clone)]
pub struct Published {
    pub status: watch::Receiver<Arc<NodeStatus>>,
    pub sticky_vms: watch::Receiver<VmNames>,
    /// `None`: it is not known yet.
    pub pool_notes: watch::Receiver<Option<PoolNotes>>,
    /// What is to be asked of the API server. Who fills it empties it when the connection ends.
    pub pool_requests: Queue<(RequestId, Request)>,
}

/// The node's end of the link.
pub struct LinkServer<S, O> {
    published: Published,
    health: Arc<S>,
    objects: Arc<Mutex<O>>,
    bucket: Bucket,
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("nothing was said for {HELLO_TIMEOUT:?}")]
    Silent,
    #[error("nothing was read for {WRITE_TIMEOUT:?}")]
    Unread,
    #[error("a message out of order")]
    Order,
}

impl From<OutOfOrder> for LinkError {
    fn from(_: OutOfOrder) -> Self {
        Self::Order
    }
}

impl<S: HealthSource, O: ClusterObjects> LinkServer<S, O> {
    pub fn new(published: Published, health: Arc<S>, objects: O) -> Self {
        let objects = Arc::new(Mutex::new(objects));
        Self { published, health, objects, bucket: Bucket::new(Instant::now()) }
    }

    /// Serves one connection at a time until the future is dropped.
    pub async fn serve(mut self, socket: RootSocket) {
        loop {
            let stream = socket.accept().await;
            let ended = {
                let mut connection = std::pin::pin!(self.converse(stream));
                let mut next_refusal = Instant::now();
                loop {
                    let another = async {
                        sleep_until(next_refusal).await;
                        socket.accept().await
                    };
                    tokio::select! {
                        ended = &mut connection => break ended,
                        stream = another => {
                            refuse(&stream);
                            next_refusal = Instant::now() + REFUSAL_PAUSE;
                        }
                    }
                }
            };
            if ended.is_err() {
                sleep(OFFENCE_PAUSE).await;
            }
        }
    }

    /// Serves one connection until it ends; whether it kept to the rules.
    ///
    /// # Errors
    /// It did not; that is logged.
    pub async fn converse<T: AsyncRead + AsyncWrite>(&mut self, stream: T) -> Result<(), ()> {
        let mut greeted = false;
        let ended = self.run(stream, &mut greeted).await;
        // Behind a change that is still being made.
        self.with_objects(ClusterObjects::disconnected).await;
        match ended {
            Ok(()) | Err(LinkError::Frame(FrameError::Io(_))) if !greeted => {}
            Ok(()) => tracing::info!("the cluster's part is away"),
            Err(LinkError::Frame(FrameError::Io(error))) => {
                tracing::info!(%error, "the cluster's part is away");
            }
            Err(error) => {
                let error = brief(&format!("{:#}", anyhow::Error::from(error)), MAX_REASON);
                tracing::warn!("the cluster's part breaks the rules and is disconnected: {error}");
                return Err(());
            }
        }
        Ok(())
    }

    async fn run<T: AsyncRead + AsyncWrite>(
        &mut self,
        stream: T,
        greeted: &mut bool,
    ) -> Result<(), LinkError> {
        sleep(self.bucket.connect(Instant::now())).await;
        let (mut reader, mut writer) = tokio::io::split(stream);
        write(&mut writer, &FromNode::Hello { version: env!("CARGO_PKG_VERSION").to_owned() }).await?;
        let hello = timeout(HELLO_TIMEOUT, frame::read(&mut reader, &FROM_CLUSTER)).await;
        match hello.map_err(|_| LinkError::Silent)?? {
            Some((FromCluster::Hello { version }, _)) if version.len() <= MAX_VERSION => {
                *greeted = true;
                let version = brief(&version, MAX_VERSION);
                tracing::info!(version, "the cluster's part is connected");
                self.with_objects(ClusterObjects::connected).await;
            }
            Some(_) => return Err(LinkError::Order),
            None => return Ok(()),
        }
        let (answers, waiting) = mpsc::channel(MAX_UNREAD);
        let published = self.published.clone();
        tokio::select! {
            ended = self.receive(reader, answers) => ended,
            ended = send(writer, published, waiting) => ended,
        }
    }

    /// Acts on one message after the other.
    async fn receive<T: AsyncRead + AsyncWrite>(
        &mut self,
        mut reader: ReadHalf<T>,
        answers: mpsc::Sender<FromNode>,
    ) -> Result<(), LinkError> {
        let mut parts = Parts::default();
        while let Some((message, len)) = frame::read(&mut reader, &FROM_CLUSTER).await? {
            let pause = self.bucket.take(Instant::now(), len);
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let answer = match message {
                FromCluster::Hello { .. } => return Err(LinkError::Order),
                FromCluster::PoolAnswerPart { id, objects } => {
                    parts.take(id, objects)?;
                    continue;
                }
                FromCluster::PoolAnswer { id, answer } => {
                    let answer = parts.complete(id, answer)?;
                    self.with_objects(move |objects| objects.pool_answer(id, answer)).await;
                    continue;
                }
                FromCluster::Change { number, change } => match self.apply(change).await {
                    Ok(()) => FromNode::Ack { number },
                    Err(reason) => FromNode::Nack { number, reason: brief(&reason, MAX_REASON) },
                },
                FromCluster::Ask { number } => {
                    let (waiting, metrics) = (self.health.waiting().await, self.health.metrics().await);
                    FromNode::Answer { number, waiting, metrics }
                }
            };
            if answers.send(answer).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn apply(&self, change: Change) -> Result<(), String> {
        let stopped = || Err("the daemon stops".to_owned());
        self.with_objects(|objects| objects.apply(change)).await.unwrap_or_else(stopped)
    }

    /// On a thread that may block: files are synced. What has begun is finished, whatever becomes of the connection.
    /// `None`: the runtime ends.
    async fn with_objects<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut O) -> R + Send + 'static,
    ) -> Option<R> {
        let objects = Arc::clone(&self.objects);
        let work = move || work(&mut objects.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work).await.ok()
    }
}

/// Sends answers, and what is published whenever it changes.
async fn send<T: AsyncRead + AsyncWrite>(
    mut writer: WriteHalf<T>,
    mut published: Published,
    mut answers: mpsc::Receiver<FromNode>,
) -> Result<(), LinkError> {
    published.status.mark_changed();
    published.sticky_vms.mark_changed();
    published.pool_notes.mark_changed();
    let Published { status, sticky_vms, pool_notes, pool_requests } = &mut published;
    loop {
        let message = tokio::select! {
            answer = answers.recv() => match answer {
                Some(answer) => answer,
                None => return Ok(()),
            },
            Ok(()) = status.changed() => {
                let now = status.borrow_and_update().clone();
                if !now.reconciled {
                    continue;
                }
                FromNode::Status(Box::new((*now).clone()))
            }
            (id, request) = pool_requests.pop() => FromNode::PoolRequest { id, request },
            Ok(()) = pool_notes.changed() => match pool_notes.borrow_and_update().clone() {
                Some(notes) => FromNode::Pools(notes),
                None => continue,
            },
            Ok(()) = sticky_vms.changed() => FromNode::StickyVms(sticky_vms.borrow_and_update().clone()),
        };
        write(&mut writer, &message).await?;
    }
}

async fn write<T: AsyncRead + AsyncWrite>(
    writer: &mut WriteHalf<T>,
    message: &FromNode,
) -> Result<(), LinkError> {
    let written = match frame::encode(message, &FROM_NODE) {
        Ok(bytes) => timeout(WRITE_TIMEOUT, write_bytes(writer, &bytes)).await,
        // A status that is too long must not end the link, on which what makes it shorter may come.
        Err(FrameError::Excess(excess)) => {
            let Some(shorter) = without_spokes(message) else {
                return Err(FrameError::Excess(excess).into());
            };
            tracing::warn!("the cluster's part is not told of spokes: the status has {excess}");
            match frame::encode(&shorter, &FROM_NODE) {
                Ok(bytes) => timeout(WRITE_TIMEOUT, write_bytes(writer, &bytes)).await,
                Err(FrameError::Excess(excess)) => {
                    tracing::error!(
                        "the cluster's part is told nothing of the LANs: the status has {excess}"
                    );
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(error) => return Err(error.into()),
    };
    Ok(written.map_err(|_| LinkError::Unread)?.map_err(FrameError::Io)?)
}

async fn write_bytes(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// The same status with what is most of it left out.
fn without_spokes(message: &FromNode) -> Option<FromNode> {
    let FromNode::Status(status) = message else { return None };
    let mut status = status.clone();
    for lan in &mut status.lans {
        lan.spokes.retain(|spoke| spoke.used_by.is_some());
    }
    Some(FromNode::Status(status))
}

/// Says why, without waiting for a reader. The other end logs it.
fn refuse(stream: &UnixStream) {
    let reason =
        "another process is connected: only one k8slan-device-plugin can be the cluster's part of a node"
            .to_owned();
    if let Ok(bytes) = frame::encode(&FromNode::Refused { reason }, &FROM_NODE) {
        // A new connection has room for it.
        let _ = stream.try_write(&bytes);
    }
}
