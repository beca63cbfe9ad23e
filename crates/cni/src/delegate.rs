use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::environment::{Environment, PATH};
use crate::exec::{self, Output, Running};
use crate::result::ResultDocument;
use crate::{AddResult, Code, DelegateFailure, Error, Undone, Verb};

/// The environment variable by which a main plugin that repeats ADD tells `ipam-pool` which of the addresses that it gave
/// are taken, and by whom: `<address>=<MAC>`, separated by commas.
pub const CONFLICTS: &str = "K8SLAN_IPAM_CONFLICTS";

/// How long to wait for DEL of a delegate.
#[derive(Clone, Copy, Debug)]
struct DelTimeouts {
    /// How long the interface is kept for the delegate, which may need it.
    standing: Duration,
    /// After how long the delegate is killed.
    longest: Duration,
}

const DEL_TIMEOUTS: DelTimeouts =
    DelTimeouts { standing: Duration::from_secs(3), longest: Duration::from_secs(60) };

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
/// When an ADD fails, call [`Delegated::fail_around`], which reports errors of the undo. If it is
/// dropped without it, for instance by `?`, it is undone too, and an error goes to standard error.
#[derive(Debug)]
#[must_use = "dropping it gives the result back: call keep once the attachment stands"]
pub struct Delegated<'a> {
    delegate: Delegate<'a>,
    result: AddResult,
    kept: bool,
}

impl<'a> Delegate<'a> {
    pub(crate) fn new(name: &'a str, environment: &'a Environment, stdin: &'a [u8]) -> Self {
        Self { name, environment, stdin }
    }

    /// The plugin's name as the configuration has it, which is the file's.
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
        self.add_or(|| ())
    }

    /// Runs ADD. If it fails, the caller's `removal` of what it has made is run, and DEL around it, as
    /// [`Delegate::del_around`] does.
    ///
    /// # Errors
    /// As for [`Delegate::add`].
    pub fn add_or(&self, removal: impl FnOnce()) -> Result<Delegated<'a>, Error> {
        let added = self
            .find()
            .and_then(|program| self.run(&program, Verb::Add).and_then(|stdout| self.result(&stdout)));
        match added {
            Ok(result) => Ok(Delegated { delegate: *self, result, kept: false }),
            // A delegate that never started has nothing to undo.
            Err(error) if error.started_nothing() => {
                removal();
                Err(error)
            }
            Err(error) => match self.del_around(|| (), removal) {
                Ok(()) => Err(error),
                Err(undo) => Err(Error::Undone(Box::new(Undone { error, undo: Some(undo) }))),
            },
        }
    }

    /// Runs DEL, and kills the delegate if it takes longer than a minute.
    ///
    /// # Errors
    /// As for [`Delegate::add`].
    pub fn del(&self) -> Result<(), Error> {
        let program = self.find()?;
        self.finish(self.start_del(&program, self.environment)?, Instant::now(), DEL_TIMEOUTS)
    }

    /// Runs DEL, and at the right moment `removal`, which removes the interface that has the addresses.
    ///
    /// ipam-pool keeps its leases on this node, and a lease that it frees may be given to another pod at once, so it
    /// runs after the removal. Any other plugin may need the interface, as DHCP does to send its release (RFC 2131,
    /// section 4.4.6): `ready` sets the interface up if it is down, DEL starts while the interface exists, and after
    /// three seconds at most the interface is removed, even if DEL is still running. DEL gets a minute.
    ///
    /// # Errors
    /// As for [`Delegate::add`]. `removal` always runs, once.
    pub fn del_around(&self, ready: impl FnOnce(), removal: impl FnOnce()) -> Result<(), Error> {
        self.del_in(self.environment, DEL_TIMEOUTS, ready, removal)
    }

    /// As [`Delegate::del_around`], for another attachment than the request's: one that GC removes. ipam-pool is not
    /// run, since it has a GC of its own.
    ///
    /// # Errors
    /// As for [`Delegate::add`].
    pub fn del_of(
        &self,
        (container_id, ifname, netns): (&str, &str, Option<&Path>),
        ready: impl FnOnce(),
        removal: impl FnOnce(),
    ) -> Result<(), Error> {
        if self.keeps_leases_here() {
            removal();
            return Ok(());
        }
        self.del_in(
            &self.environment.of_attachment(container_id, ifname, netns),
            DEL_TIMEOUTS,
            ready,
            removal,
        )
    }

    fn del_in(
        &self,
        environment: &Environment,
        timeouts: DelTimeouts,
        ready: impl FnOnce(),
        removal: impl FnOnce(),
    ) -> Result<(), Error> {
        if self.keeps_leases_here() {
            removal();
            return self.del();
        }
        let start = Instant::now();
        let mut removal = Some(removal);
        let mut remove = || removal.take().into_iter().for_each(|removal| removal());
        let done = self.find().and_then(|program| {
            ready();
            let mut running = self.start_del(&program, environment)?;
            running.wait(Some(start + timeouts.standing))?;
            remove();
            self.finish(running, start, timeouts)
        });
        remove();
        done
    }

    /// Whether the delegate is ipam-pool, which needs no interface.
    fn keeps_leases_here(&self) -> bool {
        self.name == "ipam-pool"
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

    /// Finds the delegate's executable in `CNI_PATH`.
    fn find(&self) -> Result<PathBuf, Error> {
        if self.name.is_empty() || self.name.contains(['/', '\0']) || self.name == "." || self.name == ".." {
            return Err(Error::DelegateName(self.name.to_owned()));
        }
        let path = self.environment.get(PATH).ok_or_else(|| Error::DelegateNoPath(self.name.to_owned()))?;
        find_in(path, self.name)
            .ok_or_else(|| Error::DelegateMissing { name: self.name.to_owned(), path: path.to_owned() })
    }

    /// Runs the delegate; its standard output if it succeeds.
    fn run(&self, program: &Path, verb: Verb) -> Result<Vec<u8>, Error> {
        self.run_with(program, verb, None)
    }

    fn run_with(&self, program: &Path, verb: Verb, extra: Option<(&str, &str)>) -> Result<Vec<u8>, Error> {
        let mut running = exec::start(program, verb, self.environment, extra, self.stdin)?;
        running.wait(None)?;
        self.answer(verb, running.output()?)
    }

    fn start_del<'p>(&self, program: &'p Path, environment: &Environment) -> Result<Running<'p>, Error>
    where
        'a: 'p,
    {
        exec::start(program, Verb::Del, environment, None, self.stdin)
    }

    /// Waits for a DEL that started at `start`, and kills it after the last timeout.
    fn finish(&self, mut running: Running<'_>, start: Instant, timeouts: DelTimeouts) -> Result<(), Error> {
        if !running.wait(Some(start + timeouts.longest))? {
            running.kill();
            let waited = timeouts.longest;
            return Err(Error::DelegateHangs { name: self.name.to_owned(), verb: Verb::Del, waited });
        }
        self.answer(Verb::Del, running.output()?).map(drop)
    }

    fn answer(&self, verb: Verb, output: Output) -> Result<Vec<u8>, Error> {
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
        let name = || self.name.to_owned();
        let result =
            document.into_result().map_err(|given| Error::DelegateVersion { name: name(), given })?;
        // The error document of a plugin that exits with 0 by mistake has no addresses either.
        if result.ips.is_empty() { Err(Error::DelegateNoAddress(name())) } else { Ok(result) }
    }
}

impl Delegated<'_> {
    /// The addresses, routes and DNS settings that the delegate answered.
    #[must_use]
    pub fn result(&self) -> &AddResult {
        &self.result
    }

    /// Runs ADD again with one more environment variable, for a delegate that is known to understand it; the new
    /// result replaces the old one.
    ///
    /// # Errors
    /// As for [`Delegate::add`]; the delegate still gets its DEL from [`Delegated::fail_around`] or when this is
    /// dropped.
    pub fn add_again(&mut self, variable: &str, value: &str) -> Result<(), Error> {
        let program = self.delegate.find()?;
        let stdout = self.delegate.run_with(&program, Verb::Add, Some((variable, value)))?;
        self.result = self.delegate.result(&stdout)?;
        Ok(())
    }

    /// Keeps the result: the attachment is complete. If the caller has an undo list of its own, it calls this at once
    /// and puts [`Delegate::del`] on that list.
    #[must_use]
    pub fn keep(mut self) -> AddResult {
        self.kept = true;
        std::mem::take(&mut self.result)
    }

    /// Undoes the ADD because of `error`, with the caller's `removal` of what it has made ([`Delegate::del_around`]).
    pub fn fail_around<E>(mut self, error: E, removal: impl FnOnce()) -> Undone<E> {
        self.kept = true;
        Undone { error, undo: self.delegate.del_around(|| (), removal).err() }
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
        // The code that the reference plugins use for an error without one.
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ffi::OsString;

    use super::*;

    /// Runs DEL of a plugin that is this script, with short timeouts; returns its answer, how long that took, and
    /// after how long the interface was removed.
    fn del(name: &str, script: &str) -> (Result<(), Error>, Duration, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(name);
        std::fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}\n", folder.path().display())).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path: OsString = folder.path().into();
        let environment: Environment = [("CNI_PATH", path)].into_iter().collect();
        let delegate = Delegate::new(name, &environment, b"{}");
        let timeouts =
            DelTimeouts { standing: Duration::from_millis(300), longest: Duration::from_millis(900) };
        let (start, removed) = (Instant::now(), Cell::new(None));
        let result = delegate.del_in(
            &environment,
            timeouts,
            || (),
            || {
                std::fs::write(folder.path().join("removed"), "").unwrap();
                assert!(removed.replace(Some(start.elapsed())).is_none(), "removed twice");
            },
        );
        (result, start.elapsed(), removed.get().unwrap())
    }

    #[test]
    fn the_interface_is_removed_when_del_is_through_or_the_timeout_ends() {
        let (result, _, removed) = del("dhcp", "[ ! -e removed ]");
        result.unwrap();
        assert!(removed < Duration::from_millis(300), "{removed:?}");
        // It needs a little longer than the interface stands.
        let (result, all, removed) = del("dhcp", "sleep 0.6; [ -e removed ]");
        result.unwrap();
        assert!(removed >= Duration::from_millis(300) && removed < all, "{removed:?} of {all:?}");
        // It never ends.
        let (result, all, removed) = del("dhcp", "exec sleep 20");
        let error = result.unwrap_err();
        assert!(matches!(error, Error::DelegateHangs { .. }), "{error}");
        assert!(removed < all && all < Duration::from_secs(10), "{removed:?} of {all:?}");
        // What it started holds its output open.
        let (result, all, _) = del("dhcp", "sleep 20 & [ ! -e removed ]");
        result.unwrap();
        assert!(all < Duration::from_secs(10), "{all:?}");
        // It fails.
        assert!(del("dhcp", "exit 1").0.is_err());
    }

    #[test]
    fn ipam_pool_is_asked_after_the_removal() {
        let (result, _, _) = del("ipam-pool", "[ -e removed ]");
        result.unwrap();
    }
}
