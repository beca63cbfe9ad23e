//! What operators read from the daemon: metrics in Prometheus' text format, liveness and readiness.

mod histogram;
mod metrics;
mod server;

pub use histogram::Histogram;
pub use metrics::{ApiMetrics, Counter, Metrics, node_up};
pub use server::{HealthError, HealthSource, HealthSummary, VERSION, converse, serve};
