use std::any::Any;
use std::cell::Cell;
use std::error::Error;
use std::fmt::Write;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Instant;

use libtest_mimic::{Arguments, Completion, Failed};

use crate::isolate;
use crate::times::Times;

/// Why a trial did not pass.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// It cannot run here; the text says what is missing.
    Skipped(String),
    /// It failed, with this message.
    Failed(String),
}

/// What a trial returns; `?` turns any error into a failure with its chain of sources.
pub type Outcome = Result<(), Stop>;

impl<E: Error> From<E> for Stop {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let _ = write!(text, ": {inner}");
            source = inner.source();
        }
        Self::Failed(text)
    }
}

/// The kernel that a trial runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// The machine's own.
    Machine,
    /// The one that filters VLANs ([`crate::vlan_kernel`]).
    Vlan,
}

/// A named trial.
pub struct Trial {
    name: String,
    kernel: Kernel,
    body: Box<dyn FnOnce() -> Outcome + Send>,
}

impl Trial {
    /// Its name, without the file's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn kernel(&self) -> Kernel {
        self.kernel
    }

    pub(crate) fn on(self, kernel: Kernel) -> Self {
        Self { kernel, ..self }
    }

    pub(crate) fn in_file(self, file: &str) -> Self {
        Self { name: format!("{file}::{}", self.name), ..self }
    }

    /// Runs it; a panic is a failure. What its daemons had to say belongs to it.
    pub(crate) fn run(self) -> Outcome {
        LOGS.take();
        // By the end the trial has dropped its daemons, and each has recorded the end of its log.
        match panic::catch_unwind(AssertUnwindSafe(self.body)) {
            Ok(Err(Stop::Failed(text))) => Err(Stop::Failed(format!("{text}{}", LOGS.take()))),
            Ok(outcome) => outcome,
            Err(payload) => {
                Err(Stop::Failed(format!("it panicked: {}{}", words_of(payload.as_ref()), LOGS.take())))
            }
        }
    }
}

fn words_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

/// Makes a trial of a function.
pub fn test(name: &str, body: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    Trial { name: name.to_owned(), kernel: Kernel::Machine, body: Box::new(body) }
}

thread_local! {
    static LOGS: Cell<String> = const { Cell::new(String::new()) };
}

/// Records a text that is printed if the calling thread's trial fails.
pub(crate) fn show_on_failure(text: &str) {
    LOGS.set(LOGS.take() + text);
}

/// Makes the list of trials from functions, each named as its function.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => { vec![$($crate::test(stringify!($name), $name)),*] };
}

/// The `main` of a test binary: runs the trials in a private set of namespaces, then looks for leaks.
///
/// Takes the command line of `cargo test`. Needs root; without it every trial is skipped by name, or fails
/// where `CI` is set.
#[must_use]
pub fn main(trials: Vec<Trial>) -> ExitCode {
    main_of_groups(vec![Group { at_once: usize::MAX, trials }])
}

/// Trials that may run at the same time.
pub struct Group {
    /// How many of them run at a time, unless `--test-threads` says fewer: those that wait more than they work can be more than
    /// the machine has processors. [`usize::MAX`]: as many as the runner thinks right.
    pub at_once: usize,
    /// The trials, in the order of starting.
    pub trials: Vec<Trial>,
}

/// The same as [`main`] for groups of trials. A group begins when all of the one before it have ended, and each writes its counts.
#[must_use]
pub fn main_of_groups(groups: Vec<Group>) -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list {
        let trials = groups.into_iter().flat_map(|group| group.trials);
        return conclude(&arguments, trials.map(|trial| shown(trial, None)));
    }
    if !nix::unistd::geteuid().is_root() {
        let trials = groups.into_iter().flat_map(|group| group.trials);
        return conclude(&arguments, trials.map(|trial| refused(trial.name(), "needs root")));
    }
    isolate::isolated(move || {
        let times = Times::default();
        let codes: Vec<ExitCode> = groups
            .into_iter()
            .map(|group| {
                let mut own = arguments.clone();
                if group.at_once != usize::MAX {
                    own.test_threads = Some(own.test_threads.unwrap_or(usize::MAX).min(group.at_once));
                }
                conclude(&own, group.trials.into_iter().map(|trial| shown(trial, Some(&times))))
            })
            .collect();
        times.name_slow();
        codes.into_iter().find(|code| *code != ExitCode::SUCCESS).unwrap_or(ExitCode::SUCCESS)
    })
}

/// Runs them in this process, and writes the counts.
pub(crate) fn conclude(
    arguments: &Arguments,
    trials: impl IntoIterator<Item = libtest_mimic::Trial>,
) -> ExitCode {
    libtest_mimic::run(arguments, trials.into_iter().collect()).exit_code()
}

/// A trial as the runner takes it; its time is noted.
fn shown(trial: Trial, times: Option<&Times>) -> libtest_mimic::Trial {
    let (name, times) = (trial.name.clone(), times.cloned());
    libtest_mimic::Trial::ignorable_test(name.clone(), move || {
        let start = Instant::now();
        let outcome = trial.run();
        if let Some(times) = times {
            times.note(start.elapsed(), &name);
        }
        completion(outcome)
    })
}

/// What the runner writes of an outcome.
pub(crate) fn completion(outcome: Outcome) -> Result<Completion, Failed> {
    match outcome {
        Ok(()) => Ok(Completion::Completed),
        Err(Stop::Skipped(reason)) => Ok(Completion::ignored_with(reason)),
        Err(Stop::Failed(text)) => Err(Failed::from(text)),
    }
}

/// A trial that cannot run on this machine.
pub(crate) fn refused(name: &str, missing: &str) -> libtest_mimic::Trial {
    let missing = missing.to_owned();
    libtest_mimic::Trial::ignorable_test(name, move || {
        completion(Err(match std::env::var_os("CI") {
            None => Stop::Skipped(missing),
            Some(_) => Stop::Failed(format!("{missing}, and CI is set")),
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure_with_its_words_and_the_daemons() {
        let trial = test("x", || {
            show_on_failure("\nthe daemon's log");
            panic!("{} of them", 7)
        });
        let Err(Stop::Failed(text)) = trial.run() else { panic!("it passed") };
        assert_eq!(text, "it panicked: 7 of them\nthe daemon's log");
    }
}
