use std::io;

/// What went wrong while building or using a simulated network.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum Error {
    #[error("{operation}")]
    System {
        /// What was attempted, with the object.
        operation: String,
        #[source]
        source: io::Error,
    },
    /// A program that was run ended with another code than 0.
    #[error("{command}: {status}: {output}")]
    Command {
        /// The program and its arguments.
        command: String,
        status: std::process::ExitStatus,
        /// What it wrote on stdout and stderr.
        output: String,
    },
    /// A program that was run did not end, and was killed.
    #[error("{command}: not ended after {seconds} s: {output}")]
    Hangs {
        /// The program and its arguments.
        command: String,
        seconds: f32,
        /// What it wrote on stdout and stderr until then.
        output: String,
    },
    /// A program wrote something else than the JSON that it was asked for.
    #[error("{command}: no JSON: {output:?}")]
    Json {
        /// The program and its arguments.
        command: String,
        /// What it wrote on stdout.
        output: String,
        /// Why that is no JSON.
        #[source]
        source: serde_json::Error,
    },
    /// What must not happen did.
    #[error("after {seconds} s: {what}")]
    Happened {
        /// What was seen.
        what: String,
        seconds: f32,
    },
    /// What was waited for did not happen in time.
    #[error("not within {seconds} s: {what}")]
    Timeout {
        /// What was waited for, and what was seen instead.
        what: String,
        seconds: f32,
    },
}

/// Adds what was attempted to a system call's error.
pub(crate) trait During<T> {
    /// `operation` is only formatted when there is an error.
    fn during(self, operation: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::System { operation: operation(), source: source.into() })
    }
}
