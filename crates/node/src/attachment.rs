use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use net_types::IfName;

/// The link group (`IFLA_GROUP`) of every link that k8slan makes outside pods: "k8sl" in ASCII.
///
/// The kernel takes a group in the request that creates a link, an alias only afterwards; a link
/// with this group and without an alias is therefore one whose making was cut off.
pub const LINK_GROUP: u32 = u32::from_be_bytes(*b"k8sl");

/// The longest link alias in bytes (`IFALIASZ` less the final NUL).
const MAX_ALIAS: usize = 255;

const ATTACHMENT_PREFIX: &str = "k8slan:attachment ";
const POD_PREFIX: &str = "k8slan:pod ";
const LAN_PREFIX: &str = "k8slan:lan ";

/// One interface of one container: whom a link or a lease belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The runtime's container ID (of the sandbox, in Kubernetes).
    pub container_id: String,
    /// The interface's name inside the container.
    pub ifname: IfName,
    /// The network namespace it was made in.
    pub netns: NetnsRef,
}

/// A network namespace as it was when the attachment was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsRef {
    /// The path that the runtime gave.
    pub path: PathBuf,
    /// The namespace's inode number on nsfs.
    pub inode: u64,
}

/// The pod behind an attachment, where the runtime states one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `K8S_POD_UID`.
    pub uid: Option<String>,
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
}

/// Why an identity cannot be written on a link.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// The kernel takes 255 bytes.
    #[error(
        "container ID and network namespace path take {0} bytes as a link's alias, the kernel takes 255: use a shorter path"
    )]
    TooLong(usize),
    /// A blank or control character in the path.
    #[error("network namespace path {0:?} contains white space or control characters, or is no UTF-8")]
    Path(PathBuf),
}

impl NetnsRef {
    /// Whether the path still leads to that namespace.
    #[must_use]
    pub fn is_live(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode)
    }
}

impl Attachment {
    /// The alias of the link that carries this attachment:
    /// `k8slan:attachment <container ID> <interface> <inode> <path>`.
    ///
    /// # Errors
    /// Where the text is longer than an alias can be, or would not read back.
    pub fn tag(&self) -> Result<String, TagError> {
        let path = plain(&self.netns.path).ok_or_else(|| TagError::Path(self.netns.path.clone()))?;
        let tag =
            format!("{ATTACHMENT_PREFIX}{} {} {} {path}", self.container_id, self.ifname, self.netns.inode);
        if tag.len() > MAX_ALIAS { Err(TagError::TooLong(tag.len())) } else { Ok(tag) }
    }

    /// Reads [`Attachment::tag`] back; `None` for any other alias.
    #[must_use]
    pub fn parse_tag(alias: &str) -> Option<Self> {
        let mut words = alias.strip_prefix(ATTACHMENT_PREFIX)?.split(' ');
        let container_id = words.next().filter(|id| !id.is_empty())?.to_owned();
        let ifname = words.next()?.parse().ok()?;
        let inode = words.next()?.parse().ok()?;
        let path = words.next().filter(|path| !path.is_empty())?.into();
        if words.next().is_some() {
            return None;
        }
        Some(Self { container_id, ifname, netns: NetnsRef { path, inode } })
    }

    /// Whether this is the attachment that a CNI call names.
    #[must_use]
    pub fn is(&self, container_id: &str, ifname: &IfName) -> bool {
        self.container_id == container_id && self.ifname == *ifname
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container {} interface {}", self.container_id, self.ifname)
    }
}

impl Pod {
    /// The alias of a port's other end: `k8slan:pod <uid or -> <namespace>/<name>`, cut to what the
    /// kernel takes; `k8slan:pod - -` where there is no pod.
    #[must_use]
    pub fn tag(pod: Option<&Self>) -> String {
        let mut tag = match pod {
            Some(pod) => {
                format!("{POD_PREFIX}{} {}", pod.uid.as_deref().unwrap_or("-"), pod)
            }
            None => format!("{POD_PREFIX}- -"),
        };
        let mut end = MAX_ALIAS.min(tag.len());
        while !tag.is_char_boundary(end) {
            end -= 1;
        }
        tag.truncate(end);
        tag
    }

    /// Reads [`Pod::tag`] back. The outer `None` is any other alias, the inner one a container
    /// without a pod; a name that had to be cut comes back cut.
    #[must_use]
    pub fn parse_tag(alias: &str) -> Option<Option<Self>> {
        let (uid, pod) = alias.strip_prefix(POD_PREFIX)?.split_once(' ')?;
        if pod == "-" {
            return Some(None);
        }
        let (namespace, name) = pod.split_once('/')?;
        let uid = (uid != "-").then(|| uid.to_owned());
        Some(Some(Self { uid, namespace: namespace.to_owned(), name: name.to_owned() }))
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The alias of what belongs to a LAN as a whole: `k8slan:lan <namespace>/<name>`.
#[must_use]
pub fn lan_tag(lan: &str) -> String {
    format!("{LAN_PREFIX}{lan}")
}

/// Reads [`lan_tag`] back; `None` for any other alias.
#[must_use]
pub fn parse_lan_tag(alias: &str) -> Option<&str> {
    alias.strip_prefix(LAN_PREFIX).filter(|lan| !lan.is_empty())
}

fn plain(path: &Path) -> Option<&str> {
    path.to_str()
        .filter(|text| !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control()))
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
        }
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
    }

    #[test]
    fn long_pod_names_are_cut_at_a_character() {
        let pod = Pod { uid: None, namespace: "n".into(), name: "é".repeat(200) };
        let tag = Pod::tag(Some(&pod));
        assert!(tag.len() <= 255);
        assert!(Pod::parse_tag(&tag).unwrap().unwrap().name.starts_with('é'));
        assert_eq!(Pod::parse_tag(&Pod::tag(None)), Some(None));
    }

    proptest! {
        #[test]
        fn tags_read_back(id in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}", inode: u64, path in "/[a-z0-9/-]{1,60}") {
            let mut a = attachment(&id, &path);
            a.netns.inode = inode;
            prop_assert_eq!(Attachment::parse_tag(&a.tag().unwrap()), Some(a));
        }

        #[test]
        fn no_alias_makes_the_parser_stumble(alias in "(k8slan:(attachment|pod|lan) )?.{0,80}") {
            let _ = (Attachment::parse_tag(&alias), Pod::parse_tag(&alias), parse_lan_tag(&alias));
        }
    }
}
