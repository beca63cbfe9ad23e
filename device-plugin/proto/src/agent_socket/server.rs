use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::health::{HealthSource, converse};
use crate::root_socket::RootSocket;

/// The number of connections that may be open at once.
const CONNECTIONS: usize = 32;
/// How long a client may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers on the socket until the future is dropped.
pub async fn serve(socket: RootSocket, source: Arc<impl HealthSource>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            stream = socket.accept(), if connections.len() < CONNECTIONS => {
                connections.spawn(converse(stream, Arc::clone(&source), Some(IDLE_TIMEOUT)));
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
        tokio::spawn(serve(RootSocket::bind(&path).unwrap(), Arc::new(Silent)));
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
        let answer = tokio::time::timeout(Duration::from_secs(9), ask(&mut stream)).await;
        assert!(answer.expect("an answer in time for a probe").starts_with("HTTP/1.1 200"));
    }
}
