//! A hash map whose copies share what did not change: a change copies one of 64 parts, so that a table
//! of 10,000 hosts is not copied for the sake of one.

use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash},
    sync::Arc,
};

use rustc_hash::{FxBuildHasher, FxHashMap};

const SHARDS: usize = 64;

#[derive(Debug)]
pub(crate) struct ShardedMap<K, V> {
    /// Empty until the first insertion.
    shards: Vec<Arc<FxHashMap<K, V>>>,
    len: usize,
}

impl<K, V> Default for ShardedMap<K, V> {
    fn default() -> Self {
        Self { shards: Vec::new(), len: 0 }
    }
}

impl<K, V> Clone for ShardedMap<K, V> {
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone(), len: self.len }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> ShardedMap<K, V> {
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if self.shards.is_empty() {
            return None;
        }
        self.shards[shard(key)].get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.shards.is_empty() {
            self.shards = vec![Arc::default(); SHARDS];
        }
        let replaced = Arc::make_mut(&mut self.shards[shard(&key)]).insert(key, value);
        self.len += usize::from(replaced.is_none());
        replaced
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Looked up first: a copy for nothing would be the price of a miss.
        self.get(key)?;
        let removed = Arc::make_mut(&mut self.shards[shard(key)]).remove(key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }
}

fn shard<Q: Hash + ?Sized>(key: &Q) -> usize {
    // The map inside uses the low bits and the top seven of the same hash.
    (FxBuildHasher.hash_one(key) >> 40) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_copies_one_part_and_leaves_earlier_copies_alone() {
        let mut first = ShardedMap::default();
        for i in 0..10_000 {
            first.insert(format!("host-{i}"), i);
        }
        let mut second = first.clone();
        assert_eq!(second.insert("host-7".into(), 0), Some(7));
        assert_eq!(second.remove("host-8"), Some(8));
        assert_eq!(second.remove("host-8"), None);
        assert_eq!((first.get("host-7"), first.get("host-8")), (Some(&7), Some(&8)));
        assert_eq!((second.get("host-7"), second.get("host-8")), (Some(&0), None));
        let shared =
            first.shards.iter().zip(&second.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= SHARDS - 2, "only {shared} parts are shared");
    }

    #[test]
    fn it_knows_when_it_is_empty() {
        let mut map = ShardedMap::default();
        assert!(map.is_empty());
        map.insert("a", 1);
        map.insert("a", 2);
        assert!(!map.is_empty());
        map.remove("b");
        map.remove("a");
        assert!(map.is_empty());
        assert_eq!(map.values().count(), 0);
    }
}
