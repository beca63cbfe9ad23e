//! The catalog of this node's devices for the kubelet: one resource per name of a spoke, from the node's status.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::handed_out::{self, HandedOut};
use crate::kubelet::{Catalog, DeviceHandle, Grant, Health, Offer, Refusal, SpokeProvider};
use proto::health::Metrics;
use proto::published::NodeStatus;
use proto::published::users;

/// The catalog of this node's spokes for the kubelet.
pub struct DeviceCatalog {
    status: watch::Receiver<Arc<NodeStatus>>,
    catalog: watch::Sender<Arc<Catalog>>,
    metrics: Arc<Metrics>,
    /// By which of its names each spoke was given out, if there are several, and whether there still are.
    k8slan_go: Option<(HandedOut, bool)>,
    /// Notified when a spoke is given out.
    handed_out: Notify,
}

impl DeviceCatalog {
    /// `k8slan_go`: which spokes were given out, and whether the names of k8slan (Go) are offered.
    pub fn new(
        status: watch::Receiver<Arc<NodeStatus>>,
        metrics: Arc<Metrics>,
        k8slan_go: Option<(HandedOut, bool)>,
    ) -> Self {
        Self {
            status,
            catalog: watch::channel(Arc::default()).0,
            metrics,
            k8slan_go,
            handed_out: Notify::new(),
        }
    }

    /// Keeps the catalog up to date with the status.
    pub async fn run(&self) {
        let mut status = self.status.clone();
        loop {
            let now = status.borrow_and_update().clone();
            let again = self.refresh(&now).await;
            let due = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                () = self.handed_out.notified() => {}
                () = due => {}
            }
        }
    }

    /// Updates the catalog; returns when to do it again although nothing changes.
    pub async fn refresh(&self, status: &NodeStatus) -> Option<Instant> {
        let (next, again) = match self.k8slan_go.as_ref().filter(|_| status.reconciled) {
            None => (catalog(status), None),
            Some((handed_out, offered)) => {
                let mut holders = handed_out.holders();
                let uses = users(status);
                let again = holders.update(|spoke| uses.contains_key(spoke));
                match *offered {
                    true => (handed_out::catalog(catalog(status), status, &holders), again),
                    false => (catalog(status), again),
                }
            }
        };
        self.catalog.send_if_modified(|catalog| {
            let changed = **catalog != next;
            if changed {
                *catalog = Arc::new(next);
            }
            changed
        });
        if let Some((handed_out, _)) = &self.k8slan_go {
            handed_out.save().await;
        }
        again
    }

    fn find_grant(&self, handed: &DeviceHandle) -> Result<Grant, Refusal> {
        let spoke = &handed.spoke;
        let status = Arc::clone(&self.status.borrow());
        let found =
            status.lans.iter().find_map(|lan| Some((lan, lan.spokes.iter().find(|s| s.name == *spoke)?)));
        let (lan, found) = found.ok_or_else(|| Refusal::Unknown(spoke.clone()))?;
        match (lan.mtu, &found.reason) {
            (Some(mtu), None) => {
                let attach = handed.attach.unwrap_or(found.attach);
                if let Some((handed_out, true)) = &self.k8slan_go {
                    handed_out.holders().hand_out(handed, found.used_by.is_some());
                    self.handed_out.notify_one();
                }
                Ok(Grant { attach, tap_index: found.tap_index, mtu })
            }
            (_, reason) => {
                let reason = reason.clone().unwrap_or_else(|| "its MTU is not known yet".to_owned());
                Err(Refusal::NotReady { spoke: spoke.clone(), reason })
            }
        }
    }
}

impl SpokeProvider for DeviceCatalog {
    fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }

    /// The status follows the kernel's events, so a LAN that it calls built is built.
    async fn grant(&self, handed: &DeviceHandle) -> Result<Grant, Refusal> {
        let start = Instant::now();
        let answer = self.find_grant(handed);
        // Recorded before the pod can be attached.
        if let (Ok(_), Some((handed_out, true))) = (&answer, &self.k8slan_go) {
            handed_out.save().await;
        }
        self.metrics.allocate.observe(start.elapsed());
        match answer {
            Ok(_) => self.metrics.allocations.increment(),
            Err(_) => self.metrics.allocations_refused.increment(),
        }
        answer
    }
}

fn catalog(status: &NodeStatus) -> Catalog {
    let spokes = status.lans.iter().flat_map(|lan| &lan.spokes);
    spokes
        .map(|spoke| {
            let health = match &spoke.reason {
                None => Health::Healthy,
                Some(reason) => Health::Unhealthy { reason: reason.clone() },
            };
            let handed = DeviceHandle::from(spoke.name.clone());
            (handed.resource.clone(), Offer { handed, health })
        })
        .collect()
}
