//! Consistent hashing: equal keys lead to the same endpoint, and a change of the endpoints moves few
//! others than the keys it has to. Rings and Maglev tables are laid out as Envoy's, over the endpoints' addresses.

use weir_config::xxh64::xxh64;

/// An endpoint as tables know it.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    /// Its address as text.
    pub name: &'a str,
    /// At least 1.
    pub weight: u32,
}

/// Positions of endpoints by hash.
#[derive(Debug)]
pub(super) enum HashTable {
    /// Sorted by hash.
    Ring(Box<[(u64, u32)]>),
    Maglev(Box<[u32]>),
}

impl HashTable {
    /// A ring with at least `minimum` entries, and one for each endpoint.
    pub(super) fn ring(places: &[Place<'_>], minimum: u32) -> Self {
        let total: f64 = places.iter().map(|place| f64::from(place.weight)).sum();
        let lightest = places.iter().map(|place| place.weight).min().unwrap_or(1);
        let share = f64::from(lightest) / total;
        // So that the lightest has a whole number of entries.
        let scale = (share * f64::from(minimum)).ceil() / share;
        let mut ring = Vec::with_capacity(scale.ceil() as usize);
        let mut key = String::new();
        let mut wanted = 0.0;
        for (position, place) in (0..).zip(places) {
            wanted += scale * f64::from(place.weight) / total;
            let mut number = itoa::Buffer::new();
            for entry in 0_u64.. {
                if ring.len() as f64 >= wanted {
                    break;
                }
                key.clear();
                key.push_str(place.name);
                key.push('_');
                key.push_str(number.format(entry));
                ring.push((xxh64(key.as_bytes(), 0), position));
            }
        }
        ring.sort_unstable();
        Self::Ring(ring.into())
    }

    /// The table of the Maglev paper (<https://research.google/pubs/pub44824/>, section 3.4), where an
    /// endpoint has its turn as often as its weight says.
    pub(super) fn maglev(places: &[Place<'_>], size: u32) -> Self {
        const EMPTY: u32 = u32::MAX;
        if places.is_empty() || size < 2 {
            return Self::Maglev(Box::default());
        }
        let modulus = u64::from(size);
        let heaviest = places.iter().map(|place| place.weight).max().unwrap_or(1);
        let mut builders: Vec<Builder> =
            places.iter().map(|place| Builder::new(place, modulus)).collect();
        let mut table = vec![EMPTY; size as usize];
        let mut filled = 0;
        'rounds: for round in 1_u64.. {
            for (position, builder) in (0..).zip(&mut builders) {
                // The heaviest has a turn in every round, the others when their share is due.
                if round * builder.weight < builder.owed {
                    continue;
                }
                builder.owed += u64::from(heaviest);
                let slot = loop {
                    let slot = builder.next_slot(modulus);
                    if table[slot] == EMPTY {
                        break slot;
                    }
                };
                table[slot] = position;
                filled += 1;
                if filled == size {
                    break 'rounds;
                }
            }
        }
        Self::Maglev(table.into())
    }

    /// The positions for `hash`, from the one that is meant to those that stand in for it; a position
    /// may come more than once.
    pub(super) fn positions(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (start, len) = match self {
            Self::Ring(ring) => (ring.partition_point(|(entry, _)| *entry < hash), ring.len()),
            Self::Maglev(table) => ((hash % (table.len() as u64).max(1)) as usize, table.len()),
        };
        (start..len).chain(0..start.min(len)).map(move |index| match self {
            Self::Ring(ring) => ring[index].1 as usize,
            Self::Maglev(table) => table[index] as usize,
        })
    }
}

/// One endpoint's permutation of the table.
struct Builder {
    offset: u64,
    skip: u64,
    step: u64,
    weight: u64,
    owed: u64,
}

impl Builder {
    fn new(place: &Place<'_>, modulus: u64) -> Self {
        let name = place.name.as_bytes();
        Self {
            offset: xxh64(name, 0) % modulus,
            skip: xxh64(name, 1) % (modulus - 1) + 1,
            step: 0,
            weight: u64::from(place.weight),
            owed: 0,
        }
    }

    fn next_slot(&mut self, modulus: u64) -> usize {
        let slot = (self.offset + self.step % modulus * self.skip) % modulus;
        self.step += 1;
        slot as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("10.0.0.{number}:80")).collect()
    }

    fn tables(names: &[String], weights: &[u32]) -> [HashTable; 2] {
        let places: Vec<Place<'_>> = names
            .iter()
            .zip(weights)
            .map(|(name, weight)| Place { name, weight: *weight })
            .collect();
        // The same number of entries for each endpoint, however many there are.
        let size = 300 * places.len() as u32;
        [HashTable::ring(&places, size), HashTable::maglev(&places, 65_537)]
    }

    fn pick(table: &HashTable, key: u64) -> usize {
        table.positions(xxh64(&key.to_le_bytes(), 0)).next().expect("there are endpoints")
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let names = names(3);
        for table in tables(&names, &[1, 1, 2]) {
            let mut shares = [0_usize; 3];
            for key in 0..20_000 {
                shares[pick(&table, key)] += 1;
            }
            for (share, wanted) in shares.iter().zip([5_000_usize, 5_000, 10_000]) {
                // Rings of this size are only so even.
                assert!(share.abs_diff(wanted) < wanted / 4, "{shares:?}");
            }
        }
    }

    #[test]
    fn an_endpoint_that_leaves_moves_only_its_own_keys() {
        let all = names(10);
        let [ring, maglev] = tables(&all, &[1; 10]);
        let [ring_after, maglev_after] = tables(&all[..9], &[1; 9]);
        for (before, after, allowed) in [(ring, ring_after, 0), (maglev, maglev_after, 600)] {
            let stayed = |key: &u64| pick(&before, *key) != 9;
            let moved = |key: &u64| pick(&before, *key) != pick(&after, *key);
            let moved = (0..10_000).filter(|key| stayed(key) && moved(key)).count();
            assert!(moved <= allowed, "{moved} of 10000");
        }
    }

    #[test]
    fn every_endpoint_stands_in_for_another() {
        for table in tables(&names(4), &[1; 4]) {
            let mut seen: Vec<usize> = table.positions(7).collect();
            let first = seen[0];
            assert_eq!(table.positions(7).next(), Some(first));
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, [0, 1, 2, 3]);
        }
    }

    #[test]
    fn there_is_nothing_in_a_table_of_nothing() {
        for table in tables(&[], &[]) {
            assert_eq!(table.positions(1).next(), None);
        }
    }
}
