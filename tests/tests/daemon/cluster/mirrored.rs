//! The LANs of an API server in a node's folder: both ends of the link, without the rest of a daemon.

use std::path::Path;
use std::sync::Arc;

use agent::cluster_objects::{NodeObjects, Publishers};
use controller::Mirror;
use kube::Client;
use proto::health::HealthSource;
use proto::link::{Link, LinkServer, Published, Queue, SnapshotCache};
use proto::published::{NodeStatus, VmNames};
use testnet::Stop;
use tokio::sync::watch;

struct Ready;

impl HealthSource for Ready {
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

/// The mirror of these namespaces, and what keeps its LANs in `dir` while it runs.
pub(crate) fn mirrored(
    client: Client,
    node: &str,
    namespaces: Vec<String>,
    dir: &Path,
) -> Result<(Mirror, impl Future<Output = ()> + Send + use<>), Stop> {
    let run = tempfile::tempdir()?;
    let config = format!("runDir: {0}/run\nstateDir: {0}/state\n", run.path().display());
    let paths = node::NodeConfig::parse(&config).map_err(Stop::Failed)?.paths();
    let pools = agent::blocks::Pools::open(&paths).map_err(|error| Stop::Failed(format!("{error:#}")))?;
    let objects = NodeObjects::open(
        dir,
        &paths,
        pools,
        Publishers {
            live_pods: watch::channel(None).0,
            deleted_vms: watch::channel(VmNames::new()).0,
            storage_error: watch::channel(None).0,
            blocks: tokio::sync::mpsc::unbounded_channel().0,
        },
    )
    .map_err(|error| Stop::Failed(format!("{error:#}")))?;
    let (status, sticky_vms) =
        (watch::channel(Arc::new(NodeStatus::default())), watch::channel(VmNames::new()));
    let published = Published {
        status: status.1,
        sticky_vms: sticky_vms.1,
        pool_notes: watch::channel(None).1,
        pool_requests: Queue::default(),
    };
    let mut server = LinkServer::new(published, Arc::new(Ready), objects);
    let cache = SnapshotCache::default();
    let link = Link::new(cache.clone());
    let folder = async move {
        let _run = run;
        let (one, other) = tokio::io::duplex(4096);
        let ended = tokio::join!(server.converse(one), link.converse(other));
        eprintln!("the link ended: {ended:?}");
    };
    Ok((Mirror::new(client, node, namespaces, cache), folder))
}
