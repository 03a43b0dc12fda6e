//! Times in log lines: UTC, formatted by hand because a line is written per request.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// The text of the last second formatted; lines come thousands to a second.
#[derive(Debug, Default)]
pub struct TimeCache {
    second: Option<u64>,
    text: Vec<u8>,
}

impl TimeCache {
    /// `2026-01-02T03:04:05.678Z`
    pub fn write_iso(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        let since_epoch = since_epoch(time);
        if self.second != Some(since_epoch.as_secs()) {
            self.second = Some(since_epoch.as_secs());
            self.text.clear();
            let date = Date::of(since_epoch.as_secs());
            date.write_day(&mut self.text);
            self.text.push(b'T');
            date.write_time(&mut self.text);
        }
        out.extend_from_slice(&self.text);
        out.push(b'.');
        write_padded(out, u64::from(since_epoch.subsec_millis()), 3);
        out.push(b'Z');
    }
}

/// A `strftime` format, compiled. Envoy's extensions: `%f` for a fraction of nine digits, `%3f` for
/// one of three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFormat(Box<[TimePart]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum TimePart {
    Literal(char),
    Field(char),
    Fraction(usize),
}

impl TimeFormat {
    /// What is no conversion is printed as it stands.
    #[must_use]
    pub fn compile(format: &str) -> Self {
        let mut parts = Vec::new();
        let mut chars = format.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                parts.push(TimePart::Literal(c));
                continue;
            }
            let width = chars.next_if(char::is_ascii_digit);
            match (width.and_then(|digit| digit.to_digit(10)), chars.next()) {
                (Some(width @ 1..=9), Some('f')) => parts.push(TimePart::Fraction(width as usize)),
                (None, Some('f')) => parts.push(TimePart::Fraction(9)),
                (None, Some('%')) => parts.push(TimePart::Literal('%')),
                (None, Some(field)) if "YmdeHMSTFjbaysZz".contains(field) => {
                    parts.push(TimePart::Field(field));
                }
                (_, other) => {
                    parts.push(TimePart::Literal('%'));
                    parts.extend(width.map(TimePart::Literal));
                    parts.extend(other.map(TimePart::Literal));
                }
            }
        }
        Self(parts.into())
    }

    pub fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let since_epoch = since_epoch(time);
        let date = Date::of(since_epoch.as_secs());
        for part in &self.0 {
            match part {
                TimePart::Literal(c) => {
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                TimePart::Field(field) => date.write_field(*field, since_epoch.as_secs(), out),
                TimePart::Fraction(digits) => {
                    let scale = 10_u64.pow(9 - *digits as u32);
                    write_padded(out, u64::from(since_epoch.subsec_nanos()) / scale, *digits);
                }
            }
        }
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A moment of the Gregorian calendar, UTC.
struct Date {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
    weekday: usize,
    second_of_day: u64,
}

impl Date {
    /// Howard Hinnant's `civil_from_days`, for days since 1970.
    fn of(seconds: u64) -> Self {
        let days = seconds / 86_400;
        // Counted from 0000-03-01, so that a leap day is the last of its year.
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_march_year =
            day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_march_year + 2) / 153;
        let day = day_of_march_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let before_march = 59 + u64::from(leap);
        let day_of_year = if month > 2 {
            before_march + day_of_march_year + 1
        } else {
            day_of_march_year - 306 + 1
        };
        Self {
            year,
            month,
            day,
            day_of_year,
            weekday: (days % 7) as usize,
            second_of_day: seconds % 86_400,
        }
    }

    fn write_day(&self, out: &mut Vec<u8>) {
        write_padded(out, self.year, 4);
        out.push(b'-');
        write_padded(out, self.month, 2);
        out.push(b'-');
        write_padded(out, self.day, 2);
    }

    fn write_time(&self, out: &mut Vec<u8>) {
        write_padded(out, self.second_of_day / 3_600, 2);
        out.push(b':');
        write_padded(out, self.second_of_day / 60 % 60, 2);
        out.push(b':');
        write_padded(out, self.second_of_day % 60, 2);
    }

    fn write_field(&self, field: char, seconds: u64, out: &mut Vec<u8>) {
        let month = MONTHS[self.month as usize - 1];
        match field {
            'Y' => write_padded(out, self.year, 4),
            'y' => write_padded(out, self.year % 100, 2),
            'm' => write_padded(out, self.month, 2),
            'd' => write_padded(out, self.day, 2),
            'e' => {
                if self.day < 10 {
                    out.push(b' ');
                }
                write_padded(out, self.day, 1);
            }
            'j' => write_padded(out, self.day_of_year, 3),
            'H' => write_padded(out, self.second_of_day / 3_600, 2),
            'M' => write_padded(out, self.second_of_day / 60 % 60, 2),
            'S' => write_padded(out, self.second_of_day % 60, 2),
            'F' => self.write_day(out),
            'T' => self.write_time(out),
            'b' => out.extend_from_slice(month.as_bytes()),
            'a' => out.extend_from_slice(WEEKDAYS[self.weekday].as_bytes()),
            's' => write_padded(out, seconds, 1),
            'Z' => out.extend_from_slice(b"UTC"),
            'z' => out.extend_from_slice(b"+0000"),
            _ => {}
        }
    }
}

/// `value` in decimal with at least `width` digits.
pub fn write_padded(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    fn iso(time: SystemTime) -> String {
        let mut out = Vec::new();
        TimeCache::default().write_iso(time, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn format(format: &str, time: SystemTime) -> String {
        let mut out = Vec::new();
        TimeFormat::compile(format).write(time, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_moments_have_their_known_names() {
        assert_eq!(iso(at(0, 0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(at(951_782_400, 0)), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso(at(1_767_323_045, 678_900_000)), "2026-01-02T03:04:05.678Z");
        assert_eq!(iso(at(4_102_444_799, 999_999_999)), "2099-12-31T23:59:59.999Z");
    }

    #[test]
    fn every_day_of_a_leap_cycle_follows_the_one_before() {
        let mut previous = Date::of(0);
        for day in 1..146_097_u64 {
            let date = Date::of(day * 86_400);
            let new_year = date.month == 1 && date.day == 1;
            let expected = if new_year { 1 } else { previous.day_of_year + 1 };
            assert_eq!(date.day_of_year, expected, "day {day}");
            assert_eq!(date.year, previous.year + u64::from(new_year), "day {day}");
            previous = date;
        }
    }

    #[test]
    fn a_cached_second_is_not_printed_for_the_next() {
        let mut cache = TimeCache::default();
        let mut out = Vec::new();
        cache.write_iso(at(59, 0), &mut out);
        cache.write_iso(at(59, 999_000_000), &mut out);
        cache.write_iso(at(60, 0), &mut out);
        let expected = "1970-01-01T00:00:59.000Z1970-01-01T00:00:59.999Z1970-01-01T00:01:00.000Z";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn strftime_conversions_are_understood() {
        let time = at(1_767_323_045, 67_891_234);
        assert_eq!(format("%Y/%m/%d %T.%6f", time), "2026/01/02 03:04:05.067891");
        assert_eq!(
            format("%a, %e %b %y %j %s.%3f %Z%z", time),
            "Fri,  2 Jan 26 002 1767323045.067 UTC+0000"
        );
        assert_eq!(format("%F 100%% %Q %3", time), "2026-01-02 100% %Q %3");
    }
}
