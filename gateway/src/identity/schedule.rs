//! When a certificate is renewed.

use std::time::Duration;

use crate::tls::Validity;

/// Part of a life that renewals are spread over: proxies that started together do not all come at
/// once.
const JITTER: f64 = 0.1;
/// A certificate that is all but over is not asked for in a loop.
const MIN: Duration = Duration::from_secs(1);

/// Half of its life, a little sooner or later as `chance` (0 to 1) has it, less what is over.
pub(super) fn until_renewal(validity: Validity, now: i64, chance: f64) -> Duration {
    let Validity { not_before, not_after } = validity;
    let life = (not_after - not_before).max(0) as f64;
    let due = not_before as f64 + life * (0.5 + JITTER * (chance - 0.5));
    Duration::from_secs_f64((due - now as f64).max(MIN.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    const VALIDITY: Validity = Validity { not_before: 0, not_after: DAY };

    fn hours(now: i64, chance: f64) -> f64 {
        until_renewal(VALIDITY, now, chance).as_secs_f64() / 3600.0
    }

    #[test]
    fn a_certificate_is_renewed_about_the_middle_of_its_life() {
        assert_eq!(hours(0, 0.5), 12.0);
        assert_eq!(hours(0, 0.0), 10.8);
        assert_eq!(hours(0, 1.0), 13.2);
        assert_eq!(
            hours(6 * 3600, 0.5),
            6.0,
            "the life begins with its issue, not with its arrival"
        );
    }

    #[test]
    fn one_that_is_all_but_over_is_renewed_at_once_but_not_in_a_loop() {
        assert_eq!(until_renewal(VALIDITY, DAY - 10, 0.5), MIN);
        let over = Validity { not_before: 10, not_after: 5 };
        assert_eq!(until_renewal(over, 20, 0.5), MIN);
    }
}
