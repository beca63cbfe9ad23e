use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use net_types::IfName;
use nix::errno::Errno;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// The link group (`IFLA_GROUP`) of every link that k8slan makes outside pods: "k8sl" in ASCII.
///
/// The kernel sets a group in the request that creates a link, an alias only afterwards; a link with this group and
/// without an alias was therefore not finished.
pub const LINK_GROUP: u32 = u32::from_be_bytes(*b"k8sl");

/// The protocol (`IFA_PROTO`) of every address that k8slan gives to a link of the node: "k" in ASCII. The kernel's own
/// are 1 to 3. Linux before 5.18 keeps none.
pub const ADDRESS_PROTOCOL: u8 = b'k';

/// The node's folder of named network namespaces, where `ip netns` and the daemon keep them.
pub const NETNS_DIR: &str = "/run/netns";

/// The longest link alias in bytes (`IFALIASZ` less the final NUL).
const MAX_ALIAS: usize = 255;

const ATTACHMENT_PREFIX: &str = "k8slan:attach ";
const LAN_PREFIX: &str = "k8slan:lan ";

/// One interface of one container: the owner of a link or a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The runtime's container ID (of the sandbox, in Kubernetes).
    pub container_id: String,
    /// The interface's name inside the container.
    pub ifname: IfName,
    /// The network namespace that it was created in.
    pub netns: NetnsRef,
    /// The CNI network that it belongs to; a GC is about one network only.
    pub network: NetworkId,
    /// The pod, if the runtime states one.
    pub pod: Option<Pod>,
}

/// A network namespace as it was when the attachment was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsRef {
    /// The path that the runtime gave.
    pub path: PathBuf,
    /// The inode number of the namespace on nsfs.
    pub inode: u64,
}

/// A CNI network's name, as the first 64 bits of its SHA-256: an alias has no room for the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkId(u64);

/// The pod of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The pod's UID, from `K8S_POD_UID`.
    pub uid: Option<String>,
    /// The pod's namespace, from `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// The pod's name, from `K8S_POD_NAME`.
    pub name: String,
}

/// Why an attachment's identity cannot be the alias of a link.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// It is longer than the 255 bytes that the kernel allows.
    #[error(
        "container ID and network namespace path take {0} bytes as a link's alias, the kernel takes 255: use a shorter path"
    )]
    TooLong(usize),
    /// The path has white space or control characters.
    #[error("network namespace path {0:?} contains white space or control characters, or is not UTF-8")]
    Path(PathBuf),
}

impl NetnsRef {
    /// Whether the path still leads to that namespace, or may: if it cannot be examined, the namespace counts as
    /// existing, since nothing of a live pod may be removed.
    #[must_use]
    pub fn is_live(&self) -> bool {
        // /var/run is /run on every host; a container's image may lack it.
        let in_run = self.path.strip_prefix("/var/run").map(|rest| Path::new("/run").join(rest));
        let found = std::fs::metadata(&self.path).or_else(|error| match in_run {
            Ok(path) if error.kind() == ErrorKind::NotFound => std::fs::metadata(path),
            _ => Err(error),
        });
        match found {
            Ok(meta) => meta.ino() == self.inode,
            // ESRCH: the process ended while its /proc folder was read.
            Err(error) => {
                !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
                    && error.raw_os_error() != Some(Errno::ESRCH as i32)
            }
        }
    }
}

impl NetworkId {
    /// The identity of the network with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Attachment {
    /// The alias of a link of this attachment: `k8slan:attach <container ID> <interface> <inode> <path> <network>
    /// [<uid or -> <namespace>/<name>]`.
    ///
    /// A pod's name is cut if the text would be longer than 255 bytes. A pod that [`Attachment::parse_tag`] would not
    /// parse is left out: no pod of Kubernetes has such a name.
    ///
    /// # Errors
    /// The text is too long even without the pod, or could not be parsed again.
    pub fn tag(&self) -> Result<String, TagError> {
        let path = plain(&self.netns.path).ok_or_else(|| TagError::Path(self.netns.path.clone()))?;
        let mut tag = format!(
            "{ATTACHMENT_PREFIX}{} {} {} {path} {}",
            self.container_id, self.ifname, self.netns.inode, self.network
        );
        if tag.len() > MAX_ALIAS {
            return Err(TagError::TooLong(tag.len()));
        }
        if let Some(pod) = self.pod.as_ref().filter(|pod| pod.is_plain()) {
            let with_pod = format!("{tag} {} {pod}", pod.uid.as_deref().unwrap_or("-"));
            let cut = with_pod.floor_char_boundary(MAX_ALIAS);
            // If not even the pod's namespace fits, the pod is left out.
            if cut >= with_pod.len() - pod.name.len() {
                tag = with_pod;
                tag.truncate(cut);
            }
        }
        Ok(tag)
    }

    /// Parses [`Attachment::tag`]; `None` for any other alias.
    #[must_use]
    pub fn parse_tag(alias: &str) -> Option<Self> {
        let mut words = alias.strip_prefix(ATTACHMENT_PREFIX)?.split(' ');
        let container_id = words.next().filter(|id| !id.is_empty())?.to_owned();
        let ifname = words.next()?.parse().ok()?;
        let inode = words.next()?.parse().ok()?;
        let path = words.next().filter(|path| !path.is_empty())?.into();
        let network = NetworkId(u64::from_str_radix(words.next()?, 16).ok()?);
        let pod = match (words.next(), words.next()) {
            (None, _) => None,
            (Some(uid), pod) => {
                let (namespace, name) = pod?.split_once('/')?;
                let uid = (uid != "-").then(|| uid.to_owned());
                Some(Pod { uid, namespace: namespace.to_owned(), name: name.to_owned() })
            }
        };
        if words.next().is_some() {
            return None;
        }
        Some(Self { container_id, ifname, netns: NetnsRef { path, inode }, network, pod })
    }

    /// Whether a CNI call is about this attachment.
    #[must_use]
    pub fn is(&self, container_id: &str, ifname: &IfName) -> bool {
        self.container_id == container_id && self.ifname == *ifname
    }

    /// Whether its network namespace still exists.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.netns.is_live()
    }
}

impl Serialize for Attachment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.tag().map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Attachment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tag = String::deserialize(deserializer)?;
        Self::parse_tag(&tag).ok_or_else(|| D::Error::custom("it is not the tag of an attachment"))
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pod) = &self.pod {
            write!(f, "pod {pod}, ")?;
        }
        write!(f, "container {}, interface {}", self.container_id, self.ifname)
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The alias of a link that belongs to a whole LAN: `k8slan:lan <namespace>/<name>`.
#[must_use]
pub fn lan_tag(lan: &str) -> String {
    format!("{LAN_PREFIX}{lan}")
}

/// Parses [`lan_tag`]; `None` for any other alias.
#[must_use]
pub fn parse_lan_tag(alias: &str) -> Option<&str> {
    alias.strip_prefix(LAN_PREFIX).filter(|lan| !lan.is_empty())
}

impl Pod {
    /// Whether a tag with this pod can be parsed again.
    fn is_plain(&self) -> bool {
        self.uid.as_deref().is_none_or(|uid| !uid.is_empty() && uid != "-" && is_word(uid))
            && is_word(&self.namespace)
            && !self.namespace.contains('/')
            && is_word(&self.name)
    }
}

fn plain(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| !text.is_empty() && is_word(text))
}

fn is_word(text: &str) -> bool {
    !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attachment(id: &str, path: &str) -> Attachment {
        Attachment {
            container_id: id.to_owned(),
            ifname: "net1".parse().unwrap(),
            netns: NetnsRef { path: path.into(), inode: 4_026_533_001 },
            network: NetworkId::from_name("vlan44"),
            pod: None,
        }
    }

    fn pod(uid: Option<&str>, namespace: &str, name: &str) -> Pod {
        Pod { uid: uid.map(str::to_owned), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn the_tag_of_a_usual_pod_fits() {
        let id = "f".repeat(64);
        let tag = attachment(&id, "/var/run/netns/cni-2d1c2f6a-6b6e-4d5c-9d0b-1f2e3d4c5b6a").tag().unwrap();
        assert!(tag.len() <= 255, "{}", tag.len());
    }

    #[test]
    fn what_would_not_read_back_is_refused() {
        assert!(matches!(attachment("c", "/run/a b").tag(), Err(TagError::Path(_))));
        assert!(matches!(attachment(&"c".repeat(300), "/x").tag(), Err(TagError::TooLong(_))));
    }

    #[test]
    fn foreign_aliases_are_nobodys() {
        for alias in [
            "",
            "uplink to the garage",
            "k8slan:attachment ",
            "k8slan:attachment a net1 x /p",
            "k8slan:lan a/b",
        ] {
            assert_eq!(Attachment::parse_tag(alias), None, "{alias}");
        }
        assert_eq!(parse_lan_tag("k8slan:lan "), None);
        assert_eq!(parse_lan_tag(&lan_tag("ns/name")), Some("ns/name"));
    }

    #[test]
    fn a_namespace_is_live_while_its_path_has_its_inode() {
        let path = PathBuf::from("/proc/self/ns/net");
        let inode = std::fs::metadata(&path).unwrap().ino();
        assert!(NetnsRef { path: path.clone(), inode }.is_live());
        assert!(!NetnsRef { path, inode: inode + 1 }.is_live());
        assert!(!NetnsRef { path: "/nowhere".into(), inode }.is_live());
        assert!(!NetnsRef { path: "/proc/self/comm/net".into(), inode }.is_live());
        let temp = tempfile::tempdir().unwrap();
        let endless = temp.path().join("endless");
        std::os::unix::fs::symlink(&endless, &endless).unwrap();
        assert!(NetnsRef { path: endless, inode }.is_live(), "nobody said that it is gone");
    }

    #[test]
    fn a_pod_without_a_name_is_not_lost() {
        let mut a = attachment("c1", "/run/netns/a");
        a.pod = Some(pod(Some("0d4e"), "default", ""));
        assert_eq!(Attachment::parse_tag(&a.tag().unwrap()), Some(a));
    }

    #[test]
    fn long_pod_names_are_cut_at_a_character() {
        let mut a = attachment(&"f".repeat(64), "/var/run/netns/cni-2d1c2f6a-6b6e-4d5c-9d0b-1f2e3d4c5b6a");
        a.pod = Some(pod(Some("c1a7d4b2-0000-4000-8000-000000000000"), "n", &"é".repeat(200)));
        let tag = a.tag().unwrap();
        assert!(tag.len() <= 255);
        let back = Attachment::parse_tag(&tag).unwrap();
        assert!(back.pod.as_ref().unwrap().name.starts_with('é'));
        assert_eq!(back.pod.unwrap().uid, a.pod.unwrap().uid);
    }

    proptest! {
        #[test]
        fn tags_read_back(id in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}", inode: u64, path in "/[a-z0-9/-]{1,60}",
            stated: bool, uid in proptest::option::of("[0-9a-f]{8}"), name in "[a-z0-9-]{1,20}") {
            let mut a = attachment(&id, &path);
            a.netns.inode = inode;
            a.pod = stated.then(|| pod(uid.as_deref(), "default", &name));
            prop_assert_eq!(Attachment::parse_tag(&a.tag().unwrap()), Some(a));
        }

        #[test]
        fn a_tag_reads_back_whatever_the_runtime_calls_the_pod(uid in proptest::option::of(".{0,8}"),
            namespace in ".{0,8}", name in ".{0,200}") {
            let mut a = attachment("c1", "/run/netns/a");
            a.pod = Some(pod(uid.as_deref(), &namespace, &name));
            let back = Attachment::parse_tag(&a.tag().unwrap()).unwrap();
            prop_assert!(back.is("c1", &a.ifname));
            if let Some(pod) = back.pod {
                prop_assert_eq!((pod.uid, pod.namespace), (uid, namespace));
                prop_assert!(name.starts_with(&pod.name));
            }
        }

        #[test]
        fn no_alias_makes_the_parser_stumble(alias in "(k8slan:(attach|lan) )?.{0,80}") {
            let _ = (Attachment::parse_tag(&alias), parse_lan_tag(&alias));
        }
    }
}
