use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use net_types::IfName;
use nix::errno::Errno;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The object of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Object {
    /// A link, by its name.
    Link(IfName),
    /// A link, by its index in the namespace of the operation.
    Index(u32),
    /// A file: a namespace's path, a sysctl, a device.
    Path(PathBuf),
    /// Anything else, ready to print: an address, a route, a socket.
    Text(String),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "\"{name}\""),
            Self::Index(index) => write!(f, "with index {index}"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<&IfName> for Object {
    fn from(name: &IfName) -> Self {
        Self::Link(name.clone())
    }
}

impl From<u32> for Object {
    fn from(index: u32) -> Self {
        Self::Index(index)
    }
}

impl From<&Path> for Object {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<String> for Object {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Object {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum Error {
    /// The kernel refused. Printed as `create VXLAN "vx2": VXLAN ID must be lower than 16777216 (EINVAL)`.
    #[error("{operation} {object}: {}", words(*errno, kernel.as_deref()))]
    Kernel {
        /// The operation as a verb and its object: "create VXLAN", "open network namespace".
        operation: &'static str,
        object: Object,
        errno: Errno,
        /// The text of the netlink extended acknowledgement, where the kernel gave one.
        kernel: Option<String>,
    },
    /// The kernel's answer could not be used, or none came.
    #[error("{operation} {object}: {problem}")]
    Reply {
        /// The operation, as for `Kernel`.
        operation: &'static str,
        object: Object,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The path exists, but is not a network namespace.
    #[error("{path} is not a network namespace{}", hint.map(|h| format!(": {h}")).unwrap_or_default())]
    NotANetns {
        path: DisplayPath,
        /// What it is instead, or what to do about it.
        hint: Option<&'static str>,
    },
    #[error("a network namespace exists already at {path}")]
    NetnsExists { path: DisplayPath },
}

/// A path that `Display` quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisplayPath(pub PathBuf);

impl fmt::Display for DisplayPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl From<&Path> for DisplayPath {
    fn from(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

/// The kernel's text and the name of the error number, with advice for some numbers.
fn words(errno: Errno, kernel: Option<&str>) -> String {
    let advice = match errno {
        // With a text of its own, the kernel refuses for another reason than missing rights: "IPv6 support disabled
        // by administrator".
        Errno::EPERM | Errno::EACCES if kernel.is_none() => {
            ": run as root, with CAP_NET_ADMIN and CAP_SYS_ADMIN"
        }
        Errno::EMFILE | Errno::ENFILE => ": raise the limit of open files",
        _ => "",
    };
    format!("{} ({errno:?}){advice}", kernel.unwrap_or_else(|| errno.desc()))
}

impl Error {
    /// The error of a system call.
    pub(crate) fn system(operation: &'static str, object: impl Into<Object>, errno: Errno) -> Self {
        Self::Kernel { operation, object: object.into(), errno, kernel: None }
    }

    /// An error that the standard library reports.
    pub(crate) fn io(operation: &'static str, object: impl Into<Object>, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(raw) => Self::system(operation, object, Errno::from_raw(raw)),
            None => Self::reply(operation, object, error.to_string()),
        }
    }

    /// An error because an answer cannot be used.
    pub(crate) fn reply(
        operation: &'static str,
        object: impl Into<Object>,
        problem: impl Into<String>,
    ) -> Self {
        Self::Reply { operation, object: object.into(), problem: problem.into() }
    }

    /// The same refusal, reported as part of another operation.
    pub(crate) fn about(self, operation: &'static str, object: impl Into<Object>) -> Self {
        match self {
            Self::Kernel { errno, kernel, .. } => {
                Self::Kernel { operation, object: object.into(), errno, kernel }
            }
            other => other,
        }
    }

    /// The error number, if the kernel refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::NetnsExists { .. } => Some(Errno::EEXIST),
            Self::Reply { .. } | Self::NotANetns { .. } => None,
        }
    }

    /// The text of the netlink extended acknowledgement, if the kernel gave one.
    #[must_use]
    pub fn kernel(&self) -> Option<&str> {
        match self {
            Self::Kernel { kernel, .. } => kernel.as_deref(),
            _ => None,
        }
    }

    /// The object exists already (EEXIST, or a namespace at the path).
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// The object does not exist (ENODEV, ENOENT, ENXIO, ESRCH, EADDRNOTAVAIL: each part of the kernel has its own
    /// number for it).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ENODEV | Errno::ENOENT | Errno::ENXIO | Errno::ESRCH | Errno::EADDRNOTAVAIL)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_the_kernels_words_and_the_number() {
        let name: IfName = "vx2".parse().unwrap();
        let mut error = Error::system("create VXLAN", &name, Errno::EINVAL);
        assert_eq!(error.to_string(), "create VXLAN \"vx2\": Invalid argument (EINVAL)");
        if let Error::Kernel { kernel, .. } = &mut error {
            *kernel = Some("VXLAN ID must be lower than 16777216".into());
        }
        assert_eq!(error.to_string(), "create VXLAN \"vx2\": VXLAN ID must be lower than 16777216 (EINVAL)");
        assert_eq!(error.kernel(), Some("VXLAN ID must be lower than 16777216"));
    }

    #[test]
    fn says_who_may() {
        let error = Error::system("delete link", 7, Errno::EPERM).to_string();
        assert!(error.contains("with index 7") && error.contains("CAP_NET_ADMIN"), "{error}");
        let error = Error::Kernel {
            operation: "create VXLAN",
            object: Object::Index(7),
            errno: Errno::EPERM,
            kernel: Some("IPv6 support disabled by administrator".into()),
        };
        assert!(!error.to_string().contains("root"), "{error}");
    }
}
