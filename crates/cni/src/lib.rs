//! The Container Network Interface protocol, complete for the versions 0.3.0, 0.3.1, 0.4.0, 1.0.0
//! and 1.1.0.
//!
//! A program implements [`Plugin`] and its `main` is a doorway:
//!
//! ```
//! use std::process::ExitCode;
//!
//! use cni::{AddResult, Code, Plugin, PluginError, Request, Target, ValidAttachment};
//!
//! struct Example;
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     master: String,
//! }
//!
//! #[derive(Debug, thiserror::Error)]
//! enum Error {
//!     #[error(transparent)]
//!     Cni(#[from] cni::Error),
//!     #[error("link {0:?} is not there: create it first")]
//!     NoMaster(String),
//! }
//!
//! impl PluginError for Error {
//!     fn code(&self) -> Code {
//!         match self {
//!             Self::Cni(error) => error.code(),
//!             Self::NoMaster(_) => Code::plugin(100),
//!         }
//!     }
//! }
//!
//! impl Plugin for Example {
//!     type Config = Config;
//!     type Error = Error;
//!     const NAME: &'static str = "example";
//!     const ABOUT: &'static str = "attaches nothing, and says so";
//!
//!     fn add(&self, request: &Request<Config>, _target: &Target) -> Result<AddResult, Error> {
//!         Err(Error::NoMaster(request.config.master.clone()))
//!     }
//!     fn del(&self, _: &Request<Config>, _: &Target<Option<std::path::PathBuf>>) -> Result<(), Error> {
//!         Ok(())
//!     }
//!     fn check(&self, _: &Request<Config>, _: &Target, _promised: &AddResult) -> Result<(), Error> {
//!         Ok(())
//!     }
//!     fn gc(&self, _: &Request<Config>, _valid: Option<&[ValidAttachment]>) -> Result<(), Error> {
//!         Ok(())
//!     }
//!     fn status(&self, _: &Request<Config>) -> Result<(), Error> {
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     cni::run(&Example)
//! }
//! ```
//!
//! This crate checks all input once: the variables that the verb needs, the names, the version, `CNI_ARGS`, the
//! configuration. A plugin therefore gets well-formed values, and its answer is written in the format of the version
//! that was asked for. Every answer, errors too, is one JSON document on standard output. Source: the
//! [specification](https://github.com/containernetworking/cni/blob/main/SPEC.md) 1.1.0 and its
//! [conventions](https://github.com/containernetworking/cni/blob/main/CONVENTIONS.md).

mod args;
mod capability;
pub mod cli;
mod code;
mod decode;
mod delegate;
mod document;
mod entry_point;
mod environment;
mod error;
mod exec;
mod limits;
mod misconfigured;
mod name;
mod namespace;
mod normal;
mod plugin;
mod request;
mod requested;
mod result;
mod verb;
mod version;
mod wire;

pub use args::CniArgs;
pub use code::{Code, PluginError};
pub use decode::unless_empty;
pub use delegate::{CONFLICTS, Delegate, Delegated};
pub use document::{ArgsCni, RuntimeConfig, ValidAttachment};
pub use entry_point::{Answer, dispatch, run};
pub use environment::Environment;
pub use error::{Channel, DelegateFailure, Error, RequestedIpError, Undone, chain};
pub use limits::MAX_STDIN;
pub use misconfigured::{IpamName, Misconfigured};
pub use name::{ContainerId, NameError, NetworkName};
pub use normal::PROTOCOL_NAMES;
pub use plugin::Plugin;
pub use request::{Request, Target};
pub use requested::RequestedIp;
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use verb::Verb;
pub use version::Version;
pub use wire::ErrorDocument;
