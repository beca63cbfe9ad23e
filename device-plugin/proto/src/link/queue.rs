use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A queue between tasks, whose contents can be dropped when a connection ends. It has one reader at a time.
pub struct Queue<T>(Arc<Shared<T>>);

struct Shared<T> {
    items: Mutex<VecDeque<T>>,
    pushed: Notify,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(Arc::new(Shared { items: Mutex::default(), pushed: Notify::new() }))
    }
}

impl<T> Queue<T> {
    pub fn push(&self, item: T) {
        self.items().push_back(item);
        self.0.pushed.notify_one();
    }

    /// The first item, when there is one. Cancelling it loses nothing.
    pub async fn pop(&self) -> T {
        loop {
            if let Some(item) = self.items().pop_front() {
                return item;
            }
            self.0.pushed.notified().await;
        }
    }

    /// Drops the items for which `keep` is false.
    pub fn retain(&self, keep: impl FnMut(&T) -> bool) {
        self.items().retain(keep);
    }

    pub fn len(&self) -> usize {
        self.items().len()
    }

    pub fn is_empty(&self) -> bool {
        self.items().is_empty()
    }

    fn items(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.0.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
