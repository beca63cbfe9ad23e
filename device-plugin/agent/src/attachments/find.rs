use std::path::Path;

use anyhow::{Context as _, Result};
use netplumb::{Netlink, Netns};
use node::{Attachment, LINK_GROUP, NETNS_DIR, Paths, SafeDir, parse_lan_tag};
use serde::Deserialize;

use super::key::Traces;

/// What to do about a LAN's namespace that has a name but cannot be read, and about a file among the records that is
/// not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// Leaves it out. A later call will find the namespace, since the daemon restores names.
    Later,
    /// Fails, since there is no later call.
    Fail,
}

/// Finds what attachments left on this node outside their pods, with or without a pod's UID: in LANs, at the node's
/// links, in the plugins' records. An attachment may be returned several times.
///
/// # Errors
/// Something cannot be read: what is not seen must not count as missing.
pub fn find_attachments(paths: &Paths, unseen: Unseen) -> Result<Vec<(Attachment, Traces)>> {
    let mut all = Vec::new();
    let mut take = |attachments: Vec<Attachment>, traces| {
        all.extend(attachments.into_iter().map(|attachment| (attachment, traces)));
    };
    take(find_in_lans(&paths.run().join("netns"), Path::new(NETNS_DIR), unseen)?, Traces::MACVTAP);
    take(find_in_records(&paths.taps(), unseen)?, Traces::MACVTAP);
    take(find_in_records(&paths.run().join("ports"), unseen)?, Traces::VLAN_BRIDGE);
    let links = Netlink::open_current()?.links_in_group(LINK_GROUP).context("list the node's links")?;
    let tags = links.iter().filter_map(|link| link.alias.as_deref());
    take(tags.filter_map(Attachment::parse_tag).collect(), Traces::VLAN_BRIDGE);
    Ok(all)
}

/// The attachments in the namespaces that the daemon gave names to.
fn find_in_lans(given: &Path, names: &Path, unseen: Unseen) -> Result<Vec<Attachment>> {
    let mut attachments = Vec::new();
    let Some(given) = SafeDir::open(given)? else { return Ok(attachments) };
    for name in given.names()? {
        let path = names.join(&name);
        let netns = match Netns::open(&path) {
            Ok(netns) => netns,
            // Such a namespace exists only as long as its name.
            Err(error) if unseen == Unseen::Later || error.is_not_found() => continue,
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot see which pods use the LAN in {}: if nothing is mounted there on the node itself, \
                         remove the file; in a container, mount the node's folder with propagation",
                        path.display()
                    )
                });
            }
        };
        match find_in_lan(&netns).with_context(|| format!("list the links of {}", path.display())) {
            Ok(found) => attachments.extend(found),
            Err(error) if unseen == Unseen::Later => tracing::warn!("{error:#}"),
            Err(error) => return Err(error),
        }
    }
    Ok(attachments)
}

/// The attachments in one namespace; empty if it is not a LAN's.
fn find_in_lan(netns: &Netns) -> Result<Vec<Attachment>> {
    let netlink = Netlink::open(netns)?;
    let mark = netlink.link_by_index(netplumb::LO)?.and_then(|lo| lo.alias);
    if mark.as_deref().and_then(parse_lan_tag).is_none() {
        return Ok(Vec::new());
    }
    let links = netlink.links()?;
    let ports = links.iter().filter(|link| lan::TapIndex::is_port_name(&link.name));
    Ok(ports.filter_map(|link| Attachment::parse_tag(link.alias.as_deref()?)).collect())
}

/// The attachments of the records in a folder. A damaged record has none.
fn find_in_records(folder: &Path, unseen: Unseen) -> Result<Vec<Attachment>> {
    #[derive(Deserialize)]
    struct Record {
        attachment: Attachment,
    }
    let mut attachments = Vec::new();
    let Some(dir) = SafeDir::open(folder)? else { return Ok(attachments) };
    for name in dir.names()? {
        let text = match dir.read(&name) {
            Ok(Some(text)) => text,
            Ok(None) => continue,
            // One file that others could have written must not prevent the sweep of everything else.
            Err(error) if unseen == Unseen::Later => {
                tracing::warn!("a record is left out: {error}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        attachments.extend(serde_json::from_slice::<Record>(&text).ok().map(|record| record.attachment));
    }
    Ok(attachments)
}

#[cfg(test)]
mod tests {
    use node::NetnsRef;

    use super::*;

    #[test]
    fn one_file_that_is_no_record_keeps_no_other() {
        use std::os::unix::fs::PermissionsExt as _;
        let temp = tempfile::tempdir().unwrap();
        let dir = SafeDir::create(&temp.path().join("taps")).unwrap();
        let netns = NetnsRef { path: "/run/netns/k8slan-test-none".into(), inode: 1 };
        let (network, pod) = (node::NetworkId::from_name("n"), None);
        let ifname = "net1".parse().unwrap();
        let attachment = Attachment { container_id: "c".to_owned(), ifname, netns, network, pod };
        let text = serde_json::json!({ "attachment": attachment.tag().unwrap() }).to_string();
        for name in ["9:1", "9:2", "9:3"] {
            dir.create_new(name, text.as_bytes()).unwrap();
        }
        std::fs::set_permissions(dir.path().join("9:1"), std::fs::Permissions::from_mode(0o666)).unwrap();
        std::fs::remove_file(dir.path().join("9:3")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("9:3")).unwrap();
        assert_eq!(find_in_records(dir.path(), Unseen::Later).unwrap(), [attachment]);
        assert!(find_in_records(dir.path(), Unseen::Fail).is_err(), "it may be somebody's who lives");
    }

    #[test]
    fn whoever_looks_once_must_see_every_lan() {
        let temp = tempfile::tempdir().unwrap();
        let given = SafeDir::create(&temp.path().join("given")).unwrap();
        let names = SafeDir::create(&temp.path().join("netns")).unwrap();
        let look = |unseen| find_in_lans(given.path(), names.path(), unseen);
        given.create_new("lan", b"").unwrap();
        assert_eq!(look(Unseen::Fail).unwrap(), [], "it never was, or is gone");
        names.create_new("lan", b"").unwrap();
        assert_eq!(look(Unseen::Later).unwrap(), []);
        let error = format!("{:#}", look(Unseen::Fail).unwrap_err());
        assert!(error.contains("which pods use the LAN in") && error.contains("netns/lan"), "{error}");
    }
}
