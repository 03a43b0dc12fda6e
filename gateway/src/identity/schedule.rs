//! When a certificate is renewed.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::tls::Validity;

/// Part of a life that renewals are spread over: proxies that started together do not all come at
/// once.
const JITTER: f64 = 0.1;
/// A certificate that is all but over is not asked for in a loop.
const MIN: Duration = Duration::from_secs(1);
/// How often the time of day is looked at: it may have been set.
const LOOK: Duration = Duration::from_secs(30);

/// When a certificate is renewed: by the time of day, which whoever looks at it goes by, or after as
/// long as that was then, whichever is first. So neither a clock that is set forward lets it end
/// unnoticed, nor one that is set back holds up its successor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    time_of_day: i64,
    at: Instant,
}

impl Due {
    /// `now`: the time of day. For `chance` see [`until_renewal`].
    pub(super) fn of(validity: Validity, now: i64, chance: f64) -> Self {
        let wait = until_renewal(validity, now, chance);
        let seconds = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
        Self { time_of_day: now.saturating_add(seconds), at: Instant::now() + wait }
    }

    /// From now on, by the clock that cannot be set.
    pub(super) fn seconds(&self) -> u64 {
        self.at.saturating_duration_since(Instant::now()).as_secs()
    }

    /// `time_of_day` is asked for it every now and then.
    pub(super) async fn wait(self, time_of_day: impl Fn() -> i64) {
        while Instant::now() < self.at {
            tokio::select! {
                () = sleep_until(self.at) => {}
                () = sleep(LOOK) => {}
            }
            if time_of_day() >= self.time_of_day {
                return;
            }
        }
    }
}

/// What is ahead of a certificate that was signed just now. They are dated back, and of a short life most
/// would be over otherwise.
pub(super) fn from_now(validity: Validity, now: i64) -> Validity {
    Validity { not_before: validity.not_before.max(now), ..validity }
}

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
    fn what_it_was_dated_back_is_no_part_of_its_life() {
        let signed = Validity { not_before: -600, not_after: 60 };
        let wait = |now| until_renewal(from_now(signed, now), now, 0.5).as_secs();
        assert_eq!(wait(0), 30);
        assert_eq!(wait(-300), 180, "a clock that is behind knows no better");
        assert_eq!(wait(-900), 630);
    }

    /// How long a certificate of a day is waited for, if the time of day is set by `step` seconds after
    /// an hour.
    async fn hours_until_renewal(step: i64) -> f64 {
        let start = Instant::now();
        let time_of_day = || {
            let passed = i64::try_from(start.elapsed().as_secs()).unwrap();
            if passed > 3600 { passed + step } else { passed }
        };
        Due::of(VALIDITY, 0, 0.5).wait(time_of_day).await;
        (start.elapsed().as_secs_f64() / 36.0).round() / 100.0
    }

    /// Hardening O07.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_neither_holds_up_a_renewal_nor_hides_that_it_is_due() {
        assert_eq!(hours_until_renewal(0).await, 12.0);
        // Set back: the wait was for twelve hours.
        assert_eq!(hours_until_renewal(-300).await, 12.0);
        assert_eq!(hours_until_renewal(-DAY).await, 12.0);
        // Set forward: it is as late as it says.
        assert_eq!(hours_until_renewal(300).await, 11.92);
        assert_eq!(hours_until_renewal(6 * 3600).await, 6.0);
        assert_eq!(hours_until_renewal(DAY).await, 1.01, "at the next look");
    }

    #[test]
    fn one_that_is_all_but_over_is_renewed_at_once_but_not_in_a_loop() {
        assert_eq!(until_renewal(VALIDITY, DAY - 10, 0.5), MIN);
        let over = Validity { not_before: 10, not_after: 5 };
        assert_eq!(until_renewal(over, 20, 0.5), MIN);
    }
}
