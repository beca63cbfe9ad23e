use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::Histogram;
use super::exposition::{Counter, Exposition};

/// What is done at the API server for pools of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVerb {
    Get,
    List,
    Create,
    Update,
    Delete,
}

/// What the node counts of the cluster's pools.
#[derive(Debug, Default)]
pub struct PoolMetrics {
    /// Blocks that this node holds, by pool.
    blocks: Mutex<BTreeMap<String, u64>>,
    /// Claims of the plugin that were granted.
    pub claims: Counter,
    /// The same that were refused, or not decided in time.
    pub claims_refused: Counter,
    /// Blocks that another node had claimed first.
    pub conflicts: Counter,
    /// How long a claim waited.
    pub claim: Histogram,
    get: Counter,
    list: Counter,
    create: Counter,
    update: Counter,
    delete: Counter,
}

impl PoolMetrics {
    /// Tells how many blocks the node holds by now.
    pub fn set_blocks(&self, blocks: BTreeMap<String, u64>) {
        *self.blocks.lock().unwrap_or_else(PoisonError::into_inner) = blocks;
    }

    /// Counts a request to the API server.
    pub fn count_request(&self, verb: ApiVerb) {
        match verb {
            ApiVerb::Get => &self.get,
            ApiVerb::List => &self.list,
            ApiVerb::Create => &self.create,
            ApiVerb::Update => &self.update,
            ApiVerb::Delete => &self.delete,
        }
        .increment();
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        out.labelled(
            "gauge",
            "k8slan_pool_blocks",
            "Blocks of the cluster's pools that this node holds.",
            "pool",
            blocks.into_iter(),
        );
        out.counter(
            "k8slan_pool_claims_total",
            "Claims for addresses of the cluster's pools that were granted.",
            &self.claims,
        );
        out.counter(
            "k8slan_pool_claims_refused_total",
            "Claims that were refused, or that nothing could be got for in time.",
            &self.claims_refused,
        );
        out.counter(
            "k8slan_pool_claim_conflicts_total",
            "Blocks that another node had claimed first.",
            &self.conflicts,
        );
        let verbs = [
            ("create", &self.create),
            ("delete", &self.delete),
            ("get", &self.get),
            ("list", &self.list),
            ("update", &self.update),
        ];
        out.labelled(
            "counter",
            "k8slan_pool_requests_total",
            "Requests to the API server about the cluster's pools.",
            "verb",
            verbs.into_iter().map(|(verb, counter)| (verb.to_owned(), counter.get())),
        );
        out.histogram(
            "k8slan_pool_claim_seconds",
            "How long a claim for addresses of the cluster's pools waited.",
            &self.claim,
        );
    }
}
