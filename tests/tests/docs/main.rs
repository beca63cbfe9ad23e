//! What is written agrees with what it is written from: pages, generated code, the order of the crates.

mod files;
mod generated;
mod layering;
mod reference;
mod troubleshooting;
mod vyos;
