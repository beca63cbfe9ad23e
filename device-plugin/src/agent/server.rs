use std::sync::Arc;

use tokio::task::JoinSet;

use crate::health::{Told, converse};
use crate::root_socket::RootSocket;

/// Open connections at once. The cluster's part keeps one, to know that this end lives.
const CONNECTIONS: usize = 32;

/// Answers on the socket until it is dropped. Whoever is root may stay connected for as long as it likes.
pub(crate) async fn serve(socket: RootSocket, told: Arc<impl Told>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            stream = socket.accept(), if connections.len() < CONNECTIONS => {
                connections.spawn(converse(stream, Arc::clone(&told), None));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
