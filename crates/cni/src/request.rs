use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use net_types::IfName;

use crate::document::{self, Document, Readable, ValidAttachment};
use crate::environment::{self, Environment};
use crate::normal::normal;
use crate::{
    AddResult, ArgsCni, CniArgs, ContainerId, Delegate, Dns, Error, IpamName, Misconfigured, NetworkName,
    RuntimeConfig, Verb, Version,
};

/// A checked request: everything that is not about one attachment.
///
/// `C` is the plugin's own part of the configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request<C> {
    /// The verb; never [`Verb::Version`].
    pub verb: Verb,
    /// The version of the configuration, and so of the result.
    pub version: Version,
    /// The network's name, `name` in the configuration.
    pub network: NetworkName,
    /// The plugin's own part of the configuration.
    pub config: C,
    /// `type`: the main plugin's name, also in the document that its IPAM plugin gets.
    pub plugin_type: Option<String>,
    /// `ipam.type`: the IPAM plugin's name, not validated ([`Request::ipam`] does that).
    pub ipam_type: Option<String>,
    /// The configuration's own `dns` member.
    pub dns: Dns,
    /// `capabilities`; the specification wants it removed before a plugin sees it, some runtimes leave it in.
    pub capabilities: BTreeMap<String, bool>,
    /// The configuration's `runtimeConfig`; empty if absent.
    pub runtime_config: RuntimeConfig,
    /// The configuration's `args.cni`; empty if absent.
    pub args_cni: ArgsCni,
    /// `CNI_ARGS`. For DEL the readable pairs; empty for GC and STATUS.
    pub args: CniArgs,
    /// `prevResult`. ADD: the result of the plugin before in the chain. CHECK: what ADD promised, never `None`. DEL:
    /// what ADD promised, `None` also if it could not be read.
    pub prev_result: Option<AddResult>,
    /// Standard input as it came, for a delegate; read it through [`Request::document`].
    pub(crate) stdin: Vec<u8>,
    /// The normalised document, if it differs from `stdin`.
    pub(crate) normal: Option<Vec<u8>>,
    pub(crate) environment: Environment,
}

/// The attachment that a request is about.
///
/// `N` is the path of the container's network namespace: a `PathBuf` for ADD and CHECK, an `Option<PathBuf>` for DEL,
/// whose runtime may no longer have one; the path need not exist then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<N = PathBuf> {
    /// The runtime's name for the container, `CNI_CONTAINERID`.
    pub container_id: ContainerId,
    /// `CNI_IFNAME`: the interface's name inside the container.
    pub ifname: IfName,
    /// `CNI_NETNS`: UTF-8, and never the plugin's own namespace.
    pub netns: N,
}

impl<C> Request<C> {
    /// The normalised document: without members that are `null`, and with known names in their usual case.
    #[must_use]
    pub fn document(&self) -> &[u8] {
        self.normal.as_deref().unwrap_or(&self.stdin)
    }

    /// The IPAM plugin that the configuration names; `None` where it names none.
    #[must_use]
    pub fn ipam(&self) -> Option<Delegate<'_>> {
        self.ipam_type.as_deref().map(|name| self.delegate(name))
    }

    /// Another plugin, by name, to pass this request on to.
    #[must_use]
    pub fn delegate<'a>(&'a self, name: &'a str) -> Delegate<'a> {
        Delegate::new(name, &self.environment, &self.stdin)
    }

    /// Further fields of the document, for a plugin that understands more than one type.
    ///
    /// # Errors
    /// A value that one of these fields cannot have.
    pub fn fields<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        crate::decode::object(self.document(), crate::decode::What::Config)
    }

    /// What remains of a request if the plugin's own part is wrong.
    pub(crate) fn misconfigured(self, error: Error) -> Misconfigured {
        Misconfigured {
            version: self.version,
            network: Some(self.network),
            ipam: self.ipam_type.map_or(IpamName::None, IpamName::Plugin),
            error,
            stdin: self.stdin,
            environment: self.environment,
        }
    }

    pub(crate) fn with_config<D>(self, config: D) -> Request<D> {
        Request {
            verb: self.verb,
            version: self.version,
            network: self.network,
            config,
            plugin_type: self.plugin_type,
            ipam_type: self.ipam_type,
            dns: self.dns,
            capabilities: self.capabilities,
            runtime_config: self.runtime_config,
            args_cni: self.args_cni,
            args: self.args,
            prev_result: self.prev_result,
            stdin: self.stdin,
            normal: self.normal,
            environment: self.environment,
        }
    }
}

/// Checks the variables that the verb needs; `None` for a verb without an attachment.
pub(crate) fn target(
    verb: Verb,
    environment: &Environment,
) -> Result<Option<Target<Option<PathBuf>>>, Error> {
    use environment::{CONTAINERID, IFNAME, NETNS, PATH};

    let needed: &[&'static str] = match verb {
        Verb::Add | Verb::Check => &[CONTAINERID, NETNS, IFNAME],
        Verb::Del => &[CONTAINERID, IFNAME],
        Verb::Gc => &[PATH],
        Verb::Status | Verb::Version => &[],
    };
    let missing: Vec<_> = needed.iter().copied().filter(|name| environment.get(name).is_none()).collect();
    if !missing.is_empty() {
        return Err(Error::VariablesMissing { verb, names: missing.join(", ") });
    }
    if !verb.is_about_an_attachment() {
        return Ok(None);
    }
    let container_id = environment.text(CONTAINERID)?.unwrap_or_default();
    let ifname = environment.text(IFNAME)?.unwrap_or_default();
    let netns = match environment.text(NETNS) {
        // DEL can do without it.
        Err(_) if verb == Verb::Del => None,
        netns => netns?.map(PathBuf::from),
    };
    Ok(Some(Target {
        container_id: container_id.parse().map_err(Error::ContainerId)?,
        ifname: ifname.parse().map_err(Error::IfName)?,
        netns,
    }))
}

/// The version of the request's configuration, once it is known.
static STATED: OnceLock<Version> = OnceLock::new();

/// Remembers the version of the request's configuration for [`stated_version`].
fn state_version(version: Version) {
    let _ = STATED.set(version);
}

/// The version of the request's configuration; the latest while it is not known.
pub(crate) fn stated_version() -> Version {
    STATED.get().copied().unwrap_or(Version::LATEST)
}

/// Parses the protocol's part of a request. `version` is set as soon as it is known, so that an error can be written
/// in its format.
pub(crate) fn parse(
    verb: Verb,
    environment: Environment,
    stdin: Vec<u8>,
    names: &[&[&str]],
    version: &mut Version,
) -> Result<(Request<()>, Option<Vec<ValidAttachment>>), Error> {
    let text = normal(&stdin, names);
    let document = Document::parse(&text)?;
    *version = version_of(&document)?;
    state_version(*version);
    let network = network_of(&document)?;
    if *version < verb.since() {
        return Err(Error::VerbTooNew { verb, version: *version });
    }
    let args = match environment.text(environment::ARGS) {
        Ok(Some(text)) if verb.is_about_an_attachment() => CniArgs::parse(text)?,
        Err(error) if verb.is_about_an_attachment() => return Err(error),
        _ => CniArgs::default(),
    };
    let prev_result = match (document.prev_result, verb) {
        (Some(raw), Verb::Add) => Some(AddResult::parse(raw.get())?),
        (Some(raw), Verb::Check) => Some(AddResult::parse(raw.get())?.with_valid_interfaces()?),
        (None, Verb::Check) => return Err(Error::NoPrevResult),
        _ => None,
    };
    let (request, valid) = request(verb, *version, network, document, args, prev_result, environment);
    let normal = changed(text);
    Ok((Request { stdin, normal, ..request }, valid))
}

/// A request to remove, as far as it can be read: a wrong field that does not matter for the removal counts as
/// absent.
pub(crate) enum Removal {
    /// Everything that matters could be read.
    Whole(Box<Request<()>>, Option<Vec<ValidAttachment>>, Option<Error>),
    /// DEL where the network's name, the version or the IPAM plugin could not be read.
    Misconfigured(Box<Misconfigured>),
}

/// As [`parse`], for DEL and GC. `read` is standard input. GC gets the error of its `ipam` section beside the rest.
///
/// # Errors
/// GC: the name, the version or the list of valid attachments, without which nothing can be called stale.
pub(crate) fn parse_removal(
    verb: Verb,
    environment: Environment,
    read: Result<Vec<u8>, Error>,
    names: &[&[&str]],
    version: &mut Version,
) -> Result<Removal, Error> {
    let is_del = verb == Verb::Del;
    let nothing = |error, environment, stdin| {
        let ipam = IpamName::Unreadable;
        let version = Version::LATEST;
        Ok(Removal::Misconfigured(Box::new(Misconfigured {
            version,
            network: None,
            ipam,
            error,
            stdin,
            environment,
        })))
    };
    let stdin = match read {
        Ok(stdin) => stdin,
        Err(error) if is_del => return nothing(error, environment, Vec::new()),
        Err(error) => return Err(error),
    };
    let text = normal(&stdin, names);
    let parsed = match Document::parse(&text) {
        Ok(document) => Ok(Readable { document, mistakes: Vec::new() }),
        // Finding the wrong field costs a second pass, so only a mistake pays for it.
        Err(_) => Document::parse_each(&text),
    };
    let Readable { document, mut mistakes } = match parsed {
        Ok(readable) => readable,
        Err(error) if is_del => return nothing(error, environment, stdin),
        Err(error) => return Err(error),
    };
    let mut mistake = |key: &str| {
        let at = mistakes.iter().position(|(name, _)| *name == key)?;
        Some(mistakes.swap_remove(at).1)
    };
    let known = match mistake("cniVersion") {
        Some(error) => Err(error),
        None => version_of(&document),
    };
    *version = *known.as_ref().unwrap_or(&Version::LATEST);
    state_version(*version);
    let network = match mistake("name") {
        Some(error) => Err(error),
        None => network_of(&document),
    };
    let ipam = mistake(document::IPAM);
    if let Some(error) = mistake(document::VALID).filter(|_| !is_del) {
        return Err(error);
    }
    match (known, network, ipam) {
        (Ok(_), Ok(network), ipam) if ipam.is_none() || !is_del => {
            if *version < verb.since() {
                return Err(Error::VerbTooNew { verb, version: *version });
            }
            let args = match environment.text(environment::ARGS) {
                Ok(Some(text)) if is_del => CniArgs::parse_leniently(text),
                _ => CniArgs::default(),
            };
            let prev_result = document.prev_result.and_then(|raw| AddResult::parse(raw.get()).ok());
            let (request, valid) =
                request(verb, *version, network, document, args, prev_result.filter(|_| is_del), environment);
            let normal = changed(text);
            Ok(Removal::Whole(Box::new(Request { stdin, normal, ..request }), valid, ipam))
        }
        (known, network, ipam) => {
            let name = ipam_type(&document);
            let named = match (&ipam, name) {
                (Some(_), _) => IpamName::Unreadable,
                (None, Some(name)) => IpamName::Plugin(name),
                (None, None) => IpamName::None,
            };
            let (network, unnamed) = match network {
                Ok(network) => (Some(network), None),
                Err(error) => (None, Some(error)),
            };
            let error = known.err().or(unnamed).or(ipam).unwrap_or(Error::NoNetworkName);
            if !is_del {
                return Err(error);
            }
            Ok(Removal::Misconfigured(Box::new(Misconfigured {
                version: *version,
                network,
                ipam: named,
                error,
                stdin,
                environment,
            })))
        }
    }
}

/// The normalised document, if it differs from the original.
fn changed(text: Cow<'_, [u8]>) -> Option<Vec<u8>> {
    match text {
        Cow::Owned(text) => Some(text),
        Cow::Borrowed(_) => None,
    }
}

fn version_of(document: &Document<'_>) -> Result<Version, Error> {
    match document.cni_version.as_deref() {
        None | Some("") => Err(Error::NoVersion),
        Some(given) => Version::parse(given).ok_or_else(|| Error::Version(given.to_owned())),
    }
}

fn network_of(document: &Document<'_>) -> Result<NetworkName, Error> {
    match document.name.clone() {
        None => Err(Error::NoNetworkName),
        Some(name) => name.try_into().map_err(Error::NetworkName),
    }
}

fn ipam_type(document: &Document<'_>) -> Option<String> {
    document.ipam.as_ref()?.plugin_type.clone().filter(|name| !name.is_empty())
}

/// Builds a request from the parts.
fn request(
    verb: Verb,
    version: Version,
    network: NetworkName,
    document: Document<'_>,
    args: CniArgs,
    prev_result: Option<AddResult>,
    environment: Environment,
) -> (Request<()>, Option<Vec<ValidAttachment>>) {
    let request = Request {
        verb,
        version,
        network,
        config: (),
        ipam_type: ipam_type(&document),
        plugin_type: document.plugin_type,
        dns: document.dns.unwrap_or_default(),
        capabilities: document.capabilities.unwrap_or_default(),
        runtime_config: document.runtime_config.unwrap_or_default(),
        args_cni: document.args.and_then(|args| args.cni).unwrap_or_default(),
        args,
        prev_result,
        stdin: Vec::new(),
        normal: None,
        environment,
    };
    (request, document.valid_attachments)
}
