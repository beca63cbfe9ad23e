use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use lan::NetnsName;
use netplumb::{Netlink, Netns};
use node::{Attachment, LINK_GROUP, Paths, SafeDir};

/// Every attachment that left something on this node outside its pod, found by marks and records: bridge ports and
/// veth ends, here and in the LANs' namespaces, and the plugins' notes. Live ones and dead ones.
pub(super) fn attached(paths: &Paths) -> Result<Vec<Attachment>> {
    let mut found = Found::default();
    for folder in ["taps", "ports"] {
        found.notes(&paths.run().join(folder))?;
    }
    let host = Netlink::open_current()?;
    found.links(&host)?;
    let Some(given) = SafeDir::open(&paths.run().join("netns"))? else { return Ok(found.all()) };
    for name in given.names()? {
        let Ok(name) = name.parse::<NetnsName>() else { continue };
        let path = name.path();
        if !Netns::is_mounted(&path)? {
            continue;
        }
        let inside = || -> netplumb::Result<Netlink> { Netlink::open(&Netns::open(&path)?) };
        let netlink = inside().with_context(|| format!("look into {}", path.display()))?;
        found.links(&netlink)?;
    }
    Ok(found.all())
}

#[derive(Default)]
struct Found(BTreeMap<(String, String), Attachment>);

impl Found {
    fn take(&mut self, attachment: Attachment) {
        let key = (attachment.container_id.clone(), attachment.ifname.to_string());
        self.0.insert(key, attachment);
    }

    fn all(self) -> Vec<Attachment> {
        self.0.into_values().collect()
    }

    /// The plugins' notes: one JSON object each, whose `attachment` is the tag that is on links, too.
    fn notes(&mut self, folder: &Path) -> Result<()> {
        let Some(dir) = SafeDir::open(folder)? else { return Ok(()) };
        for name in dir.names()? {
            // What is no file, or does not read, is nobody's.
            let text = dir.read(&name).ok().flatten().unwrap_or_default();
            let note: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            if let Some(attachment) = note["attachment"].as_str().and_then(Attachment::parse_tag) {
                self.take(attachment);
            }
        }
        Ok(())
    }

    fn links(&mut self, netlink: &Netlink) -> Result<()> {
        for link in netlink.links_in_group(LINK_GROUP)? {
            if let Some(attachment) = link.alias.as_deref().and_then(Attachment::parse_tag) {
                self.take(attachment);
            }
        }
        Ok(())
    }
}
