//! How a command of the doctor ends: what it prints, and its exit code.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

/// Prints a command's text, or its error on standard error; the exit code is 1 on failure.
pub(crate) fn finish(command: &str, text: Result<String>) -> ExitCode {
    let printed = text.and_then(|text| node::print(&text).context("write to standard output"));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("k8slan-device-plugin {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
