use std::fmt::Display;

/// What a YAML parser says to programmers, not to whoever wrote the file.
const TO_PROGRAMMERS: &str = ", set DuplicateKeyPolicy in Options if acceptable";

/// The message of a YAML parser's error for whoever wrote the file.
#[must_use]
pub fn yaml_message(error: &impl Display) -> String {
    error.to_string().replace(TO_PROGRAMMERS, "")
}
