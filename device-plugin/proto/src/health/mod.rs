//! What operators read from the daemon: metrics in Prometheus' text format, liveness and readiness.

mod exposition;
mod histogram;
mod metrics;
mod pool_metrics;
mod server;

pub use exposition::Counter;
pub use histogram::Histogram;
pub use metrics::{ApiMetrics, Metrics, node_up};
pub use pool_metrics::{ApiVerb, PoolCounts, PoolMetrics};
pub(crate) use server::answer;
pub use server::{HealthError, HealthSource, HealthSummary, VERSION, converse, serve};
