//! One daemon of all is the leader: whoever holds the Lease.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::chain;

/// The name of the leader's lease.
pub const LEASE: &str = "k8slan-leader";

/// How long a leader may be silent, and how often it is looked after.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// After this long without a renewal, another one takes over.
    pub lease: Duration,
    /// How often the leader renews.
    pub renew: Duration,
    /// How often the others look.
    pub look: Duration,
}

impl Default for Timing {
    /// Leading is not urgent: nodes build and report without a leader. So 200 nodes ask for the lease five
    /// times a second in all, and not two hundred times.
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), renew: Duration::from_secs(15), look: Duration::from_secs(40) }
    }
}

/// A candidate.
pub struct Election {
    api: Api<DynamicObject>,
    resource: ApiResource,
    name: String,
    identity: String,
    timing: Timing,
}

enum ElectionOutcome {
    Won(Box<DynamicObject>),
    /// To be tried again after this long.
    Later(Duration),
}

/// Leases.
pub(super) fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease");
    ApiResource::from_gvk_with_plural(&kind, "leases")
}

/// What was seen of somebody else's lease, and when it was seen to change.
struct LeaseObservation {
    version: String,
    at: Instant,
}

impl Election {
    /// A candidate for the Lease `name` in `namespace`; `identity` is the node's name.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        let resource = resource();
        let api = Api::namespaced_with(client, namespace, &resource);
        Self { api, resource, name: name.to_owned(), identity: identity.to_owned(), timing }
    }

    /// Stands for election until `stop` is done, and does the duty while it leads. When it stops it gives the
    /// lease back, so that nobody has to wait for it.
    pub async fn run<F: Future<Output = ()>>(&self, duty: impl Fn() -> F, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut sighting = None;
        loop {
            let wait = match self.attempt(&mut sighting).await {
                Ok(ElectionOutcome::Won(lease)) => {
                    tracing::info!(node = self.identity, "this node leads now");
                    let mut lease = *lease;
                    tokio::select! {
                        () = &mut stop => {
                            self.release(lease).await;
                            return;
                        }
                        () = duty() => {}
                        () = self.renew(&mut lease) => {}
                    }
                    tracing::info!(node = self.identity, "this node leads no more");
                    self.timing.renew
                }
                Ok(ElectionOutcome::Later(wait)) => wait,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot look after the leader's lease");
                    self.timing.look
                }
            };
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn attempt(&self, sighting: &mut Option<LeaseObservation>) -> Result<ElectionOutcome, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = self.held(DynamicObject::new(&self.name, &self.resource), 0);
            return self.won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = &lease.data["spec"];
        let holder = spec["holderIdentity"].as_str().unwrap_or_default().to_owned();
        let transitions = spec["leaseTransitions"].as_i64().unwrap_or_default();
        let free = holder.is_empty() || holder == self.identity;
        if !free {
            // Clocks of two nodes differ: a lease is dead when it has not changed for its time on ours.
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let at = match &sighting {
                Some(seen) if seen.version == version => seen.at,
                _ => Instant::now(),
            };
            *sighting = Some(LeaseObservation { version, at });
            let lasts = spec["leaseDurationSeconds"].as_f64().unwrap_or_default();
            let lasts = Duration::try_from_secs_f64(lasts).unwrap_or(self.timing.lease);
            let left = lasts.saturating_sub(at.elapsed());
            if !left.is_zero() {
                return Ok(ElectionOutcome::Later(left.min(self.timing.look)));
            }
        }
        let transitions = if holder == self.identity { transitions } else { transitions + 1 };
        let lease = self.held(lease, transitions);
        self.won(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// Somebody else may have been faster.
    fn won(&self, answer: Result<DynamicObject, kube::Error>) -> Result<ElectionOutcome, kube::Error> {
        match answer {
            Ok(lease) => Ok(ElectionOutcome::Won(Box::new(lease))),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Ok(ElectionOutcome::Later(self.timing.look))
            }
            Err(error) => Err(error),
        }
    }

    fn held(&self, mut lease: DynamicObject, transitions: i64) -> DynamicObject {
        let now = format!("{:.6}", Timestamp::now());
        // A lease counts in whole seconds.
        let seconds = self.timing.lease.as_secs().max(1);
        let acquired = match &lease.data["spec"] {
            spec if spec["holderIdentity"] == json!(self.identity) => spec["acquireTime"].clone(),
            _ => Value::Null,
        };
        let acquired = if acquired.is_null() { json!(now) } else { acquired };
        lease.data["spec"] = json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": seconds,
            "acquireTime": acquired,
            "renewTime": now,
            "leaseTransitions": transitions,
        });
        lease
    }

    /// Renews until the lease is somebody else's, or nothing was heard for most of its time: whoever waits for
    /// it counts from the last renewal as well.
    async fn renew(&self, lease: &mut DynamicObject) {
        let mut renewed = Instant::now();
        let timeout = self.timing.lease.mul_f32(0.7);
        loop {
            tokio::time::sleep(self.timing.renew).await;
            let transitions = lease.data["spec"]["leaseTransitions"].as_i64().unwrap_or_default();
            let next = self.held(lease.clone(), transitions);
            let params = PostParams::default();
            let answer =
                tokio::time::timeout(self.timing.renew, self.api.replace(&self.name, &params, &next));
            match answer.await {
                Ok(Ok(held)) => {
                    *lease = held;
                    renewed = Instant::now();
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => return,
                Ok(Err(error)) => {
                    tracing::warn!(error = chain(&error), "cannot renew the leader's lease");
                }
                Err(_) => tracing::warn!("the API server does not answer about the leader's lease"),
            }
            if renewed.elapsed() + self.timing.renew > timeout {
                return;
            }
        }
    }

    async fn release(&self, mut lease: DynamicObject) {
        lease.data["spec"]["holderIdentity"] = Value::Null;
        lease.data["spec"]["leaseDurationSeconds"] = json!(1);
        let params = PostParams::default();
        let answer = self.api.replace(&self.name, &params, &lease);
        // Nothing depends on it: without it, the next one waits for the lease to end.
        if !matches!(tokio::time::timeout(Duration::from_secs(2), answer).await, Ok(Ok(_))) {
            tracing::debug!("the leader's lease was not given back");
        }
    }
}
