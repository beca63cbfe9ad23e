use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, watch};

use super::SOCKET;
use crate::events::{Dirty, FileWatch, Wake, WatchedFolder};
use crate::health::VERSION;
use crate::root_socket::is_trusted;

/// The time limit of a request. The node's part answers from memory.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two attempts to connect if inotify reports nothing.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(10);

/// The node's part, by its agent socket. One connection stays open: it ends when that process ends, in whatever way.
pub struct Agent {
    path: PathBuf,
    sender: Mutex<Option<SendRequest<String>>>,
    presence: watch::Sender<Presence>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    Here,
    /// It does not answer, and why.
    Away(String),
}

impl Agent {
    /// `folder` contains the agent socket.
    pub fn new(folder: &Path) -> Self {
        let nothing = Presence::Away("it was not looked for yet".to_owned());
        Self { path: folder.join(SOCKET), sender: Mutex::default(), presence: watch::channel(nothing).0 }
    }

    /// Whether the node's part answers, now and at each change.
    pub fn presence(&self) -> watch::Receiver<Presence> {
        self.presence.subscribe()
    }

    /// Stays connected, without end.
    ///
    /// # Errors
    /// The folder cannot be watched.
    pub async fn run(&self) -> Result<()> {
        let wake = Wake::default();
        let changed = Dirty { names: true, ..Dirty::default() };
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let files =
            FileWatch::start(vec![WatchedFolder::new(folder, |name| name == SOCKET, changed)], wake.clone())?;
        loop {
            files.add_missing_watches();
            wake.take_changes();
            let why = match self.connect().await {
                Ok((sender, connection)) => {
                    *self.sender.lock().await = Some(sender);
                    tracing::info!("the node's part answers");
                    self.presence.send_replace(Presence::Here);
                    let ended = connection.await.context("a task of the connection").flatten();
                    *self.sender.lock().await = None;
                    ended.err().map_or_else(|| "it ended".to_owned(), |error| format!("{error:#}"))
                }
                Err(error) => format!("{error:#}"),
            };
            let away = Presence::Away(why);
            if *self.presence.borrow() != away {
                if let Presence::Away(why) = &away {
                    tracing::warn!(socket = %self.path.display(), "the node's part does not answer: {why}");
                }
                self.presence.send_replace(away);
            }
            // A failed wait is like a timeout: try again.
            let _ = tokio::time::timeout(RECONNECT_INTERVAL, wake.wait()).await;
        }
    }

    /// Sends a `GET` request for a path.
    ///
    /// # Errors
    /// The node's part is away, or does not answer.
    pub async fn get(&self, path: &str) -> Result<(StatusCode, String)> {
        let mut sender = self.sender.lock().await;
        let Some(sender) = sender.as_mut() else {
            match &*self.presence.borrow() {
                Presence::Away(why) => bail!("{why}"),
                Presence::Here => bail!("it just went away"),
            }
        };
        tokio::time::timeout(REQUEST_TIMEOUT, get(sender, path)).await.context("it does not answer")?
    }

    async fn connect(&self) -> Result<(SendRequest<String>, tokio::task::JoinHandle<Result<()>>)> {
        let (mut sender, connection) = connect_to_socket(&self.path).await?;
        let connection = tokio::spawn(async move { Ok(connection.await?) });
        let asked = tokio::time::timeout(REQUEST_TIMEOUT, version(&mut sender)).await;
        let version = match asked.context("it does not answer").flatten() {
            Ok(version) => version,
            Err(error) => {
                connection.abort();
                return Err(error);
            }
        };
        if version != env!("CARGO_PKG_VERSION") {
            tracing::warn!(
                "the node's part is version {version} and this is {}: run both from one image",
                env!("CARGO_PKG_VERSION")
            );
        }
        Ok((sender, connection))
    }
}

/// Sends one `GET` request, without an [`Agent`] that stays connected.
///
/// # Errors
/// The node's part is away, or does not answer.
pub async fn get_once(run: &Path, path: &str) -> Result<(StatusCode, String)> {
    let asked = async {
        let (mut sender, connection) = connect_to_socket(&run.join(SOCKET)).await?;
        let connection = tokio::spawn(connection);
        let answer = get(&mut sender, path).await;
        connection.abort();
        answer
    };
    tokio::time::timeout(REQUEST_TIMEOUT, asked).await.context("it does not answer")?
}

async fn connect_to_socket(
    path: &Path,
) -> Result<(SendRequest<String>, Connection<TokioIo<UnixStream>, String>)> {
    let metadata = std::fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?;
    if !metadata.file_type().is_socket() {
        bail!("{} is not a socket: find out what it is and remove it", path.display());
    }
    if !is_trusted(metadata.uid()) || metadata.mode() & 0o077 != 0 {
        bail!(
            "{} is not trusted: it belongs to user {} and has mode {:04o}, and must be root's and 0600; remove it and \
             restart the daemon",
            path.display(),
            metadata.uid(),
            metadata.mode() & 0o7777
        );
    }
    let stream = UnixStream::connect(path).await.with_context(|| format!("connect to {}", path.display()))?;
    let peer = stream.peer_cred().context("tell who answers")?;
    if !is_trusted(peer.uid()) {
        bail!("user {} answers on {}: only root may", peer.uid(), path.display());
    }
    Ok(hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?)
}

async fn version(sender: &mut SendRequest<String>) -> Result<String> {
    sender.ready().await?;
    let response = sender.send_request(request("/livez")?).await?;
    let version = response.headers().get(VERSION).and_then(|version| version.to_str().ok());
    let version = version.context("the program that answers is not k8slan")?.to_owned();
    response.into_body().collect().await?;
    Ok(version)
}

async fn get(sender: &mut SendRequest<String>, path: &str) -> Result<(StatusCode, String)> {
    sender.ready().await?;
    let response = sender.send_request(request(path)?).await?;
    let code = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok((code, String::from_utf8_lossy(&bytes).into_owned()))
}

fn request(path: &str) -> Result<Request<String>> {
    Ok(Request::get(path).header(hyper::header::HOST, "k8slan").body(String::new())?)
}
