//! LANs from a folder of YAML files, for a host without an API server.

use std::collections::btree_map::Entry;
use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use lan::manifest::{Document, read as documents};
use lan::{Lan, LanKey};

use crate::lans::{Declaration, Declared, Mistaken, Note};
use crate::mirrored::Notes;

/// The largest file that is read, in bytes.
const MAX_LEN: u64 = 4 << 20;

/// Reads all `*.yaml` and `*.yml` files of a folder, hidden ones left out, in the order of their names.
///
/// Nothing here fails: what cannot be read is told in the result, and [`Declared::unread`] then keeps
/// everything that stands from being taken for unwanted.
pub(crate) fn read(dir: &Path) -> Declared {
    let mut declared = Declared::default();
    let names = match names(dir) {
        Ok(names) => names,
        Err(error) => {
            let message = format!("the folder of LAN files cannot be read: {error}");
            declared.unread.push(Note { source: dir.display().to_string(), message });
            return declared;
        }
    };
    for name in names {
        match text(&dir.join(&name)) {
            Ok(text) => take(&mut declared, &name, &text),
            Err(message) => declared.unread.push(Note { source: name, message }),
        }
    }
    declared
}

/// Reads a folder that mirrors an API server's objects, one to a file, in JSON: as [`read`] does, and with
/// the times at which the objects were created, their generations, and what the cluster notes for the node.
pub(crate) fn read_mirror(dir: &Path, node: &str) -> Declared {
    let mut declared = read(dir);
    for declaration in declared.lans.values_mut() {
        // What cannot be read a second time has been told about by the first.
        let Ok(text) = text(&dir.join(&declaration.source)) else { continue };
        let Ok(object) = serde_json::from_str(&text) else { continue };
        (declaration.created, declaration.generation) = of_object(&object);
        if let Ok(lan) = &mut declaration.lan {
            let Notes { hostname, mtu } = Notes::of(&object);
            lan.common_mtu = mtu;
            if let Some(hostname) = hostname {
                lan.also_known_as(node, &hostname);
            }
        }
    }
    declared
}

/// When an object was created, and its generation.
fn of_object(object: &serde_json::Value) -> (Option<i64>, Option<i64>) {
    let metadata = &object["metadata"];
    let stamp = metadata["creationTimestamp"].as_str();
    let created = stamp.and_then(|stamp| stamp.parse::<k8s_openapi::jiff::Timestamp>().ok());
    (created.map(|created| created.as_second()), metadata["generation"].as_i64())
}

fn names(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Ok(name) = entry?.file_name().into_string()
            && !name.starts_with('.')
            && (name.ends_with(".yaml") || name.ends_with(".yml"))
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn text(path: &Path) -> Result<String, String> {
    // O_NONBLOCK: a pipe of that name must not stop the daemon.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| format!("cannot be opened: {error}"))?;
    let meta = file.metadata().map_err(|error| format!("cannot be looked at: {error}"))?;
    if !meta.is_file() {
        return Err("is no regular file".to_owned());
    }
    if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(format!(
            "could be written by others than root (owner {}, mode {:04o}), so it is not trusted: chown root and chmod go-w it",
            meta.uid(),
            meta.mode() & 0o7777
        ));
    }
    let mut text = String::new();
    let length = file.take(MAX_LEN + 1).read_to_string(&mut text);
    match length.map_err(|error| format!("cannot be read: {error}"))? as u64 {
        0..=MAX_LEN => Ok(text),
        _ => Err(format!("has more than {MAX_LEN} bytes")),
    }
}

fn take(declared: &mut Declared, name: &str, text: &str) {
    let found = documents(text);
    if found.is_empty() {
        // An editor that truncates and then writes would otherwise remove the LAN in between.
        let message = "has no document: nothing is removed until it has one, or is deleted".to_owned();
        declared.unread.push(Note { source: name.to_owned(), message });
    }
    for document in found {
        match document {
            Document::Other(what) => {
                let message = format!("{what:?} is no LAN of {}, and is ignored", lan::manifest::API_VERSION);
                declared.ignored.push(Note { source: name.to_owned(), message });
            }
            Document::Broken { key: None, message } => {
                declared.unread.push(Note { source: name.to_owned(), message });
            }
            Document::Broken { key: Some(key), message } => declare(declared, name, key, Err(message.into())),
            Document::Lan { key, spec } => {
                let lan = Lan::new(key.clone(), &spec).map_err(|mistakes| Mistaken {
                    message: mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                    spokes: spec.spokes.iter().filter_map(|spoke| spoke.parse().ok()).collect(),
                });
                declare(declared, name, key, lan);
            }
        }
    }
}

fn declare(declared: &mut Declared, name: &str, key: LanKey, lan: Result<Lan, Mistaken>) {
    match declared.lans.entry(key) {
        Entry::Vacant(entry) => {
            let source = name.to_owned();
            entry.insert(Declaration { source, created: None, generation: None, lan });
        }
        Entry::Occupied(mut entry) => {
            // Which of them is meant, nobody can say.
            let first = entry.get().source.clone();
            let message = format!("it is declared more than once, in {first} and in {name}: remove one");
            let lan = Err(message.into());
            entry.insert(Declaration { source: first, created: None, generation: None, lan });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn lan(name: &str, more: &str) -> String {
        format!(
            "apiVersion: lan.k8slan.io/v1beta1\nkind: LAN\nmetadata: {{name: {name}}}\n\
             spec: {{ns: n, bridge: b, vxlan: v, vni: 1, defaultVxlanDev: eth0{more}}}\n"
        )
    }

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Declared) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let declared = read(dir.path());
        (dir, declared)
    }

    fn keys(declared: &Declared) -> Vec<String> {
        declared.lans.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn reads_what_is_a_lan_file_and_nothing_else() {
        let two = format!("{}---\n{}", lan("b", ""), lan("c", ""));
        let a = lan("a", "");
        let files = [("1.yaml", &*a), ("2.yml", &two), (".3.yaml", "{["), ("4.yaml~", "{["), ("5.txt", "{[")];
        let (_dir, declared) = folder(&files);
        assert_eq!(keys(&declared), ["default/a", "default/b", "default/c"]);
        assert_eq!((declared.unread.as_slice(), declared.ignored.as_slice()), (&[][..], &[][..]));
    }

    #[test]
    fn all_mistakes_of_a_lan_are_told() {
        let (_dir, declared) =
            folder(&[("a.yaml", &lan("a", ", vxlanGrp: 10.0.0.1, mtu: 1, spokes: [p, 'a:b']"))]);
        let error = declared.lans[&"default/a".parse().unwrap()].lan.as_ref().unwrap_err();
        let Mistaken { message, spokes } = error;
        assert!(message.contains("vxlanGrp: ") && message.contains("; mtu: "), "{message}");
        assert_eq!(spokes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["p"]);
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_rest_is_read() {
        let files = [("a.yaml", &*lan("a", "")), ("b.yaml", "{["), ("c.yaml", ""), ("d.yaml", "kind: Pod\n")];
        let (dir, declared) = folder(&files);
        assert_eq!(keys(&declared), ["default/a"]);
        assert_eq!(declared.unread.iter().map(|n| &*n.source).collect::<Vec<_>>(), ["b.yaml", "c.yaml"]);
        assert_eq!(declared.ignored[0].source, "d.yaml");
        fs::create_dir(dir.path().join("e.yaml")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("f.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::set_permissions(dir.path().join("a.yaml"), fs::Permissions::from_mode(0o666)).unwrap();
        let messages: Vec<String> = read(dir.path()).unread.into_iter().map(|n| n.message).collect();
        assert_eq!(messages.len(), 5, "{messages:#?}");
        assert!(messages[0].contains("mode 0666"), "{messages:#?}");
        assert!(
            messages[3].contains("regular file") && messages[4].contains("regular file"),
            "{messages:#?}"
        );
        assert!(read(&dir.path().join("none")).unread[0].message.contains("No such file"));
    }

    #[test]
    fn a_mirror_tells_when_objects_were_made_and_what_the_cluster_knows() {
        let text = r#"{"apiVersion":"lan.k8slan.io/v1beta1","kind":"LAN",
            "metadata":{"namespace":"a","name":"b","creationTimestamp":"1970-01-01T00:01:40Z","generation":7,
                "annotations":{"lan.k8slan.io/hostname":"worker1","lan.k8slan.io/mtu":"1426"}},
            "spec":{"ns":"n","bridge":"b","vxlan":"v","vni":1,"vxlanDevMap":{"worker1":"eth1"}}}"#;
        let (dir, declared) = folder(&[("a.b.yaml", text)]);
        let key = "a/b".parse().unwrap();
        assert_eq!(declared.lans[&key].created, None);
        let mirrored = read_mirror(dir.path(), "ip-10-0-0-7").lans.remove(&key).unwrap();
        assert_eq!((mirrored.created, mirrored.generation), (Some(100), Some(7)));
        let lan = mirrored.lan.unwrap();
        assert_eq!(lan.underlay("ip-10-0-0-7").unwrap().as_str(), "eth1");
        assert_eq!(lan.common_mtu.unwrap().get(), 1426);
    }

    #[test]
    fn a_lan_that_stands_there_twice_is_neither() {
        let (_dir, declared) = folder(&[("a.yaml", &lan("a", "")), ("b.yaml", &lan("a", ""))]);
        let error = declared.lans[&"default/a".parse().unwrap()].lan.as_ref().unwrap_err();
        assert!(error.message.contains("in a.yaml and in b.yaml"), "{error:?}");
    }
}
