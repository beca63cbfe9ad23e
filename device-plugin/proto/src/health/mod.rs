//! What the daemon tells operators: metrics in Prometheus' text format, and whether it lives and is ready.

mod histogram;
mod metrics;
mod server;

pub use histogram::Histogram;
pub use metrics::{ApiMetrics, Counter, Metrics, node_up};
pub use server::{HealthError, HealthSource, HealthSummary, VERSION, converse, serve};
