//! A process that runs a few trials, as its caller sees it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::batch::{Said, read};
use crate::error::During;
use crate::report::BATCH;
use crate::{Error, Outcome, Stop};

/// How long it may run: with it ends whatever hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs these trials in a process of their own and delivers, for each, how it ended and how long it took.
///
/// What is wrong with the process at its end is a failure of the trial that ran last.
pub(super) fn run(numbers: &[usize], mut deliver: impl FnMut(usize, Outcome, Duration)) {
    let (mut not_run, mut last) = (numbers.to_vec(), None);
    let ended = start(numbers).and_then(|child| {
        follow(child, |number, outcome, time| {
            not_run.retain(|other| *other != number);
            if let Some((number, outcome, time)) = last.replace((number, outcome, time)) {
                deliver(number, outcome, time);
            }
        })
    });
    let mut wrong = match ended {
        Ok(None) if not_run.is_empty() => None,
        Ok(None) => Some("its process ended without a word about it".to_owned()),
        Ok(Some(what)) => Some(what),
        Err(error) => Some(crate::isolate::chain(&error)),
    };
    if let Some((number, outcome, time)) = last {
        let outcome = match wrong.take_if(|_| not_run.is_empty()) {
            Some(what) => Err(also(outcome, &what)),
            None => outcome,
        };
        deliver(number, outcome, time);
    }
    for number in not_run {
        let what =
            wrong.take().unwrap_or_else(|| "not run: the process of the trial before it ended".to_owned());
        deliver(number, Err(Stop::Failed(what)), Duration::ZERO);
    }
}

/// A failure that tells this besides what the trial told.
fn also(outcome: Outcome, what: &str) -> Stop {
    match outcome {
        Err(Stop::Failed(text)) => Stop::Failed(format!("{text}\n{what}")),
        Ok(()) | Err(Stop::Skipped(_)) => Stop::Failed(what.to_owned()),
    }
}

fn start(numbers: &[usize]) -> Result<Child, Error> {
    let text: Vec<String> = numbers.iter().map(usize::to_string).collect();
    // This very program, also where another has been built to its path meanwhile.
    Command::new("/proc/self/exe")
        .env(BATCH, text.join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .during(|| "starting a process for trials".to_owned())
}

/// Follows the process to its end; answers what was wrong with it.
fn follow(
    mut child: Child,
    mut ended: impl FnMut(usize, Outcome, Duration),
) -> Result<Option<String>, Error> {
    let Some(stdout) = child.stdout.take() else { return Ok(Some("no stdout".to_owned())) };
    let (sender, lines) = mpsc::channel();
    // The thread ends with the process's output.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let (start, mut broken) = (Instant::now(), None);
    loop {
        match lines.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
            Ok(line) => {
                let (words, said) = read(&line);
                if said.is_none() || !words.is_empty() {
                    println!("{words}");
                }
                match said {
                    Some(Said::Ended { number, outcome, time }) => ended(number, outcome, time),
                    Some(Said::Broken(what)) => broken = Some(what),
                    None => {}
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                broken = Some(format!("not ended after {} s: killed", LIMIT.as_secs()));
                child.kill().during(|| "killing a process that hangs".to_owned())?;
                break;
            }
        }
    }
    let status = child.wait().during(|| "waiting for a process of trials".to_owned())?;
    Ok(match broken {
        None if status.success() => None,
        None => Some(format!("its process ended with {status}")),
        broken => broken,
    })
}
