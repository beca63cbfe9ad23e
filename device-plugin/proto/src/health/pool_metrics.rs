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

/// What this node has of a pool of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Blocks that it holds.
    pub blocks: u64,
    /// Addresses in these blocks.
    pub addresses: u64,
    /// Addresses that are leased, kept, resting or in quarantine here.
    pub used: u64,
}

type CountOf = fn(&PoolCounts) -> u64;

/// What the node counts of the cluster's pools.
#[derive(Debug, Default)]
pub struct PoolMetrics {
    counts: Mutex<BTreeMap<String, PoolCounts>>,
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
    /// Tells what the node has of each pool by now.
    pub fn set_counts(&self, counts: BTreeMap<String, PoolCounts>) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
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
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let gauges: [(&str, &str, CountOf); 3] = [
            ("k8slan_pool_blocks", "Blocks of the cluster's pools that this node holds.", |of| of.blocks),
            ("k8slan_pool_addresses", "Addresses in these blocks.", |of| of.addresses),
            (
                "k8slan_pool_addresses_used",
                "Addresses of the cluster's pools that are leased, kept, resting or in quarantine on this node.",
                |of| of.used,
            ),
        ];
        for (name, help, value) in gauges {
            let values = counts.iter().map(|(pool, of)| (pool.clone(), value(of)));
            out.labelled("gauge", name, help, "pool", values);
        }
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
