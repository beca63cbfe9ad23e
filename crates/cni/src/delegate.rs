use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::environment::{Environment, PATH};
use crate::exec;
use crate::result::ResultDocument;
use crate::wire::causes;
use crate::{AddResult, Code, DelegateFailure, Error, PluginError, Verb};

/// Another plugin that gets this request, normally the IPAM plugin.
///
/// It is a regular executable file in one of `CNI_PATH`'s folders, and is run with the same
/// environment and the whole standard input; its standard error is this program's. Each verb starts it
/// once. Source: SPEC.md, section 4.
#[derive(Clone, Copy, Debug)]
pub struct Delegate<'a> {
    name: &'a str,
    environment: &'a Environment,
    stdin: &'a [u8],
}

/// The result of a delegate's ADD, which is undone (DEL) unless it is kept.
///
/// On the way out of a failed ADD call [`Delegated::undo`] or [`Delegated::fail`], which report what
/// goes wrong. Dropped without either, for instance by `?`, it is undone all the same, and trouble
/// goes to standard error.
#[derive(Debug)]
#[must_use = "dropping it gives the result back: call keep once the attachment stands"]
pub struct Delegated<'a> {
    delegate: Delegate<'a>,
    result: AddResult,
    kept: bool,
}

/// An error, and what went wrong in undoing what had been done before it.
///
/// It reads as the error, followed by the trouble in undoing; its code and its source are the error's.
#[derive(Debug)]
pub struct Undone<E> {
    /// Why ADD failed.
    pub error: E,
    /// Why undoing failed; `None` where it succeeded.
    pub undo: Option<Error>,
}

impl<'a> Delegate<'a> {
    pub(crate) fn new(name: &'a str, environment: &'a Environment, stdin: &'a [u8]) -> Self {
        Self { name, environment, stdin }
    }

    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Runs ADD. If it fails, DEL is run before this returns.
    ///
    /// # Errors
    /// The delegate's own with its code, or why it could not be run or understood; and, if DEL failed
    /// too, that.
    pub fn add(&self) -> Result<Delegated<'a>, Error> {
        let program = self.find()?;
        let result = self.run(&program, Verb::Add).and_then(|stdout| self.result(&stdout));
        match result {
            Ok(result) => Ok(Delegated { delegate: *self, result, kept: false }),
            // What was never started has nothing to undo.
            Err(error @ Error::DelegateIo { what: exec::STARTING, .. }) => Err(error),
            Err(error) => match self.run(&program, Verb::Del) {
                Ok(_) => Err(error),
                Err(undo) => Err(Error::Undone(Box::new(Undone { error, undo: Some(undo) }))),
            },
        }
    }

    /// Runs DEL.
    ///
    /// # Errors
    /// As for [`Delegate::add`].
    pub fn del(&self) -> Result<(), Error> {
        self.run_found(Verb::Del)
    }

    /// Runs CHECK.
    ///
    /// # Errors
    /// As for [`Delegate::add`].
    pub fn check(&self) -> Result<(), Error> {
        self.run_found(Verb::Check)
    }

    /// Runs GC.
    ///
    /// # Errors
    /// As for [`Delegate::add`].
    pub fn gc(&self) -> Result<(), Error> {
        self.run_found(Verb::Gc)
    }

    /// Runs STATUS.
    ///
    /// # Errors
    /// As for [`Delegate::add`].
    pub fn status(&self) -> Result<(), Error> {
        self.run_found(Verb::Status)
    }

    fn run_found(&self, verb: Verb) -> Result<(), Error> {
        self.run(&self.find()?, verb).map(|_| ())
    }

    /// The delegate's file.
    fn find(&self) -> Result<PathBuf, Error> {
        if self.name.is_empty() || self.name.contains(['/', '\0']) || self.name == "." || self.name == ".." {
            return Err(Error::DelegateName(self.name.to_owned()));
        }
        let path = self.environment.get(PATH).ok_or_else(|| Error::DelegateNoPath(self.name.to_owned()))?;
        find_in(path, self.name)
            .ok_or_else(|| Error::DelegateMissing { name: self.name.to_owned(), path: path.to_owned() })
    }

    /// Its standard output, if it succeeds.
    fn run(&self, program: &Path, verb: Verb) -> Result<Vec<u8>, Error> {
        self.run_with(program, verb, None)
    }

    fn run_with(&self, program: &Path, verb: Verb, extra: Option<(&str, &str)>) -> Result<Vec<u8>, Error> {
        let output = exec::run(program, verb, self.environment, extra, self.stdin)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        match serde_json::from_slice::<ErrorText>(&output.stdout) {
            Ok(error) if error.says_something() => Err(Error::DelegateFailed {
                name: self.name.to_owned(),
                verb,
                source: DelegateFailure {
                    code: Code::passed_on(error.code),
                    msg: error.msg,
                    details: error.details,
                },
            }),
            _ => Err(Error::DelegateSilent {
                name: self.name.to_owned(),
                verb,
                status: output.status,
                stdout: String::from_utf8_lossy(&output.stdout).chars().take(200).collect(),
            }),
        }
    }

    fn result(&self, stdout: &[u8]) -> Result<AddResult, Error> {
        let document: ResultDocument = match serde_json::from_slice(stdout) {
            Ok(document) => document,
            Err(source) => {
                let field = crate::decode::place::<ResultDocument>(stdout);
                return Err(Error::DelegateResult { name: self.name.to_owned(), field, source });
            }
        };
        document.into_result().map_err(|given| Error::DelegateVersion { name: self.name.to_owned(), given })
    }
}

impl Delegated<'_> {
    /// What the delegate gave.
    #[must_use]
    pub fn result(&self) -> &AddResult {
        &self.result
    }

    /// Runs ADD again with one more environment variable, for a delegate that is known to understand it;
    /// the new result takes the old one's place.
    ///
    /// # Errors
    /// As for [`Delegate::add`]; the delegate still gets its DEL from [`Delegated::fail`] or when this is
    /// dropped.
    pub fn add_again(&mut self, variable: &str, value: &str) -> Result<(), Error> {
        let program = self.delegate.find()?;
        let stdout = self.delegate.run_with(&program, Verb::Add, Some((variable, value)))?;
        self.result = self.delegate.result(&stdout)?;
        Ok(())
    }

    /// The attachment stands: the result is not undone any more. For an undo list of the caller's own:
    /// keep it at once, and put [`Delegate::del`] on the list.
    #[must_use]
    pub fn keep(mut self) -> AddResult {
        self.kept = true;
        std::mem::take(&mut self.result)
    }

    /// Gives the result back: runs DEL.
    ///
    /// # Errors
    /// As for [`Delegate::del`].
    pub fn undo(mut self) -> Result<(), Error> {
        self.kept = true;
        self.delegate.del()
    }

    /// Gives the result back because of `error`, and reports both.
    pub fn fail<E>(self, error: E) -> Undone<E> {
        Undone { error, undo: self.undo().err() }
    }
}

impl Drop for Delegated<'_> {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.delegate.del()
        {
            eprintln!("{}", Undone { error: "ADD failed", undo: Some(error) });
        }
    }
}

impl<E: fmt::Display> fmt::Display for Undone<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        match &self.undo {
            Some(undo) => write!(f, "; then undoing failed as well: {}", causes(Some(undo))),
            None => Ok(()),
        }
    }
}

impl<E: std::error::Error> std::error::Error for Undone<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl<E: PluginError> PluginError for Undone<E> {
    fn code(&self) -> Code {
        self.error.code()
    }
}

/// An error document as another plugin writes it.
#[derive(Deserialize)]
#[serde(default)]
struct ErrorText {
    code: u32,
    msg: String,
    details: String,
}

impl Default for ErrorText {
    fn default() -> Self {
        // What the reference plugins give for an error without a code of its own.
        Self { code: 999, msg: String::new(), details: String::new() }
    }
}

impl ErrorText {
    fn says_something(&self) -> bool {
        !(self.msg.is_empty() && self.details.is_empty())
    }
}

/// The first regular executable file of that name in the folders of `path`.
fn find_in(path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path).filter(|folder| !folder.as_os_str().is_empty()).find_map(|folder| {
        let program = folder.join(name);
        let meta = program.metadata().ok()?;
        (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then_some(program)
    })
}
