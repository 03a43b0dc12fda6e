//! From samples to a statement: means, ratios and how sure they are.

/// Inside of this distance from 1 two things are called equal.
pub const TIE: f64 = 0.05;

/// How often the samples are drawn anew for the interval.
const RESAMPLES: usize = 4_000;

/// A ratio of two costs and where it lies with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Ratio {
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// The geometric mean of ratios taken in pairs, with its bootstrap interval. `None` without a
    /// pair, or when one is not positive and finite.
    pub fn of(pairs: &[f64], seed: u64) -> Option<Self> {
        let logs: Vec<f64> = pairs.iter().map(|ratio| ratio.ln()).collect();
        if logs.is_empty() || logs.iter().any(|log| !log.is_finite()) {
            return None;
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|_| mean((0..logs.len()).map(|_| logs[random.usize(..logs.len())])))
            .collect();
        means.sort_by(f64::total_cmp);
        Some(Self {
            ratio: mean(logs.iter().copied()).exp(),
            low: means[RESAMPLES * 25 / 1000].exp(),
            high: means[RESAMPLES * 975 / 1000].exp(),
        })
    }

    /// Whether the difference is too small to speak of.
    pub fn is_tie(self) -> bool {
        (1.0 / (1.0 + TIE)..=1.0 + TIE).contains(&self.ratio)
    }

    /// Whether two results cannot both be right: their intervals do not meet.
    pub fn differs_from(self, other: Self) -> bool {
        self.low > other.high || other.low > self.high
    }
}

/// Geometric where every value allows it, arithmetic otherwise (added latencies can be below zero).
/// `None` without values.
pub fn centre(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        None
    } else if values.iter().all(|value| *value > 0.0) {
        Some(mean(values.iter().map(|value| value.ln())).exp())
    } else {
        Some(mean(values.iter().copied()))
    }
}

/// The value below which half of them are. `None` without values.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below a length, q being in 0..=1"
    )]
    let at = (last as f64 * q).round() as usize;
    sorted.get(at).copied()
}

#[expect(clippy::cast_precision_loss, reason = "counts of samples are small")]
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    sum / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_geometric_mean_of_the_pairs() {
        let ratio = Ratio::of(&[0.5, 2.0], 1).unwrap();
        assert!((ratio.ratio - 1.0).abs() < 1e-9);
        assert!((ratio.low - 0.5).abs() < 1e-9 && (ratio.high - 2.0).abs() < 1e-9);
    }

    #[test]
    fn equal_pairs_leave_no_doubt() {
        let ratio = Ratio::of(&[0.8, 0.8, 0.8], 1).unwrap();
        assert!((ratio.low - 0.8).abs() < 1e-9 && (ratio.high - 0.8).abs() < 1e-9);
        assert!(!ratio.is_tie());
    }

    #[test]
    fn five_percent_either_way_is_a_tie() {
        for (pair, tie) in [(1.049, true), (1.051, false), (0.953, true), (0.951, false)] {
            assert_eq!(Ratio::of(&[pair], 1).unwrap().is_tie(), tie, "{pair}");
        }
    }

    #[test]
    fn a_pair_that_is_no_ratio_gives_none() {
        assert_eq!(Ratio::of(&[], 1), None);
        assert_eq!(Ratio::of(&[1.0, 0.0], 1), None);
        assert_eq!(Ratio::of(&[f64::NAN], 1), None);
    }

    #[test]
    fn results_differ_when_their_intervals_do_not_meet() {
        let of = |low, high| Ratio { ratio: f64::midpoint(low, high), low, high };
        assert!(of(0.9, 1.0).differs_from(of(1.1, 1.2)));
        assert!(!of(0.9, 1.1).differs_from(of(1.0, 1.2)));
    }

    #[test]
    fn the_centre_of_values_below_zero_is_arithmetic() {
        assert!((centre(&[1.0, 4.0]).unwrap() - 2.0).abs() < 1e-9);
        assert!((centre(&[-1.0, 4.0]).unwrap() - 1.5).abs() < 1e-9);
        assert_eq!(centre(&[]), None);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 1.0), Some(3.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
