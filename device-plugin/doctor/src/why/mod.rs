//! `why`: finds what is wrong with a pod, from documents about it.

mod diagnosis;
mod documents;
mod networks;
mod plugin_message;
mod spokes;

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::output::finish;
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
    finish("why", run(options))
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
