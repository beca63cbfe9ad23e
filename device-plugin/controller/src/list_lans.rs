//! The cluster's LANs, read once: for commands that check a node before a daemon runs on it.

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};

use super::lan_object::{self, StoredLan};
use super::mirror;
use proto::link::lan_file_name;

/// Every LAN as its file in the mirror of this node: the file's name and its text. Empty if the cluster does not have
/// the LAN's CRD.
pub async fn list_lan_files(client: &Client, node: &str) -> Result<Vec<(String, String)>, kube::Error> {
    let api: Api<StoredLan> = Api::all_with(client.clone(), &lan_object::lans());
    let lans = match api.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        lans => lans?.items,
    };
    // If nodes may not be read, LANs are listed with the node's name alone.
    let node_object = match Api::<Node>::all(client.clone()).get_metadata_opt(node).await {
        Err(kube::Error::Api(status)) if status.code == 403 => None,
        found => found?,
    };
    let hostname = node_object.and_then(|found| mirror::hostname(&found.metadata, node));
    let files = lans.iter().filter_map(|lan| {
        // The CRD allows no other names.
        let key = lan_object::key(&lan.metadata).ok()?;
        let name = lan_file_name(&key);
        let text = lan_object::for_node(lan, key).file_text(hostname.as_deref()).ok()?;
        Some((name, String::from_utf8(text).ok()?))
    });
    Ok(files.collect())
}
