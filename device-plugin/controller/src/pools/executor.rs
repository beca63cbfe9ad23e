//! Asks the API server what the node's part wants to know of it.

use std::convert::Infallible;
use std::sync::Arc;

use proto::link::Link;
use tokio::sync::Semaphore;

use super::api::{NodeReader, PoolApi};

/// How many requests are carried out at once.
const AT_ONCE: usize = 16;

/// Carries out the node's requests about blocks, without end, several at once: a create that waits must not keep the read
/// waiting by which the node may allocate.
pub async fn answer_pool_requests<N: NodeReader>(link: Arc<Link>, api: PoolApi<N>) -> Infallible {
    let (requests, api) = (link.pool_requests(), Arc::new(api));
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let request = requests.pop().await;
        let (link, api) = (Arc::clone(&link), Arc::clone(&api));
        let slot = Arc::clone(&slots).acquire_owned().await;
        tokio::spawn(async move {
            let answer = api.answer(&request.request).await;
            link.answer_pool_request(&request, answer);
            drop(slot);
        });
    }
}
