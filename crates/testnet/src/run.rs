use std::cell::Cell;
use std::error::Error;
use std::fmt::Write;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed};

use crate::isolate;

/// Why a trial did not pass.
#[derive(Debug)]
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

/// A trial as `libtest-mimic` runs it, with a name.
pub type Trial = libtest_mimic::Trial;

/// Makes a trial of a function.
pub fn test(name: &str, body: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || {
        LOGS.take();
        // By now the trial has dropped its daemons, and each has recorded the end of its log.
        match panic::catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => Ok(Completion::Completed),
            Ok(Err(Stop::Skipped(reason))) => Ok(Completion::ignored_with(reason)),
            Ok(Err(Stop::Failed(text))) => Err(Failed::from(format!("{text}{}", LOGS.take()))),
            Err(panic) => {
                eprint!("{}", LOGS.take());
                panic::resume_unwind(panic)
            }
        }
    })
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
    let arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    if !nix::unistd::geteuid().is_root() {
        let refused = trials.iter().map(|trial| {
            test(trial.name(), || match std::env::var_os("CI") {
                None => Err(Stop::Skipped("needs root".to_owned())),
                Some(_) => Err(Stop::Failed("needs root, and CI is set".to_owned())),
            })
        });
        return libtest_mimic::run(&arguments, refused.collect()).exit_code();
    }
    isolate::isolated(move || libtest_mimic::run(&arguments, trials).exit_code())
}
