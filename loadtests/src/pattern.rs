//! The bytes of every body. Each side knows what has to be at each offset, so that a body of any size
//! is checked completely at the speed of a memory comparison.

use std::sync::LazyLock;

/// Bytes after which the pattern starts again.
pub const PERIOD: usize = 64 * 1024;

/// Twice the period, so that a whole period can be taken from any offset.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(0x5745_4952);
    let mut bytes: Vec<u8> = (0..PERIOD).map(|_| random.alphanumeric() as u8).collect();
    bytes.extend_from_within(..);
    bytes
});

/// The bytes at an offset: at most a period, at most `len`.
pub fn at(offset: u64, len: u64) -> &'static [u8] {
    let start = phase(offset);
    let len = usize::try_from(len).unwrap_or(PERIOD).min(PERIOD);
    &PATTERN[start..start + len]
}

/// Whether bytes are those at an offset.
pub fn matches(offset: u64, bytes: &[u8]) -> bool {
    let mut offset = offset;
    bytes.chunks(PERIOD).all(|chunk| {
        let start = phase(offset);
        offset += chunk.len() as u64;
        PATTERN[start..start + chunk.len()] == *chunk
    })
}

fn phase(offset: u64) -> usize {
    usize::try_from(offset % PERIOD as u64).expect("less than the period")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_in_pieces_matches_in_other_pieces() {
        let mut body = Vec::new();
        while body.len() < 200_000 {
            body.extend_from_slice(at(body.len() as u64, 7_777));
        }
        assert!(matches(0, &body));
        assert!(matches(100_001, &body[100_001..]));
    }

    #[test]
    fn one_wrong_byte_does_not_match() {
        let mut body = at(0, 60).to_vec();
        body[59] ^= 1;
        assert!(!matches(0, &body));
        assert!(!matches(1, at(0, 60)), "shifted");
    }
}
