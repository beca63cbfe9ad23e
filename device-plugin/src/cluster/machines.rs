//! Which virtual machines are no more, of those that this node keeps addresses for.

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
use crate::events::{FileWatch, Folder, Wake};
use crate::health::ApiMetrics;
use crate::kept_vms::{self, GONE, KEPT, Vms};
use crate::lans::Dirty;

/// A machine may be stopped for months; it is asked about less and less often.
const LAST_PAUSE: Duration = Duration::from_secs(6 * 60 * 60);

/// Asks the API server about machines.
pub(crate) struct Machines {
    client: Client,
    told: PathBuf,
    list: SafeDir,
    grace: Duration,
    metrics: Arc<ApiMetrics>,
}

impl Machines {
    /// `told` is the folder where the node's part says what it keeps; `list` the folder for the answer. A machine
    /// is gone when it is missing twice, at least a grace apart.
    pub(crate) fn new(
        client: Client,
        told: PathBuf,
        list: SafeDir,
        grace: Duration,
        metrics: Arc<ApiMetrics>,
    ) -> Self {
        Self { client, told, list, grace, metrics }
    }

    /// Asks when something is kept for another machine, and then with longer and longer pauses.
    ///
    /// # Errors
    /// The folder cannot be watched, or the answer not be written.
    pub(crate) async fn run(self) -> Result<()> {
        let wake = Wake::default();
        let news = Dirty { names: true, ..Dirty::default() };
        let files = FileWatch::start(vec![Folder::new(&self.told, |name| name == KEPT, news)], wake.clone())?;
        let mut asked = Vms::new();
        let mut pause = self.grace;
        let mut missing: BTreeMap<String, Instant> = BTreeMap::new();
        // What an earlier life found out may not be so any more.
        kept_vms::write(&self.list, GONE, &Vms::new())?;
        loop {
            files.place();
            wake.take();
            let kept = self.kept();
            if kept != asked {
                pause = self.grace;
                missing.retain(|vm, _| kept.contains(vm));
                asked.clone_from(&kept);
            }
            for vm in &kept {
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
            kept_vms::write(&self.list, GONE, &gone.map(|(vm, _)| vm.clone()).collect())?;
            let again = async {
                match kept.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                () = wake.wait() => {}
                () = again => pause = (pause * 2).min(LAST_PAUSE),
            }
        }
    }

    fn kept(&self) -> Vms {
        let kept = SafeDir::open(&self.told).map_err(anyhow::Error::from);
        let kept = kept.and_then(|dir| dir.map_or(Ok(Vms::new()), |dir| kept_vms::read(&dir, KEPT)));
        kept.unwrap_or_else(|error| {
            tracing::warn!("what addresses are kept for cannot be read: {error:#}");
            Vms::new()
        })
    }

    /// Whether there is a VirtualMachine of that name, or an instance without one.
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
                // An API server that knows no such kind says 404, too, and names no object: KubeVirt is being
                // replaced, or this is not its cluster.
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
        for list in [KEPT, GONE] {
            folder().write(list, br#"["a/vm"]"#, Durability::UntilReboot).unwrap();
        }
        // An API server that takes the question, and never answers.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let client = Client::try_from(kube::Config::new(uri)).unwrap();
        let (told, metrics) = (dir.path().to_owned(), Arc::new(ApiMetrics::default()));
        let machines = Machines::new(client, told, folder(), Duration::from_secs(60), metrics);
        let asked = async { listener.accept().await.map(drop) };
        tokio::select! {
            asked = asked => asked.unwrap(),
            ended = machines.run() => panic!("{ended:?}"),
        }
        assert_eq!(kept_vms::read(&folder(), GONE).unwrap(), Vms::new());
    }
}
