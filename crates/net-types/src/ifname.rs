use std::fmt;
use std::str::FromStr;

/// The name of a network link: 1 to 15 bytes, not `.`, `..`, `all` or `default`, without `/`, `:`, `%` and white space.
///
/// These are the names that a link can have: what `dev_valid_name` takes (`net/core/dev.c`), less what
/// `dev_alloc_name` reads as a pattern (`net%d` makes `net0`, the next time `net1`) and what
/// `sysctl_dev_name_is_allowed` refuses; and the name must be UTF-8. It is therefore also safe as one
/// component of a path below `/proc/sys/net`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName(Box<str>);

/// Why a text is no link name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum IfNameError {
    #[error("a link name must not be empty")]
    Empty,
    #[error("link name {0:?} has {len} bytes, the kernel takes 15 at most", len = .0.len())]
    TooLong(String),
    #[error("link name {0:?} would be a path, choose another")]
    Dots(String),
    #[error("link name {0:?} contains {1:?}: no '/', ':', white space or control characters")]
    Character(String, char),
    /// A `%` makes the kernel choose a name of its own (`dev_alloc_name`).
    #[error("link name {0:?} contains '%': the kernel would put a number in its place, write the whole name")]
    Pattern(String),
    #[error(
        "a link cannot be named {0:?}: in /proc/sys/net that name means all links, or the default for new ones"
    )]
    Reserved(String),
}

impl IfName {
    /// The longest name in bytes (`IFNAMSIZ` less the final NUL).
    pub const MAX_LEN: usize = 15;

    /// The name as configurations and netlink write it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = IfNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(IfNameError::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(IfNameError::TooLong(text.to_owned()));
        }
        if text == "." || text == ".." {
            return Err(IfNameError::Dots(text.to_owned()));
        }
        if text == "all" || text == "default" {
            return Err(IfNameError::Reserved(text.to_owned()));
        }
        match text.chars().find(|c| is_refused(*c)) {
            Some('%') => Err(IfNameError::Pattern(text.to_owned())),
            Some(c) => Err(IfNameError::Character(text.to_owned(), c)),
            None => Ok(Self(text.into())),
        }
    }
}

/// The kernel checks bytes and takes 0xa0 for white space (it reads Latin 1), so the letter `à`, of which 0xa0 is the
/// second byte, is refused.
fn is_refused(c: char) -> bool {
    let latin1_space = |c: char| c.encode_utf8(&mut [0; 4]).as_bytes().contains(&0xa0);
    matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control() || latin1_space(c)
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for IfName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for IfName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

crate::serde_as_text!(IfName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_takes_is_a_name() {
        for good in
            ["eth0", "eth0.10", "br.a", "a", "...", "+4a3b2c1d", "fifteen-bytes-x", "é", "a*b", "all0"]
        {
            assert_eq!(good.parse::<IfName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_none() {
        for bad in [
            "",
            ".",
            "..",
            "br:a",
            "a/b",
            "a b",
            "a\tb",
            "a\u{a0}b",
            "sixteen-bytes-xx",
            "a\0",
            "à",
            "all",
            "default",
        ] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_the_kernel_takes_for_a_pattern_is_none() {
        for bad in ["net%d", "%d", "br%d.10", "%", "100%", "%%", "net%s", "a%d%d"] {
            assert_eq!(bad.parse::<IfName>(), Err(IfNameError::Pattern(bad.to_owned())));
        }
    }

    #[test]
    fn serde_uses_the_parser() {
        assert!(serde_json::from_str::<IfName>("\"eth0\"").is_ok());
        let error = serde_json::from_str::<IfName>("\"a/b\"").unwrap_err().to_string();
        assert!(error.contains("a/b"), "{error}");
        assert_eq!(serde_json::to_string(&"eth0".parse::<IfName>().unwrap()).unwrap(), "\"eth0\"");
    }
}
