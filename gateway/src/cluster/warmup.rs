//! Endpoints that joined a moment ago get less than their weight says, and more with every moment
//! (`warmup`, istio-compat 1.3; Envoy's slow start).

use std::time::Duration;

use tokio::time::Instant;
use weir_config::model::cluster::Warmup;

/// What a weight of one is counted as while anybody warms up: shares are told apart by so much.
const SCALE: f64 = 1000.0;
/// Shares are looked at again so often in a warmup, but not more often than each [`SHORTEST_STEP`].
const STEPS: u32 = 50;
const SHORTEST_STEP: Duration = Duration::from_millis(100);

/// The weight of an endpoint that joined at `joined`, in thousandths.
pub(super) fn weight(warmup: &Warmup, weight: u32, joined: Instant, now: Instant) -> u32 {
    let passed = now.saturating_duration_since(joined).as_secs_f64();
    let part = (passed / warmup.duration.as_secs_f64()).min(1.0);
    let share = part.powf(1.0 / warmup.aggression).max(warmup.minimum).min(1.0);
    // Saturates; never nothing, so that the endpoint gets something to warm up with.
    ((f64::from(weight) * SCALE * share) as u32).max(1)
}

/// Whether an endpoint that joined at `joined` has not all of its share yet.
pub(super) fn is_warming(warmup: &Warmup, joined: Instant, now: Instant) -> bool {
    now.saturating_duration_since(joined) < warmup.duration
}

/// When shares have to be looked at again while somebody warms up.
pub(super) fn next_step(warmup: &Warmup, now: Instant) -> Instant {
    now + (warmup.duration / STEPS).max(SHORTEST_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_from_the_minimum_as_the_aggression_says() {
        let warmup =
            |aggression| Warmup { duration: Duration::from_secs(100), minimum: 0.1, aggression };
        let joined = Instant::now();
        for (aggression, seconds, expected) in [
            (1.0, 0, 200),
            (1.0, 5, 200),
            (1.0, 50, 1000),
            (1.0, 100, 2000),
            (1.0, 1000, 2000),
            (2.0, 25, 1000),
            (0.5, 50, 500),
        ] {
            let now = joined + Duration::from_secs(seconds);
            let found = weight(&warmup(aggression), 2, joined, now);
            assert_eq!(found, expected, "{aggression} after {seconds} s");
            assert_eq!(is_warming(&warmup(aggression), joined, now), seconds < 100);
        }
    }
}
