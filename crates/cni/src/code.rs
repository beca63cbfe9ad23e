use std::fmt;

/// The number of an error, as a runtime sees it.
///
/// Source: SPEC.md, section 5, "Error". 0 to 99 are the specification's, from 100 on a plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(u32);

impl Code {
    /// 1: the configuration's version is not spoken, or does not have the verb.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// 2: a field that the plugin cannot serve; the message has to hold its key and value.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// 4: environment variables are missing or wrong; the message has to hold their names.
    pub const ENVIRONMENT: Self = Self(4);
    /// 5: reading or writing failed.
    pub const IO: Self = Self(5);
    /// 6: what was read is not what it should be, e.g. no JSON.
    pub const DECODE: Self = Self(6);
    /// 7: the configuration is well formed and wrong.
    pub const INVALID_CONFIG: Self = Self(7);
    /// 11: a passing condition, try again.
    pub const TRY_AGAIN: Self = Self(11);
    /// 50: STATUS: ADD cannot be served.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// 51: STATUS: ADD cannot be served, and what is attached may be cut off.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);

    /// 199: the program itself failed, which is a bug; the same in all plugins that use this crate.
    pub const INTERNAL: Self = Self(199);

    /// A plugin's own code.
    ///
    /// # Panics
    /// Below 100: those are the specification's. Use it in constants, where that is seen when compiling.
    #[must_use]
    pub const fn plugin(number: u32) -> Self {
        assert!(number >= 100, "codes below 100 are the specification's");
        Self(number)
    }

    /// The number that another plugin gave.
    #[must_use]
    pub(crate) const fn passed_on(number: u32) -> Self {
        Self(number)
    }

    /// The number as the error document has it.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An error that can be a plugin's answer.
///
/// `Display` becomes `msg`; the chain of sources, joined with ": ", becomes `details`. `Display` must
/// therefore not print its source.
pub trait PluginError: std::error::Error {
    /// The number for it: one exhaustive `match`.
    fn code(&self) -> Code;
}
