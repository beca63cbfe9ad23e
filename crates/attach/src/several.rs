//! More than one error of one request: an undo that fails as well, and what is done in spite of errors.

use std::error::Error;

/// ADD failed, and what it had made could not all be taken back.
#[derive(Debug, thiserror::Error)]
#[error("{}; and what was made could not all be taken back: {}", cni::chain(&**error), undo.join("; "))]
pub struct NotUndone<E: Error + 'static> {
    error: Box<E>,
    undo: Vec<String>,
}

impl<E: Error + 'static> NotUndone<E> {
    /// Why ADD failed.
    #[must_use]
    pub fn error(&self) -> &E {
        &self.error
    }
}

/// Several errors; everything else was done.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|error| cni::chain(error)).collect::<Vec<_>>().join("; "))]
pub struct Several<E: Error + 'static>(Vec<E>);

impl<E: Error + 'static> Several<E> {
    /// The first one, which gives the code.
    #[must_use]
    pub fn first(&self) -> Option<&E> {
        self.0.first()
    }
}

/// An error of a plugin that can be more than one.
pub trait Combined: Error + From<NotUndone<Self>> + From<Several<Self>> + 'static {
    /// This error, with the failures of the undo appended.
    #[must_use]
    fn and_failures(self, undo: Vec<String>) -> Self {
        if undo.is_empty() { self } else { NotUndone { error: Box::new(self), undo }.into() }
    }

    /// The same with the one error of an undo, if there is one.
    #[must_use]
    fn and_failure(self, undo: Option<Self>) -> Self {
        self.and_failures(undo.iter().map(|undo| cni::chain(undo)).collect())
    }

    /// Nothing, the single error, or all of them.
    ///
    /// # Errors
    /// If the list is not empty.
    fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Several(errors).into()),
        }
    }
}

impl<E: Error + From<NotUndone<E>> + From<Several<E>> + 'static> Combined for E {}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("cannot read {0}")]
        Read(&'static str, #[source] io::Error),
        #[error(transparent)]
        NotUndone(#[from] NotUndone<Self>),
        #[error(transparent)]
        Several(#[from] Several<Self>),
    }

    fn read(name: &'static str) -> Failure {
        Failure::Read(name, io::Error::other("the disk"))
    }

    #[test]
    fn an_undo_that_fails_is_told_behind_the_error() {
        assert_eq!(read("a").and_failures(Vec::new()).to_string(), "cannot read a");
        let both = read("a").and_failures(vec!["one".to_owned(), "two".to_owned()]);
        let text = "cannot read a: the disk; and what was made could not all be taken back: one; two";
        assert_eq!(cni::chain(&both), text);
        assert!(matches!(both, Failure::NotUndone(both) if matches!(both.error(), Failure::Read("a", _))));
    }

    #[test]
    fn one_error_is_itself_and_more_are_all_told() {
        assert!(Failure::all(Vec::new()).is_ok());
        assert!(matches!(Failure::all(vec![read("a")]), Err(Failure::Read("a", _))));
        let Err(all) = Failure::all(vec![read("a"), read("b")]) else { panic!("there are two") };
        assert_eq!(cni::chain(&all), "cannot read a: the disk; cannot read b: the disk");
        assert!(matches!(all, Failure::Several(all) if matches!(all.first(), Some(Failure::Read("a", _)))));
    }
}
