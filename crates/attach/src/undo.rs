use std::error::Error;

/// What an ADD has made so far, and how to remove each part again.
///
/// Explicit instead of by drop: a removal can fail, and the caller must report it.
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<(&'static str, Step<'a>)>,
}

type Step<'a> = Box<dyn FnOnce() -> Result<(), Box<dyn Error>> + 'a>;

impl<'a> Undo<'a> {
    /// An empty list, before anything is made.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the removal of what was just made; `what` completes "could not …" in a message.
    pub fn push<E: Error + 'static>(
        &mut self,
        what: &'static str,
        step: impl FnOnce() -> Result<(), E> + 'a,
    ) {
        self.steps.push((what, Box::new(move || step().map_err(Into::into))));
    }

    /// Removes everything, the newest first, and goes on after failures; returns a line per failure.
    #[must_use]
    pub fn roll_back(self) -> Vec<String> {
        let mut failures = Vec::new();
        for (what, step) in self.steps.into_iter().rev() {
            if let Err(error) = step() {
                failures.push(format!("could not {what}: {}", cni::chain(&*error)));
            }
        }
        failures
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;

    use super::*;

    #[test]
    fn the_newest_goes_first_and_failures_do_not_stop_it() {
        let done = RefCell::new(Vec::new());
        let mut undo = Undo::new();
        undo.push("remove the link", || {
            done.borrow_mut().push(1);
            Ok::<_, io::Error>(())
        });
        undo.push("remove the node", || {
            done.borrow_mut().push(2);
            Err(io::Error::other("busy"))
        });
        assert_eq!(undo.roll_back(), ["could not remove the node: busy"]);
        assert_eq!(*done.borrow(), [2, 1]);
    }

    #[test]
    fn what_is_not_rolled_back_stays() {
        let done = RefCell::new(false);
        let mut undo = Undo::new();
        undo.push("remove the link", || {
            *done.borrow_mut() = true;
            Ok::<_, io::Error>(())
        });
        drop(undo);
        assert!(!*done.borrow());
    }
}
