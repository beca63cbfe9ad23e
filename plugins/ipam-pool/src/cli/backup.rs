use std::path::Path;

use serde::Serialize;

use super::of::Of;
use super::{Failure, Scene, chain, table};
use crate::store::Part;

/// One line of `backup`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    of: Of,
    what: &'static str,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// `ipam-pool backup DIR`
pub(super) fn backup(scene: &Scene, folder: &Path) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for key in scene.place.list()? {
        for copied in scene.place.back_up(&key, folder)? {
            let (addresses, problem) = match copied.addresses {
                Ok(addresses) => (Some(addresses), None),
                Err(error) => (None, Some(chain(&error))),
            };
            rows.push(Row {
                of: (&key).into(),
                what: match copied.part {
                    Part::Leases => "leases of this boot",
                    Part::Kept => "kept",
                },
                file: copied.path.display().to_string(),
                addresses,
                problem,
            });
        }
    }
    table::print(
        scene.json,
        &["POOL", "WHAT", "ADDRESSES", "FILE", "PROBLEM"],
        &rows,
        "there is nothing to copy",
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
        problems => Err(Failure::Problems(problems)),
    }
}
