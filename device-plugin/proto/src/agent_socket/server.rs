use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::IDLE_TIMEOUT;
use super::claims::{self, MAX_CLAIMS, PoolClaims};
use crate::health::{HealthSource, answer};
use crate::root_socket::RootSocket;

/// The number of connections that may be open at once, beside those whose claim waits.
const CONNECTIONS: usize = 32;

/// Answers on the socket until the future is dropped.
pub async fn serve(socket: RootSocket, source: Arc<impl HealthSource>, claims: Arc<impl PoolClaims>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let waiting = Arc::new(Semaphore::new(MAX_CLAIMS));
    let mut connections = JoinSet::new();
    let next = async || {
        // It is never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        (socket.accept().await, place)
    };
    loop {
        tokio::select! {
            (stream, place) = next() => {
                let connection = Connection {
                    source: Arc::clone(&source),
                    claims: Arc::clone(&claims),
                    waiting: Arc::clone(&waiting),
                    place: Mutex::new(place),
                };
                connections.spawn(connection.converse(stream));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

struct Connection<S, C> {
    source: Arc<S>,
    claims: Arc<C>,
    waiting: Arc<Semaphore>,
    /// Its place among the connections; one whose claim waits gives it up, and ends with the answer.
    place: Mutex<Option<OwnedSemaphorePermit>>,
}

impl<S: HealthSource, C: PoolClaims> Connection<S, C> {
    async fn converse(self, stream: UnixStream) {
        let own = &self;
        let service = service_fn(|request| async move { Ok::<_, Infallible>(own.answer(request).await) });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        // A client that disconnects ends the connection with an error.
        let _ = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<String> {
        let path = request.uri().path().to_owned();
        let Some(pool) = claims::claimed_pool(&path).filter(|_| request.method() == Method::POST) else {
            return answer(&request, &*self.source).await;
        };
        drop(self.place.lock().unwrap_or_else(PoisonError::into_inner).take());
        let (code, text) = claims::answer(pool, request, &*self.claims, Arc::clone(&self.waiting)).await;
        let mut response = Response::new(text);
        *response.status_mut() = code;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::super::{ClaimAnswer, NoCluster, PoolClaim};
    use super::*;

    struct Silent;

    impl HealthSource for Silent {
        async fn metrics(&self) -> String {
            String::new()
        }

        async fn waiting(&self) -> Vec<String> {
            Vec::new()
        }

        fn status(&self) -> Option<String> {
            None
        }
    }

    struct Waits;

    impl PoolClaims for Waits {
        async fn claim(&self, claim: PoolClaim) -> ClaimAnswer {
            match claim.pool.as_str() {
                "full" => ClaimAnswer::Refused("no block is left".to_owned()),
                "open" => ClaimAnswer::Granted,
                _ => std::future::pending().await,
            }
        }
    }

    async fn claim(stream: &mut UnixStream, pool: &str) {
        let body = r#"{"family":"v4"}"#;
        let text = format!(
            "POST /pools/{pool}/claim HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn claims_that_wait_keep_no_probe_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        tokio::spawn(serve(RootSocket::bind(&path).unwrap(), Arc::new(Silent), Arc::new(Waits)));
        let connect = async || UnixStream::connect(&path).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..MAX_CLAIMS {
            let mut stream = connect().await;
            claim(&mut stream, "waits").await;
            held.push(stream);
        }
        // Behind those in the queue.
        assert!(ask(&mut connect().await).await.starts_with("HTTP/1.1 200"));
        let read_all = async |mut stream: UnixStream| {
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let mut stream = connect().await;
        claim(&mut stream, "open").await;
        let text = read_all(stream).await;
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("claims wait already"), "{text}");
        held.clear();
        for (pool, code, reason) in [("full", "409", "no block is left"), ("open", "200", "granted")] {
            let text = loop {
                let mut stream = connect().await;
                claim(&mut stream, pool).await;
                let text = read_all(stream).await;
                if !text.starts_with("HTTP/1.1 503") {
                    break text;
                }
            };
            assert!(text.starts_with(&format!("HTTP/1.1 {code}")) && text.contains(reason), "{text}");
        }
    }

    async fn ask(stream: &mut UnixStream) -> String {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut bytes = [0; 1024];
        let length = stream.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[tokio::test]
    async fn who_says_nothing_keeps_no_program_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        tokio::spawn(serve(RootSocket::bind(&path).unwrap(), Arc::new(Silent), Arc::new(NoCluster)));
        let mut held = Vec::new();
        for nth in 0..CONNECTIONS {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            // Some have asked, some not.
            if nth % 2 == 0 {
                assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
            }
            held.push(stream);
        }
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let answer = tokio::time::timeout(std::time::Duration::from_secs(9), ask(&mut stream)).await;
        assert!(answer.expect("an answer in time for a probe").starts_with("HTTP/1.1 200"));
    }
}
