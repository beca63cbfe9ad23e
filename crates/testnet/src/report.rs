//! What a process of trials says to the one that started it ([`crate::run_files`]).

use serde_json::{Value, json};

/// The environment variable with the numbers of the trials that a process is to run; it has a caller that reads its lines.
pub(crate) const BATCH: &str = "K8SLAN_BATCH";
/// The beginning of a line of stdout that is for the caller; whatever stands before it is a program's.
const MARK: &str = "k8slan-batch:";

/// A line for the caller.
pub(crate) fn written(value: &Value) -> String {
    format!("{MARK}{value}")
}

/// What a line has for the caller, and what a program wrote before it.
pub(crate) fn read(line: &str) -> Option<(&str, Value)> {
    let (before, text) = line.split_once(MARK)?;
    Some((before, serde_json::from_str(text).ok()?))
}

/// Tells that something is wrong with an isolated process: to the caller where there is one, otherwise as the test harness
/// writes it, so that whoever adds the results up counts it.
pub(crate) fn broken(what: &str) {
    if std::env::var_os(BATCH).is_some() {
        println!("{}", written(&json!({"broken": what})));
    } else {
        println!("test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; {what}");
    }
}
