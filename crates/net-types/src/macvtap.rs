use std::fmt;
use std::str::FromStr;

/// What a macvtap passes between itself, its lower device and its siblings
/// (`MACVLAN_MODE_*` in `linux/if_link.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MacvtapMode {
    /// Siblings on one lower device reach one another directly.
    Bridge,
    /// Siblings never reach one another.
    Private,
    /// Siblings reach one another through the switch outside.
    Vepa,
    /// The lower device belongs to this macvtap alone; it takes the lower's MAC, and guests may send
    /// from any MAC.
    Passthru,
}

/// What the pod gets at its end of a spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attach {
    /// A macvtap on the spoke, with a `/dev/tapN` for a VM.
    Macvtap,
    /// The spoke's own veth end, for ordinary pods; no device node.
    Veth,
}

/// A name that is not one of the enum's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {given:?}: choose one of {choices}")]
pub struct UnknownName {
    what: &'static str,
    given: String,
    choices: &'static str,
}

macro_rules! names {
    ($type:ident, $what:literal, $choices:literal, $($variant:ident = $name:literal),+) => {
        impl $type {
            /// The name as configuration files write it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(UnknownName { what: $what, given: text.to_owned(), choices: $choices }),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        crate::serde_as_text!($type);
    };
}

names!(
    MacvtapMode,
    "macvtap mode",
    "bridge, private, vepa, passthru",
    Bridge = "bridge",
    Private = "private",
    Vepa = "vepa",
    Passthru = "passthru"
);
names!(Attach, "attach", "macvtap, veth", Macvtap = "macvtap", Veth = "veth");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact() {
        for mode in [MacvtapMode::Bridge, MacvtapMode::Private, MacvtapMode::Vepa, MacvtapMode::Passthru] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let error = "Bridge".parse::<MacvtapMode>().unwrap_err().to_string();
        assert_eq!(error, "unknown macvtap mode \"Bridge\": choose one of bridge, private, vepa, passthru");
    }
}
