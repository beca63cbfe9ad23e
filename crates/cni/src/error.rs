use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use net_types::{IfNameError, MacAddrError};

use crate::{Code, MAX_STDIN, NameError, PluginError, Verb, Version};

/// The `what` of an error where the delegate was not started.
pub(crate) const STARTING: &str = "starting";

/// An error that this crate finds. A plugin's own error type has it as one of its variants.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum Error {
    #[error("{verb} needs the environment variables {names}: they are missing or empty")]
    VariablesMissing {
        verb: Verb,
        /// Comma-separated names of variables.
        names: String,
    },
    #[error("the environment has {0} more than once: give it once")]
    VariableTwice(&'static str),
    #[error("the environment variable {name} is not UTF-8: {value:?}")]
    NotText { name: &'static str, value: OsString },
    #[error("unknown CNI_COMMAND {0:?}: it must be one of {verbs}", verbs = Verb::list())]
    UnknownVerb(String),
    #[error("CNI_CONTAINERID is not a valid container ID")]
    ContainerId(#[source] NameError),
    #[error("CNI_IFNAME is not a valid interface name")]
    IfName(#[source] IfNameError),
    #[error("CNI_NETNS {0:?} is the plugin's own network namespace: it must be the container's")]
    OwnNamespace(PathBuf),
    #[error("CNI_NETNS {path:?} does not exist: the container is gone, or the path is not visible here")]
    NamespaceMissing { path: PathBuf, source: io::Error },
    #[error("looking at the network namespace {path:?} failed")]
    Namespace { path: PathBuf, source: io::Error },
    #[error("CNI_ARGS contains {0:?}: it must be KEY=VALUE pairs with ';' between them")]
    ArgsPair(String),
    #[error(
        "CNI_ARGS gives {0} two different values, and so names two pods: the runtime or a meta-plugin has to give it one"
    )]
    ArgsTwice(String),
    #[error("CNI_ARGS contains unknown keys: {0:?}; IgnoreUnknown=1 makes plugins ignore them")]
    ArgsUnknown(String),
    #[error("IgnoreUnknown in CNI_ARGS is {0:?}: it must be 1, 0, true or false")]
    ArgsBoolean(String),
    #[error(
        "runtimeConfig has {capability} {given}, which this plugin does not do: declare the capability {capability} for the \
         plugin {plugin:?}, behind this one in the list of plugins, and not for this one"
    )]
    Capability {
        capability: &'static str,
        /// The value as the runtime gave it.
        given: String,
        plugin: &'static str,
    },
    #[error("reading the configuration from standard input failed")]
    Stdin(#[source] io::Error),
    #[error("the configuration on standard input is longer than {MAX_STDIN} bytes; nothing was done")]
    StdinTooLong,
    #[error("the configuration on standard input is not valid JSON")]
    NotJson(#[source] serde_json::Error),
    #[error("{0} is not a JSON object")]
    NotAnObject(&'static str),
    #[error("the configuration has an error at {field}")]
    Protocol {
        field: String,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    #[error("the configuration has an error at {field}")]
    Config {
        field: String,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    #[error(
        "the configuration has no cniVersion, which means 0.1.0; this plugin supports {versions}",
        versions = Version::list()
    )]
    NoVersion,
    #[error("cniVersion {0:?} is not supported; this plugin supports {versions}", versions = Version::list())]
    Version(String),
    #[error("the configuration's cniVersion {version} has no {verb}: set it to {since} or later", since = verb.since())]
    VerbTooNew { verb: Verb, version: Version },
    #[error("the configuration has no network name: give it a name")]
    NoNetworkName,
    #[error("the configuration's name is not a valid network name")]
    NetworkName(#[source] NameError),
    #[error("CHECK needs the result of ADD, and the configuration has no prevResult")]
    NoPrevResult,
    #[error(
        "prevResult has an error at ips[{at}].interface: it is {index}, but there are {count} interfaces, and the first is 0"
    )]
    PrevResultInterface {
        /// The place of the address in `ips`.
        at: usize,
        index: usize,
        count: usize,
    },
    #[error("prevResult has an error at {field}")]
    PrevResult {
        field: String,
        /// What is wrong, with line and column within `prevResult`.
        source: serde_json::Error,
    },
    #[error("prevResult has the cniVersion {0:?}; this plugin supports {versions}", versions = Version::list())]
    PrevResultVersion(String),
    #[error("invalid MAC address in {channel}")]
    RequestedMac { channel: Channel, source: MacAddrError },
    #[error("invalid IP address in {channel}")]
    RequestedIp { channel: Channel, source: RequestedIpError },
    #[error("writing the answer as JSON failed")]
    Result(#[source] serde_json::Error),
    /// The delegate's name is not a file name; a path is refused.
    #[error("{0:?} is not a plugin's name: give the file name of an executable in CNI_PATH")]
    DelegateName(String),
    #[error("CNI_PATH is missing or empty, so the plugin {0:?} cannot be found")]
    DelegateNoPath(String),
    #[error(
        "there is no executable file {name:?} in CNI_PATH {path:?}: install that plugin, or correct its name"
    )]
    DelegateMissing { name: String, path: OsString },
    /// Starting it, or its pipes, failed.
    #[error("{what} the plugin {program:?} for {verb} failed")]
    DelegateIo {
        /// The failed act with a participle, such as "starting".
        what: &'static str,
        program: PathBuf,
        verb: Verb,
        source: io::Error,
    },
    #[error("the plugin {0:?} wrote more than {MAX_STDIN} bytes and was killed")]
    DelegateTooLong(PathBuf),
    #[error("the plugin {name:?} did not end {verb} within {} s, and was killed: find out what it waits for", waited.as_secs())]
    DelegateHangs {
        name: String,
        verb: Verb,
        /// How long this plugin waited.
        waited: Duration,
    },
    #[error("the plugin {name:?} failed on {verb}")]
    DelegateFailed { name: String, verb: Verb, source: DelegateFailure },
    #[error(
        "the plugin {name:?} failed on {verb} ({status}) without an error document; its standard output: {stdout:?}"
    )]
    DelegateSilent {
        name: String,
        verb: Verb,
        /// Its exit code or its signal.
        status: ExitStatus,
        /// The beginning of what it wrote.
        stdout: String,
    },
    #[error("the result of the plugin {name:?} has an error at {field}")]
    DelegateResult {
        name: String,
        field: String,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    #[error(
        "the result of the plugin {name:?} has the cniVersion {given:?}; this plugin supports {versions}",
        versions = Version::list()
    )]
    DelegateVersion { name: String, given: String },
    /// Its ADD succeeded without an address, which the reference plugins refuse too.
    #[error(
        "the plugin {0:?} answers ADD without an address: give it addresses to hand out, or leave 'ipam' out of the configuration"
    )]
    DelegateNoAddress(String),
    /// A delegate's ADD failed; the error has the result of the undo, too.
    #[error(transparent)]
    Undone(Box<Undone<Self>>),
}

/// Where a request for a MAC or an IP address came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The member `runtimeConfig` of the configuration.
    RuntimeConfig,
    /// The member `args.cni` of the configuration.
    ArgsCni,
    /// The environment variable `CNI_ARGS`.
    CniArgs,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RuntimeConfig => "runtimeConfig",
            Self::ArgsCni => "args.cni",
            Self::CniArgs => "CNI_ARGS",
        })
    }
}

/// The error document of another plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of SPEC.md, section 5, \"Error\"")]
pub struct DelegateFailure {
    pub code: Code,
    pub msg: String,
    /// May be empty; the specification makes it optional.
    pub details: String,
}

impl fmt::Display for DelegateFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        match (self.msg.is_empty(), self.details.is_empty()) {
            (false, false) => write!(f, ": {}", self.details),
            (true, false) => f.write_str(&self.details),
            (true, true) => write!(f, "code {}", self.code),
            (false, true) => Ok(()),
        }
    }
}

impl std::error::Error for DelegateFailure {}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum RequestedIpError {
    #[error("{0:?} is not an IP address: write one like 10.0.0.5, 10.0.0.5/24 or fd00::5/64")]
    Address(String),
    #[error("{0:?} has no valid prefix length: it must be a number up to {1}")]
    Prefix(String, u8),
}

/// An error, and the error of the undo that followed it.
///
/// Its text is the error's, followed by that of the undo; its code and its source are the error's.
#[derive(Debug)]
pub struct Undone<E> {
    /// Why ADD failed.
    pub error: E,
    /// Why undoing failed; `None` where it succeeded.
    pub undo: Option<Error>,
}

impl<E: fmt::Display> fmt::Display for Undone<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        match &self.undo {
            Some(undo) => write!(f, "; then undoing failed as well: {}", chain(undo)),
            None => Ok(()),
        }
    }
}

impl<E: std::error::Error> std::error::Error for Undone<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl<E: PluginError> PluginError for Undone<E> {
    fn code(&self) -> Code {
        self.error.code()
    }
}

/// The texts of an error and its sources, joined with ": ".
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    causes(Some(error))
}

/// The texts of the chain that begins with `next`, joined with ": ".
pub(crate) fn causes(mut next: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = String::new();
    while let Some(cause) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl Error {
    /// Whether the error happened before any delegate ran.
    pub(crate) fn started_nothing(&self) -> bool {
        matches!(
            self,
            Self::DelegateName(_)
                | Self::DelegateNoPath(_)
                | Self::DelegateMissing { .. }
                | Self::DelegateIo { what: STARTING, .. }
        )
    }
}

impl PluginError for Error {
    fn code(&self) -> Code {
        match self {
            Self::VariablesMissing { .. }
            | Self::VariableTwice(_)
            | Self::NotText { .. }
            | Self::UnknownVerb(_)
            | Self::ContainerId(_)
            | Self::IfName(_)
            | Self::OwnNamespace(_)
            | Self::NamespaceMissing { .. }
            | Self::ArgsPair(_)
            | Self::ArgsTwice(_)
            | Self::ArgsUnknown(_)
            | Self::ArgsBoolean(_)
            | Self::RequestedMac { channel: Channel::CniArgs, .. }
            | Self::RequestedIp { channel: Channel::CniArgs, .. }
            | Self::DelegateNoPath(_) => Code::ENVIRONMENT,
            Self::Namespace { .. }
            | Self::Stdin(_)
            | Self::StdinTooLong
            | Self::Result(_)
            | Self::DelegateIo { .. }
            | Self::DelegateTooLong(_)
            | Self::DelegateHangs { .. }
            | Self::DelegateSilent { .. } => Code::IO,
            Self::NotJson(_) | Self::NotAnObject(_) | Self::Protocol { .. } | Self::DelegateResult { .. } => {
                Code::DECODE
            }
            Self::NoVersion | Self::Version(_) | Self::VerbTooNew { .. } | Self::DelegateVersion { .. } => {
                Code::INCOMPATIBLE_VERSION
            }
            Self::Config { .. }
            | Self::NoNetworkName
            | Self::NetworkName(_)
            | Self::NoPrevResult
            | Self::PrevResult { .. }
            | Self::PrevResultInterface { .. }
            | Self::PrevResultVersion(_)
            | Self::RequestedMac { channel: Channel::RuntimeConfig | Channel::ArgsCni, .. }
            | Self::RequestedIp { channel: Channel::RuntimeConfig | Channel::ArgsCni, .. }
            | Self::DelegateName(_)
            | Self::DelegateMissing { .. }
            | Self::DelegateNoAddress(_) => Code::INVALID_CONFIG,
            Self::Capability { .. } => Code::UNSUPPORTED_FIELD,
            Self::DelegateFailed { source, .. } => source.code,
            Self::Undone(undone) => undone.code(),
        }
    }
}
