//! Whether a pod is one that a StatefulSet makes again under its name, so that the name may own an address.

use serde::{Deserialize, Serialize};

use crate::pod_record::is_of_api_server;
use crate::{Paths, Pod, PodRecord, PodRecordError, SafeDir};

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

/// Whether a StatefulSet gives such names: its own, and the pod's number.
#[must_use]
pub fn has_ordinal(pod: &str) -> bool {
    pod.rsplit_once('-').is_some_and(|(set, ordinal)| {
        let is_number = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
        !set.is_empty() && is_number && (ordinal == "0" || !ordinal.starts_with('0'))
    })
}

impl PodRecord for SetRecord {
    const SUFFIX: &str = ".set";
    const SHAPE: &str = "{\"statefulSet\": true} or false";
}

impl SetMembership {
    /// Finds out by the daemon's record.
    ///
    /// # Errors
    /// Others than root may write the record, or it is not one of the daemon's.
    pub fn find(paths: &Paths, pod: Option<&Pod>) -> Result<Self, PodRecordError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Durability, NodeConfig};

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
