//! The node's part: one connection, whose other end may be in anybody's hands.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::frame::{self, FrameError};
use super::limits::{FROM_CLUSTER, FROM_NODE, brief};
use super::message::{Change, FromCluster, FromNode};
use super::rate::Bucket;
use crate::health::HealthSource;
use crate::published::{NodeStatus, VmNames};
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

    /// The connection ended: nothing is heard of the API server, and the next connection sends everything again.
    fn disconnected(&mut self);
}

/// What the node's part tells the other one.
#[derive(Clone)]
pub struct Published {
    pub status: watch::Receiver<Arc<NodeStatus>>,
    pub sticky_vms: watch::Receiver<VmNames>,
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
        let objects = Arc::clone(&self.objects);
        // Behind a change that is still being made.
        let told = tokio::task::spawn_blocking(move || {
            objects.lock().unwrap_or_else(PoisonError::into_inner).disconnected();
        });
        // It fails only where the runtime ends.
        let _ = told.await;
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
        while let Some((message, len)) = frame::read(&mut reader, &FROM_CLUSTER).await? {
            let pause = self.bucket.take(Instant::now(), len);
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let answer = match message {
                FromCluster::Hello { .. } => return Err(LinkError::Order),
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

    /// On a thread that may block: files are synced. What has begun is finished, whatever becomes of the connection.
    async fn apply(&self, change: Change) -> Result<(), String> {
        let objects = Arc::clone(&self.objects);
        let work = move || objects.lock().unwrap_or_else(PoisonError::into_inner).apply(change);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
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
    let Published { status, sticky_vms } = &mut published;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::io::{AsyncReadExt as _, DuplexStream};

    use super::*;
    use crate::link::{Kind, Link, Object, ObjectKey, Outbox, Presence};

    struct Ready;

    impl HealthSource for Ready {
        async fn metrics(&self) -> String {
            "k8slan_lans 1\n".to_owned()
        }

        async fn waiting(&self) -> Vec<String> {
            vec!["LAN a/b".to_owned()]
        }

        fn status(&self) -> Option<String> {
            None
        }
    }

    /// What was applied, and the UIDs of pods that are refused.
    #[derive(Clone, Default)]
    struct Applied {
        changes: Arc<Mutex<Vec<Change>>>,
        refused: Arc<Mutex<BTreeSet<String>>>,
        connections: Arc<Mutex<usize>>,
    }

    impl ClusterObjects for Applied {
        fn apply(&mut self, change: Change) -> Result<(), String> {
            if let Change::Put(Object::Pod { uid, .. }) = &change
                && self.refused.lock().unwrap().contains(uid)
            {
                return Err("no space left".to_owned());
            }
            self.changes.lock().unwrap().push(change);
            Ok(())
        }

        fn disconnected(&mut self) {
            *self.connections.lock().unwrap() += 1;
        }
    }

    struct Site {
        status: watch::Sender<Arc<NodeStatus>>,
        sticky_vms: watch::Sender<VmNames>,
        applied: Applied,
        server: LinkServer<Ready, Applied>,
    }

    fn site() -> Site {
        let status = watch::channel(Arc::default()).0;
        let sticky_vms = watch::channel(VmNames::new()).0;
        let applied = Applied::default();
        let published = Published { status: status.subscribe(), sticky_vms: sticky_vms.subscribe() };
        let server = LinkServer::new(published, Arc::new(Ready), applied.clone());
        Site { status, sticky_vms, applied, server }
    }

    async fn said(stream: &mut (impl AsyncRead + Unpin)) -> Option<FromNode> {
        frame::read(stream, &FROM_NODE).await.unwrap().map(|(message, _)| message)
    }

    fn hello() -> FromCluster {
        FromCluster::Hello { version: "0".to_owned() }
    }

    fn pod(name: &str) -> Object {
        Object::Pod { uid: name.to_owned(), static_uid: None, vm: None }
    }

    #[tokio::test]
    async fn both_ends_tell_each_other_what_there_is_and_what_changes() {
        let Site { status, sticky_vms, applied, mut server } = site();
        let outbox = Outbox::default();
        outbox.put(pod("1"));
        outbox.complete(Kind::Pod, |_| true);
        applied.refused.lock().unwrap().insert("2".to_owned());
        outbox.put(pod("2"));
        let (one, other) = tokio::io::duplex(64);
        let link = Arc::new(Link::new(outbox.clone()));
        assert!(link.ask().await.unwrap_err().to_string().contains("not looked for yet"));
        let (mut presence, mut heard, mut sticky) = (link.presence(), link.status(), link.sticky_vms());
        tokio::spawn(async move { server.converse(one).await });
        let client = Arc::clone(&link);
        let client = tokio::spawn(async move { client.converse(other).await });
        presence.wait_for(|presence| *presence == Presence::Here).await.unwrap();
        outbox.stored().wait_for(|stored| stored.contains(&Kind::Pod)).await.unwrap();
        let complete = Change::Complete(Kind::Pod);
        assert_eq!(*applied.changes.lock().unwrap(), [Change::Put(pod("1")), complete]);

        assert!(!heard.borrow().reconciled, "the first reconcile is not over");
        let reconciled = NodeStatus { reconciled: true, node: "worker1".to_owned(), ..NodeStatus::default() };
        status.send_replace(Arc::new(reconciled.clone()));
        assert_eq!(**heard.wait_for(|status| status.reconciled).await.unwrap(), reconciled);
        sticky_vms.send_replace(VmNames::from(["a/vyos".to_owned()]));
        sticky.wait_for(|vms| vms.contains("a/vyos")).await.unwrap();
        let answer = link.ask().await.unwrap();
        assert_eq!((&*answer.waiting, &*answer.metrics), (&["LAN a/b".to_owned()][..], "k8slan_lans 1\n"));
        assert!(link.ask().await.is_ok());

        // What was refused is sent again.
        applied.refused.lock().unwrap().clear();
        tokio::time::pause();
        let has = |applied: &Applied| applied.changes.lock().unwrap().contains(&Change::Put(pod("2")));
        timeout(Duration::from_secs(15), async {
            while !has(&applied) {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await
        .unwrap();
        tokio::time::resume();
        client.abort();
        let ended = async {
            while *applied.connections.lock().unwrap() == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), ended).await.unwrap();
    }

    #[tokio::test]
    async fn there_is_one_connection_and_a_dead_one_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(crate::link::SOCKET);
        let Site { applied, server, .. } = site();
        tokio::spawn(server.serve(RootSocket::bind(&path).unwrap()));
        let mut first = UnixStream::connect(&path).await.unwrap();
        assert!(matches!(said(&mut first).await, Some(FromNode::Hello { .. })));
        for _ in 0..3 {
            let mut second = UnixStream::connect(&path).await.unwrap();
            let Some(FromNode::Refused { reason }) = said(&mut second).await else { panic!("a refusal") };
            assert!(reason.contains("another process is connected"), "{reason}");
            assert_eq!(said(&mut second).await, None, "and nothing more");
        }
        frame::write(&mut first, &hello(), &FROM_CLUSTER).await.unwrap();
        frame::write(&mut first, &FromCluster::Ask { number: 7 }, &FROM_CLUSTER).await.unwrap();
        let answer = async {
            loop {
                if let Some(FromNode::Answer { number, .. }) = said(&mut first).await {
                    break number;
                }
            }
        };
        assert_eq!(answer.await, 7, "the first one was not evicted");
        drop(first);
        let link = Arc::new(Link::new(Outbox::default()));
        let mut presence = link.presence();
        let folder = dir.path().to_owned();
        tokio::spawn(async move { link.run(&folder).await });
        let here = presence.wait_for(|presence| *presence == Presence::Here);
        timeout(Duration::from_secs(5), here).await.unwrap().unwrap();
        assert_eq!(*applied.connections.lock().unwrap(), 1);
    }

    /// What a connection is ended for.
    async fn offence(server: &mut LinkServer<Ready, Applied>, act: impl AsyncFnOnce(DuplexStream)) {
        let (one, mut other) = tokio::io::duplex(1 << 16);
        let act = async {
            assert!(matches!(said(&mut other).await, Some(FromNode::Hello { .. })));
            act(other).await;
        };
        let (ended, ()) = tokio::join!(timeout(Duration::from_secs(120), server.converse(one)), act);
        assert_eq!(ended.expect("it is ended"), Err(()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_breaks_the_rules_is_disconnected() {
        let Site { applied, mut server, .. } = site();
        let server = &mut server;
        // Silence, messages that are too long or none, and out of order.
        offence(server, async |other| {
            sleep(HELLO_TIMEOUT * 2).await;
            drop(other);
        })
        .await;
        let deep = [b"\0\0\x01\0".as_slice(), &[b'['; 256]].concat();
        for bytes in [
            deep.as_slice(),
            &b"\xff\xff\xff\xff"[..],
            b"\0\x10\0\x01",
            b"\0\0\0\x02{}",
            b"\0\0\0\0",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            offence(server, async |mut other| {
                other.write_all(bytes).await.unwrap();
                let mut rest = Vec::new();
                let _ = other.read_to_end(&mut rest).await;
            })
            .await;
        }
        for messages in [[FromCluster::Ask { number: 1 }, hello()], [hello(), hello()]] {
            offence(server, async |mut other| {
                for message in messages {
                    let _ = frame::write(&mut other, &message, &FROM_CLUSTER).await;
                }
                let mut rest = Vec::new();
                let _ = other.read_to_end(&mut rest).await;
            })
            .await;
        }
        // A reader that never reads: what it is told is not collected.
        offence(server, async |mut other| {
            frame::write(&mut other, &hello(), &FROM_CLUSTER).await.unwrap();
            let change = Change::Remove(ObjectKey::DeletedVm("a/b".to_owned()));
            let flood = async {
                for number in 0.. {
                    frame::write(
                        &mut other,
                        &FromCluster::Change { number, change: change.clone() },
                        &FROM_CLUSTER,
                    )
                    .await?;
                }
                Ok::<(), FrameError>(())
            };
            let _ = timeout(Duration::from_secs(100), flood).await;
        })
        .await;
        let applied = applied.changes.lock().unwrap().len();
        // Its buffer of 64 KiB, and those that wait.
        assert!(applied > 1000 && applied < (1 << 16) / 20 + 2 * MAX_UNREAD, "{applied}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_of_any_size_leaves_the_link_as_it_is() {
        let Site { status, applied, mut server, .. } = site();
        let spoke = |number: usize| {
            serde_json::json!({
                "name": format!("s{number}"), "attach": "macvtap", "tapIndex": 1_073_741_824 + number, "ready": false,
                "reason": "r".repeat(4000),
            })
        };
        let spokes: Vec<_> = (0..5000).map(spoke).collect();
        let lan = serde_json::json!({ "lan": "a/b", "conditions": [], "spokes": spokes });
        let large = NodeStatus {
            reconciled: true,
            lans: vec![serde_json::from_value(lan).unwrap()],
            ..NodeStatus::default()
        };
        assert!(large.text().len() > 16 << 20);
        status.send_replace(Arc::new(large));
        let outbox = Outbox::default();
        outbox.put(pod("1"));
        outbox.complete(Kind::Pod, |_| true);
        let (one, other) = tokio::io::duplex(1 << 16);
        let link = Link::new(outbox.clone());
        let (mut heard, mut stored) = (link.status(), outbox.stored());
        tokio::select! {
            _ = server.converse(one) => panic!("it ended"),
            ended = link.converse(other) => panic!("{ended:?}"),
            () = async {
                stored.wait_for(|stored| stored.contains(&Kind::Pod)).await.unwrap();
                heard.wait_for(|status| status.reconciled).await.unwrap();
            } => {}
        }
        let heard = heard.borrow();
        assert!(heard.lans.len() == 1 && heard.lans[0].spokes.is_empty());
        assert_eq!(applied.changes.lock().unwrap().len(), 2);
    }
}
