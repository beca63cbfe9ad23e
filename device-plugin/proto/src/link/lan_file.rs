//! The file that the node's part keeps a LAN in: what `kubectl` would show of it, without the parts that change without a
//! meaning for nodes.

use std::io;

use lan::LanKey;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::message::LanObject;
use crate::published::MirrorAnnotations;

/// The longest file of a LAN, in bytes; the largest object that an API server accepts has 1.5 MiB.
pub const MAX_LAN_FILE: usize = 2 << 20;

/// The name of a LAN's file. A namespace has no dots, so two LANs never have the same file.
#[must_use]
pub fn lan_file_name(key: &LanKey) -> String {
    format!("{}.{}.yaml", key.namespace(), key.name())
}

/// The LAN that a file of this name is for.
#[must_use]
pub fn lan_of_file(name: &str) -> Option<LanKey> {
    let (namespace, name) = name.strip_suffix(".yaml")?.split_once('.')?;
    LanKey::new(namespace, name).ok()
}

/// In the order of their names, as `serde_json` sorts the keys of a file that is changed later.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Map<String, Value>,
    spec: &'a Value,
}

impl LanObject {
    /// The text of its file.
    ///
    /// # Errors
    /// It would be longer than [`MAX_LAN_FILE`].
    pub fn file_text(&self, hostname: Option<&str>) -> io::Result<Vec<u8>> {
        let mut metadata = Map::from_iter([
            ("namespace".to_owned(), json!(self.key.namespace())),
            ("name".to_owned(), json!(self.key.name())),
        ]);
        if let Some(generation) = self.generation {
            metadata.insert("generation".to_owned(), json!(generation));
        }
        if let Some(created) = &self.created {
            metadata.insert("creationTimestamp".to_owned(), json!(created));
        }
        let notes = MirrorAnnotations { hostname: hostname.map(str::to_owned), mtu: self.mtu };
        let annotations = notes.annotations();
        if !annotations.is_empty() {
            metadata.insert("annotations".to_owned(), Value::Object(annotations));
        }
        // The specification may be large: it is not copied.
        text(&File { api_version: "lan.k8slan.io/v1beta1", kind: "LAN", metadata, spec: &self.spec })
    }
}

/// The text of a LAN's file with another host name in it; `None` if it is no such file.
///
/// # Errors
/// It would be longer than [`MAX_LAN_FILE`].
pub fn with_hostname(text_before: &[u8], hostname: Option<&str>) -> io::Result<Option<Vec<u8>>> {
    let Ok(mut file) = serde_json::from_slice::<Value>(text_before) else { return Ok(None) };
    if !file["metadata"].is_object() {
        return Ok(None);
    }
    let notes =
        MirrorAnnotations { hostname: hostname.map(str::to_owned), ..MirrorAnnotations::parse(&file) };
    annotate(&mut file, &notes);
    text(&file).map(Some)
}

fn annotate(file: &mut Value, notes: &MirrorAnnotations) {
    let annotations = notes.annotations();
    match file["metadata"].as_object_mut() {
        Some(metadata) if annotations.is_empty() => drop(metadata.remove("annotations")),
        Some(metadata) => drop(metadata.insert("annotations".to_owned(), Value::Object(annotations))),
        None => {}
    }
}

/// On several lines, because people read it and because error messages name the line.
fn text(file: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bounded = Bounded(Vec::new());
    serde_json::to_writer_pretty(&mut bounded, file)?;
    bounded.0.push(b'\n');
    Ok(bounded.0)
}

/// What is indented can be much longer than what was sent.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() >= MAX_LAN_FILE {
            let message = format!("its file would be longer than {MAX_LAN_FILE} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: Value) -> LanObject {
        LanObject { key: "a/b.c".parse().unwrap(), generation: Some(3), created: None, mtu: None, spec }
    }

    #[test]
    fn a_files_name_tells_its_lan() {
        let key: LanKey = "k8slan-system/lan.test".parse().unwrap();
        assert_eq!(lan_file_name(&key), "k8slan-system.lan.test.yaml");
        assert_eq!(lan_of_file("k8slan-system.lan.test.yaml"), Some(key));
        for other in ["README", "README.yaml", "a.yaml", ".a.b.yaml.7", "a.b.yml", "A.b.yaml"] {
            assert_eq!(lan_of_file(other), None, "{other}");
        }
    }

    #[test]
    fn another_host_name_changes_nothing_else() {
        let mtu = net_types::Mtu::try_from(1426_u64).ok();
        for lan in [object(json!({ "vni": 7 })), LanObject { mtu, ..object(json!("nonsense")) }] {
            let plain = lan.file_text(None).unwrap();
            let named = lan.file_text(Some("host-1")).unwrap();
            assert_ne!(plain, named);
            assert_eq!(with_hostname(&plain, Some("host-1")).unwrap().as_ref(), Some(&named));
            assert_eq!(with_hostname(&named, None).unwrap(), Some(plain));
        }
        assert_eq!(with_hostname(b"[1]", Some("x")).unwrap(), None);
        assert_eq!(with_hostname(b"{", Some("x")).unwrap(), None);
    }

    /// A message of 200 kB, and a file of 25 MB.
    #[test]
    fn what_unfolds_is_not_unfolded() {
        let mut deep = Value::Array(vec![json!(1); 100_000]);
        for _ in 0..110 {
            deep = json!([deep]);
        }
        let error = object(deep).file_text(None).unwrap_err();
        assert!(error.to_string().contains("longer than 2097152 bytes"), "{error}");
    }
}
