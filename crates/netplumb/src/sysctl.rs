//! Settings below `/proc/sys/net`; a file there belongs to the namespace of the thread that opens it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use net_types::IfName;

use crate::{Error, Netns, Result};

const ROOT: &str = "/proc/sys/net";

/// The path of a setting below `/proc/sys/net`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl(PathBuf);

/// Which links a setting below `conf` applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conf<'a> {
    /// All links, by rules that depend on the setting (`ip-sysctl.rst`).
    All,
    /// Links that are created from now on.
    Default,
    /// The link with this name.
    Link(&'a IfName),
}

impl Conf<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::All => "all",
            Self::Default => "default",
            Self::Link(name) => name.as_str(),
        }
    }
}

impl Sysctl {
    /// A setting by its fixed path below `/proc/sys/net`: `ipv4/ip_forward`,
    /// `bridge/bridge-nf-call-iptables`.
    #[must_use]
    pub fn net(path: &'static str) -> Self {
        Self(Path::new(ROOT).join(path))
    }

    /// The setting `ipv4/conf/<link>/<setting>` below `/proc/sys/net`.
    #[must_use]
    pub fn ipv4(conf: Conf<'_>, setting: &'static str) -> Self {
        Self([ROOT, "ipv4/conf", conf.as_str(), setting].iter().collect())
    }

    /// The setting `ipv6/conf/<link>/<setting>` below `/proc/sys/net`.
    #[must_use]
    pub fn ipv6(conf: Conf<'_>, setting: &'static str) -> Self {
        Self([ROOT, "ipv6/conf", conf.as_str(), setting].iter().collect())
    }

    /// The path of the setting's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// What setting a sysctl did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysctlSet {
    /// It had the value already; nothing was written.
    Unchanged,
    /// It had another value and was written.
    Changed,
    /// This kernel or this namespace has no such setting: a module is not loaded, the link does not exist, IPv6 is
    /// off.
    Absent,
}

impl Netns {
    /// Reads a setting in this namespace, without the final line end; `None` if it does not exist.
    ///
    /// # Errors
    /// `/proc` is not mounted, or the file cannot be read.
    pub fn sysctl_get(&self, sysctl: &Sysctl) -> Result<Option<String>> {
        self.enter(|| get(sysctl))?
    }

    /// Sets a setting in this namespace: reads it, compares, and writes only a different value.
    ///
    /// # Errors
    /// The kernel refuses the value, or `/proc/sys` is mounted read-only.
    pub fn sysctl_set(&self, sysctl: &Sysctl, value: &str) -> Result<SysctlSet> {
        self.enter(|| set(sysctl, value))?
    }

    /// Writes settings without reading them first: for those of a new link, which differ. Missing ones are skipped.
    ///
    /// # Errors
    /// As [`Self::sysctl_set`].
    pub fn sysctl_write_all(&self, settings: &[(Sysctl, &str)]) -> Result<()> {
        self.enter(|| settings.iter().try_for_each(|(sysctl, value)| write(sysctl, value).map(drop)))?
    }

    /// Like [`Self::sysctl_set_all`]; returns the old value of each setting that was changed.
    ///
    /// # Errors
    /// As [`Self::sysctl_set`].
    pub fn sysctl_swap_all(&self, settings: &[(Sysctl, &str)]) -> Result<Vec<Option<String>>> {
        self.enter(|| settings.iter().map(|(sysctl, value)| swap(sysctl, value)).collect())?
    }

    /// Like [`Self::sysctl_set`] for several settings, entering the namespace once. Stops at the first error.
    ///
    /// # Errors
    /// As [`Self::sysctl_set`].
    pub fn sysctl_set_all(&self, settings: &[(Sysctl, &str)]) -> Result<Vec<SysctlSet>> {
        self.enter(|| settings.iter().map(|(sysctl, value)| set(sysctl, value)).collect())?
    }
}

fn get(sysctl: &Sysctl) -> Result<Option<String>> {
    // One read returns a whole setting (proc_dostring and similar functions end the file after one).
    let mut text = [0; 1024];
    match File::open(&sysctl.0).and_then(|mut file| file.read(&mut text)) {
        Ok(length) => {
            let text = String::from_utf8_lossy(&text[..length]);
            Ok(Some(text.trim_end_matches('\n').to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A missing /proc must not look like a missing setting.
            fs::metadata(ROOT).map_err(|error| Error::io("read setting", Path::new(ROOT), &error))?;
            Ok(None)
        }
        Err(error) => Err(Error::io("read setting", sysctl.path(), &error)),
    }
}

fn set(sysctl: &Sysctl, value: &str) -> Result<SysctlSet> {
    match get(sysctl)? {
        None => Ok(SysctlSet::Absent),
        Some(now) if same(&now, value) => Ok(SysctlSet::Unchanged),
        Some(_) => write(sysctl, value),
    }
}

/// Reads and writes through one open file, with four system calls instead of six.
fn swap(sysctl: &Sysctl, value: &str) -> Result<Option<String>> {
    let failed = |operation, error: &io::Error| Err(Error::io(operation, sysctl.path(), error));
    let mut file = match OpenOptions::new().read(true).write(true).open(&sysctl.0) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::metadata(ROOT).map_err(|error| Error::io("read setting", Path::new(ROOT), &error))?;
            return Ok(None);
        }
        Err(error) => return failed("write setting", &error),
    };
    let mut text = [0; 64];
    let now = match file.read(&mut text) {
        Ok(length) => String::from_utf8_lossy(&text[..length]).trim_end_matches('\n').to_owned(),
        Err(error) => return failed("read setting", &error),
    };
    if same(&now, value) {
        return Ok(None);
    }
    match file.write_all_at(value.as_bytes(), 0) {
        Ok(()) => Ok(Some(now)),
        Err(error) => failed("write setting", &error),
    }
}

/// Compares values; the kernel separates several numbers by tabs.
fn same(now: &str, value: &str) -> bool {
    now.split_whitespace().eq(value.split_whitespace())
}

fn write(sysctl: &Sysctl, value: &str) -> Result<SysctlSet> {
    let written =
        OpenOptions::new().write(true).open(&sysctl.0).and_then(|mut f| f.write_all(value.as_bytes()));
    match written {
        Ok(()) => Ok(SysctlSet::Changed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(SysctlSet::Absent),
        Err(error) => {
            Err(Error::io("write setting", format!("{} = {value}", sysctl.path().display()), &error))
        }
    }
}
