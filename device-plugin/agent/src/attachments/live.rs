use std::collections::BTreeMap;

use anyhow::Result;
use node::Paths;

use super::find::{Unseen, find_attachments};
use super::key::AttachmentKey;
use super::liveness::is_live;
use super::programs::PluginPrograms;

/// Lists the interfaces that are attached on this node, for messages: also those that only have an address of a pool.
///
/// # Errors
/// Something cannot be read.
pub fn find_live_attachments(
    paths: &Paths,
    programs: &PluginPrograms,
) -> Result<BTreeMap<AttachmentKey, String>> {
    let mut attached = BTreeMap::new();
    for lease in programs.leases(paths)?.held {
        if lease.netns.as_ref().is_some_and(is_live) {
            let AttachmentKey { container, ifname } = &lease.key;
            let pod = lease.pod.as_ref().map(|pod| format!("pod {pod}, ")).unwrap_or_default();
            let who =
                format!("{pod}container {container}, interface {ifname}, with an address of ipam-pool,");
            attached.insert(lease.key, who);
        }
    }
    for (attachment, _) in find_attachments(paths, Unseen::Fail)? {
        if is_live(&attachment.netns) {
            attached.insert(AttachmentKey::from_attachment(&attachment), attachment.to_string());
        }
    }
    Ok(attached)
}
