//! Which `IPAMClaim`s a pod names, by its annotation: Multus tells its plugins nothing of that.

use kube::core::ObjectMeta;
use net_types::IfName;
use node::ClaimRecord;
use serde::Deserialize;

/// Multus' annotation: the networks of a pod.
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// How many interfaces may have one: as much as a node records.
const MAX_CLAIMS: usize = 64;
/// The longest name of an object; what is longer is none, and is told to be none.
const MAX_NAME: usize = 253;

/// A network that the annotation names, as far as it matters here.
#[derive(Deserialize)]
struct Selection {
    interface: Option<String>,
    #[serde(rename = "ipam-claim-reference")]
    claim: Option<String>,
}

/// The claims of a pod that names networks.
pub(crate) fn claims(pod: &ObjectMeta) -> Option<ClaimRecord> {
    let networks = pod.annotations.as_ref()?.get(NETWORKS).filter(|text| !text.trim().is_empty())?;
    // Names alone, `a, b@net2`, have no claims. What is neither, Multus refuses.
    let selections: Vec<serde_json::Value> = serde_json::from_str(networks).unwrap_or_default();
    let named = (1..).zip(&selections).filter_map(|(number, selection)| {
        let Selection { interface, claim } = Selection::deserialize(selection).ok()?;
        let claim = claim.filter(|claim| !claim.is_empty())?;
        // As Multus counts them.
        let interface = interface.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("net{number}"));
        let interface: IfName = interface.parse().ok()?;
        Some((interface, claim.chars().take(MAX_NAME + 1).collect()))
    });
    Some(ClaimRecord { claims: named.take(MAX_CLAIMS).collect() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(networks: &str) -> Vec<String> {
        let pod = json!({ "annotations": { NETWORKS: networks } });
        let record = claims(&serde_json::from_value(pod).unwrap()).unwrap();
        record.claims.iter().map(|(interface, claim)| format!("{interface} {claim}")).collect()
    }

    #[test]
    fn interfaces_are_named_as_multus_names_them() {
        let networks = json!([
            { "name": "a" },
            { "name": "b", "namespace": "x", "ipam-claim-reference": "web.b" },
            { "name": "c", "interface": "pod37a8eec1ce1", "ipam-claim-reference": "web.c", "ips": ["10.0.0.9"] },
            { "name": "d", "ipam-claim-reference": "" },
        ]);
        assert_eq!(of(&networks.to_string()), ["net2 web.b", "pod37a8eec1ce1 web.c"]);
    }

    #[test]
    fn what_names_no_claim_has_none() {
        for networks in [
            "a, b@net2",
            "[]",
            "{}",
            "[7]",
            r#"[{"name": "a", "ipam-claim-reference": 7}]"#,
            r#"[{"name": "a", "interface": "not a link", "ipam-claim-reference": "x"}]"#,
        ] {
            assert_eq!(of(networks), [""; 0], "{networks}");
        }
        for without in [json!({}), json!({ "annotations": { NETWORKS: " " } })] {
            assert_eq!(claims(&serde_json::from_value(without).unwrap()), None);
        }
        let long = json!([{ "name": "a", "ipam-claim-reference": "x".repeat(9000) }]);
        assert_eq!(of(&long.to_string())[0].len(), "net1 ".len() + MAX_NAME + 1);
    }
}
