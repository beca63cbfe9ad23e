use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use netplumb::{Netlink, Netns};
use node::{Attachment, LINK_GROUP, NetnsRef, Paths, SafeDir, parse_lan_tag};
use serde::Deserialize;

use super::programs::{Lease, PluginPrograms};
use crate::lans::NETNS_DIR;

/// An attachment's name: what CNI's DEL goes by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AttachmentKey {
    pub(super) container: String,
    pub(super) ifname: String,
}

impl AttachmentKey {
    pub(crate) fn from_attachment(attachment: &Attachment) -> Self {
        Self { container: attachment.container_id.clone(), ifname: attachment.ifname.to_string() }
    }
}

/// Everything that attachments have on this node, as far as it carries a pod's UID.
#[derive(Debug, Default)]
pub(super) struct Candidates(BTreeMap<AttachmentKey, Candidate>);

/// What one attachment has.
#[derive(Debug)]
struct Candidate {
    uid: String,
    pod: String,
    /// Whether any of its traces names a network namespace that is there.
    live: bool,
    traces: Traces,
}

/// Who made something for an attachment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traces {
    pub(crate) macvtap: bool,
    pub(crate) vlan_bridge: bool,
    pub(super) lease: bool,
}

const MACVTAP: Traces = Traces { macvtap: true, vlan_bridge: false, lease: false };
const VLAN_BRIDGE: Traces = Traces { macvtap: false, vlan_bridge: true, lease: false };
const LEASE: Traces = Traces { macvtap: false, vlan_bridge: false, lease: true };

impl Candidates {
    /// Looks into LANs, at the node's links, and into the plugins' records.
    ///
    /// # Errors
    /// Something cannot be read: what is not seen must not look gone, or be taken for all there is.
    pub(super) fn read(paths: &Paths, leases: &[Lease]) -> Result<Self> {
        let mut found = Self::default();
        for (attachment, traces) in find_attachments(paths, Unseen::Later)? {
            found.add(attachment, traces);
        }
        for lease in leases {
            let live = lease.netns.as_ref().is_some_and(is_live);
            found.add_traces(&lease.key, lease.uid.as_deref(), lease.pod.as_deref(), live, LEASE);
        }
        Ok(found)
    }

    fn add(&mut self, attachment: Attachment, traces: Traces) {
        let key = AttachmentKey::from_attachment(&attachment);
        let pod = attachment.pod.as_ref();
        let uid = pod.and_then(|pod| pod.uid.as_deref());
        let name = pod.map(ToString::to_string);
        self.add_traces(&key, uid, name.as_deref(), is_live(&attachment.netns), traces);
    }

    fn add_traces(
        &mut self,
        key: &AttachmentKey,
        uid: Option<&str>,
        pod: Option<&str>,
        live: bool,
        traces: Traces,
    ) {
        let Some(uid) = uid else { return };
        let one = self.0.entry(key.clone()).or_insert_with(|| Candidate {
            uid: uid.to_owned(),
            pod: pod.unwrap_or_default().to_owned(),
            live: false,
            traces: Traces::default(),
        });
        // Two pods with one container would be a runtime's lie: nothing of it is touched.
        one.live |= live || one.uid != uid;
        one.traces.macvtap |= traces.macvtap;
        one.traces.vlan_bridge |= traces.vlan_bridge;
        one.traces.lease |= traces.lease;
    }

    /// Those whose namespace is gone and whose pod, by its UID, is not alive.
    pub(super) fn dead(&self, is_alive: impl Fn(&str) -> bool) -> BTreeSet<AttachmentKey> {
        let dead = self.0.iter().filter(|(_, one)| !one.live && !is_alive(&one.uid));
        dead.map(|(key, _)| key.clone()).collect()
    }

    /// Who made what an attachment has.
    pub(super) fn traces(&self, key: &AttachmentKey) -> Option<&Traces> {
        self.0.get(key).map(|one| &one.traces)
    }

    /// Whose it was, for people.
    pub(super) fn pod(&self, key: &AttachmentKey) -> &str {
        self.0.get(key).map_or("", |one| &one.pod)
    }

    #[cfg(test)]
    pub(super) fn for_test(all: &[(&str, Option<&str>, bool)]) -> Self {
        let mut found = Self::default();
        for (container, uid, live) in all {
            let key = AttachmentKey { container: (*container).into(), ifname: "net1".into() };
            found.add_traces(&key, *uid, None, *live, MACVTAP);
        }
        found
    }
}

/// What attachments left on this node outside their pods, whether they carry a pod's UID or not: in LANs, at the
/// node's links, in the plugins' records. One may be there several times.
///
/// # Errors
/// Something cannot be read: what is not seen must not look gone, or be taken for all there is.
pub(crate) fn find_attachments(paths: &Paths, unseen: Unseen) -> Result<Vec<(Attachment, Traces)>> {
    let mut all = Vec::new();
    let mut take = |attachments: Vec<Attachment>, traces| {
        all.extend(attachments.into_iter().map(|attachment| (attachment, traces)));
    };
    take(find_in_lans(&paths.run().join("netns"), Path::new(NETNS_DIR), unseen)?, MACVTAP);
    take(find_in_records(&paths.taps(), unseen)?, MACVTAP);
    take(find_in_records(&paths.run().join("ports"), unseen)?, VLAN_BRIDGE);
    let links = Netlink::open_current()?.links_in_group(LINK_GROUP).context("list the node's links")?;
    let tags = links.iter().filter_map(|link| link.alias.as_deref());
    take(tags.filter_map(Attachment::parse_tag).collect(), VLAN_BRIDGE);
    Ok(all)
}

/// Whose interfaces are attached on this node, for people: also those that only hold an address of a pool.
///
/// # Errors
/// Something cannot be read.
pub(crate) fn find_live_attachments(
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

/// What becomes of a LAN's namespace that has a name but cannot be looked into, and of a file among the records that is none
/// of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unseen {
    /// It is left out. Another look will see the namespace, the daemon puts names back.
    Later,
    /// There is no other look.
    Fail,
}

/// Whether a namespace is there, or may be: from a container, not everything of the node can be seen.
pub(crate) fn is_live(netns: &NetnsRef) -> bool {
    netns.is_live() || !would_be_seen(&netns.path)
}

/// Whether what is at this path of the node would be seen if it were there.
fn would_be_seen(path: &Path) -> bool {
    if path.starts_with("/proc") {
        return sees_host_processes();
    }
    let below_run = path.strip_prefix("/run").or_else(|_| path.strip_prefix("/var/run")).ok();
    let Some(folder) = below_run.and_then(Path::parent) else { return is_on_host() };
    // The daemon's own container has this one. Another one is there if it is mounted: an image has none below /run.
    folder.starts_with("netns")
        || (folder != Path::new("") && Path::new("/run").join(folder).is_dir())
        || is_on_host()
}

/// Whether this process has the mounts of the node's first one, and not those of a container.
fn is_on_host() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let mounts = |of: &str| std::fs::metadata(format!("/proc/{of}/ns/mnt")).map(|meta| meta.ino()).ok();
    sees_host_processes() && mounts("1").is_some_and(|first| mounts("self") == Some(first))
}

fn sees_host_processes() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    /// PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h.
    const FIRST: u64 = 0xefff_fffc;
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|meta| meta.ino() == FIRST)
}

/// The attachments in the namespaces that the daemon gave names to.
fn find_in_lans(given: &Path, names: &Path, unseen: Unseen) -> Result<Vec<Attachment>> {
    let mut attachments = Vec::new();
    let Some(given) = SafeDir::open(given)? else { return Ok(attachments) };
    for name in given.names()? {
        let path = names.join(&name);
        let netns = match Netns::open(&path) {
            Ok(netns) => netns,
            // Its name is all that keeps such a namespace.
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

/// The attachments in one namespace; none if it is no LAN's.
fn find_in_lan(netns: &Netns) -> Result<Vec<Attachment>> {
    const LO: u32 = 1;
    let netlink = Netlink::open(netns)?;
    let mark = netlink.link_by_index(LO)?.and_then(|lo| lo.alias);
    if mark.as_deref().and_then(parse_lan_tag).is_none() {
        return Ok(Vec::new());
    }
    let links = netlink.links()?;
    let ports = links.iter().filter(|link| lan::TapIndex::is_port_name(&link.name));
    Ok(ports.filter_map(|link| Attachment::parse_tag(link.alias.as_deref()?)).collect())
}

/// The attachments that the records in a folder are about. A damaged record is about nobody.
fn find_in_records(folder: &Path, unseen: Unseen) -> Result<Vec<Attachment>> {
    #[derive(Deserialize)]
    struct Record {
        attachment: String,
    }
    let mut attachments = Vec::new();
    let Some(dir) = SafeDir::open(folder)? else { return Ok(attachments) };
    for name in dir.names()? {
        let text = match dir.read(&name) {
            Ok(Some(text)) => text,
            Ok(None) => continue,
            // One file that others could have written must not keep everything else from being swept.
            Err(error) if unseen == Unseen::Later => {
                tracing::warn!("a record is left out: {error}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let record = serde_json::from_slice::<Record>(&text).ok();
        attachments.extend(record.and_then(|record| Attachment::parse_tag(&record.attachment)));
    }
    Ok(attachments)
}

/// Milliseconds since the machine was booted, suspended or not, as leases count them.
pub(super) fn boottime_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> NetnsRef {
        NetnsRef { path: path.into(), inode: 1 }
    }

    #[test]
    fn what_a_container_does_not_see_may_be_there() {
        assert!(!is_live(&at("/run/netns/k8slan-test-none")));
        assert!(!is_live(&at("/var/run/netns/k8slan-test-none")));
        for hidden in
            ["/run/containerd/k8slan-test/netns/a", "/run/k8slan-test-none", "/nowhere/k8slan-test/a"]
        {
            assert_eq!(is_live(&at(hidden)), !is_on_host(), "{hidden}");
        }
        let there = tempfile::tempdir_in("/run").unwrap();
        assert!(!is_live(&at(&there.path().join("gone").to_string_lossy())), "its folder is in sight");
    }

    #[test]
    fn one_file_that_is_no_record_keeps_no_other() {
        use std::os::unix::fs::PermissionsExt as _;
        let temp = tempfile::tempdir().unwrap();
        let dir = SafeDir::create(&temp.path().join("taps")).unwrap();
        let netns = at("/run/netns/k8slan-test-none");
        let (network, pod) = (node::NetworkId::of("n"), None);
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
