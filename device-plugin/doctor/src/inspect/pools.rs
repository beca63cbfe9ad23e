//! The address pools, as `ipam-pool` reports them.

use super::view::NodeView;
use crate::ipam_pool;

/// Adds the pools; why there are none to see is a note.
pub(super) fn fill(view: &mut NodeView) {
    match ipam_pool::ask("pools") {
        Ok(pools) => view.pools = pools,
        Err(error) => view.notes.push(format!("pools are left out: {error:#}")),
    }
}
