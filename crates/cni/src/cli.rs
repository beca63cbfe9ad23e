//! A plugin's command line for people. A container runtime sets `CNI_COMMAND` and gives no arguments; none of this
//! runs then.

use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::Version;

/// The command line of every plugin: `--help` and `--version`.
#[must_use]
pub fn command(name: &'static str, about: &str) -> Command {
    let command = Command::new(name).version(env!("CARGO_PKG_VERSION"));
    command.about(format!("CNI plugin, {about}")).after_help(format!(
        "A container runtime runs the program with CNI_COMMAND set and a configuration on standard input; arguments \
         count for nothing then. CNI versions: {}. What may stand in a configuration is in docs/reference.md.",
        Version::list()
    ))
}

/// Parses this process's arguments; without any, prints a line about the plugin and returns `None`. Ends the process
/// after `--help` and `--version` (code 0) and on wrong arguments (code 2).
#[must_use]
pub fn matches(command: Command, about: &str) -> Option<ArgMatches> {
    if std::env::args_os().len() < 2 {
        eprintln!(
            "{name}: CNI plugin, {about}; a container runtime runs it (CNI_COMMAND is not set). Versions: {}. By hand: {name} --help",
            Version::list(),
            name = command.get_name()
        );
        return None;
    }
    Some(command.get_matches())
}

/// The command line of a plugin without commands of its own.
pub(crate) fn by_hand(command: Command, about: &str) -> ExitCode {
    let _ = matches(command.arg_required_else_help(true), about);
    ExitCode::SUCCESS
}
