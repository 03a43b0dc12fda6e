//! Choosing one of a set of endpoints: O(1), or O(log n) where weights differ; no allocation.
//!
//! The balancer knows positions only. What changes while it runs, the requests in flight, is asked
//! for; what does not, the weights, is built in.

use std::{
    cmp::Ordering as Order,
    collections::BinaryHeap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use fastrand::Rng;
use weir_config::model::cluster::LbPolicy;

use super::hash_table::{HashTable, Place};

#[derive(Debug)]
pub(super) enum Balancer {
    /// Of two random positions the one with less in flight.
    LeastRequest {
        len: usize,
    },
    RoundRobin {
        len: usize,
        next: AtomicUsize,
    },
    /// Weights play no part, as in Envoy.
    Random {
        len: usize,
    },
    /// The endpoint its key leads to.
    Hash(HashTable),
    /// Round robin and least request over different weights. Held for one sift of a heap.
    Weighted {
        schedule: Mutex<Schedule>,
        least_request: bool,
    },
}

impl Default for Balancer {
    /// Over nothing.
    fn default() -> Self {
        Self::Random { len: 0 }
    }
}

impl Balancer {
    /// For endpoints in these places.
    pub(super) fn new(policy: LbPolicy, places: &[Place<'_>], rng: &mut Rng) -> Self {
        let len = places.len();
        let weights: Vec<u32> = places.iter().map(|place| place.weight).collect();
        let weights_differ = weights.iter().any(|weight| *weight != weights[0]);
        match policy {
            LbPolicy::RingHash { minimum_size } => {
                Self::Hash(HashTable::ring(places, minimum_size))
            }
            LbPolicy::Maglev { table_size } => Self::Hash(HashTable::maglev(places, table_size)),
            LbPolicy::Random => Self::Random { len },
            LbPolicy::LeastRequest | LbPolicy::RoundRobin if weights_differ => Self::Weighted {
                schedule: Mutex::new(Schedule::new(&weights, rng)),
                least_request: policy == LbPolicy::LeastRequest,
            },
            LbPolicy::LeastRequest => Self::LeastRequest { len },
            // Proxies that start together must not all begin with the same endpoint.
            LbPolicy::RoundRobin => {
                Self::RoundRobin { len, next: AtomicUsize::new(rng.usize(..len.max(1))) }
            }
        }
    }

    /// The positions for a key, the one that is meant first; `None` for policies that know no keys.
    pub(super) fn keyed(&self, hash: u64) -> Option<impl Iterator<Item = usize>> {
        match self {
            Self::Hash(table) => Some(table.positions(hash)),
            Self::LeastRequest { .. }
            | Self::RoundRobin { .. }
            | Self::Random { .. }
            | Self::Weighted { .. } => None,
        }
    }

    /// A position; `None` when there is none. `in_flight` is what the endpoint at a position has to
    /// do at the moment.
    pub(super) fn pick(&self, in_flight: impl Fn(usize) -> u32, rng: &mut Rng) -> Option<usize> {
        match self {
            Self::LeastRequest { len } | Self::RoundRobin { len, .. } | Self::Random { len }
                if *len < 2 =>
            {
                (*len == 1).then_some(0)
            }
            Self::LeastRequest { len } => Some(less_loaded(*len, in_flight, rng)),
            Self::RoundRobin { len, next } => Some(next.fetch_add(1, Ordering::Relaxed) % len),
            Self::Random { len } => Some(rng.usize(..*len)),
            // Without a key, any will do.
            Self::Hash(table) => table.positions(rng.u64(..)).next(),
            Self::Weighted { schedule, least_request } => {
                let mut schedule = schedule.lock().unwrap_or_else(PoisonError::into_inner);
                schedule.pick(|position| if *least_request { in_flight(position) } else { 0 })
            }
        }
    }
}

/// The power of two choices; `len` is at least 2.
fn less_loaded(len: usize, in_flight: impl Fn(usize) -> u32, rng: &mut Rng) -> usize {
    let first = rng.usize(..len);
    // Another one, so that of two endpoints the busier is never chosen.
    let second = (first + 1 + rng.usize(..len - 1)) % len;
    if in_flight(second) < in_flight(first) { second } else { first }
}

/// Earliest deadline first: each position comes up as often as its weight says, evenly spread.
#[derive(Debug)]
pub(super) struct Schedule(BinaryHeap<Entry>);

#[derive(Debug)]
struct Entry {
    deadline: f64,
    weight: f64,
    position: usize,
}

impl Schedule {
    fn new(weights: &[u32], rng: &mut Rng) -> Self {
        let entry = |(position, weight): (usize, &u32)| {
            let weight = f64::from((*weight).max(1));
            // Somewhere in its first period, so that proxies do not run in step.
            Entry { deadline: rng.f64() / weight, weight, position }
        };
        Self(weights.iter().enumerate().map(entry).collect())
    }

    /// An endpoint with requests in flight comes up later, as if it weighed that much less.
    fn pick(&mut self, in_flight: impl Fn(usize) -> u32) -> Option<usize> {
        let mut entry = self.0.peek_mut()?;
        let position = entry.position;
        entry.deadline += f64::from(in_flight(position).saturating_add(1)) / entry.weight;
        // Restores the heap's order.
        drop(entry);
        Some(position)
    }
}

impl Ord for Entry {
    /// The earliest deadline is the greatest, which is what the heap gives out.
    fn cmp(&self, other: &Self) -> Order {
        other.deadline.total_cmp(&self.deadline).then(other.position.cmp(&self.position))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(policy: LbPolicy, weights: &[u32], rng: &mut Rng) -> Balancer {
        let places: Vec<Place<'_>> =
            weights.iter().map(|weight| Place { name: "", weight: *weight }).collect();
        Balancer::new(policy, &places, rng)
    }

    fn shares(policy: LbPolicy, weights: &[u32], in_flight: &[u32], picks: usize) -> Vec<usize> {
        let mut rng = Rng::with_seed(7);
        let balancer = balancer(policy, weights, &mut rng);
        let mut shares = vec![0; weights.len()];
        for _ in 0..picks {
            let position = balancer.pick(|position| in_flight[position], &mut rng);
            shares[position.expect("there are endpoints")] += 1;
        }
        shares
    }

    #[test]
    fn nothing_is_picked_of_nothing() {
        let mut rng = Rng::with_seed(1);
        for policy in [LbPolicy::LeastRequest, LbPolicy::RoundRobin, LbPolicy::Random] {
            assert_eq!(balancer(policy, &[], &mut rng).pick(|_| 0, &mut rng), None);
        }
    }

    #[test]
    fn least_request_never_picks_the_busier_of_two() {
        assert_eq!(shares(LbPolicy::LeastRequest, &[1, 1], &[5, 4], 1000), [0, 1000]);
    }

    #[test]
    fn least_request_spreads_evenly_over_equally_busy_endpoints() {
        for share in shares(LbPolicy::LeastRequest, &[1; 4], &[3; 4], 40_000) {
            assert!(share.abs_diff(10_000) < 500, "{share} of 40000");
        }
    }

    #[test]
    fn least_request_never_picks_the_busiest_of_many() {
        let shares = shares(LbPolicy::LeastRequest, &[1; 4], &[0, 0, 0, 9], 10_000);
        assert_eq!(shares[3], 0);
    }

    #[test]
    fn round_robin_visits_every_endpoint_in_turn() {
        assert_eq!(shares(LbPolicy::RoundRobin, &[1; 3], &[0; 3], 300), [100; 3]);
    }

    #[test]
    fn weighted_round_robin_gives_each_its_share_evenly_spread() {
        let shares = shares(LbPolicy::RoundRobin, &[1, 2, 7], &[0; 3], 1000);
        for (share, wanted) in shares.iter().zip([100_usize, 200, 700]) {
            assert!(share.abs_diff(wanted) <= 1, "{share} instead of {wanted}");
        }
        let mut rng = Rng::with_seed(3);
        let balancer = balancer(LbPolicy::RoundRobin, &[1, 9], &mut rng);
        let light: Vec<usize> =
            (0..100).filter(|_| balancer.pick(|_| 0, &mut rng) == Some(0)).collect();
        assert!(light.windows(2).all(|pair| pair[1] - pair[0] == 10), "{light:?}");
    }

    #[test]
    fn weighted_least_request_weighs_requests_in_flight() {
        // Twice the weight, but three times as busy (one is added to each).
        let shares = shares(LbPolicy::LeastRequest, &[2, 1], &[2, 0], 5000);
        assert!(shares[0].abs_diff(2000) <= 1, "{shares:?}");
    }

    #[test]
    fn random_pays_no_attention_to_weights() {
        for share in shares(LbPolicy::Random, &[1, 9], &[0, 9], 20_000) {
            assert!(share.abs_diff(10_000) < 500, "{share} of 20000");
        }
    }
}
