//! What people ask of a node and of a cluster: what is there (`inspect`, `lans`), whether a node can carry LANs (`check-host`), what is
//! wrong with a pod (`why`), and its frames (`capture`). It changes nothing.

pub mod capture;
pub mod check_host;
pub mod inspect;
pub mod overview;
pub mod why;
