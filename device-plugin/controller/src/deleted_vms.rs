//! Which of the virtual machines that this node keeps addresses for were deleted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kube::core::{ApiResource, GroupVersionKind, PartialObjectMeta};
use kube::{Api, Client};
use node::SafeDir;
use tokio::time::Instant;

use super::chain;
use proto::events::{Dirty, FileWatch, Wake, WatchedFolder};
use proto::health::ApiMetrics;
use proto::published::sticky_vms::{self, DELETED_VMS_FILE, STICKY_VMS_FILE, VmNames};

/// A machine may be stopped for months, so the pauses between requests grow up to this.
const MAX_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);

/// Asks the API server whether virtual machines exist.
pub struct DeletedVms {
    client: Client,
    published: PathBuf,
    list: SafeDir,
    grace: Duration,
    metrics: Arc<ApiMetrics>,
}

impl DeletedVms {
    /// `published` is the folder in which the node's part lists the machines, `list` the folder for the answer. A
    /// machine counts as deleted when it is missing twice, at least a grace period apart.
    pub fn new(
        client: Client,
        published: PathBuf,
        list: SafeDir,
        grace: Duration,
        metrics: Arc<ApiMetrics>,
    ) -> Self {
        Self { client, published, list, grace, metrics }
    }

    /// Asks when an address is kept for another machine, and otherwise with longer and longer pauses.
    ///
    /// # Errors
    /// The folder cannot be watched, or the answer cannot be written.
    pub async fn run(self) -> Result<()> {
        let wake = Wake::default();
        let changed = Dirty { names: true, ..Dirty::default() };
        let files = FileWatch::start(
            vec![WatchedFolder::new(&self.published, |name| name == STICKY_VMS_FILE, changed)],
            wake.clone(),
        )?;
        let mut asked = VmNames::new();
        let mut pause = self.grace;
        let mut missing: BTreeMap<String, Instant> = BTreeMap::new();
        // The answer of an earlier process may be outdated.
        sticky_vms::write(&self.list, DELETED_VMS_FILE, &VmNames::new())?;
        loop {
            files.add_missing_watches();
            wake.take_changes();
            let sticky = self.read_sticky_vms();
            if sticky != asked {
                pause = self.grace;
                missing.retain(|vm, _| sticky.contains(vm));
                asked.clone_from(&sticky);
            }
            for vm in &sticky {
                match self.exists(vm).await {
                    Ok(true) => drop(missing.remove(vm)),
                    Ok(false) => drop(missing.entry(vm.clone()).or_insert_with(Instant::now)),
                    Err(error) => {
                        self.metrics.pod_errors.increment();
                        tracing::warn!(vm, error = chain(&error), "cannot ask whether the machine exists");
                    }
                }
            }
            let gone = missing.iter().filter(|(_, since)| since.elapsed() >= self.grace);
            sticky_vms::write(&self.list, DELETED_VMS_FILE, &gone.map(|(vm, _)| vm.clone()).collect())?;
            let again = async {
                match sticky.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                () = wake.wait() => {}
                () = again => pause = (pause * 2).min(MAX_INTERVAL),
            }
        }
    }

    fn read_sticky_vms(&self) -> VmNames {
        let sticky = SafeDir::open(&self.published).map_err(anyhow::Error::from);
        let sticky = sticky
            .and_then(|dir| dir.map_or(Ok(VmNames::new()), |dir| sticky_vms::read(&dir, STICKY_VMS_FILE)));
        sticky.unwrap_or_else(|error| {
            tracing::warn!("what addresses are kept for cannot be read: {error:#}");
            VmNames::new()
        })
    }

    /// Whether there is a VirtualMachine of that name, or a VirtualMachineInstance without one.
    async fn exists(&self, vm: &str) -> Result<bool, kube::Error> {
        let Some((namespace, name)) = vm.split_once('/') else { return Ok(true) };
        for (kind, plural) in
            [("VirtualMachine", "virtualmachines"), ("VirtualMachineInstance", "virtualmachineinstances")]
        {
            let kind = GroupVersionKind::gvk("kubevirt.io", "v1", kind);
            let resource = ApiResource::from_gvk_with_plural(&kind, plural);
            let api: Api<PartialObjectMeta> = Api::namespaced_with(self.client.clone(), namespace, &resource);
            match api.get(name).await {
                Ok(_) => return Ok(true),
                // If the API server does not know the kind, it also answers 404, but names no object: KubeVirt is
                // being replaced, or this is not its cluster.
                Err(kube::Error::Api(status))
                    if status.code == 404
                        && status.details.as_ref().is_some_and(|details| details.name == name) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use node::Durability;

    use super::*;

    #[tokio::test]
    async fn what_an_earlier_life_said_is_not_said_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = || SafeDir::create(dir.path()).unwrap();
        for list in [STICKY_VMS_FILE, DELETED_VMS_FILE] {
            folder().write(list, br#"["a/vm"]"#, Durability::UntilReboot).unwrap();
        }
        // An API server that accepts the request and never answers.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let client = Client::try_from(kube::Config::new(uri)).unwrap();
        let (published, metrics) = (dir.path().to_owned(), Arc::new(ApiMetrics::default()));
        let machines = DeletedVms::new(client, published, folder(), Duration::from_secs(60), metrics);
        let asked = async { listener.accept().await.map(drop) };
        tokio::select! {
            asked = asked => asked.unwrap(),
            ended = machines.run() => panic!("{ended:?}"),
        }
        assert_eq!(sticky_vms::read(&folder(), DELETED_VMS_FILE).unwrap(), VmNames::new());
    }
}
