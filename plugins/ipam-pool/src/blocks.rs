use crate::store::{Store, StoreError};
use crate::{Set, Spans};

/// Does `work` with the addresses of the sets that this node holds, and again with more where they do not do and the store has
/// more to claim. `wanted` says what would have to be held for an error not to be one.
///
/// # Errors
/// The work's, or the store's.
pub fn within_blocks<S: Store, T, E: From<StoreError>>(
    store: &mut S,
    sets: &[Set],
    wanted: impl Fn(&E) -> Option<Spans>,
    mut work: impl FnMut(&mut S, &[Set]) -> Result<T, E>,
) -> Result<T, E> {
    let mut sets = sets.to_vec();
    loop {
        for set in &mut sets {
            let held = store.held(set.part())?;
            set.confine(&held);
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
