//! The input of the checks.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use lan::Lan;
use net_types::IfName;
use netplumb::{Link, Netlink, Netns};
use node::NodeConfig;

use super::{Options, cluster};
use agent::lan_files;
use agent::lans::Declared;

/// The node, and the LANs that it is to carry.
pub(super) struct HostSnapshot<'a> {
    pub(super) options: &'a Options,
    pub(super) netns: Netns,
    pub(super) links: Vec<Link>,
    pub(super) netlink: Netlink,
    /// The LANs that are known.
    pub(super) lans: Vec<Lan>,
    /// Mistakes in the specifications of LANs.
    pub(super) mistakes: Vec<String>,
    /// Where the LANs were read from, or why that failed; `None`: there is no source.
    pub(super) source: Option<Result<String, String>>,
    /// The name of this node.
    pub(super) node: String,
}

/// A device that carries LANs, or is to carry some.
pub(super) struct Underlay<'a> {
    pub(super) name: IfName,
    /// The device; `None` if it does not exist.
    pub(super) link: Option<&'a Link>,
    pub(super) lans: Vec<&'a Lan>,
}

impl<'a> HostSnapshot<'a> {
    pub(super) fn open(options: &'a Options) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("run it as root: it makes network namespaces to try things in");
        }
        let config = NodeConfig::load()?;
        let netns = Netns::current()?;
        let netlink = Netlink::open(&netns)?;
        let links = netlink.links()?;
        let node = options.node_name.clone().or_else(|| config.node_name.clone()).unwrap_or_else(|| {
            std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
        });
        let (declared, source) = match declared(options, &config, &node)? {
            Some(Ok((declared, source))) => (declared, Some(Ok(source))),
            Some(Err(why)) => (Declared::default(), Some(Err(why))),
            None => (Declared::default(), None),
        };
        let (mut lans, mut mistakes) = (Vec::new(), Vec::new());
        mistakes.extend(declared.unread.into_iter().map(|note| format!("{}: {}", note.source, note.message)));
        for (key, declaration) in declared.lans {
            match declaration.lan {
                Ok(lan) => lans.push(lan),
                Err(mistake) => mistakes.push(format!("LAN {key}: {}", mistake.message)),
            }
        }
        Ok(Self { options, netns, links, netlink, lans, mistakes, source, node })
    }

    /// The underlays: those that were named, and those of the LANs.
    pub(super) fn underlays(&self) -> Vec<Underlay<'_>> {
        let mut by_name: BTreeMap<&IfName, Vec<&Lan>> =
            self.options.underlays.iter().map(|name| (name, Vec::new())).collect();
        for lan in &self.lans {
            if let Some(name) = lan.underlay(&self.node) {
                by_name.entry(name).or_default().push(lan);
            }
        }
        let named = by_name.into_iter().map(|(name, lans)| Underlay {
            name: name.clone(),
            link: self.links.iter().find(|link| link.name == name.as_str()),
            lans,
        });
        named.collect()
    }

    /// The UDP ports of the LANs; the default one if no LAN is known.
    pub(super) fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.lans.iter().map(|lan| lan.port.get()).collect();
        ports.sort_unstable();
        ports.dedup();
        if ports.is_empty() { vec![USUAL_PORT] } else { ports }
    }
}

/// The port of a LAN that states none.
pub(super) const USUAL_PORT: u16 = 4789;

impl Underlay<'_> {
    /// Whether LANs with an IPv6 group are on it, or may be, since no LAN is known.
    pub(super) fn is_v6(&self) -> bool {
        self.lans.is_empty() || self.lans.iter().any(|lan| lan.group.get().is_ipv6())
    }

    /// Whether LANs with an IPv4 group are on it.
    pub(super) fn is_v4(&self) -> bool {
        self.lans.iter().any(|lan| lan.group.get().is_ipv4())
    }
}

/// The LANs and their source: the folder that was named, or the mirror that a cluster's daemon keeps, or the API
/// server if no daemon has run yet. `None` if there is no source.
fn declared(
    options: &Options,
    config: &NodeConfig,
    node: &str,
) -> Result<Option<Result<(Declared, String), String>>> {
    if let Some(dir) = &options.lan_dir {
        if !dir.is_dir() {
            bail!("{} is not a folder", dir.display());
        }
        return Ok(Some(Ok((lan_files::read(dir), dir.display().to_string()))));
    }
    let mirror = config.paths().state().join(controller::MIRROR);
    if mirror.is_dir() {
        return Ok(Some(Ok((lan_files::read_mirror(&mirror, node), mirror.display().to_string()))));
    }
    if options.single_host {
        return Ok(None);
    }
    let asked = cluster::lans(node);
    Ok(asked.map(|asked| Ok((lan_files::parse_mirror_files(asked?, node), "the API server".to_owned()))))
}
