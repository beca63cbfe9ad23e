use crate::store::{Store, StoreError};
use crate::{AddrSet, RangeSet};

/// Does `work` with the addresses that this node holds. Where they do not suffice and the store can claim more,
/// claims them and does it again. `wanted` gives the addresses that an error is about.
pub fn within_blocks<S: Store, T, E: From<StoreError>>(
    store: &mut S,
    sets: &[RangeSet],
    wanted: impl Fn(&E) -> Option<AddrSet>,
    mut work: impl FnMut(&mut S, &[RangeSet]) -> Result<T, E>,
) -> Result<T, E> {
    let mut sets = sets.to_vec();
    loop {
        for set in &mut sets {
            let held = store.held(set.node_part())?;
            set.restrict_to_blocks(&held);
        }
        match work(store, &sets) {
            Err(error) => match wanted(&error) {
                Some(wanted) if store.claim(&wanted)? => {}
                _ => return Err(error),
            },
            done => return done,
        }
    }
}
