use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt as _, DuplexStream};

use super::*;
use crate::link::{Kind, Link, Object, ObjectKey, Presence, SnapshotCache};

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
    pool_answers: Queue<(RequestId, pool_blocks::Answer)>,
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

    fn pool_answer(&mut self, id: RequestId, answer: pool_blocks::Answer) {
        self.pool_answers.push((id, answer));
    }

    fn connected(&mut self) {}

    fn disconnected(&mut self) {
        *self.connections.lock().unwrap() += 1;
    }
}

struct Site {
    status: watch::Sender<Arc<NodeStatus>>,
    sticky_vms: watch::Sender<VmNames>,
    pool_requests: Queue<(RequestId, Request)>,
    applied: Applied,
    server: LinkServer<Ready, Applied>,
}

fn site() -> Site {
    let status = watch::channel(Arc::default()).0;
    let sticky_vms = watch::channel(VmNames::new()).0;
    let applied = Applied::default();
    let pool_requests = Queue::default();
    let published = Published {
        status: status.subscribe(),
        sticky_vms: sticky_vms.subscribe(),
        pool_notes: watch::channel(None).1,
        pool_requests: pool_requests.clone(),
    };
    let server = LinkServer::new(published, Arc::new(Ready), applied.clone());
    Site { status, sticky_vms, pool_requests, applied, server }
}

async fn said(stream: &mut (impl AsyncRead + Unpin)) -> Option<FromNode> {
    frame::read(stream, &FROM_NODE).await.unwrap().map(|(message, _)| message)
}

fn hello() -> FromCluster {
    FromCluster::Hello { version: "0".to_owned() }
}

fn pod(name: &str) -> Object {
    Object::Pod { uid: name.to_owned(), static_uid: None, vm: None, set: None, claims: None }
}

#[tokio::test]
async fn both_ends_tell_each_other_what_there_is_and_what_changes() {
    let Site { status, sticky_vms, applied, mut server, .. } = site();
    let cache = SnapshotCache::default();
    cache.put(pod("1"));
    cache.complete(Kind::Pod, |_| true);
    applied.refused.lock().unwrap().insert("2".to_owned());
    cache.put(pod("2"));
    let (one, other) = tokio::io::duplex(64);
    let link = Arc::new(Link::new(cache.clone()));
    assert!(link.ask().await.unwrap_err().to_string().contains("not looked for yet"));
    let (mut presence, mut heard, mut sticky) = (link.presence(), link.status(), link.sticky_vms());
    tokio::spawn(async move { server.converse(one).await });
    let client = Arc::clone(&link);
    let client = tokio::spawn(async move { client.converse(other).await });
    presence.wait_for(|presence| *presence == Presence::Here).await.unwrap();
    cache.stored().wait_for(|stored| stored.contains(&Kind::Pod)).await.unwrap();
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
    let link = Arc::new(Link::new(SnapshotCache::default()));
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
    let cache = SnapshotCache::default();
    cache.put(pod("1"));
    cache.complete(Kind::Pod, |_| true);
    let (one, other) = tokio::io::duplex(1 << 16);
    let link = Link::new(cache.clone());
    let (mut heard, mut stored) = (link.status(), cache.stored());
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

#[tokio::test]
async fn requests_are_answered_on_the_connection_that_they_came_on() {
    let Site { pool_requests, applied, mut server, .. } = site();
    let link = Arc::new(Link::new(SnapshotCache::default()));
    let connect = |link: &Arc<Link>| {
        let (one, other) = tokio::io::duplex(64);
        let link = Arc::clone(link);
        (one, tokio::spawn(async move { link.converse(other).await }))
    };
    let asked = link.pool_requests();
    let (id, other_id) = (RequestId(7), RequestId(8));
    pool_requests.push((id, Request::ReadOwn));
    let (one, client) = connect(&link);
    let first = {
        let mut connection = std::pin::pin!(server.converse(one));
        tokio::select! {
            _ = &mut connection => panic!("it ended"),
            request = asked.pop() => request,
        }
    };
    assert_eq!(first.request, Request::ReadOwn);
    // It ends as a read or as a write.
    let _ = client.await.unwrap();
    pool_requests.push((other_id, Request::ReadOwn));
    let (one, _client) = connect(&link);
    tokio::spawn(async move { server.converse(one).await });
    let second = asked.pop().await;
    link.answer_pool_request(&first, pool_blocks::Answer::Deleted);
    link.answer_pool_request(&second, pool_blocks::Answer::Unknown);
    assert_eq!(applied.pool_answers.pop().await, (other_id, pool_blocks::Answer::Unknown));
}
