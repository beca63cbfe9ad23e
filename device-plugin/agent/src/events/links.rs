use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use lan::NetnsName;
use net_types::IfName;
use netplumb::{Event, Groups, Link, LinkKind, Monitor, Netlink, Netns, NetnsId};
use tokio::task::AbortHandle;

use proto::events::{Dirty, Wake};

const LINKS: Groups = Groups { links: true, addresses: false, routes: false };

/// Monitors of the links in the LANs' namespaces.
pub(crate) struct LanLinkMonitors {
    wake: Wake,
    listening: BTreeMap<NetnsName, (NetnsId, AbortHandle)>,
}

impl LanLinkMonitors {
    pub(crate) fn new(wake: Wake) -> Self {
        Self { wake, listening: BTreeMap::new() }
    }

    /// Monitors exactly these namespaces. A new one counts as changed, since its earlier events were not seen.
    pub(crate) fn follow_namespaces(&mut self, namespaces: &BTreeMap<NetnsName, Netns>) {
        self.listening.retain(|name, (id, task)| {
            let keep = namespaces.get(name).is_some_and(|netns| netns.id() == *id) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for (name, netns) in namespaces {
            if self.listening.contains_key(name) {
                continue;
            }
            let dirty = || Dirty { netns: [name.clone()].into(), ..Dirty::default() };
            match Monitor::open(netns, LINKS) {
                Ok(monitor) => {
                    let task = tokio::spawn(listen(monitor, self.wake.clone(), dirty()));
                    self.listening.insert(name.clone(), (netns.id(), task.abort_handle()));
                    self.wake.mark(dirty());
                }
                Err(error) => tracing::error!(netns = %name, "cannot listen for changes: {error}"),
            }
        }
    }
}

impl Drop for LanLinkMonitors {
    fn drop(&mut self) {
        self.listening.values().for_each(|(_, task)| task.abort());
    }
}

async fn listen(mut monitor: Monitor, wake: Wake, dirty: Dirty) {
    loop {
        match monitor.next().await {
            Ok(_) => wake.mark(dirty.clone()),
            Err(error) => {
                tracing::error!("the events of a LAN's links ended: {error}");
                // The next reconcile opens another stream.
                wake.mark(dirty);
                return;
            }
        }
    }
}

/// The events that matter for underlays: their links, and the addresses that they send from.
const UNDERLAYS: Groups = Groups { links: true, addresses: true, routes: false };

/// Monitors the devices in the node's own namespace that are underlays. Returns the set in which the caller keeps
/// their names.
///
/// # Errors
/// The stream cannot be opened.
pub(crate) fn watch_underlays(wake: Wake) -> anyhow::Result<Arc<Mutex<BTreeSet<IfName>>>> {
    let names = Arc::new(Mutex::new(BTreeSet::new()));
    let (mut monitor, mut links) = listen_to_underlays()?;
    let watched = Arc::clone(&names);
    tokio::spawn(async move {
        loop {
            let is_one = |name: Option<&String>| name.is_some_and(|name| is_any(&watched, name));
            let (matters, end) = match monitor.next().await {
                Ok(Event::Link(link)) => (links.changed(*link, is_one), false),
                Ok(Event::LinkGone { index, name }) => {
                    (links.gone(index, is_one) || is_one(Some(&name)), false)
                }
                Ok(Event::Address(address) | Event::AddressGone(address)) => {
                    (is_one(links.name(address.index)), false)
                }
                Ok(Event::Lost) => (true, false),
                Ok(_) => (false, false),
                Err(error) => {
                    tracing::error!("the events of the node's links ended: {error}");
                    (true, true)
                }
            };
            if end {
                match listen_to_underlays() {
                    Ok(again) => (monitor, links) = again,
                    Err(error) => {
                        tracing::error!("cannot listen for changes of the underlays any more: {error}");
                        return;
                    }
                }
            }
            if matters {
                wake.mark(Dirty { underlays: true, ..Dirty::default() });
            }
        }
    });
    Ok(names)
}

/// A stream of events, and the links at its start.
fn listen_to_underlays() -> netplumb::Result<(Monitor, NodeLinks)> {
    let netns = Netns::current()?;
    let monitor = Monitor::open(&netns, UNDERLAYS)?;
    let mut links = NodeLinks::default();
    for link in Netlink::open(&netns)?.links()? {
        links.changed(link, |_| false);
    }
    Ok((monitor, links))
}

/// The latest known names of the node's links, so that the old name of a renamed link is known.
#[derive(Default)]
struct NodeLinks(BTreeMap<u32, NodeLink>);

struct NodeLink {
    name: String,
    /// The lower link of a macvlan or macvtap.
    lower: Option<u32>,
}

impl NodeLinks {
    fn name(&self, index: u32) -> Option<&String> {
        self.0.get(&index).map(|link| &link.name)
    }

    /// Applies a change; returns whether it is about a link that `is_one` accepts, or about one that is or was on top
    /// of it.
    fn changed(&mut self, link: Link, is_one: impl Fn(Option<&String>) -> bool) -> bool {
        let lower = match &link.kind {
            LinkKind::Macvlan(_) | LinkKind::Macvtap(_) if link.lower_netnsid.is_none() => link.lower,
            _ => None,
        };
        let matters = |links: &Self, link: &NodeLink| {
            is_one(Some(&link.name)) || link.lower.is_some_and(|lower| is_one(links.name(lower)))
        };
        let now = NodeLink { name: link.name, lower };
        let did = self.0.get(&link.index).is_some_and(|before| matters(self, before));
        let does = matters(self, &now);
        self.0.insert(link.index, now);
        did || does
    }

    /// Removes a link; returns whether it was on top of one that `is_one` accepts.
    fn gone(&mut self, index: u32, is_one: impl Fn(Option<&String>) -> bool) -> bool {
        let lower = self.0.remove(&index).and_then(|link| link.lower);
        lower.is_some_and(|lower| is_one(self.name(lower)))
    }
}

fn is_any(names: &Mutex<BTreeSet<IfName>>, name: &str) -> bool {
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    names.iter().any(|wanted| *wanted == *name)
}
