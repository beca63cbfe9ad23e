//! A test binary with the trials of several files: each trial, or a few that share a booted kernel, runs in a process of
//! its own, isolated and looked after as [`crate::main`] does it for all of a binary. As many run at a time as the
//! machine has processors, whichever file they are of, the long ones first.

mod batch;
mod plan;
mod process;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use libtest_mimic::Arguments;

use crate::run::{Kernel, completion, conclude, refused};
use crate::times::Times;
use crate::{Outcome, Stop, Trial, vlan_kernel};

/// The trials of modules, each with a function `trials`, for [`run_files`].
#[macro_export]
macro_rules! files {
    ($($module:ident),* $(,)?) => { vec![$((stringify!($module), $module::trials())),*] };
}

/// The `main` of a test binary: runs the trials of its files, each of which is named `file::trial`.
///
/// `long` names those that take longest, the longest first: they start before all others.
///
/// Takes the command line of `cargo test`. Needs root; without it every trial is skipped by name, or fails
/// where `CI` is set.
///
/// # Panics
/// If `long` names a trial that is not there.
#[must_use]
pub fn run_files(files: Vec<(&str, Vec<Trial>)>, long: &[&str]) -> ExitCode {
    run_files_at_once(files, long, 1)
}

/// The same for trials that wait more than they work: twice as many of them as the machine has processors run at a time.
///
/// # Panics
/// As [`run_files`].
#[must_use]
pub fn run_waiting_files(files: Vec<(&str, Vec<Trial>)>, long: &[&str]) -> ExitCode {
    run_files_at_once(files, long, 2)
}

fn run_files_at_once(files: Vec<(&str, Vec<Trial>)>, long: &[&str], per_processor: usize) -> ExitCode {
    let trials: Vec<Trial> =
        files.into_iter().flat_map(|(file, trials)| trials.into_iter().map(|t| t.in_file(file))).collect();
    if let Some(numbers) = batch::of_this_process() {
        return batch::run(trials, &numbers);
    }
    for name in long {
        assert!(trials.iter().any(|trial| trial.name() == *name), "{name} is no trial of this binary");
    }
    let arguments = Arguments::from_args();
    let missing = (!nix::unistd::geteuid().is_root()).then(|| "needs root".to_owned());
    let kernel_missing = missing.clone().or_else(vlan_kernel::missing);
    let (mut shown, mut wanted) = (Vec::new(), BTreeMap::new());
    for (number, trial) in trials.iter().enumerate() {
        let missing = if trial.kernel() == Kernel::Vlan { &kernel_missing } else { &missing };
        let (sender, receiver) = mpsc::channel::<Outcome>();
        let runs = match missing {
            Some(missing) => refused(trial.name(), missing),
            None => libtest_mimic::Trial::ignorable_test(trial.name(), move || {
                completion(receiver.recv().unwrap_or_else(|_| Err(Stop::Failed("it was not run".to_owned()))))
            }),
        };
        if missing.is_none()
            && !arguments.list
            && !arguments.is_filtered_out(&runs)
            && !arguments.is_ignored(&runs)
        {
            wanted.insert(number, sender);
        }
        shown.push(runs);
    }
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = arguments.test_threads.unwrap_or(processors * per_processor).max(1);
    run_wanted(arguments, &trials, shown, wanted, (jobs, long))
}

/// Runs those that are wanted, while the runner waits for all of them at once.
fn run_wanted(
    mut arguments: Arguments,
    trials: &[Trial],
    shown: Vec<libtest_mimic::Trial>,
    mut wanted: BTreeMap<usize, Sender<Outcome>>,
    (jobs, long): (usize, &[&str]),
) -> ExitCode {
    arguments.test_threads = Some(wanted.len().max(1));
    let numbers: Vec<usize> = wanted.keys().copied().collect();
    let with_senders = |batch: Vec<usize>| -> Vec<_> {
        batch.into_iter().filter_map(|number| Some((number, wanted.remove(&number)?))).collect()
    };
    let waiting: Mutex<VecDeque<Batch>> =
        Mutex::new(plan::batches(trials, &numbers, long).into_iter().map(with_senders).collect());
    let names: Vec<&str> = trials.iter().map(Trial::name).collect();
    let times = Times::default();
    let code = thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                // What this thread drops without an answer is told as not run.
                while let Some(batch) = next(&waiting) {
                    let numbers: Vec<usize> = batch.iter().map(|(number, _)| *number).collect();
                    process::run(&numbers, |number, outcome, time| {
                        times.note(time, names[number]);
                        if let Some((_, sender)) = batch.iter().find(|(of, _)| *of == number) {
                            let _ = sender.send(outcome);
                        }
                    });
                }
            });
        }
        conclude(&arguments, shown)
    });
    times.name_slow();
    code
}

/// Trials that one process runs, and who waits for each.
type Batch = Vec<(usize, Sender<Outcome>)>;

fn next(waiting: &Mutex<VecDeque<Batch>>) -> Option<Batch> {
    lock(waiting).pop_front()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
