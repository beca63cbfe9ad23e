//! The protocol as a runtime sees it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod any_input;
mod bad_input;
mod delegation;
mod echo;
mod results;
