use super::{CommandContext, CommandError, chain};
use crate::{PoolFile, PoolFileError};

/// The pools of this node: files, and the cluster's.
pub(super) struct PoolFiles {
    pub(super) valid: Vec<PoolFile>,
    pub(super) invalid: Vec<(String, PoolFileError)>,
    /// The names of pools that have two files.
    pub(super) twice: Vec<String>,
}

impl PoolFiles {
    pub(super) fn load(context: &CommandContext) -> Result<Self, CommandError> {
        let twice = PoolFile::find_duplicates(&context.pools)?;
        let (mut valid, mut invalid) = (Vec::new(), Vec::new());
        for name in PoolFile::all_names(&context.paths)? {
            match PoolFile::find(&context.paths, &name) {
                Ok(file) => valid.push(file),
                Err(error) => invalid.push((name, error)),
            }
        }
        Ok(Self { valid, invalid, twice: twice.into_iter().collect() })
    }

    /// Why a valid pool gives no address to any pod, although some are free: as ADD says it.
    pub(super) fn why_every_add_fails(&self, file: &PoolFile) -> Vec<String> {
        let twice = self.twice.contains(&file.name).then(|| chain(&PoolFileError::Twice(file.name.clone())));
        let others = self.valid.iter().filter(|other| other.name != file.name);
        let overlaps = others.filter_map(|other| file.check_overlap(other).err().map(|error| chain(&error)));
        twice.into_iter().chain(for_nobody(file)).chain(overlaps).collect()
    }
}

pub(super) fn for_nobody(file: &PoolFile) -> Option<String> {
    file.allowed_namespaces.for_nobody()
}
