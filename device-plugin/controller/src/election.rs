//! One of all daemons is the leader: the holder of the Lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use tokio::time::Instant;

use super::chain;

pub const LEASE: &str = "k8slan-leader";

/// How long the leader may be silent, and how often the Lease is renewed and read.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// After this long without a renewal, another one takes over.
    pub lease: Duration,
    /// The pause between two renewals by the leader.
    pub renew: Duration,
    /// The pause between two reads by the others.
    pub look: Duration,
}

impl Default for Timing {
    /// Leading is not urgent: nodes build and report without a leader. So 200 nodes read the Lease five times a
    /// second in all, and not two hundred times.
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), renew: Duration::from_secs(15), look: Duration::from_secs(40) }
    }
}

/// One daemon's part in the election.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
}

enum ElectionOutcome {
    Won(Box<Lease>),
    /// To be tried again after this time.
    Later(Duration),
}

/// Another daemon's Lease, and when this one saw it change.
struct LeaseObservation {
    version: String,
    at: Instant,
}

impl Election {
    /// A candidate for the Lease `name` in `namespace`; `identity` is the node's name.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name: name.to_owned(), identity: identity.to_owned(), timing }
    }

    /// Takes part in the election until `stop` is done, and runs `duty` while it leads. When it stops, it releases
    /// the Lease, so that the next leader does not have to wait.
    pub async fn run<F: Future<Output = ()>>(&self, duty: impl Fn() -> F, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut sighting = None;
        loop {
            let wait = match self.attempt(&mut sighting).await {
                Ok(ElectionOutcome::Won(lease)) => {
                    tracing::info!(node = self.identity, "this node is now the leader");
                    let mut lease = *lease;
                    tokio::select! {
                        () = &mut stop => {
                            self.release(lease).await;
                            return;
                        }
                        () = duty() => {}
                        () = self.renew(&mut lease) => {}
                    }
                    tracing::info!(node = self.identity, "this node is no longer the leader");
                    self.timing.renew
                }
                Ok(ElectionOutcome::Later(wait)) => wait,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot read or acquire the leader's lease");
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
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = self.held(Lease { metadata, spec: None }, 0);
            return self.won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let transitions = spec.lease_transitions.unwrap_or_default();
        let free = holder.is_empty() || holder == self.identity;
        if !free {
            // The clocks of two nodes differ: a Lease has expired if, by this node's clock, it has not changed for
            // its duration.
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let at = match &sighting {
                Some(seen) if seen.version == version => seen.at,
                _ => Instant::now(),
            };
            *sighting = Some(LeaseObservation { version, at });
            let lasts = u64::try_from(spec.lease_duration_seconds.unwrap_or_default());
            let lasts = lasts.map_or(self.timing.lease, Duration::from_secs);
            let left = lasts.saturating_sub(at.elapsed());
            if !left.is_zero() {
                return Ok(ElectionOutcome::Later(left.min(self.timing.look)));
            }
        }
        let transitions = if holder == self.identity { transitions } else { transitions + 1 };
        let lease = self.held(lease, transitions);
        self.won(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// The Lease after an attempt to take it; another daemon may have been faster.
    fn won(&self, answer: Result<Lease, kube::Error>) -> Result<ElectionOutcome, kube::Error> {
        match answer {
            Ok(lease) => Ok(ElectionOutcome::Won(Box::new(lease))),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Ok(ElectionOutcome::Later(self.timing.look))
            }
            Err(error) => Err(error),
        }
    }

    fn held(&self, mut lease: Lease, transitions: i32) -> Lease {
        let now = MicroTime(Timestamp::now());
        // The duration of a Lease is in whole seconds.
        let seconds = i32::try_from(self.timing.lease.as_secs().max(1)).unwrap_or(i32::MAX);
        let own = lease.spec.filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: own.and_then(|own| own.acquire_time).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        });
        lease
    }

    /// Renews until another daemon has the Lease, or no renewal succeeded for most of its duration: the other daemons
    /// also count from the last renewal.
    async fn renew(&self, lease: &mut Lease) {
        let mut renewed = Instant::now();
        let timeout = self.timing.lease.mul_f32(0.7);
        loop {
            tokio::time::sleep(self.timing.renew).await;
            let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
            let next = self.held(lease.clone(), transitions.unwrap_or_default());
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
                Err(_) => tracing::warn!(
                    "the API server did not answer in time when the leader's lease was renewed"
                ),
            }
            if renewed.elapsed() + self.timing.renew > timeout {
                return;
            }
        }
    }

    async fn release(&self, mut lease: Lease) {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        let params = PostParams::default();
        let answer = self.api.replace(&self.name, &params, &lease);
        // Nothing depends on it: without it, the next one waits for the lease to end.
        if !matches!(tokio::time::timeout(Duration::from_secs(2), answer).await, Ok(Ok(_))) {
            tracing::debug!("cannot release the leader's lease; it expires");
        }
    }
}
