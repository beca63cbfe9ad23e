use std::fmt;
use std::str::FromStr;

/// Why a text is not a name in the sense of the specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum NameError {
    #[error("it is empty")]
    Empty,
    #[error("{0:?} must start with a letter or a digit (ASCII)")]
    Start(String),
    #[error("{0:?} contains {1:?}: only ASCII letters, digits, '_', '.' and '-' are permitted")]
    Character(String, char),
}

/// Checks a name against the specification's `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
fn check(text: &str) -> Result<(), NameError> {
    match text.bytes().next() {
        None => return Err(NameError::Empty),
        Some(first) if !first.is_ascii_alphanumeric() => return Err(NameError::Start(text.to_owned())),
        Some(_) => {}
    }
    let bad = |c: &char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.' | '-');
    match text.chars().find(bad) {
        Some(c) => Err(NameError::Character(text.to_owned(), c)),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        /// A letter or digit, then letters, digits, `_`, `.` and `-` (all ASCII); of any length. As
        /// it can be neither `..` nor contain a `/`, it is safe as one component of a path.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(String);

        impl $type {
            /// The name as the runtime gave it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text).map(|()| Self(text))
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The runtime's name for a container (`CNI_CONTAINERID`); of the sandbox, in Kubernetes.
    ContainerId
}
name! {
    /// The name of a network (`name` in the configuration).
    NetworkName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_specification_permits_is_a_name() {
        for good in ["a", "0", "cbr0", "a.b-c_D", "0-", &"f".repeat(64)] {
            assert_eq!(good.parse::<ContainerId>().map(|id| id.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn what_it_does_not_permit_is_none() {
        assert_eq!("".parse::<NetworkName>(), Err(NameError::Empty));
        for bad in ["..", ".a", "-a", "_a", "/a", "é", " a"] {
            assert_eq!(bad.parse::<NetworkName>(), Err(NameError::Start(bad.to_owned())));
        }
        for (bad, c) in [("a/b", '/'), ("a b", ' '), ("aé", 'é'), ("a\n", '\n'), ("a:b", ':')] {
            assert_eq!(bad.parse::<NetworkName>(), Err(NameError::Character(bad.to_owned(), c)));
        }
    }
}
