//! By which of its names each spoke was given out, if it also has names of k8slan (Go).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use net_types::{Attach, SpokeName};
use node::{Durability, SafeDir};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::kubelet::{Catalog, DeviceHandle, Health, Offer, ResourceName, resource_name};
use proto::k8slan_go::{Name, VETH, names, unambiguous};
use proto::published::NodeStatus;
use proto::published::{holds, users};

/// The catalog with the names of k8slan (Go) for spokes of accepted LANs. If a spoke is held, only the name that it
/// was given out by is healthy, so that the scheduler places no other pod here for it.
pub fn catalog(own: Catalog, status: &NodeStatus, holders: &SpokeHolders) -> Catalog {
    let taken: BTreeSet<&str> = own.keys().map(ResourceName::as_str).collect();
    let accepted = status.lans.iter().filter(|lan| holds(lan, lan::ACCEPTED));
    let named = accepted.flat_map(|lan| {
        lan.spokes.iter().flat_map(|spoke| {
            let offered = move |name: &Name| match name.attach {
                Attach::Macvtap => spoke.attach == Attach::Macvtap,
                Attach::Veth => spoke.k8slanveth,
            };
            names(lan.lan.name(), &spoke.name)
                .into_iter()
                .filter(offered)
                .map(move |name| (name.name, (spoke, name.attach)))
        })
    });
    let added: Catalog = unambiguous(named, &taken)
        .into_iter()
        .filter_map(|(name, (spoke, attach))| {
            // A name that is too long for a resource cannot be requested.
            let resource = ResourceName::new(&name)?;
            let health = own.get(&ResourceName::from(&spoke.name))?.health.clone();
            let handed =
                DeviceHandle { resource: resource.clone(), spoke: spoke.name.clone(), attach: Some(attach) };
            Some((resource, Offer { handed, health }))
        })
        .collect();
    let users = users(status);
    let mut catalog = own;
    catalog.extend(added);
    for (resource, offer) in &mut catalog {
        let spoke = &offer.handed.spoke;
        if offer.health == Health::Healthy
            && let Some(holder) =
                holders.holder(spoke, users.contains_key(spoke)).filter(|holder| holder != resource)
        {
            let user = users.get(spoke).copied().unwrap_or("a pod that is about to be attached");
            let reason = format!("spoke {spoke} is in use by {user}, as {}", resource_name(&holder));
            offer.health = Health::Unhealthy { reason };
        }
    }
    catalog
}

/// By which of its names each spoke was given out. Kept over restarts of the daemon, which the pods survive, in a
/// file that the installer reads too.
pub struct HandedOut {
    holders: Mutex<SpokeHolders>,
    /// The contents of the file; the lock is for one writer at a time.
    written: tokio::sync::Mutex<HandedOutFile>,
    dir: Arc<SafeDir>,
}

/// The held spokes, with the names that they are held by.
pub struct SpokeHolders(BTreeMap<SpokeName, HeldName>);

#[derive(Clone, Debug)]
struct HeldName {
    resource: ResourceName,
    /// How long it counts although no pod is attached.
    until: Instant,
    /// The name by which it was given out while a pod still had it by another one, which the kubelet did not know
    /// yet.
    next: Option<ResourceName>,
}

/// The contents of the file: the resource of each spoke.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
struct HandedOutFile(BTreeMap<String, String>);

/// The name of the file in the state folder.
const HANDED_OUT_FILE: &str = "handed-out.json";

/// The longest time from Allocate to the pod's ADD; after that the kubelet has given up.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);

impl HandedOut {
    /// Reads what the daemon recorded before its restart.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(state: &Path) -> Result<Self> {
        let dir = SafeDir::create(state)?;
        let text = dir.read(HANDED_OUT_FILE).context("read which spokes were handed out")?;
        // A file that cannot be parsed is replaced; until then, a used spoke counts as given out by its own name.
        let kept: HandedOutFile =
            text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let known = |(spoke, resource): (&String, &String)| {
            let holder =
                HeldName { resource: ResourceName::new(resource)?, until: Instant::now(), next: None };
            Some((spoke.parse().ok()?, holder))
        };
        let holders = Mutex::new(SpokeHolders(kept.0.iter().filter_map(known).collect()));
        Ok(Self { holders, written: tokio::sync::Mutex::new(kept), dir: Arc::new(dir) })
    }

    /// Whether there is anything to keep although these names are not offered any more.
    pub fn is_kept(state: &Path) -> bool {
        state.join(HANDED_OUT_FILE).exists()
    }

    /// Whether there may be pods that were attached by the type `k8slanveth`.
    pub fn any_veth(state: &Path) -> bool {
        let Ok(Some(dir)) = SafeDir::open(state) else { return true };
        match dir.read(HANDED_OUT_FILE) {
            Ok(None) => false,
            Ok(Some(text)) => serde_json::from_slice(&text)
                .map_or(true, |HandedOutFile(kept)| kept.values().any(|resource| resource.starts_with(VETH))),
            Err(_) => true,
        }
    }

    /// The name by which each spoke is held now.
    pub fn holders(&self) -> MutexGuard<'_, SpokeHolders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the file if it changed, on a thread where a slow disk delays nothing else.
    pub async fn save(&self) {
        let mut written = self.written.lock().await;
        let kept = self.holders().to_file();
        if kept == *written {
            return;
        }
        let (dir, text) = (Arc::clone(&self.dir), kept.clone());
        let saved = tokio::task::spawn_blocking(move || text.write(&dir)).await;
        match saved.map_err(anyhow::Error::from).and_then(|saved| saved) {
            Ok(()) => *written = kept,
            Err(error) => {
                tracing::warn!(
                    "after a restart, names of spokes may be healthy that are not free: {error:#}"
                );
            }
        }
    }
}

impl HandedOutFile {
    fn write(&self, dir: &SafeDir) -> Result<()> {
        match self.0.is_empty() {
            true => dir.remove(HANDED_OUT_FILE)?,
            false => {
                let text = serde_json::to_vec(self).context("write which spokes were handed out")?;
                dir.write(HANDED_OUT_FILE, &text, Durability::Kept)?;
            }
        }
        Ok(())
    }
}

impl SpokeHolders {
    /// Records that a spoke was given out. `used`: a pod has it.
    pub fn hand_out(&mut self, handed: &DeviceHandle, used: bool) {
        let until = Instant::now() + ATTACH_TIMEOUT;
        let now = Instant::now();
        let before = || HeldName { resource: (&handed.spoke).into(), until: now, next: None };
        let holder = self.0.entry(handed.spoke.clone()).or_insert_with(before);
        if (used || holder.until > now) && holder.resource != handed.resource {
            holder.next = Some(handed.resource.clone());
        } else {
            *holder = HeldName { resource: handed.resource.clone(), until, next: None };
        }
    }

    /// Applies which spokes are used; returns when one that is not used will become free without another event.
    pub fn update(&mut self, used: impl Fn(&SpokeName) -> bool) -> Option<Instant> {
        let now = Instant::now();
        // The pod that it was given out for is attached: it is free as soon as that pod is gone.
        for (_, holder) in self.0.iter_mut().filter(|(spoke, _)| used(spoke)) {
            holder.until = holder.until.min(now);
        }
        let given_up = |(spoke, holder): &(&SpokeName, &mut HeldName)| !used(spoke) && holder.until <= now;
        for (_, holder) in self.0.iter_mut().filter(given_up) {
            if let Some(next) = holder.next.take() {
                (holder.resource, holder.until) = (next, now + ATTACH_TIMEOUT);
            }
        }
        self.0.retain(|spoke, holder| used(spoke) || holder.until > now);
        let unused = self.0.iter().filter(|(spoke, holder)| !used(spoke) && holder.until > now);
        unused.map(|(_, holder)| holder.until).min()
    }

    /// The name by which a spoke is held, if it is held.
    fn holder(&self, spoke: &SpokeName, used: bool) -> Option<ResourceName> {
        match self.0.get(spoke) {
            Some(holder) => (used || holder.until > Instant::now()).then(|| holder.resource.clone()),
            // It was attached before the names of k8slan (Go) were offered.
            None => used.then(|| spoke.into()),
        }
    }

    fn to_file(&self) -> HandedOutFile {
        let text =
            |(spoke, holder): (&SpokeName, &HeldName)| (spoke.to_string(), holder.resource.to_string());
        HandedOutFile(self.0.iter().map(text).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::SpokeProvider as _;

    fn status(lans: &[(&str, &[&str])], used: Option<&str>) -> NodeStatus {
        let lans: Vec<_> = lans
            .iter()
            .map(|(lan, spokes)| {
                let spokes: Vec<_> = spokes
                    .iter()
                    .map(|spoke| {
                        let mut status = serde_json::json!({
                            "name": spoke, "attach": "macvtap", "tapIndex": 1_073_741_824, "k8slanveth": true, "ready": true,
                        });
                        if used == Some(*spoke) {
                            status["usedBy"] = "web/srl".into();
                        }
                        status
                    })
                    .collect();
                serde_json::json!({
                    "lan": format!("k8slan-system/{lan}"), "mtu": 1426, "spokes": spokes,
                    "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}],
                })
            })
            .collect();
        let status: NodeStatus =
            serde_json::from_value(serde_json::json!({"node": "worker1", "lans": lans})).unwrap();
        NodeStatus { reconciled: true, ..status }
    }

    struct Node {
        dir: tempfile::TempDir,
        sender: tokio::sync::watch::Sender<Arc<NodeStatus>>,
        spokes: crate::device_catalog::DeviceCatalog,
    }

    impl Node {
        fn new(first: NodeStatus) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let sender = tokio::sync::watch::channel(Arc::new(first)).0;
            let holders = HandedOut::open(&dir.path().join("run")).unwrap();
            let spokes = crate::device_catalog::DeviceCatalog::new(
                sender.subscribe(),
                Arc::default(),
                Some((holders, true)),
            );
            Self { dir, sender, spokes }
        }

        fn state(&self) -> std::path::PathBuf {
            self.dir.path().join("run")
        }

        fn restarted(self) -> Self {
            let holders = HandedOut::open(&self.dir.path().join("run")).unwrap();
            let spokes = crate::device_catalog::DeviceCatalog::new(
                self.sender.subscribe(),
                Arc::default(),
                Some((holders, true)),
            );
            Self { spokes, ..self }
        }

        /// The healthy names after this status was applied.
        async fn healthy(&self, status: NodeStatus) -> Vec<String> {
            self.sender.send_replace(Arc::new(status.clone()));
            self.spokes.refresh(&status).await;
            let catalog = self.spokes.catalog().borrow().clone();
            catalog
                .iter()
                .filter(|(_, offer)| offer.health == Health::Healthy)
                .map(|(name, _)| name.to_string())
                .collect()
        }

        async fn allocate(&self, name: &str) -> Attach {
            let handed = self.spokes.catalog().borrow()[&ResourceName::new(name).unwrap()].handed.clone();
            self.spokes.grant(&handed).await.unwrap().attach
        }
    }

    const ALL: [&str; 5] =
        ["k8slan-mac-lan-srl", "k8slan-mac-srl", "k8slan-veth-lan-srl", "k8slan-veth-srl", "srl"];

    fn one(used: bool) -> NodeStatus {
        status(&[("lan", &["srl"])], used.then_some("srl"))
    }

    #[tokio::test(start_paused = true)]
    async fn one_name_is_handed_out_and_the_others_are_taken() {
        let node = Node::new(one(false));
        assert_eq!(node.healthy(one(false)).await, ALL);
        assert_eq!(node.allocate("k8slan-veth-srl").await, Attach::Veth);
        assert!(HandedOut::any_veth(&node.state()), "the installer knows before the pod is there");
        assert_eq!(node.healthy(one(false)).await, ["k8slan-veth-srl"], "before the pod is attached");
        assert_eq!(node.healthy(one(true)).await, ["k8slan-veth-srl"]);
        tokio::time::advance(ATTACH_TIMEOUT).await;
        let node = node.restarted();
        assert!(HandedOut::any_veth(&node.state()));
        assert_eq!(node.healthy(one(true)).await, ["k8slan-veth-srl"], "after a restart of the daemon");
        assert_eq!(node.healthy(one(false)).await, ALL);
        assert!(!HandedOut::any_veth(&node.state()), "the pod is gone");
        assert_eq!(node.allocate("k8slan-mac-lan-srl").await, Attach::Macvtap);
        assert_eq!(node.healthy(one(false)).await, ["k8slan-mac-lan-srl"]);
        tokio::time::advance(ATTACH_TIMEOUT).await;
        assert_eq!(node.healthy(one(false)).await, ALL, "a pod that never came");
    }

    /// The DEL of such a pod needs the plugin.
    #[tokio::test(start_paused = true)]
    async fn a_pod_is_remembered_though_its_spoke_was_removed() {
        let node = Node::new(one(false));
        node.healthy(one(false)).await;
        node.allocate("k8slan-veth-srl").await;
        node.healthy(one(true)).await;
        let mut removed = status(&[("lan", &[])], None);
        removed.lans[0].removed_spokes =
            serde_json::from_value(serde_json::json!([{"name": "srl", "usedBy": "web/srl"}])).unwrap();
        node.healthy(removed).await;
        assert!(HandedOut::any_veth(&node.state()));
        node.healthy(status(&[("lan", &[])], None)).await;
        assert!(!HandedOut::any_veth(&node.state()), "the pod is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_attached_before_has_the_spokes_own_name() {
        let node = Node::new(one(true));
        assert_eq!(node.healthy(one(true)).await, ["srl"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_waits_is_the_next_holder() {
        let node = Node::new(one(false));
        node.healthy(one(false)).await;
        node.allocate("k8slan-mac-srl").await;
        // The kubelet did not know that it was taken; the pod's ADD waits.
        node.allocate("k8slan-veth-srl").await;
        assert_eq!(node.healthy(one(false)).await, ["k8slan-mac-srl"], "whoever was first is attached first");
        assert_eq!(node.healthy(one(true)).await, ["k8slan-mac-srl"]);
        assert_eq!(node.healthy(one(false)).await, ["k8slan-veth-srl"]);
        assert_eq!(node.healthy(one(true)).await, ["k8slan-veth-srl"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_of_two_spokes_is_nobodys() {
        let lans = status(&[("a", &["b-c", "x"]), ("a-b", &["c", "k8slan-mac-x"])], None);
        let node = Node::new(lans.clone());
        let healthy = node.healthy(lans).await;
        for gone in ["k8slan-mac-a-b-c", "k8slan-veth-a-b-c"] {
            assert!(!healthy.contains(&gone.to_owned()), "{gone} of {healthy:?}");
        }
        for there in ["k8slan-mac-b-c", "k8slan-mac-c", "k8slan-veth-x", "k8slan-mac-x"] {
            assert!(healthy.contains(&there.to_owned()), "{there} of {healthy:?}");
        }
        let catalog = node.spokes.catalog().borrow().clone();
        let own = &catalog[&ResourceName::new("k8slan-mac-x").unwrap()].handed;
        assert_eq!(own.spoke.as_str(), "k8slan-mac-x", "a spoke's own name stays its own");
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_a_spoke_can_be_is_offered() {
        let mut held = one(false);
        held.lans[0].spokes[0].k8slanveth = false;
        let node = Node::new(held.clone());
        assert_eq!(node.healthy(held).await, ["k8slan-mac-lan-srl", "k8slan-mac-srl", "srl"]);
        let mut veth = one(false);
        veth.lans[0].spokes[0].attach = Attach::Veth;
        assert_eq!(node.healthy(veth).await, ["k8slan-veth-lan-srl", "k8slan-veth-srl", "srl"]);
        let mut long = one(false);
        long.lans[0].lan = format!("k8slan-system/{}", "l".repeat(60)).parse().unwrap();
        assert_eq!(node.healthy(long).await, ["k8slan-mac-srl", "k8slan-veth-srl", "srl"]);
    }
}
