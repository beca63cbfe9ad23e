use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use lan::NetnsName;
use net_types::IfName;
use netplumb::{Event, Groups, Monitor, Netns, NetnsId};
use tokio::task::AbortHandle;

use super::Wake;
use crate::lans::Dirty;

const LINKS: Groups = Groups { links: true, addresses: false, routes: false };

/// Listens in the namespaces of the LANs.
pub(crate) struct LanLinks {
    wake: Wake,
    listening: BTreeMap<NetnsName, (NetnsId, AbortHandle)>,
}

impl LanLinks {
    pub(crate) fn new(wake: Wake) -> Self {
        Self { wake, listening: BTreeMap::new() }
    }

    /// Listens in these namespaces and no others. What happened in a new one before is looked for, since
    /// nobody heard of it.
    pub(crate) fn listen_in(&mut self, namespaces: &BTreeMap<NetnsName, Netns>) {
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

impl Drop for LanLinks {
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
                // The next pass opens another stream.
                wake.mark(dirty);
                return;
            }
        }
    }
}

/// Listens in the node's own namespace, for the devices that are underlays. Returns where to say which
/// these are.
///
/// # Errors
/// The stream cannot be opened.
pub(crate) fn watch_underlays(wake: Wake) -> anyhow::Result<Arc<Mutex<BTreeSet<IfName>>>> {
    let names = Arc::new(Mutex::new(BTreeSet::new()));
    let mut monitor = Monitor::open(&Netns::current()?, LINKS)?;
    let watched = Arc::clone(&names);
    tokio::spawn(async move {
        // The names that devices had, so that a renamed one is missed under its old name.
        let mut indexes = BTreeMap::new();
        loop {
            let (matters, end) = match monitor.next().await {
                Ok(Event::Link(link)) => {
                    let before = indexes.insert(link.index, link.name.clone());
                    let renamed = before.filter(|name| *name != link.name);
                    (
                        is_any(&watched, &link.name) || renamed.is_some_and(|name| is_any(&watched, &name)),
                        false,
                    )
                }
                Ok(Event::LinkGone { index, name }) => {
                    indexes.remove(&index);
                    (is_any(&watched, &name), false)
                }
                Ok(Event::Lost) => (true, false),
                Ok(_) => (false, false),
                Err(error) => {
                    tracing::error!("the events of the node's links ended: {error}");
                    (true, true)
                }
            };
            if matters {
                wake.mark(Dirty { underlays: true, ..Dirty::default() });
            }
            if end {
                match Netns::current().and_then(|netns| Monitor::open(&netns, LINKS)) {
                    Ok(again) => monitor = again,
                    Err(error) => {
                        tracing::error!("cannot listen for changes of the underlays any more: {error}");
                        return;
                    }
                }
            }
        }
    });
    Ok(names)
}

fn is_any(names: &Mutex<BTreeSet<IfName>>, name: &str) -> bool {
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    names.iter().any(|wanted| *wanted == *name)
}
