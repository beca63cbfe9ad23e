//! Whether a pod is one that a StatefulSet makes again under its name, so that the name may own an address.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Durability, Paths, Pod, SafeDir, SafeDirError};

/// The node daemon's record of a pod whose name a StatefulSet could have given, `<run>/owners/<pod UID>.set`. Every such pod has
/// one: where there is none, the daemon has not heard of the pod yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetRecord {
    /// Whether a StatefulSet made the pod.
    pub stateful_set: bool,
}

/// Whether a pod is of a StatefulSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMembership {
    /// It is.
    Member,
    /// It is not, or nobody could tell.
    Other,
    /// The daemon records it as soon as it is told of the pod, possibly later than the kubelet.
    NotYet,
}

/// Why it is not known whether a StatefulSet made a pod.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum SetError {
    /// The record cannot be read, or others than root may write it.
    #[error(transparent)]
    Read(#[from] SafeDirError),
    #[error(
        "{path:?} is neither {{\"statefulSet\": true}} nor false: {message}; are the daemon and the plugins of one version?"
    )]
    Syntax {
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
}

/// Whether a StatefulSet gives such names: its own, and the pod's number.
#[must_use]
pub fn has_ordinal(pod: &str) -> bool {
    pod.rsplit_once('-').is_some_and(|(set, ordinal)| {
        let is_number = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
        !set.is_empty() && is_number && (ordinal == "0" || !ordinal.starts_with('0'))
    })
}

impl SetRecord {
    const SUFFIX: &str = ".set";

    /// The file name of the record of the pod with this UID; `None` for an invalid UID.
    #[must_use]
    pub fn file_name(uid: &str) -> Option<String> {
        let good = !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        good.then(|| format!("{uid}{}", Self::SUFFIX))
    }

    /// The UID of whose record a file of this name is.
    #[must_use]
    pub fn uid_of(file: &str) -> Option<&str> {
        file.strip_suffix(Self::SUFFIX)
    }

    /// Writes the record; a UID that is not a path component has none.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(self, owners: &SafeDir, uid: &str) -> Result<(), SafeDirError> {
        let Some(name) = Self::file_name(uid) else { return Ok(()) };
        let text = serde_json::to_vec(&self).unwrap_or_default();
        owners.write(&name, &text, Durability::UntilReboot)
    }

    fn read(owners: &SafeDir, uid: &str) -> Result<Option<Self>, SetError> {
        let Some(name) = Self::file_name(uid) else { return Ok(None) };
        let Some(text) = owners.read(&name)? else { return Ok(None) };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| SetError::Syntax { path: owners.path().join(name), message: error.to_string() })
    }
}

impl SetMembership {
    /// Finds out by the daemon's record.
    ///
    /// # Errors
    /// Others than root may write the record, or it is not one of the daemon's.
    pub fn find(paths: &Paths, pod: Option<&Pod>) -> Result<Self, SetError> {
        let Some(pod) = pod.filter(|pod| has_ordinal(&pod.name)) else { return Ok(Self::Other) };
        let Some(uid) = &pod.uid else { return Ok(Self::Other) };
        // Without a daemon nobody knows, and nobody will.
        let Some(owners) = SafeDir::open(&paths.owners())? else { return Ok(Self::Other) };
        Ok(match SetRecord::read(&owners, uid)? {
            Some(SetRecord { stateful_set: true }) => Self::Member,
            Some(SetRecord { stateful_set: false }) => Self::Other,
            None if is_of_api_server(uid) => Self::NotYet,
            // A static pod's: no StatefulSet made it.
            None => Self::Other,
        })
    }
}

/// Whether the API server gives such UIDs: a static pod's is a hash.
pub(crate) fn is_of_api_server(uid: &str) -> bool {
    uid.len() == 36 && uid.bytes().filter(|b| *b == b'-').count() == 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeConfig;

    #[test]
    fn only_names_with_a_number_can_be_of_a_set() {
        for good in ["web-0", "web-10", "a-b-7"] {
            assert!(has_ordinal(good), "{good}");
        }
        for bad in ["web", "web-", "web-01", "web-x7k2p", "-1", "web-1a", "7"] {
            assert!(!has_ordinal(bad), "{bad}");
        }
    }

    #[test]
    fn the_daemon_tells_and_is_waited_for() {
        const UID: &str = "0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b";
        let dir = tempfile::tempdir().unwrap();
        let config = format!("runDir: {0}/run\nstateDir: {0}/state\n", dir.path().display());
        let paths = NodeConfig::parse(&config).unwrap().paths();
        let of = |name: &str, uid: Option<&str>| {
            let pod = Pod { namespace: "default".into(), name: name.into(), uid: uid.map(str::to_owned) };
            SetMembership::find(&paths, Some(&pod)).unwrap()
        };
        assert_eq!(of("web-0", Some(UID)), SetMembership::Other, "nobody could tell");
        let owners = SafeDir::create(&paths.owners()).unwrap();
        assert_eq!(of("web-0", Some(UID)), SetMembership::NotYet);
        for other in [of("web-x7k2p", Some(UID)), of("web-0", None), of("etcd-1", Some("9a1f0c"))] {
            assert_eq!(other, SetMembership::Other);
        }
        assert_eq!(SetMembership::find(&paths, None).unwrap(), SetMembership::Other);
        for (stateful_set, is) in [(true, SetMembership::Member), (false, SetMembership::Other)] {
            SetRecord { stateful_set }.write(&owners, UID).unwrap();
            assert_eq!(of("web-0", Some(UID)), is);
        }
        assert_eq!(
            owners.read(&format!("{UID}.set")).unwrap().as_deref(),
            Some(&b"{\"statefulSet\":false}"[..])
        );
        owners.write(&format!("{UID}.set"), b"{}", Durability::UntilReboot).unwrap();
        let pod = Pod { namespace: "default".into(), name: "web-0".into(), uid: Some(UID.into()) };
        let error = SetMembership::find(&paths, Some(&pod)).unwrap_err();
        assert!(error.to_string().contains("statefulSet"), "{error}");
    }
}
