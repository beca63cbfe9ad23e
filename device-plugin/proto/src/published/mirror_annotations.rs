//! The annotations of a LAN's file in the mirror of a cluster: values that only the API server knows and that the
//! node needs. They are in the file so that they are available after a reboot, before the API server can be reached.

use net_types::Mtu;
use serde_json::{Map, Value, json};

/// The node's label `kubernetes.io/hostname`, where it is not the node's name.
const HOSTNAME: &str = "lan.k8slan.io/hostname";
/// The MTU that all nodes have room for.
const MTU: &str = "lan.k8slan.io/mtu";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorAnnotations {
    /// The second name by which `vxlanDevMap` may mean this node.
    pub hostname: Option<String>,
    /// The MTU that all nodes have room for.
    pub mtu: Option<Mtu>,
}

impl MirrorAnnotations {
    /// Reads them from a LAN's object. An invalid one is ignored.
    pub fn parse(object: &Value) -> Self {
        let text = |name: &str| object["metadata"]["annotations"][name].as_str();
        Self { hostname: text(HOSTNAME).map(str::to_owned), mtu: text(MTU).and_then(|mtu| mtu.parse().ok()) }
    }

    /// In the form that [`Self::parse`] reads.
    pub fn annotations(&self) -> Map<String, Value> {
        let mtu = self.mtu.map(|mtu| (MTU.to_owned(), json!(mtu.to_string())));
        let hostname = self.hostname.as_ref().map(|name| (HOSTNAME.to_owned(), json!(name)));
        hostname.into_iter().chain(mtu).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_read_back_and_nonsense_is_left_out() {
        let mtu = Mtu::try_from(1426_u64).unwrap();
        for notes in [
            MirrorAnnotations::default(),
            MirrorAnnotations { hostname: Some("worker1".into()), mtu: None },
            MirrorAnnotations { hostname: None, mtu: Some(mtu) },
        ] {
            let object = json!({ "metadata": { "annotations": notes.annotations() } });
            assert_eq!(MirrorAnnotations::parse(&object), notes);
        }
        let nonsense = json!({ "metadata": { "annotations": { MTU: "large", HOSTNAME: 7 } } });
        assert_eq!(MirrorAnnotations::parse(&nonsense), MirrorAnnotations::default());
        assert_eq!(MirrorAnnotations::parse(&json!({})), MirrorAnnotations::default());
    }
}
