//! Manual pages and shell completions of the four programs, made from their command lines.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::{Generator, Shell, generate};
use clap_mangen::Man;
use cni::Plugin as _;

/// System administration (man-pages(7)).
const SECTION: &str = "8";

/// The programs, as a person calls them.
#[must_use]
pub fn programs() -> [Command; 4] {
    [
        macvtap::Macvtap::command_line(),
        vlan_bridge::VlanBridge::command_line(),
        ipam_pool::IpamPool::command_line(),
        k8slan_device_plugin::cli::command_line(),
    ]
}

/// Writes `man/man8/`, a page for each command, and `completions/` of bash, fish and zsh below a folder. What was there
/// goes first: a command that is no more has no page.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path) -> io::Result<()> {
    let (pages, completions) = (folder.join("man/man8"), folder.join("completions"));
    for old in [folder.join("man"), completions.clone()] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::create_dir_all(&pages)?;
    for program in programs() {
        let name = program.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            let folder = completions.join(shell.to_string());
            fs::create_dir_all(&folder)?;
            let mut text = Vec::new();
            generate(shell, &mut program.clone(), &name, &mut text);
            let file = match shell {
                // bash-completion looks for the program's own name.
                Shell::Bash => name.clone(),
                _ => shell.file_name(&name),
            };
            fs::write(folder.join(file), text)?;
        }
        let mut program = program.disable_help_subcommand(true);
        program.build();
        page(&program, &pages)?;
    }
    Ok(())
}

/// The page of a command, and of the commands below it.
fn page(command: &Command, folder: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut text = Vec::new();
    Man::new(command.clone()).section(SECTION).render(&mut text)?;
    fs::write(folder.join(format!("{name}.{SECTION}")), text)?;
    command.get_subcommands().filter(|command| !command.is_hide_set()).try_for_each(|sub| page(sub, folder))
}
