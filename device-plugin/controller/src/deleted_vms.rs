//! Which of the virtual machines that this node keeps addresses for were deleted.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use kube::core::{ApiResource, GroupVersionKind, PartialObjectMeta};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

use super::chain;
use proto::health::ApiMetrics;
use proto::link::{Kind, Object, ObjectKey, SnapshotCache};
use proto::published::VmNames;

/// A machine may be stopped for months, so the pauses between requests grow up to this.
const MAX_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);

/// Asks the API server whether virtual machines exist.
pub struct DeletedVms {
    client: Client,
    sticky: watch::Receiver<VmNames>,
    cache: SnapshotCache,
    grace: Duration,
    metrics: Arc<ApiMetrics>,
}

impl DeletedVms {
    /// `sticky` are the machines that the node keeps addresses for; the answer goes into `cache`. A machine counts as
    /// deleted when it is missing twice, at least a grace period apart.
    pub fn new(
        client: Client,
        sticky: watch::Receiver<VmNames>,
        cache: SnapshotCache,
        grace: Duration,
        metrics: Arc<ApiMetrics>,
    ) -> Self {
        Self { client, sticky, cache, grace, metrics }
    }

    /// Asks when an address is kept for another machine, and otherwise with longer and longer pauses.
    pub async fn run(mut self) -> Infallible {
        let mut asked = VmNames::new();
        let mut pause = self.grace;
        let mut missing: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let sticky = self.sticky.borrow_and_update().clone();
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
            let gone = |vm: &str| missing.get(vm).is_some_and(|since| since.elapsed() >= self.grace);
            missing.keys().filter(|vm| gone(vm)).for_each(|vm| self.cache.put(Object::DeletedVm(vm.clone())));
            self.cache.complete(Kind::DeletedVm, |key| matches!(key, ObjectKey::DeletedVm(vm) if gone(vm)));
            let again = async {
                match sticky.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                Ok(()) = self.sticky.changed() => {}
                () = again => pause = (pause * 2).min(MAX_INTERVAL),
            }
        }
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
    use super::*;

    #[tokio::test]
    async fn a_machine_that_nobody_answers_for_is_not_deleted() {
        // An API server that accepts the request and never answers.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let client = Client::try_from(kube::Config::new(uri)).unwrap();
        let (_sender, sticky) = watch::channel(VmNames::from(["a/vm".to_owned()]));
        let cache = SnapshotCache::default();
        let metrics = Arc::new(ApiMetrics::default());
        let machines = DeletedVms::new(client, sticky, cache.clone(), Duration::ZERO, metrics);
        let asked = async { listener.accept().await.map(drop) };
        tokio::select! {
            asked = asked => asked.unwrap(),
            never = machines.run() => match never {},
        }
        assert_eq!(cache.get(&ObjectKey::DeletedVm("a/vm".into())), None);
    }
}
