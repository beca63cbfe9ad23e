//! What a LAN's file in the mirror of a cluster says beside the LAN itself: what only the API server knows and
//! the node needs. It stands in the file, so that it is there after a reboot, before the API server is heard.

use net_types::Mtu;
use serde_json::{Map, Value, json};

/// The node's label `kubernetes.io/hostname`, where it is not the node's name.
const HOSTNAME: &str = "lan.k8slan.io/hostname";
/// The MTU that all nodes have room for.
const MTU: &str = "lan.k8slan.io/mtu";

/// What stands in the annotations of a LAN's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorAnnotations {
    /// By which name `vxlanDevMap` may also mean this node.
    pub hostname: Option<String>,
    /// What all nodes have room for.
    pub mtu: Option<Mtu>,
}

impl MirrorAnnotations {
    /// Reads them in a LAN's object. One that makes no sense is left out: the LAN is built as without it.
    pub fn parse(object: &Value) -> Self {
        let text = |name: &str| object["metadata"]["annotations"][name].as_str();
        Self { hostname: text(HOSTNAME).map(str::to_owned), mtu: text(MTU).and_then(|mtu| mtu.parse().ok()) }
    }

    /// The annotations to write.
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
