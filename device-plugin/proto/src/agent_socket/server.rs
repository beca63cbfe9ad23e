use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::health::{HealthSource, converse};
use crate::root_socket::RootSocket;

/// The clients that a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Programs that ask once: those of people, and the probe of the node's part.
    PluginPrograms,
    /// The cluster's part, which stays connected to notice the end of this process.
    ClusterPart,
}

impl Callers {
    /// The number of connections that may be open at once.
    const fn connections(self) -> usize {
        match self {
            Self::PluginPrograms => 32,
            // A new connection may arrive before the end of the old one is noticed.
            Self::ClusterPart => 4,
        }
    }

    /// How long a client may be silent.
    const fn idle_timeout(self) -> Option<Duration> {
        match self {
            Self::PluginPrograms => Some(Duration::from_secs(5)),
            Self::ClusterPart => None,
        }
    }
}

/// Answers on the socket until the future is dropped.
pub async fn serve(socket: RootSocket, source: Arc<impl HealthSource>, callers: Callers) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            stream = socket.accept(), if connections.len() < callers.connections() => {
                connections.spawn(converse(stream, Arc::clone(&source), callers.idle_timeout()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

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
        tokio::spawn(serve(RootSocket::bind(&path).unwrap(), Arc::new(Silent), Callers::PluginPrograms));
        let mut held = Vec::new();
        for nth in 0..Callers::PluginPrograms.connections() {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            // Some have asked, some not.
            if nth % 2 == 0 {
                assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
            }
            held.push(stream);
        }
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(9), ask(&mut stream)).await;
        assert!(answer.expect("an answer in time for a probe").starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn the_clusters_part_may_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        tokio::spawn(serve(RootSocket::bind(&path).unwrap(), Arc::new(Silent), Callers::ClusterPart));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
}
