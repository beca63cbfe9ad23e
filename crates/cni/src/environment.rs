use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::Error;

/// The variables of the protocol as the caller set them.
///
/// An empty variable counts as missing, as in the reference plugins. A variable that occurs twice is an error: two
/// programs that read it could act on different values.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    values: [Option<OsString>; NAMES.len()],
    twice: Option<&'static str>,
}

pub(crate) const COMMAND: &str = "CNI_COMMAND";
pub(crate) const CONTAINERID: &str = "CNI_CONTAINERID";
pub(crate) const NETNS: &str = "CNI_NETNS";
pub(crate) const IFNAME: &str = "CNI_IFNAME";
pub(crate) const ARGS: &str = "CNI_ARGS";
pub(crate) const PATH: &str = "CNI_PATH";

const NAMES: [&str; 6] = [COMMAND, CONTAINERID, NETNS, IFNAME, ARGS, PATH];

impl Environment {
    /// The variables of this process.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// Whether `CNI_COMMAND` is set: a runtime, not a person, is the caller.
    #[must_use]
    pub fn has_command(&self) -> bool {
        self.get(COMMAND).is_some()
    }

    pub(crate) fn get(&self, name: &'static str) -> Option<&OsStr> {
        let index = NAMES.iter().position(|known| *known == name)?;
        self.values.get(index)?.as_deref().filter(|value| !value.is_empty())
    }

    /// A variable that must be UTF-8.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<&str>, Error> {
        self.get(name)
            .map(|value| value.to_str().ok_or_else(|| Error::NotText { name, value: value.to_owned() }))
            .transpose()
    }

    pub(crate) fn check_unique(&self) -> Result<(), Error> {
        self.twice.map_or(Ok(()), |name| Err(Error::VariableTwice(name)))
    }

    /// The same caller's environment for another attachment.
    pub(crate) fn of_attachment(&self, container_id: &str, ifname: &str, netns: Option<&Path>) -> Self {
        let stated = [
            (CONTAINERID, Some(container_id.as_ref())),
            (IFNAME, Some(ifname.as_ref())),
            (NETNS, netns.map(Path::as_os_str)),
            // They describe the pod of the caller's own request.
            (ARGS, None),
        ];
        let mut environment = self.clone();
        for (slot, name) in environment.values.iter_mut().zip(NAMES) {
            if let Some((_, value)) = stated.iter().find(|(stated, _)| *stated == name) {
                *slot = value.map(OsStr::to_owned);
            }
        }
        environment
    }

    /// All variables that are set, for a delegate.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        NAMES.into_iter().zip(&self.values).filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

impl<K: AsRef<OsStr>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(variables: T) -> Self {
        let mut environment = Self::default();
        for (key, value) in variables {
            let Some(index) = NAMES.iter().position(|name| key.as_ref() == *name) else { continue };
            if let (Some(slot), Some(name)) = (environment.values.get_mut(index), NAMES.get(index))
                && slot.replace(value.into()).is_some()
            {
                environment.twice = Some(*name);
            }
        }
        environment
    }
}
