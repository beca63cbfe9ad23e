use std::collections::BTreeSet;

use lan::NetnsName;

/// What may have changed since the last pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Everything: the first pass, or events were lost.
    pub everything: bool,
    /// What is declared.
    pub declared: bool,
    /// Which namespaces have a name, and which pods' namespaces are there.
    pub names: bool,
    /// The spokes' records, all of them.
    pub records: bool,
    /// These files of records.
    pub record_files: BTreeSet<String>,
    /// The underlays.
    pub underlays: bool,
    /// The links in these namespaces.
    pub netns: BTreeSet<NetnsName>,
}

impl Dirty {
    /// Takes more in.
    pub fn merge(&mut self, more: Self) {
        let Self { everything, declared, names, records, record_files, underlays, netns } = more;
        self.everything |= everything;
        self.declared |= declared;
        self.names |= names;
        self.records |= records;
        self.record_files.extend(record_files);
        self.underlays |= underlays;
        self.netns.extend(netns);
    }

    /// The same, where what changed is this file of the folder.
    pub fn of_file(mut self, name: &str) -> Self {
        if std::mem::take(&mut self.records) {
            self.record_files.insert(name.to_owned());
        }
        self
    }
}
