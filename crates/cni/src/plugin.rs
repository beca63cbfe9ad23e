use std::path::PathBuf;
use std::process::ExitCode;

use serde::de::DeserializeOwned;

use crate::cli;
use crate::{AddResult, Code, Misconfigured, PluginError, Request, Target, ValidAttachment};

/// A CNI plugin: what it does for each verb. The protocol itself is this crate's.
///
/// The [`Request`] has everything that is not about one attachment. Interface plugins pass every verb on to their
/// IPAM plugin ([`Request::ipam`]).
pub trait Plugin {
    /// The plugin's own fields of the configuration, read from the same document as the protocol's.
    ///
    /// It must not deny unknown fields: the protocol's are in the same object.
    type Config: DeserializeOwned;

    /// The plugin's error; it holds [`Error`](crate::Error) as one variant.
    type Error: PluginError;

    /// The program's name, like `macvtap`.
    const NAME: &'static str;

    /// What it does, in half a line: `attaches a pod to …`.
    const ABOUT: &'static str;

    /// The names of its fields, nested ones too. They are accepted in any case, as in the reference plugins.
    const NAMES: &'static [&'static [&'static str]] = &[];

    /// The code of the error for an invalid value in [`Plugin::Config`]. `field` is its path, like `uplinks[0].name`.
    #[must_use]
    fn code_of_field(field: &str) -> Code {
        let _ = field;
        Code::INVALID_CONFIG
    }

    /// Attaches the container and returns what was made.
    ///
    /// What was made before a failure has to be undone before the error is returned. The target's namespace existed a
    /// moment ago and is not the plugin's own.
    ///
    /// # Errors
    /// The plugin's error; nothing is left behind.
    fn add(&self, request: &Request<Self::Config>, target: &Target) -> Result<AddResult, Self::Error>;

    /// Removes the attachment. It succeeds if nothing is there, also if the namespace is gone.
    ///
    /// # Errors
    /// The plugin's error; everything that could be removed has been.
    fn del(
        &self,
        request: &Request<Self::Config>,
        target: &Target<Option<PathBuf>>,
    ) -> Result<(), Self::Error>;

    /// DEL with a configuration that ADD would refuse: somebody changed it since, or the runtime lost parts of it.
    ///
    /// `None`, the default, answers with the configuration's error. A plugin that finds what it made without its
    /// configuration can clean up here, so that a typing error in a configuration does not keep pods from ending. If
    /// the input was not a JSON object at all, the answer is that error in any case, since such a caller is broken.
    fn del_misconfigured(
        &self,
        request: &Misconfigured,
        target: &Target<Option<PathBuf>>,
    ) -> Option<Result<(), Self::Error>> {
        let _ = (request, target);
        None
    }

    /// GC where the network is known but the plugin's part of the configuration is wrong; as
    /// [`Plugin::del_misconfigured`].
    fn gc_misconfigured(
        &self,
        request: &Request<()>,
        valid: Option<&[ValidAttachment]>,
    ) -> Option<Result<(), Self::Error>> {
        let _ = (request, valid);
        None
    }

    /// Verifies what ADD promised; `promised` is the `prevResult` of the request.
    ///
    /// # Errors
    /// The first difference to `promised`.
    fn check(
        &self,
        request: &Request<Self::Config>,
        target: &Target,
        promised: &AddResult,
    ) -> Result<(), Self::Error>;

    /// Frees what belongs to no attachment in `valid`. `None` (the runtime gave no list) frees
    /// nothing, an empty list everything.
    ///
    /// # Errors
    /// All errors; everything that could be freed has been.
    fn gc(
        &self,
        request: &Request<Self::Config>,
        valid: Option<&[ValidAttachment]>,
    ) -> Result<(), Self::Error>;

    /// Whether an ADD could be served now.
    ///
    /// # Errors
    /// What is missing, with [`Code::NOT_AVAILABLE`](crate::Code::NOT_AVAILABLE) or
    /// [`Code::LIMITED_CONNECTIVITY`](crate::Code::LIMITED_CONNECTIVITY).
    fn status(&self, request: &Request<Self::Config>) -> Result<(), Self::Error>;

    /// The command line that people use.
    #[must_use]
    fn command_line() -> clap::Command {
        cli::command(Self::NAME, Self::ABOUT)
    }

    /// Runs when the program was started without `CNI_COMMAND`, so by a person. The default knows `--help` and
    /// `--version`; a plugin with commands of its own overrides it.
    fn by_hand(&self) -> ExitCode {
        cli::by_hand(Self::command_line(), Self::ABOUT)
    }
}
