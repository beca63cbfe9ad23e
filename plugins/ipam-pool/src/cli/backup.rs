use std::path::Path;

use serde::Serialize;

use super::pool_or_network::PoolOrNetwork;
use super::{CommandContext, CommandError, chain, table};
use crate::store::BackupPart;

/// One line of `backup`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    of: PoolOrNetwork,
    what: &'static str,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// `ipam-pool backup DIR`
pub(super) fn backup(context: &CommandContext, folder: &Path) -> Result<(), CommandError> {
    let mut rows = Vec::new();
    for key in context.dirs.list()? {
        for copied in context.dirs.backup_pool(&key, folder)? {
            let (addresses, problem) = match copied.addresses {
                Ok(addresses) => (Some(addresses), None),
                Err(error) => (None, Some(chain(&error))),
            };
            rows.push(Row {
                of: (&key).into(),
                what: match copied.part {
                    BackupPart::Leases => "leases of this boot",
                    BackupPart::Kept => "kept",
                },
                file: copied.path.display().to_string(),
                addresses,
                problem,
            });
        }
    }
    table::print(
        context.json,
        &["POOL", "WHAT", "ADDRESSES", "FILE", "PROBLEM"],
        &rows,
        "there are no stores to copy",
        |row| {
            vec![
                row.of.to_string(),
                row.what.to_owned(),
                row.addresses.map_or_else(|| "-".to_owned(), |count| count.to_string()),
                row.file.clone(),
                row.problem.clone().unwrap_or_default(),
            ]
        },
    )?;
    match rows.iter().filter(|row| row.problem.is_some()).count() {
        0 => Ok(()),
        problems => Err(CommandError::Problems(problems)),
    }
}
