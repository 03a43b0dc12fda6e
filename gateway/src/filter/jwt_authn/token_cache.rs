//! Tokens verified before: a signature is checked once, its time on every request (hardening J11).

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::filter::Claims;

const SHARDS: usize = 16;
/// Tokens in one generation of a shard; two generations are kept.
const GENERATION: usize = 64;
/// Longer tokens are verified every time, which bounds the memory: 16 shards x 2 x 64 x 4 KiB.
const MAX_TOKEN: usize = 4096;

/// What verifying a token's signature found.
#[derive(Debug, Clone)]
pub struct Verified {
    pub claims: Arc<Claims>,
    pub validity: Validity,
    /// Of the keys it was verified with.
    pub epoch: u64,
}

/// When a token may be used, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Validity {
    pub not_before: Option<u64>,
    pub expires: Option<u64>,
}

/// Bounded: when a generation is full, the one before it is forgotten.
///
/// The key is the whole token, not a digest of it: nothing to collide. Locks are held for one lookup
/// of a string, well below a microsecond, and sixteen ways.
#[derive(Debug)]
pub struct TokenCache {
    hasher: RandomState,
    shards: [Mutex<Generations>; SHARDS],
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Box<str>, Verified, rustc_hash::FxBuildHasher>,
    old: HashMap<Box<str>, Verified, rustc_hash::FxBuildHasher>,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: Default::default() }
    }
}

impl TokenCache {
    /// What is known of `token`, if it was verified with the keys of `epoch`.
    #[must_use]
    pub fn find(&self, token: &str, epoch: u64) -> Option<Verified> {
        let mut shard = self.shard(token);
        if let Some(found) = shard.young.get(token) {
            return (found.epoch == epoch).then(|| found.clone());
        }
        let (token, found) = shard.old.remove_entry(token)?;
        if found.epoch != epoch {
            return None;
        }
        shard.insert(token, found.clone());
        Some(found)
    }

    pub fn insert(&self, token: &str, verified: Verified) {
        if token.len() <= MAX_TOKEN {
            self.shard(token).insert(token.into(), verified);
        }
    }

    fn shard(&self, token: &str) -> MutexGuard<'_, Generations> {
        // The signature at the end is what differs between tokens of one issuer.
        let end = &token.as_bytes()[token.len().saturating_sub(16)..];
        let shard = usize::try_from(self.hasher.hash_one(end) % SHARDS as u64).unwrap_or_default();
        // A panic elsewhere leaves maps that are still maps.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn insert(&mut self, token: Box<str>, verified: Verified) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, verified);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::filter::claims::claims;

    fn verified(epoch: u64) -> Verified {
        Verified { claims: claims(json!({})), validity: Validity::default(), epoch }
    }

    #[test]
    fn a_token_is_known_only_for_the_keys_it_was_verified_with() {
        let cache = TokenCache::default();
        cache.insert("a.b.c", verified(1));
        assert!(cache.find("a.b.c", 1).is_some());
        assert!(cache.find("a.b.c", 2).is_none(), "keys were replaced");
        assert!(cache.find("a.b.d", 1).is_none());
        assert!(cache.find("A.b.c", 1).is_none(), "same signature, other header");
    }

    #[test]
    fn it_is_bounded_and_forgets_what_is_not_used() {
        let cache = TokenCache::default();
        cache.insert("kept", verified(1));
        for i in 0..100_000 {
            cache.insert(&format!("token-{i}"), verified(1));
            assert!(cache.find("kept", 1).is_some(), "used all the time, gone after {i}");
        }
        let held: usize = cache
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap())
            .map(|shard| shard.young.len() + shard.old.len())
            .sum();
        assert!(held <= SHARDS * GENERATION * 2, "{held} tokens held");
        assert!(cache.find("token-0", 1).is_none());
        cache.insert(&"x".repeat(MAX_TOKEN + 1), verified(1));
        assert!(cache.find(&"x".repeat(MAX_TOKEN + 1), 1).is_none());
    }
}
