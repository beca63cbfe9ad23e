//! Which `IPAMClaim`s a pod names for its interfaces, so that a claim may own an address.

use std::collections::BTreeMap;

use net_types::IfName;
use serde::{Deserialize, Serialize};

use crate::pod_record::is_of_api_server;
use crate::{Paths, Pod, PodRecord, PodRecordError, SafeDir};

/// The node daemon's record of a pod that names networks in its annotation, `<run>/owners/<pod UID>.claims`. Every such pod has one:
/// where there is none, the daemon has not heard of the pod yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRecord {
    /// The name of the claim of each interface that has one, as the pod's author wrote it. A claim is of the pod's own namespace.
    pub claims: BTreeMap<IfName, String>,
}

/// The claim of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedClaim {
    /// The pod names this one.
    Named(String),
    /// It names none, or nobody could tell.
    None,
    /// The daemon records it as soon as it is told of the pod, possibly later than the kubelet.
    NotYet,
}

impl PodRecord for ClaimRecord {
    const SUFFIX: &str = ".claims";
    const SHAPE: &str = "{\"claims\": {\"<interface>\": \"<name>\"}}";
}

impl NamedClaim {
    /// Finds out by the daemon's record.
    ///
    /// # Errors
    /// Others than root may write the record, or it is not one of the daemon's.
    pub fn find(paths: &Paths, pod: Option<&Pod>, ifname: &IfName) -> Result<Self, PodRecordError> {
        // A static pod's UID is a hash, and it cannot name a claim.
        let uid = pod.and_then(|pod| pod.uid.as_deref()).filter(|uid| is_of_api_server(uid));
        let Some(uid) = uid else { return Ok(Self::None) };
        // Without a daemon nobody knows, and nobody will.
        let Some(owners) = SafeDir::open(&paths.owners())? else { return Ok(Self::None) };
        Ok(match ClaimRecord::read(&owners, uid)? {
            Some(mut record) => record.claims.remove(ifname).map_or(Self::None, Self::Named),
            None => Self::NotYet,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Durability, NodeConfig};

    #[test]
    fn the_daemon_tells_and_is_waited_for() {
        const UID: &str = "0e4f1a2b-3c4d-4e5f-8a9b-0c1d2e3f4a5b";
        let dir = tempfile::tempdir().unwrap();
        let config = format!("runDir: {0}/run\nstateDir: {0}/state\n", dir.path().display());
        let paths = NodeConfig::parse(&config).unwrap().paths();
        let of = |uid: Option<&str>, ifname: &str| {
            let pod = Pod { namespace: "default".into(), name: "web".into(), uid: uid.map(str::to_owned) };
            NamedClaim::find(&paths, Some(&pod), &ifname.parse().unwrap())
        };
        assert_eq!(of(Some(UID), "net1").unwrap(), NamedClaim::None, "nobody could tell");
        let owners = SafeDir::create(&paths.owners()).unwrap();
        assert_eq!(of(Some(UID), "net1").unwrap(), NamedClaim::NotYet);
        for uid in [None, Some("9a1f0c")] {
            assert_eq!(of(uid, "net1").unwrap(), NamedClaim::None, "{uid:?}");
        }
        assert_eq!(NamedClaim::find(&paths, None, &"net1".parse().unwrap()).unwrap(), NamedClaim::None);
        let claims = [("net1".parse().unwrap(), "web.lan".to_owned())].into();
        ClaimRecord { claims }.write(&owners, UID).unwrap();
        assert_eq!(of(Some(UID), "net1").unwrap(), NamedClaim::Named("web.lan".to_owned()));
        assert_eq!(of(Some(UID), "net2").unwrap(), NamedClaim::None);
        let name = ClaimRecord::file_name(UID).unwrap();
        assert_eq!(owners.read(&name).unwrap().as_deref(), Some(&br#"{"claims":{"net1":"web.lan"}}"#[..]));
        owners.write(&name, b"{}", Durability::UntilReboot).unwrap();
        let error = of(Some(UID), "net1").unwrap_err();
        assert!(error.to_string().contains("claims"), "{error}");
    }
}
