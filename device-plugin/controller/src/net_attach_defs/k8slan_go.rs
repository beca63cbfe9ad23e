//! The NetworkAttachmentDefinitions that k8slan (Go) makes for every LAN: for each spoke, one for a macvtap and one
//! for a veth.

use std::collections::{BTreeMap, BTreeSet};

use lan::{Lan, LanKey, LanSpec};
use net_types::Attach;
use serde_json::{Map, Value, json};

use super::{NetAttachDef, RESOURCE, annotation, definition, is_object_name};
use crate::stores::ObjectKey;
use proto::k8slan_go::{names, takes_veths, unambiguous};

/// The definitions of all LANs. A name that two LANs would have is left out.
#[derive(Default)]
pub(super) struct K8slanGoDefinitions {
    named: Vec<(String, Definition)>,
    spokes: BTreeSet<String>,
}

struct Definition {
    lan: ObjectKey,
    objects: Vec<(String, NetAttachDef)>,
}

impl K8slanGoDefinitions {
    /// Adds those of an accepted LAN.
    pub(super) fn add(&mut self, key: &LanKey, uid: &str, spec: &LanSpec) {
        let Ok(lan) = Lan::new(key.clone(), spec) else { return };
        let own = [key.namespace().to_owned()];
        let asked = spec.network_attachments.as_ref().and_then(|asked| asked.namespaces.as_deref());
        let allowed = spec.allowed_namespaces.as_deref();
        let namespaces = asked.or(allowed).unwrap_or(&own);
        let admits = |namespace: &&String| allowed.is_none_or(|allowed| allowed.contains(namespace));
        for (spoke, how) in &lan.spokes {
            self.spokes.insert(spoke.to_string());
            for name in names(key.name(), spoke) {
                let offered = match name.attach {
                    Attach::Macvtap => how.attach == Attach::Macvtap,
                    Attach::Veth => takes_veths(how),
                };
                if !offered || !is_object_name(&name.name) {
                    continue;
                }
                let config = config(&name.name, name.attach, spoke.as_str(), name.with_lan);
                let object = |namespace: &String| {
                    (namespace.clone(), definition((key, uid), &name.name, namespace, &config))
                };
                let lan = (key.namespace().to_owned(), key.name().to_owned());
                let objects = namespaces.iter().filter(admits).map(object).collect();
                self.named.push((name.name.clone(), Definition { lan, objects }));
            }
        }
    }

    /// The definitions by namespace and name, each with its LAN.
    pub(super) fn definitions(self) -> BTreeMap<ObjectKey, (ObjectKey, NetAttachDef)> {
        let taken: BTreeSet<&str> = self.spokes.iter().map(String::as_str).collect();
        let mut definitions = BTreeMap::new();
        for (name, Definition { lan, objects }) in unambiguous(self.named.into_iter(), &taken) {
            for (namespace, object) in objects {
                definitions.insert((namespace, name.clone()), (lan.clone(), object));
            }
        }
        definitions
    }
}

/// As k8slan (Go) writes it; its versions that name the LAN set complete checksums for all veths.
fn config(name: &str, attach: Attach, spoke: &str, with_lan: bool) -> Map<String, Value> {
    let mut config = Map::from_iter([
        ("cniVersion".to_owned(), json!("0.3.1")),
        ("name".to_owned(), json!(name)),
        ("type".to_owned(), json!(if attach == Attach::Veth { "k8slanveth" } else { "macvtap" })),
    ]);
    if attach == Attach::Veth {
        config.insert("veth".to_owned(), json!(spoke));
        if with_lan {
            config.insert("disableTxChecksum".to_owned(), json!(true));
        }
    }
    config
}

/// Whether k8slan (Go) made a definition for the LAN that this one is wanted for: the LAN's object is its controller.
pub(super) fn is_made_for_lan(there: &NetAttachDef, wanted: &NetAttachDef) -> bool {
    let uid = wanted.metadata.owner_references.iter().flatten().map(|owner| &owner.uid).next();
    let owners = there.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true) && owner.kind == "LAN");
    uid.is_some_and(|uid| controllers.any(|owner| owner.uid == *uid))
}

/// Whether it is equal to the wanted one, so that it can be adopted: nobody changed it.
pub(super) fn is_unchanged(there: &NetAttachDef, wanted: &NetAttachDef) -> bool {
    let meaning = |definition| -> Option<Map<String, Value>> {
        let mut config: Map<String, Value> = serde_json::from_str(super::config(definition)?).ok()?;
        // k8slan (Go) writes empty structures; the LAN's namespace is known to the daemon.
        config.retain(|key, value| key != "peerNS" && !value.is_null() && *value != json!({}));
        Some(config)
    };
    let config = meaning(there);
    annotation(there, RESOURCE) == annotation(wanted, RESOURCE)
        && config.is_some()
        && config == meaning(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(spokes: &[&str], more: &[(&str, Value)]) -> LanSpec {
        let mut spec = json!({
            "ns": "knlvrf", "bridge": "br2", "vxlan": "vx2", "vni": 222, "defaultVxlanDev": "eth1", "spokes": spokes,
        });
        for (key, value) in more {
            spec[*key] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    fn build(lans: &[(&str, LanSpec)]) -> BTreeMap<ObjectKey, (ObjectKey, NetAttachDef)> {
        let mut all = K8slanGoDefinitions::default();
        for (name, spec) in lans {
            all.add(&format!("k8slan-system/{name}").parse().unwrap(), "u", spec);
        }
        all.definitions()
    }

    fn places(definitions: &BTreeMap<ObjectKey, (ObjectKey, NetAttachDef)>) -> Vec<String> {
        definitions.keys().map(|(namespace, name)| format!("{namespace}/{name}")).collect()
    }

    #[test]
    fn every_spoke_has_those_of_upstream_in_the_lans_namespace() {
        let definitions = build(&[("lan", spec(&["srl"], &[]))]);
        assert_eq!(
            places(&definitions),
            [
                "k8slan-system/k8slan-mac-lan-srl",
                "k8slan-system/k8slan-mac-srl",
                "k8slan-system/k8slan-veth-lan-srl",
                "k8slan-system/k8slan-veth-srl"
            ]
        );
        let (_, veth) = &definitions[&("k8slan-system".to_owned(), "k8slan-veth-srl".to_owned())];
        assert_eq!(annotation(veth, RESOURCE), Some("macvtap.k8slan.io/k8slan-veth-srl"));
        let config: Value = serde_json::from_str(super::super::config(veth).unwrap()).unwrap();
        let upstreams =
            json!({"cniVersion": "0.3.1", "name": "k8slan-veth-srl", "type": "k8slanveth", "veth": "srl"});
        assert_eq!(config, upstreams);
    }

    #[test]
    fn only_what_can_be_attached_and_is_admitted() {
        let bridge = build(&[("lan", spec(&["srl"], &[("mode", json!("bridge"))]))]);
        assert!(places(&bridge).iter().all(|place| place.contains("k8slan-mac-")), "{:?}", places(&bridge));
        let web = build(&[("lan", spec(&["srl"], &[("allowedNamespaces", json!(["web"]))]))]);
        assert!(places(&web).iter().all(|place| place.starts_with("web/")) && web.len() == 4);
        let two = build(&[("a", spec(&["b-c"], &[])), ("a-b", spec(&["c"], &[("ns", json!("other"))]))]);
        assert!(!places(&two).contains(&"k8slan-system/k8slan-mac-a-b-c".to_owned()) && two.len() == 4);
        assert!(build(&[("lan", spec(&["Upper"], &[]))]).is_empty(), "no object has that name");
    }

    #[test]
    fn upstreams_are_taken_over_unless_somebody_changed_them() {
        let definitions = build(&[("lan", spec(&["srl"], &[]))]);
        let there = |uid: &str, name: &str, config: Value| -> NetAttachDef {
            serde_json::from_value(json!({
                "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                "metadata": {
                    "namespace": "k8slan-system", "name": name,
                    "annotations": {RESOURCE: format!("macvtap.k8slan.io/{name}")},
                    "ownerReferences": [{
                        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN", "name": "lan", "uid": uid, "controller": true,
                    }],
                },
                "spec": {"config": format!("{config:#}")},
            }))
            .unwrap()
        };
        let wanted = |name: &str| &definitions[&("k8slan-system".to_owned(), name.to_owned())].1;
        let config =
            json!({"cniVersion": "0.3.1", "name": "k8slan-veth-srl", "type": "k8slanveth", "veth": "srl"});
        let first = there("u", "k8slan-veth-srl", config.clone());
        assert!(
            is_made_for_lan(&first, wanted("k8slan-veth-srl"))
                && is_unchanged(&first, wanted("k8slan-veth-srl"))
        );
        let later = json!({
            "cniVersion": "0.3.1", "name": "k8slan-veth-lan-srl", "type": "k8slanveth", "ipam": {}, "dns": {}, "veth": "srl",
            "disableTxChecksum": true, "peerNS": "/run/k8slan/netns/lan",
        });
        assert!(is_unchanged(&there("u", "k8slan-veth-lan-srl", later), wanted("k8slan-veth-lan-srl")));
        let mut changed = config.clone();
        changed["addrs"] = json!(["10.0.0.1/24"]);
        assert!(!is_unchanged(&there("u", "k8slan-veth-srl", changed), wanted("k8slan-veth-srl")));
        assert!(!is_made_for_lan(&there("another", "k8slan-veth-srl", config), wanted("k8slan-veth-srl")));
    }
}
