use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::panic;
use std::path::PathBuf;
use std::process::{self, ExitCode};

use nix::sys::signal::{SigHandler, Signal, signal};

use crate::document::version_of;
use crate::environment::{COMMAND, NETNS};
use crate::request::Removal;
use crate::{Environment, Error, ErrorDocument, MAX_STDIN, Plugin, PluginError, Target, Verb, Version};
use crate::{decode, namespace, request, wire};

/// What a plugin answers to its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// One JSON document, or nothing.
    pub stdout: Vec<u8>,
    /// Whether the exit code is 0.
    pub success: bool,
}

/// A plugin's whole `main`: reads the environment and standard input, calls the plugin, writes the
/// answer to standard output.
///
/// Without `CNI_COMMAND` it runs [`Plugin::by_hand`].
pub fn run<P: Plugin>(plugin: &P) -> ExitCode {
    ignore_file_size_signal();
    let environment = Environment::of_process();
    if !environment.has_command() {
        return plugin.by_hand();
    }
    answer_panics(P::NAME);
    let stdin = std::io::stdin();
    // VERSION needs no input, and somebody who tries it on a terminal gives none.
    let answer = if stdin.is_terminal() {
        dispatch(plugin, environment, std::io::empty())
    } else {
        dispatch(plugin, environment, stdin.lock())
    };
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(&answer.stdout).and_then(|()| stdout.flush()) {
        Ok(()) if answer.success => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        // The caller gets no answer, so it has to assume a failure and call DEL.
        Err(error) => {
            eprintln!("{}: writing the answer to standard output failed: {error}", P::NAME);
            ExitCode::FAILURE
        }
    }
}

/// With a limit of the size of files (`ulimit -f`), a write fails with EFBIG, which is answered as every failure,
/// instead of ending the program without an answer.
#[expect(unsafe_code, reason = "nix cannot know that nobody has a handler for the signal")]
fn ignore_file_size_signal() {
    // SAFETY: no handler is set, and nothing was started yet.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Turns a panic into the error document that the runtime expects, and ends the program. The runtime's DEL undoes
/// what was half done, as after any other death.
fn answer_panics(name: &'static str) {
    panic::set_hook(Box::new(move |what| {
        let version = request::stated_version();
        let document = ErrorDocument::internal(name, &what.to_string()).to_json(version);
        // The thread that panicked may hold the lock of standard output; a failure of this write cannot be reported.
        let _ = std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from)
            .and_then(|mut output| output.write_all(&document));
        let _ = writeln!(std::io::stderr(), "{name}: {what}");
        process::exit(1);
    }));
}

/// Answers one request from its environment and its standard input, without using this process's own: the part of
/// [`run`] that tests can call.
///
/// Delegates are run with the variables in `environment`.
pub fn dispatch<P: Plugin>(plugin: &P, environment: Environment, stdin: impl Read) -> Answer {
    let mut version = Version::LATEST;
    match answer(plugin, environment, stdin, &mut version) {
        Ok(stdout) => Answer { stdout, success: true },
        Err(error) => Answer { stdout: error.to_json(version), success: false },
    }
}

fn answer<P: Plugin>(
    plugin: &P,
    environment: Environment,
    stdin: impl Read,
    version: &mut Version,
) -> Result<Vec<u8>, ErrorDocument> {
    let verb = verb(&environment)?;
    if verb == Verb::Version {
        // Nothing else is validated: libcni probes with dummy values.
        let input = read(stdin).unwrap_or_default();
        return Ok(wire::versions(version_of(&input).as_deref())?);
    }
    let target = request::target(verb, &environment)?;
    match (verb, &target) {
        (Verb::Del, Some(target)) => {
            // If the pod's process ended and another got its number, the path may now lead to any namespace.
            let netns = target.netns.clone().filter(|path| !namespace::is_own(path));
            let target = Target { netns, ..target.clone() };
            return del(plugin, environment, stdin, version, &target);
        }
        (Verb::Gc, _) => return gc(plugin, environment, stdin, version),
        _ => {}
    }
    let (request, _) = request::parse(verb, environment, read(stdin)?, P::NAMES, version)?;
    if let Some(path) = target.as_ref().and_then(|target| target.netns.as_deref()) {
        namespace::check(path)?;
    }
    let config = decode::object(request.document(), decode::What::Config).map_err(misconfigured::<P>)?;
    let request = request.with_config(config);
    let nothing = |()| Vec::new();
    match (verb, target) {
        (Verb::Add, Some(target)) => {
            let result = plugin.add(&request, &existing(target)?).map_err(plugins)?;
            Ok(wire::result(request.version, &result)?)
        }
        (Verb::Check, Some(target)) => {
            let promised = request.prev_result.as_ref().ok_or(Error::NoPrevResult)?;
            plugin.check(&request, &existing(target)?, promised).map(nothing).map_err(plugins)
        }
        (Verb::Status, _) => plugin.status(&request).map(nothing).map_err(plugins),
        _ => Err(Error::UnknownVerb(verb.to_string()).into()),
    }
}

fn plugins<E: PluginError>(error: E) -> ErrorDocument {
    ErrorDocument::from_error(&error)
}

/// DEL removes what it can, whatever is wrong with the configuration.
fn del<P: Plugin>(
    plugin: &P,
    environment: Environment,
    stdin: impl Read,
    version: &mut Version,
    target: &Target<Option<PathBuf>>,
) -> Result<Vec<u8>, ErrorDocument> {
    let request = match request::parse_removal(Verb::Del, environment, read(stdin), P::NAMES, version)? {
        Removal::Misconfigured(request) => request,
        Removal::Whole(request, ..) => match decode::object(request.document(), decode::What::Config) {
            Ok(config) => {
                let done = plugin.del(&request.with_config(config), target);
                return done.map(|()| Vec::new()).map_err(plugins);
            }
            Err(error) => Box::new(request.misconfigured(error)),
        },
    };
    let is_broken = matches!(
        request.error,
        Error::NotJson(_) | Error::NotAnObject(_) | Error::Stdin(_) | Error::StdinTooLong
    );
    match plugin.del_misconfigured(&request, target) {
        Some(done) => done.map_err(plugins)?,
        None => return Err(misconfigured::<P>(request.error)),
    }
    if is_broken { Err(request.error.into()) } else { Ok(Vec::new()) }
}

fn gc<P: Plugin>(
    plugin: &P,
    environment: Environment,
    stdin: impl Read,
    version: &mut Version,
) -> Result<Vec<u8>, ErrorDocument> {
    let removal = request::parse_removal(Verb::Gc, environment, read(stdin), P::NAMES, version)?;
    let (request, valid, ipam) = match removal {
        Removal::Whole(request, valid, ipam) => (request, valid, ipam),
        Removal::Misconfigured(request) => return Err(request.error.into()),
    };
    match decode::object(request.document(), decode::What::Config) {
        Ok(config) => plugin.gc(&request.with_config(config), valid.as_deref()).map_err(plugins)?,
        Err(error) => match plugin.gc_misconfigured(&request, valid.as_deref()) {
            Some(done) => done.map_err(plugins)?,
            None => return Err(misconfigured::<P>(error)),
        },
    }
    // In that case, addresses that the IPAM plugin keeps without an attachment stay.
    ipam.map_or(Ok(Vec::new()), |error| Err(error.into()))
}

/// The error document for an invalid protocol part of the configuration.
fn misconfigured<P: Plugin>(error: Error) -> ErrorDocument {
    let code = match &error {
        Error::Config { field, .. } => P::code_of_field(field),
        other => other.code(),
    };
    ErrorDocument { code, ..error.into() }
}

fn verb(environment: &Environment) -> Result<Verb, Error> {
    environment.check_unique()?;
    let command = environment.text(COMMAND)?.unwrap_or_default();
    Verb::parse(command).ok_or_else(|| Error::UnknownVerb(command.to_owned()))
}

/// The target of ADD and CHECK; the variables were checked before.
fn existing(target: Target<Option<PathBuf>>) -> Result<Target, Error> {
    let Target { container_id, ifname, netns } = target;
    let netns = netns.ok_or_else(|| Error::VariablesMissing { verb: Verb::Add, names: NETNS.to_owned() })?;
    Ok(Target { container_id, ifname, netns })
}

fn read(stdin: impl Read) -> Result<Vec<u8>, Error> {
    // Large enough for what Multus sends, so that one read is enough.
    let mut input = Vec::with_capacity(8 << 10);
    stdin.take(MAX_STDIN + 1).read_to_end(&mut input).map_err(Error::Stdin)?;
    if input.len() as u64 > MAX_STDIN {
        return Err(Error::StdinTooLong);
    }
    Ok(input)
}
