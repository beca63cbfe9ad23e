use std::collections::BTreeSet;

use lan::NetnsName;

/// What may have changed since the last pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// The first pass, or events were lost.
    pub everything: bool,
    /// The files that declare LANs.
    pub declared: bool,
    /// The names of namespaces, and the network namespaces of pods.
    pub names: bool,
    /// The spokes' records, all of them.
    pub records: bool,
    pub record_files: BTreeSet<String>,
    pub underlays: bool,
    pub netns: BTreeSet<NetnsName>,
}

impl Dirty {
    /// Adds the changes of another one.
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

    /// The same for a change of this file: the record of that name, if only records are concerned.
    pub fn of_file(mut self, name: &str) -> Self {
        if std::mem::take(&mut self.records) {
            self.record_files.insert(name.to_owned());
        }
        self
    }
}
