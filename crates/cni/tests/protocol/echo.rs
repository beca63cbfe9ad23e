//! A plugin that makes nothing: it answers with what it was given.

use std::path::PathBuf;

use cni::{
    AddResult, Answer, Code, Dns, Environment, Interface, IpConfig, Misconfigured, NetworkName, Plugin,
    PluginError, Request, Route, Target, ValidAttachment, dispatch,
};

/// A plugin whose answers repeat its request.
pub(crate) struct Echo;

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Config {
    /// A field with a type, so that it can be wrong.
    pub(crate) mtu: Option<u16>,
    /// ADD and the others fail, after the delegate's part was done.
    #[serde(default)]
    pub(crate) fail: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cni(#[from] cni::Error),
    #[error("attaching the container failed")]
    Asked(#[source] std::io::Error),
    #[error(transparent)]
    Undone(#[from] cni::Undone<Box<Self>>),
}

impl PluginError for Error {
    fn code(&self) -> Code {
        match self {
            Self::Cni(error) => error.code(),
            Self::Asked(_) => Code::plugin(100),
            Self::Undone(undone) => undone.error.code(),
        }
    }
}

fn asked(request: &Request<Config>) -> Result<(), Error> {
    let why = || std::io::Error::other("the test asked for it");
    if request.config.fail { Err(Error::Asked(why())) } else { Ok(()) }
}

impl Plugin for Echo {
    type Config = Config;
    type Error = Error;
    const NAME: &'static str = "echo";
    const ABOUT: &'static str = "answers with what it was given";

    fn add(&self, request: &Request<Config>, target: &Target) -> Result<AddResult, Error> {
        request.requested_mac()?;
        request.requested_ips()?;
        let Some(delegate) = request.ipam() else {
            asked(request)?;
            return Ok(request.prev_result.clone().unwrap_or_else(|| everything(target, request.config.mtu)));
        };
        let delegated = delegate.add()?;
        match asked(request) {
            Ok(()) => Ok(delegated.keep()),
            Err(error) => Err(delegated.fail_around(Box::new(error), || ()).into()),
        }
    }

    fn del(&self, request: &Request<Config>, _: &Target<Option<PathBuf>>) -> Result<(), Error> {
        if let Some(delegate) = request.ipam() {
            delegate.del()?;
        }
        asked(request)
    }

    fn del_misconfigured(
        &self,
        request: &Misconfigured,
        _: &Target<Option<PathBuf>>,
    ) -> Option<Result<(), Error>> {
        let name = request.network.as_ref().map(NetworkName::as_str);
        (name != Some("n")).then_some(Ok(()))
    }

    fn check(&self, request: &Request<Config>, _: &Target, _promised: &AddResult) -> Result<(), Error> {
        if let Some(delegate) = request.ipam() {
            delegate.check()?;
        }
        asked(request)
    }

    fn gc(&self, request: &Request<Config>, valid: Option<&[ValidAttachment]>) -> Result<(), Error> {
        if let Some(delegate) = request.ipam() {
            delegate.gc()?;
        }
        match request.config.fail {
            true => Err(Error::Asked(std::io::Error::other(format!("valid: {valid:?}")))),
            false => Ok(()),
        }
    }

    fn status(&self, request: &Request<Config>) -> Result<(), Error> {
        if let Some(delegate) = request.ipam() {
            delegate.status()?;
        }
        asked(request)
    }
}

/// A result with every field set.
fn everything(target: &Target, mtu: Option<u16>) -> AddResult {
    let mac = "02:00:00:00:00:01".parse().ok();
    let host = Interface {
        mtu: Some(1500),
        socket_path: Some("/run/vhost.sock".into()),
        pci_id: Some("0000:04:00.5".to_owned()),
        ..Interface::on_host(&"spoke1".parse().unwrap(), None)
    };
    let inside =
        Interface { mtu: mtu.map(u32::from), ..Interface::in_container(&target.ifname, mac, &target.netns) };
    AddResult {
        interfaces: vec![host, inside],
        ips: vec![
            IpConfig::new("10.0.0.5/24".parse().unwrap(), "10.0.0.1".parse().ok(), Some(1)),
            IpConfig::new("fd00::5/64".parse().unwrap(), None, Some(1)),
        ],
        routes: vec![
            Route::new("0.0.0.0/0".parse().unwrap(), "10.0.0.1".parse().ok()),
            Route {
                mtu: Some(1400),
                advmss: Some(1360),
                priority: Some(100),
                table: Some(7),
                scope: Some(0),
                ..Route::new("fd01::/48".parse().unwrap(), None)
            },
        ],
        dns: Dns {
            nameservers: vec!["10.0.0.1".to_owned()],
            domain: Some("lan".to_owned()),
            search: vec!["lan".to_owned()],
            options: vec!["ndots:2".to_owned()],
        },
    }
}

/// A container's variables for a verb. The namespace is a file that is there and is not our own.
pub(crate) fn environment(verb: &str) -> Vec<(&'static str, &str)> {
    vec![
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/proc/self/ns/uts"),
        ("CNI_IFNAME", "net1"),
        ("CNI_PATH", "/nowhere"),
    ]
}

pub(crate) fn ask(environment: &[(&'static str, &str)], stdin: &str) -> Answer {
    let environment: Environment = environment.iter().copied().collect();
    dispatch(&Echo, environment, stdin.as_bytes())
}
