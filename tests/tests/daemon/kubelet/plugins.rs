//! The device plugins under test, on a thread of their own, with spokes that the test decides on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use agent::kubelet::{
    Catalog, DeviceHandle, DevicePlugins, Grant, Health, Offer, Refusal, ResourceName, SpokeProvider, Status,
};
use lan::TapIndices;
use net_types::{Attach, SpokeName};
use testnet::{Error, Stop, eventually};
use tokio::sync::{oneshot, watch};

/// Spokes without LANs.
pub(crate) struct FakeSpokes {
    catalog: watch::Sender<Arc<Catalog>>,
    grants: Mutex<BTreeMap<SpokeName, Result<Grant, Refusal>>>,
}

impl SpokeProvider for FakeSpokes {
    fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }

    async fn grant(&self, handed: &DeviceHandle) -> Result<Grant, Refusal> {
        let spoke = &handed.spoke;
        let grants = self.grants.lock().expect("no panic holds it");
        grants.get(spoke).cloned().unwrap_or_else(|| Err(Refusal::Unknown(spoke.clone())))
    }
}

impl FakeSpokes {
    pub(crate) fn new(names: &[&str]) -> Self {
        let spokes = Self { catalog: watch::channel(Arc::default()).0, grants: Mutex::default() };
        spokes.set(names);
        spokes
    }

    /// Makes these the node's spokes, all healthy, with macvtaps.
    pub(crate) fn set(&self, names: &[&str]) {
        let mut indices = TapIndices::default();
        let spokes: Vec<SpokeName> = names.iter().map(|name| name.parse().expect("a spoke")).collect();
        let grants = spokes.iter().map(|spoke| {
            let mtu = 1426.try_into().expect("an MTU");
            (spoke.clone(), Ok(Grant { attach: Attach::Macvtap, tap_index: indices.assign(spoke), mtu }))
        });
        *self.grants.lock().expect("no panic holds it") = grants.collect();
        let catalog = spokes.into_iter().map(|spoke| offer(spoke, Health::Healthy)).collect();
        self.catalog.send_replace(Arc::new(catalog));
    }

    pub(crate) fn health(&self, spoke: &str, health: Health) {
        self.catalog.send_modify(|catalog| {
            Arc::make_mut(catalog).extend([offer(spoke.parse().expect("a spoke"), health)]);
        });
    }

    pub(crate) fn grant_as(&self, spoke: &str, edit: impl FnOnce(&mut Result<Grant, Refusal>)) {
        let spoke = spoke.parse().expect("a spoke");
        edit(self.grants.lock().expect("no panic holds it").get_mut(&spoke).expect("a grant"));
    }

    pub(crate) fn tap_index(&self, spoke: &str) -> u32 {
        let spoke: SpokeName = spoke.parse().expect("a spoke");
        let grants = self.grants.lock().expect("no panic holds it");
        grants[&spoke].as_ref().expect("a grant").tap_index.get()
    }
}

/// A spoke's own resource.
fn offer(spoke: SpokeName, health: Health) -> (ResourceName, Offer) {
    let handed = DeviceHandle::from(spoke);
    (handed.resource.clone(), Offer { handed, health })
}

/// Running device plugins.
pub(crate) struct Plugins {
    pub(crate) spokes: Arc<FakeSpokes>,
    pub(crate) status: watch::Receiver<Status>,
    handle: tokio::runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Plugins {
    pub(crate) fn start(dir: &Path, names: &[&str]) -> Self {
        Self::start_with(dir.to_owned(), Arc::new(FakeSpokes::new(names)))
    }

    pub(crate) fn start_with(dir: PathBuf, spokes: Arc<FakeSpokes>) -> Self {
        let plugins = DevicePlugins::new(dir, Arc::clone(&spokes));
        let status = plugins.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        let thread = std::thread::spawn(move || {
            let stopped = async {
                let _ = stopped.await;
            };
            runtime.block_on(plugins.run(stopped)).expect("runs");
        });
        Self { spokes, status, handle, stop: Some(stop), thread: Some(thread) }
    }

    /// Tasks that live now.
    pub(crate) fn tasks(&self) -> usize {
        self.handle.metrics().num_alive_tasks()
    }

    /// Waits until the status is as it should be.
    pub(crate) fn wait(&self, limit: Duration, wanted: impl Fn(&Status) -> bool) -> Result<Duration, Error> {
        let start = std::time::Instant::now();
        eventually(limit, || {
            let status = self.status.borrow().clone();
            if wanted(&status) { Ok(start.elapsed()) } else { Err(format!("{status:?}")) }
        })
    }

    /// Ends as on SIGTERM.
    pub(crate) fn stop(mut self) -> Result<(), Stop> {
        self.end().map_err(|_| Stop::Failed("the device plugins panicked".into()))
    }

    fn end(&mut self) -> std::thread::Result<()> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Plugins {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
