//! Reads LANs from a folder of YAML files, for a host without an API server, or from a mirror.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::Path;

use lan::manifest::{Document, read as documents};
use lan::{Lan, LanKey};
use node::{SafeDir, SafeDirError};

use crate::cluster_objects::{MAX_BYTES, MAX_OBJECTS};
use crate::lans::{Declaration, Declared, Mistaken};
use proto::link::MAX_LAN_FILE;
use proto::published::MirrorAnnotations;
use proto::published::Note;

/// The largest file that is read, in bytes.
const MAX_LEN: u64 = 4 << 20;

/// Limits on a mirror, which are those of its writer.
const MAX_MIRRORED: usize = MAX_OBJECTS;
const MAX_OBJECT: u64 = MAX_LAN_FILE as u64;
const MAX_MIRROR: u64 = MAX_BYTES as u64;

/// Reads a folder repeatedly: only files whose text changed are parsed.
#[derive(Default)]
pub struct LanFileReader {
    /// The files by their names.
    files: BTreeMap<String, CachedFile>,
}

/// A file's text, and its parsed contents.
struct CachedFile {
    text: String,
    items: Vec<Item>,
    /// In a mirror: the object's metadata.
    object: Option<MirrorMetadata>,
}

/// One document of a file, or an error about the file.
enum Item {
    Lan(LanKey, Box<Result<Lan, Mistaken>>),
    Unread(String),
    Ignored(String),
}

/// Reads a folder once, as [`LanFileReader::read`].
pub fn read(dir: &Path) -> Declared {
    LanFileReader::default().read(dir)
}

/// Reads a mirror once, as [`LanFileReader::read_mirror`].
pub fn read_mirror(dir: &Path, node: &str) -> Declared {
    LanFileReader::default().read_mirror(dir, node)
}

/// Parses the files of a mirror, given by their names, as [`LanFileReader::read_mirror`].
pub fn parse_mirror_files(files: Vec<(String, String)>, node: &str) -> Declared {
    let (mut reader, mut declared) = (LanFileReader::default(), Declared::default());
    for (name, text) in files {
        reader.add_file(&mut declared, &name, Ok(text), parse_mirror_metadata);
    }
    reader.add_cluster_facts(&mut declared, node);
    declared
}

impl LanFileReader {
    /// Reads all `*.yaml` and `*.yml` files of a folder, hidden ones left out, in the order of their names.
    ///
    /// It cannot fail: what cannot be read is in the result, and [`Declared::unread`] keeps existing LANs from being
    /// removed.
    pub fn read(&mut self, dir: &Path) -> Declared {
        let mut declared = Declared::default();
        let names = list_lan_files(dir).unwrap_or_else(|error| {
            unreadable(&mut declared, dir, &error);
            Vec::new()
        });
        self.files.retain(|name, _| names.binary_search(name).is_ok());
        for name in names {
            let text = file_text(node::read_through_links(&dir.join(&name), MAX_LEN));
            self.add_file(&mut declared, &name, text, |_| None);
        }
        declared
    }

    /// Reads a folder that mirrors an API server's objects, one per file, in JSON: as [`Self::read`], with the times
    /// at which the objects were created, their generations, and the cluster's notes for the node.
    ///
    /// No symbolic link is followed, and the amount that is read is limited: until this version, a process with fewer
    /// rights wrote into the folder.
    pub fn read_mirror(&mut self, dir: &Path, node: &str) -> Declared {
        let mut declared = Declared::default();
        let (names, folder) = match (list_lan_files(dir), SafeDir::open(dir)) {
            (Ok(names), Ok(Some(folder))) => (names, folder),
            (Err(error), _) => {
                unreadable(&mut declared, dir, &error);
                return declared;
            }
            (_, Ok(None)) => {
                unreadable(&mut declared, dir, &std::io::ErrorKind::NotFound.into());
                return declared;
            }
            (_, Err(error)) => {
                unreadable(&mut declared, dir, &std::io::Error::other(error));
                return declared;
            }
        };
        let mut room = MAX_MIRROR;
        self.files.retain(|name, _| names.binary_search(name).is_ok());
        for (number, name) in names.into_iter().enumerate() {
            if number == MAX_MIRRORED || room == 0 {
                let message = format!(
                    "it and what comes after it is not read: a mirror has {MAX_MIRRORED} files and {MAX_MIRROR} bytes at most"
                );
                declared.unread.push(Note { source: name, message });
                break;
            }
            let text = file_text(folder.read_up_to(&name, MAX_OBJECT));
            room = room.saturating_sub(text.as_ref().map_or(0, |text| text.len() as u64));
            self.add_file(&mut declared, &name, text, parse_mirror_metadata);
        }
        self.add_cluster_facts(&mut declared, node);
        declared
    }

    fn add_cluster_facts(&self, declared: &mut Declared, node: &str) {
        for declaration in declared.lans.values_mut() {
            let object = self.files.get(&declaration.source).and_then(|file| file.object.as_ref());
            let Some(object) = object else { continue };
            (declaration.created, declaration.generation) = (object.created, object.generation);
            let hostname = object.notes.hostname.as_deref();
            match &mut declaration.lan {
                Ok(lan) => {
                    lan.common_mtu = object.notes.mtu;
                    hostname.into_iter().for_each(|hostname| lan.also_known_as(node, hostname));
                }
                Err(mistaken) => {
                    let named = mistaken.nodes.as_mut();
                    let named =
                        named.filter(|nodes| hostname.is_some_and(|hostname| nodes.contains(hostname)));
                    named.map(|nodes| nodes.insert(node.to_owned()));
                }
            }
        }
    }

    fn add_file(
        &mut self,
        declared: &mut Declared,
        name: &str,
        text: Result<String, String>,
        object: impl Fn(&str) -> Option<MirrorMetadata>,
    ) {
        let text = match text {
            Ok(text) => text,
            Err(message) => {
                self.files.remove(name);
                declared.unread.push(Note { source: name.to_owned(), message });
                return;
            }
        };
        let parse_items = |text: String| {
            let (items, object) = (parse_items(&text), object(&text));
            CachedFile { text, items, object }
        };
        let file = match self.files.entry(name.to_owned()) {
            Entry::Occupied(entry) if entry.get().text == text => entry.into_mut(),
            Entry::Occupied(mut entry) => {
                entry.insert(parse_items(text));
                entry.into_mut()
            }
            Entry::Vacant(entry) => entry.insert(parse_items(text)),
        };
        for item in &file.items {
            match item {
                Item::Lan(key, lan) => add_declaration(declared, name, key.clone(), (**lan).clone()),
                Item::Unread(message) => {
                    declared.unread.push(Note { source: name.to_owned(), message: message.clone() });
                }
                Item::Ignored(message) => {
                    declared.ignored.push(Note { source: name.to_owned(), message: message.clone() });
                }
            }
        }
    }
}

/// What a mirrored object has beside its LAN.
struct MirrorMetadata {
    created: Option<i64>,
    generation: Option<i64>,
    notes: MirrorAnnotations,
}

fn parse_mirror_metadata(text: &str) -> Option<MirrorMetadata> {
    let object = serde_json::from_str(text).ok()?;
    let (created, generation) = parse_times(&object);
    Some(MirrorMetadata { created, generation, notes: MirrorAnnotations::parse(&object) })
}

/// When an object was created, and its generation.
fn parse_times(object: &serde_json::Value) -> (Option<i64>, Option<i64>) {
    let metadata = &object["metadata"];
    let stamp = metadata["creationTimestamp"].as_str();
    let created = stamp.and_then(|stamp| stamp.parse::<jiff::Timestamp>().ok());
    (created.map(|created| created.as_second()), metadata["generation"].as_i64())
}

fn list_lan_files(dir: &Path) -> std::io::Result<Vec<String>> {
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

fn file_text(read: Result<Option<Vec<u8>>, SafeDirError>) -> Result<String, String> {
    let bytes = read.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    let bytes = bytes.ok_or_else(|| "it is just gone, or a link to what is not there".to_owned())?;
    String::from_utf8(bytes).map_err(|error| format!("cannot be read: {error}"))
}

fn unreadable(declared: &mut Declared, dir: &Path, error: &std::io::Error) {
    let message = format!("the folder of LAN files cannot be read: {error}");
    declared.unread.push(Note { source: dir.display().to_string(), message });
}

fn parse_items(text: &str) -> Vec<Item> {
    let found = documents(text);
    if found.is_empty() {
        // Otherwise an editor that truncates and then writes would remove the LAN in between.
        let message = "has no document: nothing is removed until it has one, or is deleted".to_owned();
        return vec![Item::Unread(message)];
    }
    let items = found.into_iter().map(|document| match document {
        Document::Other(what) => {
            Item::Ignored(format!("{what:?} is not a LAN of {}, and is ignored", lan::manifest::API_VERSION))
        }
        Document::Broken { key: None, message } => Item::Unread(message),
        Document::Broken { key: Some(key), message } => Item::Lan(key, Box::new(Err(message.into()))),
        Document::Lan { key, spec } => {
            let lan = Lan::new(key.clone(), &spec).map_err(|mistakes| Mistaken {
                message: mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                spokes: spec
                    .spokes
                    .iter()
                    .filter_map(|spoke| spoke.parse().ok())
                    .take(lan::MAX_SPOKES)
                    .collect(),
                nodes: match (&spec.default_vxlan_dev, &spec.vxlan_dev_map) {
                    (None, map) if !map.is_empty() => Some(map.keys().cloned().collect()),
                    _ => None,
                },
            });
            Item::Lan(key, Box::new(lan))
        }
    });
    items.collect()
}

fn add_declaration(declared: &mut Declared, name: &str, key: LanKey, lan: Result<Lan, Mistaken>) {
    match declared.lans.entry(key) {
        Entry::Vacant(entry) => {
            let source = name.to_owned();
            entry.insert(Declaration { source, created: None, generation: None, lan });
        }
        Entry::Occupied(mut entry) => {
            // It cannot be known which of them is meant.
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
        let Mistaken { message, spokes, .. } = error;
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
    fn a_file_is_looked_into_again_when_its_text_changed() {
        let (dir, first) = folder(&[("a.yaml", &lan("a", "")), ("b.yaml", "{[")]);
        let mut reader = LanFileReader::default();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        for _ in 0..2 {
            assert_eq!(reader.read(dir.path()), first);
        }
        // The length is the same, and possibly the time too.
        write("a.yaml", &lan("c", ""));
        write("b.yaml", "{]");
        assert_eq!(reader.read(dir.path()), read(dir.path()));
        assert_eq!(keys(&reader.read(dir.path())), ["default/c"]);
        fs::rename(dir.path().join("a.yaml"), dir.path().join("c.yaml")).unwrap();
        fs::remove_file(dir.path().join("b.yaml")).unwrap();
        let last = reader.read(dir.path());
        assert_eq!((last.lans.values().next().unwrap().source.as_str(), last.unread.len()), ("c.yaml", 0));
        assert_eq!(reader.files.keys().collect::<Vec<_>>(), ["c.yaml"], "what is gone is kept");
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
    fn a_mirror_is_read_through_no_link_and_not_without_end() {
        let (dir, _) = folder(&[("a.yaml", &lan("a", "")), ("d.yaml", &" ".repeat(3 << 20))]);
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        fs::write(elsewhere.path(), lan("b", "")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("b.yaml")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("c.yaml")).unwrap();
        let declared = read_mirror(dir.path(), "worker1");
        assert_eq!(keys(&declared), ["default/a"]);
        let messages: Vec<&str> = declared.unread.iter().map(|note| &*note.message).collect();
        assert_eq!(messages.len(), 3, "{messages:#?}");
        assert!(
            messages[0].contains("symbolic link")
                && messages[1].contains("symbolic link")
                && messages[2].contains("has 3145728 bytes"),
            "{messages:#?}"
        );
        // An administrator's own folder may be full of them.
        let own = read(dir.path());
        assert_eq!(keys(&own), ["default/a", "default/b"]);
        assert!(own.unread[0].message.contains("not a regular file"), "{:?}", own.unread);

        let (dir, _) = folder(&[]);
        for number in 0..=MAX_MIRRORED {
            fs::write(dir.path().join(format!("{number:05}.yaml")), "{}").unwrap();
        }
        let declared = read_mirror(dir.path(), "worker1");
        assert!(declared.unread.iter().any(|note| note.message.contains("10000 files")));
    }

    #[test]
    fn a_lan_that_stands_there_twice_is_neither() {
        let (_dir, declared) = folder(&[("a.yaml", &lan("a", "")), ("b.yaml", &lan("a", ""))]);
        let error = declared.lans[&"default/a".parse().unwrap()].lan.as_ref().unwrap_err();
        assert!(error.message.contains("in a.yaml and in b.yaml"), "{error:?}");
    }
}
