//! A plugin's command line, for a person. A container runtime sets `CNI_COMMAND` and gives no arguments: nothing of this
//! runs then.

use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::Plugin;
use crate::plugin::about;
use crate::version::Version;

/// What every plugin understands: `--help` and `--version`.
#[must_use]
pub fn command<P: Plugin + ?Sized>() -> Command {
    dressed::<P>(Command::new(P::NAME).version(env!("CARGO_PKG_VERSION")))
}

/// The same about a command line with commands of its own.
#[must_use]
pub fn dressed<P: Plugin + ?Sized>(command: Command) -> Command {
    command.about(format!("CNI plugin, {}", P::ABOUT)).after_help(format!(
        "A container runtime runs the program with CNI_COMMAND set and a configuration on standard input; arguments \
         count for nothing then. CNI versions: {}. What may stand in a configuration is in docs/reference.md.",
        Version::list()
    ))
}

/// Reads this process's arguments; `None` where there are none, after a line about the plugin. Ends the process after
/// `--help` and `--version` (code 0) and where the arguments are wrong (code 2).
#[must_use]
pub fn matches<P: Plugin + ?Sized>(command: Command) -> Option<ArgMatches> {
    if std::env::args_os().len() < 2 {
        eprintln!("{}", about::<P>());
        return None;
    }
    Some(command.get_matches())
}

/// The whole of a plugin that has no commands.
pub(crate) fn by_hand<P: Plugin + ?Sized>(command: Command) -> ExitCode {
    let _ = matches::<P>(command.arg_required_else_help(true));
    ExitCode::SUCCESS
}
