//! What is recorded of a pod for the plugins, a file each.

use anyhow::{Context as _, Result, bail};
use node::{ClaimRecord, PodRecord, SafeDir, SafeDirError, SetRecord, VmRecord, is_kubernetes_name};
use proto::brief;

use super::{MAX_RECORD, MAX_VM};

/// The records of a pod; of what is absent there is no file.
#[derive(Debug, Default)]
pub(super) struct PodRecords {
    pub(super) vm: Option<VmRecord>,
    pub(super) set: Option<SetRecord>,
    pub(super) claims: Option<ClaimRecord>,
}

impl PodRecords {
    /// How long they are, in bytes, without what says whether a StatefulSet made the pod.
    ///
    /// # Errors
    /// They cannot be recorded.
    pub(super) fn check(&self) -> Result<usize> {
        let mut len = 0;
        if let Some(vm) = &self.vm {
            if !is_kubernetes_name(&vm.vm) {
                bail!("{:?} is not the name of a virtual machine", brief(&vm.vm, MAX_VM));
            }
            len += serde_json::to_vec(vm).context("write a record as JSON")?.len();
        }
        if let Some(claims) = &self.claims {
            len += serde_json::to_vec(claims).context("write a record as JSON")?.len();
        }
        if len > MAX_RECORD {
            bail!("records of {len} bytes; at most {MAX_RECORD} are taken");
        }
        Ok(len)
    }

    /// Writes them, and removes what is recorded no more.
    pub(super) fn write(&self, owners: &SafeDir, uid: &str) -> Result<()> {
        put(self.vm.as_ref(), owners, uid)?;
        put(self.set.as_ref(), owners, uid)?;
        put(self.claims.as_ref(), owners, uid)?;
        Ok(())
    }
}

/// Whose record a file of this name is.
pub(super) fn uid_of(file: &str) -> Option<&str> {
    VmRecord::uid_of(file).or_else(|| SetRecord::uid_of(file)).or_else(|| ClaimRecord::uid_of(file))
}

fn put<R: PodRecord>(record: Option<&R>, owners: &SafeDir, uid: &str) -> Result<(), SafeDirError> {
    match record {
        Some(record) => record.write(owners, uid),
        None => R::remove(owners, uid),
    }
}
