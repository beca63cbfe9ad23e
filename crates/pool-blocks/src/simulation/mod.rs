//! A deterministic simulation of the protocol: nodes, leaders, an API server and whoever works against them.
//!
//! One seed is one history. `SEED=17 cargo test -p pool-blocks simulation::tests::replay -- --nocapture` prints what happened in one,
//! `HISTORIES=1000000` makes the run longer, `FROM` is its first seed. Where `CI` is set and
//! `HISTORIES` is not, the run goes on for a minute. `WEAKNESS=DeletesAnyVersion cargo test -p pool-blocks search` looks for a history
//! that notices that this protection is missing. What hardly ever meets is brought together in the histories from `bias::FIRST` on.

mod api;
mod bias;
mod check;
mod daemons;
mod faults;
mod machine;
mod network;
mod owners;
mod people;
mod pods;
mod pools;
mod random;
mod settle;
mod tests;
mod world;
