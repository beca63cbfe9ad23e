use std::collections::BTreeMap;
use std::path::PathBuf;

use net_types::IfName;

use crate::document::{Document, ValidAttachment};
use crate::environment::{self, Environment};
use crate::{
    AddResult, ArgsCni, CniArgs, ContainerId, Delegate, Dns, Error, NetworkName, RuntimeConfig, Verb, Version,
};

/// A request, checked: everything that is not about one attachment.
///
/// `C` is the plugin's own part of the configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request<C> {
    /// What is asked for; never [`Verb::Version`].
    pub verb: Verb,
    /// The version of the configuration, and so of the result.
    pub version: Version,
    /// The network's name.
    pub network: NetworkName,
    /// The plugin's own part of the configuration.
    pub config: C,
    /// `type`: the main plugin's name, also for its IPAM plugin.
    pub plugin_type: Option<String>,
    /// `ipam.type`: the IPAM plugin's name, not looked at yet ([`Request::ipam`] does).
    pub ipam_type: Option<String>,
    /// `dns`
    pub dns: Dns,
    /// `capabilities`; the specification wants it absent here, some runtimes leave it in.
    pub capabilities: BTreeMap<String, bool>,
    /// `runtimeConfig`
    pub runtime_config: RuntimeConfig,
    /// `args.cni`
    pub args_cni: ArgsCni,
    /// `CNI_ARGS`. For DEL what could be read of it; empty for GC and STATUS.
    pub args: CniArgs,
    /// `prevResult`: ADD: of the plugin before in a chain; CHECK: what was promised, never `None`; DEL:
    /// what was promised, `None` also where it could not be read.
    pub prev_result: Option<AddResult>,
    /// The document as it came on standard input.
    pub stdin: Vec<u8>,
    pub(crate) environment: Environment,
}

/// The attachment that a request is about.
///
/// `N` is the path of the container's network namespace: a `PathBuf` for ADD and CHECK, an
/// `Option<PathBuf>` for DEL, where the runtime may no longer have one; the path need not lead anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<N = PathBuf> {
    /// `CNI_CONTAINERID`
    pub container_id: ContainerId,
    /// `CNI_IFNAME`: the interface's name inside the container.
    pub ifname: IfName,
    /// `CNI_NETNS`: UTF-8, and never the plugin's own namespace.
    pub netns: N,
}

impl<C> Request<C> {
    /// The IPAM plugin that the configuration names; `None` where it names none.
    #[must_use]
    pub fn ipam(&self) -> Option<Delegate<'_>> {
        self.ipam_type.as_deref().map(|name| self.delegate(name))
    }

    /// Any plugin to pass this request on to.
    #[must_use]
    pub fn delegate<'a>(&'a self, name: &'a str) -> Delegate<'a> {
        Delegate::new(name, &self.environment, &self.stdin)
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
            environment: self.environment,
        }
    }
}

/// Checks the variables that the verb needs; `None` for a verb that is about no attachment.
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
    Ok(Some(Target {
        container_id: container_id.parse().map_err(Error::ContainerId)?,
        ifname: ifname.parse().map_err(Error::IfName)?,
        netns: environment.text(NETNS)?.map(PathBuf::from),
    }))
}

/// Reads the protocol's part of a request. `version` is set as soon as it is known, so that an error
/// can be written in it.
pub(crate) fn parse(
    verb: Verb,
    environment: Environment,
    stdin: Vec<u8>,
    version: &mut Version,
) -> Result<(Request<()>, Option<Vec<ValidAttachment>>), Error> {
    let document = Document::parse(&stdin)?;
    *version = match document.cni_version.as_deref() {
        None | Some("") => return Err(Error::NoVersion),
        Some(given) => Version::parse(given).ok_or_else(|| Error::Version(given.to_owned()))?,
    };
    let network = match document.name {
        None => return Err(Error::NoNetworkName),
        Some(name) => name.try_into().map_err(Error::NetworkName)?,
    };
    if *version < verb.since() {
        return Err(Error::VerbTooNew { verb, version: *version });
    }
    let args = match environment.text(environment::ARGS) {
        Ok(Some(text)) if verb == Verb::Del => CniArgs::parse_leniently(text),
        Ok(Some(text)) if verb.is_about_an_attachment() => CniArgs::parse(text)?,
        Err(error) if verb.is_about_an_attachment() && verb != Verb::Del => return Err(error),
        _ => CniArgs::default(),
    };
    let prev_result = match (document.prev_result, verb) {
        (Some(raw), Verb::Add | Verb::Check) => Some(AddResult::parse(raw.get())?),
        (None, Verb::Check) => return Err(Error::NoPrevResult),
        // DEL does what it can without it.
        (Some(raw), Verb::Del) => AddResult::parse(raw.get()).ok(),
        _ => None,
    };
    let request = Request {
        verb,
        version: *version,
        network,
        config: (),
        plugin_type: document.plugin_type,
        ipam_type: document.ipam.and_then(|ipam| ipam.plugin_type).filter(|name| !name.is_empty()),
        dns: document.dns.unwrap_or_default(),
        capabilities: document.capabilities.unwrap_or_default(),
        runtime_config: document.runtime_config.unwrap_or_default(),
        args_cni: document.args.and_then(|args| args.cni).unwrap_or_default(),
        args,
        prev_result,
        stdin: Vec::new(),
        environment,
    };
    let valid = document.valid_attachments;
    Ok((Request { stdin, ..request }, valid))
}
