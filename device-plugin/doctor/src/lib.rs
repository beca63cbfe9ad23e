//! Diagnosis of a node and of a cluster: its state (`inspect`, `status`, `leases`), whether a node can carry LANs
//! (`check-host`), what is wrong with a pod (`why`), its frames (`capture`), and what would become of
//! another IPAM plugin's addresses (`import`). It changes nothing.

#![expect(
    missing_docs,
    reason = "a program's own library: a doc comment that only repeats a name is left out"
)]

pub mod capture;
pub mod check_host;
pub mod import;
pub mod inspect;
mod ipam_pool;
pub mod leases;
mod output;
pub mod overview;
pub mod why;
