//! Durations as Go and protobuf's JSON mapping write them.

use std::{fmt, time};

use serde::de::{Deserializer, Error, Visitor};

/// A non-negative length of time, written `1.5s`, `100ms`, `1h` or `1m30s`.
///
/// Units are those of Go's `time.ParseDuration`: `ns`, `us`, `ms`, `s`, `m`, `h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(pub time::Duration);

/// Go's durations are 64-bit nanoseconds; what it cannot hold, Istio cannot either.
const MAX_NANOS: u128 = i64::MAX as u128;

impl Duration {
    /// Reads `1m30s`; `None` when the text is not a duration, is negative or longer than 292 years.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('+').unwrap_or(text);
        if text == "0" {
            return Some(Self::default());
        }
        let mut rest = text;
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let (part, after) = component(rest)?;
            nanos += part;
            if nanos > MAX_NANOS {
                return None;
            }
            rest = after;
        }
        if text.is_empty() {
            return None;
        }
        u64::try_from(nanos).ok().map(|nanos| Self(time::Duration::from_nanos(nanos)))
    }
}

/// The first `<number><unit>` of `text` in nanoseconds, and the text after it.
fn component(text: &str) -> Option<(u128, &str)> {
    let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(number_len);
    let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_len);
    let unit_nanos: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
    // Digits beyond the twelfth are below a nanosecond even for hours, and Go cuts them off too.
    let fraction = &fraction[..fraction.len().min(12)];
    let fraction_nanos = if fraction.is_empty() {
        0
    } else {
        fraction.parse::<u128>().ok()? * unit_nanos / 10_u128.pow(fraction.len() as u32)
    };
    Some((whole * unit_nanos + fraction_nanos, rest))
}

impl fmt::Display for Duration {
    /// Seconds with as many decimals as needed, protobuf's JSON form: `1.5s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        if nanos == 0 {
            return write!(f, "{}s", self.0.as_secs());
        }
        let decimals = format!("{nanos:09}");
        write!(f, "{}.{}s", self.0.as_secs(), decimals.trim_end_matches('0'))
    }
}

impl<'de> serde::Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(DurationVisitor)
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"1.5s\", \"100ms\" or \"1m30s\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        Duration::parse(text).ok_or_else(|| {
            E::custom(format_args!(
                "{text:?} is not a duration; write for example \"1.5s\", \"100ms\" or \"1m30s\""
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> Option<u128> {
        Duration::parse(text).map(|duration| duration.0.as_nanos())
    }

    #[test]
    fn go_and_proto_durations_parse() {
        for (text, expected) in [
            ("0", 0),
            ("0s", 0),
            ("1.5s", 1_500_000_000),
            ("100ms", 100_000_000),
            ("1h", 3_600_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1h1m1.001s", 3_661_001_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("0.000000001s", 1),
            ("+2s", 2_000_000_000),
        ] {
            assert_eq!(nanos(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_go_would_refuse_is_refused() {
        for text in
            ["", "5", "s", ".s", "1.2.3s", "1 s", "-1s", "1d", "1sec", "ms", "9999999h", "+"]
        {
            assert_eq!(nanos(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_number_of_any_length_does_not_overflow() {
        assert_eq!(nanos(&format!("{}h", "9".repeat(400))), None);
        assert_eq!(nanos(&format!("0.{}s", "3".repeat(400))), Some(333_333_333));
    }

    #[test]
    fn a_duration_prints_in_seconds() {
        for (text, expected) in [("1m30s", "90s"), ("1500ms", "1.5s"), ("1ns", "0.000000001s")] {
            assert_eq!(Duration::parse(text).unwrap().to_string(), expected);
        }
    }
}
