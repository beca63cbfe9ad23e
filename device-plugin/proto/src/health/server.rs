use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv6V6Only;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};

/// The node's state in numbers, and what readiness waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthSummary {
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
    /// Why the node is not ready, a sentence each; empty: it is ready.
    pub waiting: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The port cannot be bound.
    #[error("cannot serve metrics and health on {address}: give another address, or end who has it")]
    Bind { address: SocketAddr, source: io::Error },
}

/// A client that opens a connection and sends nothing is disconnected after this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of connections that may be open at once; a scraper and a kubelet need two.
const CONNECTIONS: usize = 32;

/// The answers of the server.
pub trait HealthSource: Send + Sync + 'static {
    fn metrics(&self) -> impl Future<Output = String> + Send;
    /// Why the node is not ready, a sentence each; empty: it is ready.
    fn waiting(&self) -> impl Future<Output = Vec<String>> + Send;
    /// The node's status in JSON; `None`: not served here, or not known yet.
    fn status(&self) -> Option<String>;
}

/// The header with the version of k8slan.
pub const VERSION: &str = "k8slan-version";

/// Serves `/metrics`, `/livez` and `/readyz` until it is dropped. The address is sent to `bound`.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    source: Arc<impl HealthSource>,
    bound: impl FnOnce(SocketAddr),
) -> Result<(), HealthError> {
    let failed = |source| HealthError::Bind { address, source };
    let listener = bind(address).map_err(failed)?;
    bound(listener.local_addr().map_err(failed)?);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Usually the process is out of file descriptors.
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        connections.spawn(converse(stream, Arc::clone(&source), Some(HEADER_TIMEOUT)));
    }
}

/// Binds the address. `[::]` is every address of the node, also for IPv4; only the IPv4 ones if the node has no IPv6.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let SocketAddr::V6(v6) = address else { return listen(TcpSocket::new_v4()?, address) };
    let any = v6.ip().is_unspecified();
    let both = TcpSocket::new_v6().and_then(|socket| {
        setsockopt(&socket, Ipv6V6Only, &!any)?;
        listen(socket, address)
    });
    match both {
        // The kernel was built or started without IPv6, or it is disabled (net.ipv6.conf.all.disable_ipv6).
        Err(error)
            if any
                && [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL]
                    .iter()
                    .any(|errno| error.raw_os_error() == Some(*errno as i32)) =>
        {
            listen(TcpSocket::new_v4()?, SocketAddr::from(([0; 4], address.port())))
        }
        both => both,
    }
}

fn listen(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    /// The length of the queue of connections to accept.
    const BACKLOG: u32 = 128;
    // Connections of an earlier process may not be closed yet.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Answers on one connection until the other end has done. With `patience`, one that says nothing for so long
/// is let go.
pub async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    source: Arc<impl HealthSource>,
    patience: Option<Duration>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(answer(&request, &*source).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .serve_connection(TokioIo::new(stream), service);
    // A client that disconnects ends the connection with an error.
    let _ = connection.await;
}

/// Answers one request.
pub(crate) async fn answer(request: &Request<Incoming>, source: &impl HealthSource) -> Response<String> {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    let (code, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, TEXT, source.metrics().await),
        // The answer proves it: the daemon has one thread, and it answered.
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match source.waiting().await.as_slice() {
            [] => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            waiting => {
                (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready:\n{}\n", waiting.join("\n")))
            }
        },
        (&Method::GET | &Method::HEAD, "/status") => match source.status() {
            Some(status) => (StatusCode::OK, "application/json", status),
            None => (StatusCode::NOT_FOUND, TEXT, "no status is told here, or none yet\n".to_owned()),
        },
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, TEXT, "there are /metrics, /livez and /readyz\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n".to_owned()),
    };
    let mut response = Response::new(text);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::watch;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    struct Waiting(watch::Receiver<Vec<String>>);

    impl HealthSource for Waiting {
        async fn metrics(&self) -> String {
            "k8slan_lans_ready 1\n".to_owned()
        }

        async fn waiting(&self) -> Vec<String> {
            self.0.borrow().clone()
        }

        fn status(&self) -> Option<String> {
            None
        }
    }

    #[tokio::test]
    async fn any_address_is_ipv4s_too() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect(("::1", port)).await.unwrap();
        }
        // An address of one family is bound for that family only.
        if let Ok(listener) = bind("[::1]:0".parse().unwrap()) {
            let port = listener.local_addr().unwrap().port();
            TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn ready_is_said_when_nothing_is_waited_for() {
        let (waiting, receiver) =
            watch::channel(vec!["LAN a/b is not built: underlay eth1 is missing".to_owned()]);
        let (bound, address) = tokio::sync::oneshot::channel();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let source = Arc::new(Waiting(receiver));
        tokio::spawn(serve(any, Arc::clone(&source), |address| bound.send(address).unwrap()));
        let address = address.await.unwrap();
        let text = get(address, "/livez").await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.contains(concat!("k8slan-version: ", env!("CARGO_PKG_VERSION"))), "{text}");
        let text = get(address, "/readyz").await;
        assert!(text.starts_with("HTTP/1.1 503") && text.contains("underlay eth1 is missing"), "{text}");
        waiting.send_replace(Vec::new());
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("k8slan_lans_ready 1\n"));
        for path in ["/", "/status"] {
            assert!(get(address, path).await.starts_with("HTTP/1.1 404"));
        }
        let taken = serve(address, source, |_| ()).await.unwrap_err();
        assert!(taken.to_string().contains("end who has it"), "{taken}");
    }
}
