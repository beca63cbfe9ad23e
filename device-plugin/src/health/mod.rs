//! What the daemon tells operators: metrics in Prometheus' text format, and whether it lives and is ready.

mod histogram;
mod metrics;
mod server;

pub use histogram::Histogram;
pub use metrics::{Counter, Metrics};
pub use server::{HealthError, Overview, serve};
