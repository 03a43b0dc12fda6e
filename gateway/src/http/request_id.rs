//! `x-request-id`: one name for a request in all logs.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
};

use http::HeaderValue;

/// Longest id taken over from a trusted proxy, in bytes.
const MAX_LENGTH: usize = 128;

/// A new random UUID (RFC 9562 version 4).
#[must_use]
pub fn generate() -> HeaderValue {
    /// Where the digits of each byte are: groups of 4, 2, 2, 2 and 6 bytes.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut bytes = random_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    for (byte, place) in bytes.into_iter().zip(PLACES) {
        text[place] = digit(byte >> 4);
        text[place + 1] = digit(byte & 15);
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Whether an id sent by a trusted proxy is kept: short, and nothing in it that a log or a header
/// could stumble over (hardening X05).
#[must_use]
pub fn is_acceptable(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=MAX_LENGTH).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(byte))
}

/// SipHash of a counter under keys from the operating system, one pair per thread: as fast as a weak
/// generator, and those who see ids cannot compute the next.
fn random_bytes() -> [u8; 16] {
    thread_local! {
        static KEYS: RandomState = RandomState::new();
        static COUNTER: Cell<u64> = const { Cell::new(0) };
    }
    let counter = COUNTER.with(|counter| counter.replace(counter.get().wrapping_add(1)));
    // Two inputs for each id, none of them ever used for another.
    let inputs = [counter.wrapping_mul(2), counter.wrapping_mul(2).wrapping_add(1)];
    let [high, low] = KEYS.with(|keys| inputs.map(|input| keys.hash_one(input)));
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

fn digit(value: u8) -> u8 {
    b"0123456789abcdef"[usize::from(value & 15)]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_is_a_random_uuid_of_version_4() {
        let ids: HashSet<_> =
            (0..10_000).map(|_| generate().to_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), 10_000, "an id came twice");
        for id in ids {
            let groups: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
            assert!(
                id.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            );
            assert_eq!(&id[14..15], "4", "{id}");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
    }

    #[test]
    fn a_threads_ids_say_nothing_about_anothers() {
        let other = std::thread::spawn(generate).join().unwrap();
        assert_ne!(generate(), other);
    }

    #[test]
    fn only_short_plain_ids_are_kept() {
        for (id, kept) in [
            ("7e9f6d1c-1b7a-4b7e-9a53-2f3ad0c9b5d1", true),
            ("Root=1-67891233-abcdef012345678912345678", true),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("a\tb", false),
            (&*"x".repeat(128), true),
            (&*"x".repeat(129), false),
        ] {
            assert_eq!(is_acceptable(&HeaderValue::from_str(id).unwrap()), kept, "{id:?}");
        }
    }
}
