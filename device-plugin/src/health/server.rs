use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Metrics;

/// How things are, in numbers, and what readiness waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// LANs that are declared.
    pub lans: usize,
    /// LANs that are built on this node.
    pub lans_ready: usize,
    /// Spokes of this node's LANs.
    pub spokes: usize,
    /// Pods and VMs that are attached.
    pub attachments: usize,
    /// Resources that the kubelet should know.
    pub resources_wanted: usize,
    /// Resources whose device list the kubelet reads.
    pub resources_registered: usize,
    /// Why the node is not ready, a sentence each; empty: it is.
    pub waiting: Vec<String>,
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The port is not to be had.
    #[error("cannot serve metrics and health on {address}: give another address, or end who has it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        source: std::io::Error,
    },
}

/// A scraper that opens a connection and says nothing is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Open connections at once; a scraper and a kubelet need two.
const CONNECTIONS: usize = 32;

/// Serves `/metrics`, `/livez` and `/readyz` until it is dropped. `bound` is told the address.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    overview: watch::Receiver<Overview>,
    bound: impl FnOnce(SocketAddr),
) -> Result<(), HealthError> {
    let failed = |source| HealthError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    bound(listener.local_addr().map_err(failed)?);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly.
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let (metrics, overview) = (Arc::clone(&metrics), overview.clone());
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let answer = answer(&request, &metrics, &overview.borrow());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away ends its connection with an error.
            let _ = connection.await;
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, now: &Overview) -> Response<String> {
    let (code, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, metrics.render(now)),
        // An answer is the proof: there is one thread, and it gave it.
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") if now.waiting.is_empty() => {
            (StatusCode::OK, "ok\n".to_owned())
        }
        (&Method::GET | &Method::HEAD, "/readyz") => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready:\n{}\n", now.waiting.join("\n")))
        }
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned()),
    };
    let mut response = Response::new(text);
    *response.status_mut() = code;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn ready_is_said_when_nothing_is_waited_for() {
        let (overview, receiver) = watch::channel(Overview {
            waiting: vec!["LAN a/b is not built: underlay eth1 is missing".into()],
            ..Overview::default()
        });
        let (bound, address) = tokio::sync::oneshot::channel();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        tokio::spawn(serve(any, Arc::default(), receiver, |address| bound.send(address).unwrap()));
        let address = address.await.unwrap();
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let text = get(address, "/readyz").await;
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("underlay eth1 is missing"), "{text}");
        overview.send_replace(Overview { lans: 1, lans_ready: 1, ..Overview::default() });
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("k8slan_lans_ready 1\n"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        let taken = serve(address, Arc::default(), overview.subscribe(), |_| ()).await.unwrap_err();
        assert!(taken.to_string().contains("end who has it"), "{taken}");
    }
}
