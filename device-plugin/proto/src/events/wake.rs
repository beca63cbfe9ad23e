use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::dirty::Dirty;

/// Collects the events of all sources and wakes the loop that handles them.
#[derive(Clone, Default)]
pub struct Wake(Arc<Shared>);

#[derive(Default)]
struct Shared {
    dirty: Mutex<Dirty>,
    notify: Notify,
}

impl Wake {
    pub fn mark(&self, dirty: Dirty) {
        self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner).merge(dirty);
        self.0.notify.notify_one();
    }

    /// Waits for a change. Cancelling it loses nothing.
    pub async fn wait(&self) {
        self.wait_until(|dirty| *dirty != Dirty::default()).await;
    }

    /// Waits until the declarations of LANs may have changed, or events were lost. Cancelling it loses nothing.
    pub async fn wait_for_declarations(&self) {
        self.wait_until(|dirty| dirty.declared || dirty.everything).await;
    }

    async fn wait_until(&self, wanted: impl Fn(&Dirty) -> bool) {
        while !wanted(&self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.0.notify.notified().await;
        }
    }

    /// Returns what was marked and clears it.
    pub fn take_changes(&self) -> Dirty {
        std::mem::take(&mut *self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn wakes_once_for_all_that_came() {
        let wake = Wake::default();
        wake.mark(Dirty { names: true, ..Dirty::default() });
        wake.mark(Dirty { netns: ["n".parse().unwrap()].into(), ..Dirty::default() });
        wake.wait().await;
        let dirty = wake.take_changes();
        assert!(dirty.names && dirty.netns.len() == 1 && !dirty.everything);
        assert!(tokio::time::timeout(Duration::from_millis(20), wake.wait()).await.is_err());
        wake.mark(Dirty { underlays: true, ..Dirty::default() });
        let declared = tokio::time::timeout(Duration::from_millis(20), wake.wait_for_declarations()).await;
        assert!(declared.is_err() && wake.take_changes().underlays, "it waited for more, and lost nothing");
        let waiting = wake.clone();
        let task = tokio::spawn(async move { waiting.wait().await });
        wake.mark(Dirty { records: true, ..Dirty::default() });
        tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    }
}
