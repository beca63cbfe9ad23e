//! A plugin's command line, for a person. A container runtime sets `CNI_COMMAND` and gives no arguments: nothing of this
//! runs then.

use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::Version;

/// What every plugin understands: `--help` and `--version`.
#[must_use]
pub fn command(name: &'static str, about: &str) -> Command {
    let command = Command::new(name).version(env!("CARGO_PKG_VERSION"));
    command.about(format!("CNI plugin, {about}")).after_help(format!(
        "A container runtime runs the program with CNI_COMMAND set and a configuration on standard input; arguments \
         count for nothing then. CNI versions: {}. What may stand in a configuration is in docs/reference.md.",
        Version::list()
    ))
}

/// Reads this process's arguments; `None` where there are none, after a line about the plugin. Ends the process after
/// `--help` and `--version` (code 0) and where the arguments are wrong (code 2).
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

/// The whole of a plugin that has no commands.
pub(crate) fn by_hand(command: Command, about: &str) -> ExitCode {
    let _ = matches(command.arg_required_else_help(true), about);
    ExitCode::SUCCESS
}
