//! Numbers of one label set. Every worker thread adds to its own slot, so that counting a request
//! never moves a cache line between cores; a scrape sums the slots.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::worker;

/// Upper bounds of the standard histograms, in milliseconds and in bytes (Envoy's defaults, which
/// Istio's dashboards expect). Above the last one there is only `+Inf`.
pub const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// The same bounds for whole microseconds and whole bytes.
const MICROSECONDS: [u64; 19] = scaled(1_000);
const BYTES: [u64; 19] = scaled(1);

const fn scaled(factor: u64) -> [u64; 19] {
    let mut bounds = [0; 19];
    let mut i = 0;
    while i < bounds.len() {
        // Half a byte is no byte; half a millisecond is 500 microseconds.
        bounds[i] = (BUCKETS[i] * factor as f64) as u64;
        i += 1;
    }
    bounds
}

/// One `T` per worker thread, made when that thread first touches it: a series one worker has seen
/// costs the memory of one. Generic because HTTP and TCP count different things.
#[derive(Debug)]
pub struct Sharded<T> {
    slots: Box<[OnceLock<Box<T>>]>,
}

impl<T: Default> Sharded<T> {
    /// `slots`: how many workers count; other threads count with the first.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self { slots: (0..slots.max(1)).map(|_| OnceLock::new()).collect() }
    }

    /// The calling thread's own.
    #[must_use]
    pub fn local(&self) -> &T {
        worker::own(&self.slots).get_or_init(Box::default)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(OnceLock::get).map(Box::as_ref)
    }
}

/// The HTTP families of one thread. The number of requests is the number of durations.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct HttpCounts {
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    /// Of gRPC only.
    pub request_messages: AtomicU64,
    pub response_messages: AtomicU64,
}

impl HttpCounts {
    pub fn record(&self, duration: Duration, request_bytes: u64, response_bytes: u64) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.duration.record(micros, &MICROSECONDS);
        self.request_bytes.record(request_bytes, &BYTES);
        self.response_bytes.record(response_bytes, &BYTES);
    }
}

/// The TCP families of one thread.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct TcpCounts {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub received_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Histogram {
    /// One more than there are bounds: the last is `+Inf`.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum: AtomicU64,
}

impl Histogram {
    fn record(&self, value: u64, bounds: &[u64; BUCKETS.len()]) {
        let bucket = bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        if value != 0 {
            self.sum.fetch_add(value, Relaxed);
        }
    }
}

/// A histogram summed over the threads.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct HistogramTotal {
    /// Observations per bucket, not cumulative; the last is `+Inf`.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// In the unit of the family.
    pub sum: f64,
}

impl HistogramTotal {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    fn add(&mut self, part: &Histogram, unit: f64) {
        for (total, bucket) in self.buckets.iter_mut().zip(&part.buckets) {
            *total += bucket.load(Relaxed);
        }
        self.sum += part.sum.load(Relaxed) as f64 / unit;
    }
}

/// What a scrape reads of an HTTP series.
#[derive(Debug, Default)]
pub struct HttpTotals {
    /// Milliseconds.
    pub duration: HistogramTotal,
    pub request_bytes: HistogramTotal,
    pub response_bytes: HistogramTotal,
    pub request_messages: u64,
    pub response_messages: u64,
}

/// What a scrape reads of a TCP series.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TcpTotals {
    pub opened: u64,
    pub closed: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl Sharded<HttpCounts> {
    #[must_use]
    pub fn totals(&self) -> HttpTotals {
        let mut totals = HttpTotals::default();
        for part in self.iter() {
            totals.duration.add(&part.duration, 1_000.0);
            totals.request_bytes.add(&part.request_bytes, 1.0);
            totals.response_bytes.add(&part.response_bytes, 1.0);
            totals.request_messages += part.request_messages.load(Relaxed);
            totals.response_messages += part.response_messages.load(Relaxed);
        }
        totals
    }
}

impl Sharded<TcpCounts> {
    #[must_use]
    pub fn totals(&self) -> TcpTotals {
        let mut totals = TcpTotals::default();
        for part in self.iter() {
            totals.opened += part.opened.load(Relaxed);
            totals.closed += part.closed.load(Relaxed);
            totals.sent_bytes += part.sent_bytes.load(Relaxed);
            totals.received_bytes += part.received_bytes.load(Relaxed);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_to_that_bound() {
        let sharded = Sharded::<HttpCounts>::new(1);
        sharded.local().record(Duration::from_micros(500), 1, 0);
        sharded.local().record(Duration::from_micros(501), 2, 0);

        let totals = sharded.totals();
        assert_eq!(totals.duration.buckets[..3], [1, 1, 0], "0.5 ms, then 1 ms");
        assert_eq!(totals.request_bytes.buckets[..4], [0, 1, 1, 0], "1 byte, then 5 bytes");
        assert_eq!(totals.response_bytes.buckets[0], 2, "nothing at all is at most half a byte");
    }

    #[test]
    fn a_value_above_every_bound_is_counted() {
        let sharded = Sharded::<HttpCounts>::new(1);
        sharded.local().record(Duration::from_secs(4_000), u64::MAX, 0);

        let totals = sharded.totals();
        assert_eq!(totals.duration.buckets[19], 1);
        assert_eq!(totals.duration.count(), 1);
        assert_eq!(totals.duration.sum, 4_000_000.0, "milliseconds");
    }

    #[test]
    fn threads_that_count_at_once_lose_nothing() {
        let sharded = Sharded::<TcpCounts>::new(3);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let sharded = &sharded;
                scope.spawn(move || {
                    worker::enlist(number);
                    for _ in 0..1_000 {
                        sharded.local().opened.fetch_add(1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(sharded.totals().opened, 8_000);
    }

    #[test]
    fn a_series_costs_only_the_slots_that_were_touched() {
        let sharded = Sharded::<TcpCounts>::new(64);
        sharded.local().closed.fetch_add(1, Relaxed);
        assert_eq!(sharded.iter().count(), 1);
    }
}
