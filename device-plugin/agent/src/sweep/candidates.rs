use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use node::{Attachment, Paths};

use crate::attachments::{AttachmentKey, Lease, Traces, Unseen, find_attachments, is_live};

/// Everything that attachments have on this node, if it has a pod's UID.
#[derive(Debug, Default)]
pub(super) struct Candidates(BTreeMap<AttachmentKey, Candidate>);

/// The traces of one attachment.
#[derive(Debug)]
struct Candidate {
    uid: String,
    pod: String,
    /// Whether any of its traces names a network namespace that exists.
    live: bool,
    traces: Traces,
}

impl Candidates {
    /// Reads the LANs, the node's links, and the plugins' records.
    ///
    /// # Errors
    /// Something cannot be read: what is not seen must not count as missing.
    pub(super) fn read(paths: &Paths, leases: &[Lease]) -> Result<Self> {
        let mut found = Self::default();
        for (attachment, traces) in find_attachments(paths, Unseen::Later)? {
            found.add(attachment, traces);
        }
        for lease in leases {
            let live = lease.netns.as_ref().is_some_and(is_live);
            found.add_traces(&lease.key, lease.uid.as_deref(), lease.pod.as_deref(), live, Traces::LEASE);
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
        // Two pods with one container cannot be: nothing of them is removed.
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

    /// Which plugins made something for an attachment.
    pub(super) fn traces(&self, key: &AttachmentKey) -> Option<&Traces> {
        self.0.get(key).map(|one| &one.traces)
    }

    /// The pod of an attachment, for messages.
    pub(super) fn pod(&self, key: &AttachmentKey) -> &str {
        self.0.get(key).map_or("", |one| &one.pod)
    }

    #[cfg(test)]
    pub(super) fn for_test(all: &[(&str, Option<&str>, bool)]) -> Self {
        let mut found = Self::default();
        for (container, uid, live) in all {
            let key = AttachmentKey { container: (*container).into(), ifname: "net1".into() };
            found.add_traces(&key, *uid, None, *live, Traces::MACVTAP);
        }
        found
    }
}

/// Milliseconds since the boot, including suspended time, as leases count them.
pub(crate) fn boottime_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0))
}
