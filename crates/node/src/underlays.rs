use net_types::IfName;
use serde::{Deserialize, Serialize};

use crate::{Durability, Paths, SafeDir, SafeDirError};

/// A link of the node that carries a LAN.
///
/// The kernel does not show it: the LAN's VXLAN device is in another namespace, and a link does not list upper links
/// of other namespaces. So the daemon records the underlays before it builds a LAN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Underlay {
    /// The key of the LAN.
    pub lan: String,
    /// The link's name, if the LAN states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<IfName>,
    /// The link's index; absent while the link does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

/// All underlays of a node: `/run/k8slan/underlays.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlays(Vec<Underlay>);

/// Why it is not known which links carry LANs.
#[derive(Debug, thiserror::Error)]
pub enum UnderlaysError {
    /// The file cannot be read or written, or is not trusted.
    #[error("cannot use the record of the LANs' underlays")]
    File(#[from] SafeDirError),
    /// The text is not one that the daemon writes.
    #[error(
        "the record of the LANs' underlays is damaged: restart k8slan-device-plugin, which writes it anew"
    )]
    Text(#[source] serde_json::Error),
}

const FILE: &str = "underlays.json";

impl Underlays {
    /// Sorts the underlays, so that the file does not depend on who collected them.
    #[must_use]
    pub fn new(mut all: Vec<Underlay>) -> Self {
        all.sort();
        all.dedup();
        Self(all)
    }

    /// Reads the daemon's record; empty if no daemon has run since the node booted.
    ///
    /// # Errors
    /// Others than root may write the file, or it is not the daemon's.
    pub fn read(paths: &Paths) -> Result<Self, UnderlaysError> {
        let Some(run) = SafeDir::open(paths.run())? else { return Ok(Self::default()) };
        Self::read_in(&run)
    }

    /// The same, if the run folder is open already.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_in(run: &SafeDir) -> Result<Self, UnderlaysError> {
        let Some(text) = run.read(FILE)? else { return Ok(Self::default()) };
        serde_json::from_slice(&text).map(Self).map_err(UnderlaysError::Text)
    }

    /// Writes the whole record.
    ///
    /// # Errors
    /// The file cannot be written; the old one is unchanged.
    pub fn write(&self, run: &SafeDir) -> Result<(), UnderlaysError> {
        let text = serde_json::to_vec(&self.0).map_err(UnderlaysError::Text)?;
        Ok(run.write(FILE, &text, Durability::UntilReboot)?)
    }

    /// The LAN that a link carries, if any. Its name counts as well as its index: a LAN may name a link that does not
    /// exist yet, and a link may be renamed.
    #[must_use]
    pub fn lan_on(&self, name: &str, index: u32) -> Option<&str> {
        let carries = |underlay: &&Underlay| {
            underlay.index == Some(index) || underlay.link.as_ref().is_some_and(|link| *link == *name)
        };
        self.0.iter().find(carries).map(|underlay| underlay.lan.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay(lan: &str, link: Option<&str>, index: Option<u32>) -> Underlay {
        Underlay { lan: lan.into(), link: link.map(|link| link.parse().unwrap()), index }
    }

    #[test]
    fn a_link_is_known_by_name_and_by_index() {
        let all = Underlays::new(vec![
            underlay("t/b", None, Some(7)),
            underlay("t/a", Some("eth1"), Some(3)),
            underlay("t/c", Some("later"), None),
            underlay("t/a", Some("eth1"), Some(3)),
        ]);
        assert_eq!(all.0.len(), 3);
        assert_eq!(all.lan_on("eth1", 3), Some("t/a"));
        assert_eq!(all.lan_on("renamed", 3), Some("t/a"));
        assert_eq!(all.lan_on("eth1", 9), Some("t/a"));
        assert_eq!(all.lan_on("other", 7), Some("t/b"));
        assert_eq!(all.lan_on("later", 8), Some("t/c"));
        assert_eq!(all.lan_on("other", 8), None);
    }

    #[test]
    fn what_is_written_is_read_and_what_others_wrote_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let run = SafeDir::create(temp.path()).unwrap();
        assert_eq!(Underlays::read_in(&run).unwrap(), Underlays::default());
        let all = Underlays::new(vec![underlay("t/a", Some("eth1"), Some(3)), underlay("t/b", None, None)]);
        all.write(&run).unwrap();
        assert_eq!(Underlays::read_in(&run).unwrap(), all);
        std::fs::write(temp.path().join(FILE), "[{").unwrap();
        assert!(matches!(Underlays::read_in(&run), Err(UnderlaysError::Text(_))));
        std::fs::remove_file(temp.path().join(FILE)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", temp.path().join(FILE)).unwrap();
        assert!(matches!(Underlays::read_in(&run), Err(UnderlaysError::File(_))));
    }
}
