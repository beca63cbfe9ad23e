//! `why`: finds what is wrong with a pod, from documents about it.

mod diagnosis;
mod documents;
mod networks;
mod plugin_message;
mod spokes;

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use documents::Documents;

/// The documents to read.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The file to read; '-' is standard input.
    #[arg(long, value_name = "FILE", default_value = "-")]
    from: PathBuf,
}

/// Prints the diagnosis; the exit code is 1 on failure.
pub fn main(options: &Options) -> ExitCode {
    match run(options) {
        Ok(text) => {
            // A reader that ended early is not an error.
            let _ = io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("k8slan-device-plugin why: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<String> {
    let documents = match options.from == Path::new("-") {
        true => Documents::read(io::stdin().lock())?,
        false => {
            let file =
                File::open(&options.from).with_context(|| format!("read {}", options.from.display()))?;
            Documents::read(BufReader::new(file))?
        }
    };
    Ok(diagnosis::diagnose(&documents))
}
