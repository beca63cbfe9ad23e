//! LANs in YAML files, for hosts without an API server.
//!
//! The text is what `kubectl apply` accepts: any number of documents, of which those of kind `LAN` are read and the
//! others are listed. What the API server would refuse is refused here too, especially unknown fields, with the line.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::spec::{default_attach, default_group, default_mode, default_port};
use crate::{DeletionPolicy, LanKey, LanSpec, NetworkAttachments, SpokeOverride};

/// The `apiVersion` of LAN objects.
pub const API_VERSION: &str = "lan.k8slan.io/v1beta1";
/// The `kind` of LAN objects.
pub const KIND: &str = "LAN";

/// One document of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// A LAN, whose values [`crate::Lan::new`] validates.
    Lan {
        /// Its key; the namespace is `default` if none is stated.
        key: LanKey,
        /// The specification as written.
        spec: Box<LanSpec>,
    },
    /// An object of another kind, `<apiVersion> <kind>`.
    Other(String),
    /// A document that cannot be read.
    Broken {
        /// The LAN that it would be, if that much can be read.
        key: Option<LanKey>,
        /// What is wrong, with line and column if they are known.
        message: String,
    },
}

/// Parses a file's text. Empty documents are left out; a syntax error ends the file, and is then the last document.
#[must_use]
pub fn read(text: &str) -> Vec<Document> {
    // Twice: the fields of a document depend on its kind, which may be its last field.
    let mut headers = text.as_bytes();
    let mut manifests = text.as_bytes();
    let headers = documents::<Header>(&mut headers);
    let mut manifests = documents::<Manifest>(&mut manifests);
    headers
        .map(|header| {
            let manifest = manifests.next();
            let header = match header {
                Ok(header) => header,
                Err(message) => return Document::Broken { key: None, message },
            };
            if header.api_version != API_VERSION || header.kind != KIND {
                let Header { api_version, kind, .. } = header;
                return Document::Other(format!("{api_version} {kind}").trim().to_owned());
            }
            let key = header.metadata.key();
            let manifest = manifest.unwrap_or_else(|| Err("nothing can be read from here on".to_owned()));
            match (key, manifest) {
                (Ok(key), Ok(manifest)) => Document::Lan { key, spec: Box::new(manifest.spec) },
                (Ok(key), Err(message)) => Document::Broken { key: Some(key), message },
                (Err(_), Err(message)) => Document::Broken { key: None, message },
                (Err(error), Ok(_)) => Document::Broken { key: None, message: format!("metadata: {error}") },
            }
        })
        .collect()
}

fn documents<'a, T: serde::de::DeserializeOwned + 'a>(
    text: &'a mut &'a [u8],
) -> impl Iterator<Item = Result<T, String>> + 'a {
    let options = serde_saphyr::options! { with_snippet: false };
    // What the parser says to programmers does not help whoever wrote the file.
    let message = |error: serde_saphyr::Error| {
        error.to_string().replace(", set DuplicateKeyPolicy in Options if acceptable", "")
    };
    serde_saphyr::read_with_options(text, options).map(move |document| document.map_err(message))
}

/// The fields that every object has, enough to name the LAN of a broken document.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
    metadata: Name,
}

#[derive(Default, Deserialize)]
struct Name {
    name: Option<String>,
    namespace: Option<String>,
}

impl Name {
    fn key(&self) -> Result<LanKey, crate::LanKeyError> {
        LanKey::new(self.namespace.as_deref().unwrap_or("default"), self.name.as_deref().unwrap_or_default())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: Metadata,
    #[serde(deserialize_with = "StrictSpec::deserialize")]
    spec: LanSpec,
    #[serde(default, rename = "status")]
    _status: IgnoredAny,
}

/// The fields of `metadata`, also those that an API server adds and `kubectl get -o yaml` prints.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "read for their names only; the values are in the header or mean nothing here")]
struct Metadata {
    name: String,
    namespace: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    creation_timestamp: IgnoredAny,
    #[serde(default)]
    deletion_grace_period_seconds: IgnoredAny,
    #[serde(default)]
    deletion_timestamp: IgnoredAny,
    #[serde(default)]
    finalizers: IgnoredAny,
    #[serde(default)]
    generate_name: IgnoredAny,
    #[serde(default)]
    generation: IgnoredAny,
    #[serde(default)]
    managed_fields: IgnoredAny,
    #[serde(default)]
    owner_references: IgnoredAny,
    #[serde(default)]
    resource_version: IgnoredAny,
    #[serde(default)]
    self_link: IgnoredAny,
    #[serde(default)]
    uid: IgnoredAny,
}

/// [`LanSpec`] with unknown fields refused; the compiler verifies that the fields are the same.
#[derive(Deserialize)]
#[serde(remote = "LanSpec", rename_all = "camelCase", deny_unknown_fields)]
struct StrictSpec {
    ns: String,
    bridge: String,
    vxlan: String,
    vni: i64,
    #[serde(default = "default_group")]
    vxlan_grp: String,
    #[serde(default = "default_port")]
    vxlan_port: i64,
    default_vxlan_dev: Option<String>,
    #[serde(default)]
    vxlan_dev_map: BTreeMap<String, String>,
    mtu: Option<i64>,
    #[serde(default)]
    spokes: Vec<String>,
    #[serde(default, deserialize_with = "overrides")]
    spoke_overrides: BTreeMap<String, SpokeOverride>,
    #[serde(default = "default_attach")]
    attach: String,
    #[serde(default = "default_mode")]
    mode: String,
    // Null is refused: a key without a value looks like "none", but would allow every namespace.
    #[serde(default, deserialize_with = "some")]
    allowed_namespaces: Option<Vec<String>>,
    #[serde(default)]
    deletion_policy: DeletionPolicy,
    network_attachments: Option<NetworkAttachments>,
}

#[derive(Deserialize)]
#[serde(remote = "SpokeOverride", rename_all = "camelCase", deny_unknown_fields)]
struct StrictOverride {
    attach: Option<String>,
    mode: Option<String>,
}

fn overrides<'de, D>(deserializer: D) -> Result<BTreeMap<String, SpokeOverride>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    struct Strict(#[serde(with = "StrictOverride")] SpokeOverride);
    let overrides = BTreeMap::<String, Strict>::deserialize(deserializer)?;
    Ok(overrides.into_iter().map(|(name, Strict(change))| (name, change)).collect())
}

fn some<'de, D>(deserializer: D) -> Result<Option<Vec<String>>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let list = Option::<Vec<String>>::deserialize(deserializer)?;
    if list.is_none() {
        return Err(serde::de::Error::custom(
            "allowedNamespaces stands there without a value: leave the field out for all namespaces, write [] for none",
        ));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const DOCUMENT: &str = "\
apiVersion: lan.k8slan.io/v1beta1
kind: LAN
metadata:
    name: lan-test
    namespace: k8slan-system
spec:
  ns: knlvrf
  bridge: br2
  vxlan: vx2
  vni: 222
  defaultVxlanDev: eth0.10
  vxlanDevMap:
    worker1: eth1
    worker2: eth2
  spokes:
  - pod1
  - pod2
";

    fn broken(text: &str) -> (Option<String>, String) {
        match read(text).as_slice() {
            [Document::Broken { key, message }] => (key.as_ref().map(ToString::to_string), message.clone()),
            other => panic!("not one broken document: {other:#?}"),
        }
    }

    #[test]
    fn the_document_is_read_as_it_stands() {
        let key = testing::key("k8slan-system/lan-test");
        assert_eq!(read(DOCUMENT), [Document::Lan { key, spec: Box::new(testing::document()) }]);
    }

    #[test]
    fn several_documents_other_kinds_and_empty_ones() {
        let text = format!(
            "# a comment\n---\n{DOCUMENT}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: nginx}}\nspec: {{x: 1}}\n---\n---\nkind: LAN\napiVersion: v1\n"
        );
        let documents = read(&text);
        assert_eq!(documents.len(), 3, "{documents:#?}");
        assert!(matches!(&documents[0], Document::Lan { .. }));
        assert_eq!(documents[1], Document::Other("v1 Pod".into()));
        assert_eq!(documents[2], Document::Other("v1 LAN".into()));
        assert_eq!(read(""), []);
        assert_eq!(read("# nothing\n"), []);
    }

    #[test]
    fn unknown_fields_are_named_with_their_line() {
        let (key, message) = broken(&DOCUMENT.replace("vni:", "vnii:"));
        assert_eq!(key.as_deref(), Some("k8slan-system/lan-test"));
        assert!(message.contains("vnii") && message.contains("line 10"), "{message}");
        let (_, message) = broken(&DOCUMENT.replace("namespace:", "nmspace:"));
        assert!(message.contains("nmspace"), "{message}");
        let (_, message) = broken(&format!("{DOCUMENT}  spokeOverrides: {{pod1: {{mod: bridge}}}}\n"));
        assert!(message.contains("`mod`"), "{message}");
        let (_, message) = broken(&format!("{DOCUMENT}stauts: {{}}\n"));
        assert!(message.contains("stauts"), "{message}");
    }

    #[test]
    fn wrong_types_missing_fields_and_duplicate_keys_are_told() {
        let (_, message) = broken(&DOCUMENT.replace("222", "many"));
        assert!(message.contains("line 10"), "{message}");
        let (_, message) = broken(&DOCUMENT.replace("  vni: 222\n", ""));
        assert!(message.contains("missing field `vni`"), "{message}");
        let (_, message) = broken(&DOCUMENT.replace("  vni: 222\n", "  vni: 222\n  vni: 223\n"));
        assert!(message.contains("vni") && message.contains("line 11"), "{message}");
        assert!(!message.contains("Options"), "advice for programmers: {message}");
        let (key, message) = broken(&DOCUMENT.replace("name: lan-test", "name: Lan_Test"));
        assert_eq!(key, None);
        assert!(message.contains("\"Lan_Test\""), "{message}");
        let (_, message) = broken(&format!("{DOCUMENT}  allowedNamespaces:\n"));
        assert!(message.contains("write [] for none"), "{message}");
    }

    #[test]
    fn a_syntax_error_ends_the_file() {
        let documents = read(&format!("{DOCUMENT}---\n{{[\n---\n{DOCUMENT}"));
        assert!(
            matches!(documents.as_slice(), [Document::Lan { .. }, Document::Broken { key: None, .. }]),
            "{documents:#?}"
        );
        assert!(matches!(read("- a\n- b\n").as_slice(), [Document::Broken { key: None, .. }]));
    }

    #[test]
    fn one_broken_document_leaves_the_others() {
        let documents = read(&format!("{}---\n{DOCUMENT}", DOCUMENT.replace("222", "x")));
        assert!(
            matches!(documents.as_slice(), [Document::Broken { key: Some(_), .. }, Document::Lan { .. }]),
            "{documents:#?}"
        );
    }

    #[test]
    fn what_an_api_server_adds_is_no_mistake() {
        let text = DOCUMENT.replace(
            "    name: lan-test\n",
            "    name: lan-test\n    uid: x\n    generation: 2\n    managedFields: [{a: 1}]\n    labels: {a: b}\n",
        ) + "status: {conditions: []}\n";
        assert!(matches!(read(&text).as_slice(), [Document::Lan { .. }]));
    }

    #[test]
    fn both_readings_have_the_same_defaults() {
        let minimal = "{ns: a, bridge: b, vxlan: c, vni: 1}";
        let text = format!("apiVersion: {API_VERSION}\nkind: LAN\nmetadata: {{name: x}}\nspec: {minimal}\n");
        let expected: LanSpec = serde_saphyr::from_str(minimal).unwrap();
        assert_eq!(read(&text), [Document::Lan { key: testing::key("default/x"), spec: Box::new(expected) }]);
    }
}
