use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer};

use crate::Error;

/// The document or part that is being read, for an error message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The protocol's own fields on standard input.
    Protocol,
    /// The plugin's fields on standard input.
    Config,
    /// The configuration's member `prevResult`, a document of its own.
    PrevResult,
}

/// A value that is written as text, of which the empty one counts as absent: `#[serde(default, deserialize_with =
/// "cni::unless_empty")]`.
///
/// # Errors
/// The value is not text, or `T` refuses it.
pub fn unless_empty<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(text) if !text.is_empty() => T::deserialize(text.into_deserializer()).map(Some),
        _ => Ok(None),
    }
}

/// Reads a JSON object.
///
/// A derived `Deserialize` takes an array as well, by position; the specification does not.
pub(crate) fn object<'de, T: Deserialize<'de>>(json: &'de [u8], what: What) -> Result<T, Error> {
    match json.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') | None => {}
        // The parser has the error for what is not JSON at all.
        Some(_) => {
            if serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok() {
                return Err(Error::NotAnObject(match what {
                    What::Protocol | What::Config => "the configuration on standard input",
                    What::PrevResult => "prevResult",
                }));
            }
        }
    }
    serde_json::from_slice(json).map_err(|source| explain::<T>(json, what, source))
}

/// Finds the field that an error is about. That costs a second pass, so only an error pays for it.
#[cold]
fn explain<'de, T: Deserialize<'de>>(json: &'de [u8], what: What, source: serde_json::Error) -> Error {
    use serde_json::error::Category;

    if matches!(source.classify(), Category::Syntax | Category::Eof) && what != What::PrevResult {
        return Error::NotJson(source);
    }
    let field = place::<T>(json);
    match what {
        What::Protocol => Error::Protocol { field, source },
        What::Config => Error::Config { field, source },
        What::PrevResult => Error::PrevResult { field, source },
    }
}

/// The path of the field where reading fails.
pub(crate) fn place<'de, T: Deserialize<'de>>(json: &'de [u8]) -> String {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(error) if error.path().iter().next().is_some() => error.path().to_string(),
        // An error about the whole document, for instance a missing field.
        _ => "its top level".to_owned(),
    }
}
