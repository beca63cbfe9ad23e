use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use net_types::{IfNameError, MacAddrError};

use crate::{Code, MAX_STDIN, NameError, PluginError, Verb, Version};

/// Nothing has run yet when this failed.
pub(crate) const STARTING: &str = "starting";

/// What this crate finds wrong. A plugin's own error holds it as one of its variants.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Variables that the verb needs are missing or empty.
    #[error("{verb} needs the environment variables {names}: they are missing or empty")]
    VariablesMissing {
        /// What was asked for.
        verb: Verb,
        /// The names, with commas.
        names: String,
    },
    /// A variable is in the environment more than once.
    #[error("the environment has {0} more than once: give it once")]
    VariableTwice(&'static str),
    /// A variable is not UTF-8.
    #[error("the environment variable {name} is no UTF-8: {value:?}")]
    NotText {
        /// Its name.
        name: &'static str,
        /// What it holds.
        value: OsString,
    },
    /// `CNI_COMMAND` is no verb.
    #[error("unknown CNI_COMMAND {0:?}: it takes {verbs}", verbs = Verb::list())]
    UnknownVerb(String),
    /// `CNI_CONTAINERID` is malformed.
    #[error("CNI_CONTAINERID is no container ID")]
    ContainerId(#[source] NameError),
    /// `CNI_IFNAME` is malformed.
    #[error("CNI_IFNAME is no name for an interface")]
    IfName(#[source] IfNameError),
    /// The container's namespace is the plugin's.
    #[error("CNI_NETNS {0:?} is the plugin's own network namespace, it takes the container's")]
    OwnNamespace(PathBuf),
    /// There is no such namespace.
    #[error("CNI_NETNS {path:?} does not exist: the container is gone, or the path is not visible here")]
    NamespaceMissing {
        /// The path.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// A namespace cannot be looked at.
    #[error("looking at the network namespace {path:?} failed")]
    Namespace {
        /// The path.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// A part of `CNI_ARGS` is no pair.
    #[error("CNI_ARGS contains {0:?}: it takes KEY=VALUE pairs with ';' between them")]
    ArgsPair(String),
    /// `CNI_ARGS` gives a key that names the pod two values.
    #[error(
        "CNI_ARGS gives {0} two different values, and so names two pods: the runtime or a meta-plugin has to give it one"
    )]
    ArgsTwice(String),
    /// `CNI_ARGS` has unknown keys.
    #[error("CNI_ARGS contains unknown keys: {0:?}; IgnoreUnknown=1 has them ignored")]
    ArgsUnknown(String),
    /// `IgnoreUnknown` is no boolean.
    #[error("IgnoreUnknown in CNI_ARGS is {0:?}: it takes 1, 0, true or false")]
    ArgsBoolean(String),
    /// The runtime asks for what another plugin does.
    #[error(
        "runtimeConfig has {capability} {given}, which this plugin does not do: declare the capability {capability} for the \
         plugin {plugin:?}, behind this one in the list of plugins, and not for this one"
    )]
    Capability {
        /// The capability.
        capability: &'static str,
        /// What is asked for, as it was given.
        given: String,
        /// Who does it.
        plugin: &'static str,
    },
    /// Standard input cannot be read.
    #[error("reading the configuration from standard input failed")]
    Stdin(#[source] io::Error),
    /// Standard input is too long.
    #[error("the configuration on standard input is longer than {MAX_STDIN} bytes; nothing was done")]
    StdinTooLong,
    /// Standard input is no JSON.
    #[error("the configuration on standard input is no valid JSON")]
    NotJson(#[source] serde_json::Error),
    /// Standard input or `prevResult` is JSON, and no object.
    #[error("{0} is no JSON object")]
    NotAnObject(&'static str),
    /// One of the protocol's fields has the wrong type.
    #[error("the configuration has something wrong at {field}")]
    Protocol {
        /// The field's path in the document.
        field: String,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// One of the plugin's fields is wrong.
    #[error("the configuration has something wrong at {field}")]
    Config {
        /// The field's path in the document.
        field: String,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// `cniVersion` is missing.
    #[error(
        "the configuration has no cniVersion, which means 0.1.0; this plugin supports {versions}",
        versions = Version::list()
    )]
    NoVersion,
    /// `cniVersion` is unknown.
    #[error("cniVersion {0:?} is not supported; this plugin supports {versions}", versions = Version::list())]
    Version(String),
    /// The verb came with a later version.
    #[error("the configuration's cniVersion {version} has no {verb}: that takes {since}", since = verb.since())]
    VerbTooNew {
        /// What was asked for.
        verb: Verb,
        /// The configuration's version.
        version: Version,
    },
    /// `name` is missing.
    #[error("the configuration has no network name: give it a name")]
    NoNetworkName,
    /// `name` is malformed.
    #[error("the configuration's name is no name for a network")]
    NetworkName(#[source] NameError),
    /// CHECK without `prevResult`.
    #[error("CHECK needs the result of ADD, and the configuration has no prevResult")]
    NoPrevResult,
    /// `prevResult` is wrong.
    #[error("prevResult has something wrong at {field}")]
    PrevResult {
        /// The field's path below `prevResult`.
        field: String,
        /// What is wrong, with line and column within `prevResult`.
        source: serde_json::Error,
    },
    /// `prevResult` has an unknown version.
    #[error("prevResult has the cniVersion {0:?}; this plugin supports {versions}", versions = Version::list())]
    PrevResultVersion(String),
    /// The MAC address that was asked for is none.
    #[error("the MAC address asked for by {channel} is none for an interface")]
    RequestedMac {
        /// How it came.
        channel: Channel,
        /// What is wrong.
        source: MacAddrError,
    },
    /// An IP address that was asked for is none.
    #[error("an IP address asked for by {channel} is none")]
    RequestedIp {
        /// How it came.
        channel: Channel,
        /// What is wrong.
        source: RequestedIpError,
    },
    /// The result cannot be written.
    #[error("writing the answer as JSON failed")]
    Result(#[source] serde_json::Error),
    /// A delegate's name could be a path.
    #[error("{0:?} is no name of a plugin: it takes the file name of an executable in CNI_PATH")]
    DelegateName(String),
    /// There is no `CNI_PATH`.
    #[error("CNI_PATH is missing or empty, so the plugin {0:?} cannot be found")]
    DelegateNoPath(String),
    /// There is no such plugin.
    #[error(
        "there is no executable file {name:?} in CNI_PATH {path:?}: install that plugin, or correct its name"
    )]
    DelegateMissing {
        /// The plugin's name.
        name: String,
        /// `CNI_PATH`.
        path: OsString,
    },
    /// Starting it or talking to it failed.
    #[error("{what} the plugin {program:?} for {verb} failed")]
    DelegateIo {
        /// What failed: starting, writing to …
        what: &'static str,
        /// The plugin's file.
        program: PathBuf,
        /// What it was asked for.
        verb: Verb,
        /// The kernel's words.
        source: io::Error,
    },
    /// It writes without end.
    #[error("the plugin {0:?} wrote more than {MAX_STDIN} bytes, and was ended")]
    DelegateTooLong(PathBuf),
    /// It did not end.
    #[error("the plugin {name:?} did not end {verb} within {} s, and was ended: look what it waits for", waited.as_secs())]
    DelegateHangs {
        /// The plugin's name.
        name: String,
        /// What it was asked for.
        verb: Verb,
        /// How long it was waited for.
        waited: Duration,
    },
    /// It failed, and said why.
    #[error("the plugin {name:?} failed on {verb}")]
    DelegateFailed {
        /// The plugin's name.
        name: String,
        /// What it was asked for.
        verb: Verb,
        /// What it said.
        source: DelegateFailure,
    },
    /// It failed, and did not say why as the protocol wants it.
    #[error(
        "the plugin {name:?} failed on {verb} ({status}) without an error document; its standard output: {stdout:?}"
    )]
    DelegateSilent {
        /// The plugin's name.
        name: String,
        /// What it was asked for.
        verb: Verb,
        /// Its exit code or signal.
        status: ExitStatus,
        /// The beginning of what it wrote.
        stdout: String,
    },
    /// Its result is wrong.
    #[error("the result of the plugin {name:?} has something wrong at {field}")]
    DelegateResult {
        /// The plugin's name.
        name: String,
        /// The field's path in the result.
        field: String,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// Its result has an unknown version.
    #[error(
        "the result of the plugin {name:?} has the cniVersion {given:?}; this plugin supports {versions}",
        versions = Version::list()
    )]
    DelegateVersion {
        /// The plugin's name.
        name: String,
        /// The result's version.
        given: String,
    },
    /// Its ADD succeeded, as it says, and gave no address: what the reference plugins refuse, too.
    #[error(
        "the plugin {0:?} answers ADD without an address: give it addresses to hand out, or leave 'ipam' out of the configuration"
    )]
    DelegateNoAddress(String),
    /// A delegate's ADD failed, and was undone or could not be.
    #[error(transparent)]
    Undone(Box<Undone<Self>>),
}

/// How a wish for a MAC or an IP address came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// `runtimeConfig` in the configuration.
    RuntimeConfig,
    /// `args.cni` in the configuration.
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

/// What another plugin said when it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegateFailure {
    /// Its code.
    pub code: Code,
    /// `msg`
    pub msg: String,
    /// `details`, may be empty.
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

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestedIpError {
    /// Not an address at all.
    #[error("{0:?} is no IP address: it takes one like 10.0.0.5, 10.0.0.5/24 or fd00::5/64")]
    Address(String),
    /// The prefix length is not a number or too large.
    #[error("{0:?} has no valid prefix length: it takes a number up to {1}")]
    Prefix(String, u8),
}

/// An error, and what went wrong in undoing what had been done before it.
///
/// It reads as the error, followed by the trouble in undoing; its code and its source are the error's.
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
            Some(undo) => write!(f, "; then undoing failed as well: {}", causes(Some(undo))),
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

/// The chain that starts there, joined with ": ".
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
    /// Whether no delegate had run when this happened.
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
