use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time as configuration files write it: `90s`, `5m`, `1h30m`, `250ms`, or a number of
/// seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timespan(Duration);

/// A text that is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write one like 90s, 5m, 1h30m or 250ms")]
pub struct TimespanError(String);

impl Timespan {
    /// The length as the standard library's type.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whole milliseconds; a fraction is cut off.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Some(Self(Duration::from_secs(text.parse::<u32>().ok()?.into())));
        }
        let mut rest = text;
        let mut sum = Duration::ZERO;
        while !rest.is_empty() {
            let (number, tail) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
            let number: u32 = number.parse().ok()?;
            let (unit, tail) = tail.split_at(tail.bytes().take_while(u8::is_ascii_alphabetic).count());
            let unit = match unit {
                "ms" => Duration::from_millis(1),
                "s" => Duration::from_secs(1),
                "m" => Duration::from_secs(60),
                "h" => Duration::from_secs(3600),
                _ => return None,
            };
            sum = sum.checked_add(unit.checked_mul(number)?)?;
            rest = tail;
        }
        (!text.is_empty()).then_some(Self(sum))
    }
}

impl From<Duration> for Timespan {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Timespan {
    type Err = TimespanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or_else(|| TimespanError(text.to_owned()))
    }
}

impl<'de> serde::Deserialize<'de> for Timespan {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl serde::de::Visitor<'_> for Written {
            type Value = Timespan;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration like 90s, 5m, 1h30m or 250ms, or a number of seconds")
            }

            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Timespan, E> {
                Ok(Timespan(Duration::from_secs(seconds)))
            }

            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Timespan, E> {
                let seconds =
                    u64::try_from(seconds).map_err(|_| E::custom("a duration is never negative"))?;
                self.visit_u64(seconds)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timespan, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("0", 0), ("90", 90_000), ("90s", 90_000), ("5m", 300_000), ("1h30m", 5_400_000), ("250ms", 250)]
        {
            assert_eq!(text.parse::<Timespan>().unwrap().millis(), millis, "{text}");
        }
        for bad in ["", "s", "5x", "-5s", "+5", "5 s", "1.5h", "99999999999s"] {
            assert!(bad.parse::<Timespan>().is_err(), "{bad}");
        }
        assert_eq!(serde_json::from_str::<Timespan>("7").unwrap().millis(), 7000);
        assert!(serde_json::from_str::<Timespan>("-7").is_err());
    }
}
