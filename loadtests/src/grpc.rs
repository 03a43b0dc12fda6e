//! Length-prefixed messages of the pattern.

use crate::pattern;

/// One message with the pattern in it.
pub fn message(bytes: u64) -> Vec<u8> {
    let payload = pattern::at(0, bytes);
    let length = u32::try_from(payload.len()).expect("messages are at most a period long");
    let mut message = vec![0];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(payload);
    message
}

/// Counts messages in a stream and checks their bytes.
#[derive(Debug, Default)]
pub struct Reader {
    prefix: Vec<u8>,
    length: usize,
    read: usize,
    wrong: bool,
}

impl Reader {
    /// Takes in what arrived; how many messages it completed.
    pub fn push(&mut self, mut data: &[u8]) -> u64 {
        let mut complete = 0;
        while !data.is_empty() {
            if self.prefix.len() < 5 {
                let take = data.len().min(5 - self.prefix.len());
                self.prefix.extend_from_slice(&data[..take]);
                data = &data[take..];
                let [compressed, a, b, c, d] = self.prefix[..] else { continue };
                self.length = u32::from_be_bytes([a, b, c, d]) as usize;
                self.wrong |= compressed != 0;
            }
            let take = data.len().min(self.length - self.read);
            self.wrong |= !pattern::matches(self.read as u64, &data[..take]);
            self.read += take;
            data = &data[take..];
            if self.read == self.length {
                complete += 1;
                self.read = 0;
                self.prefix.clear();
            }
        }
        complete
    }

    /// Nothing was wrong so far, and no message is incomplete.
    pub fn is_right(&self) -> bool {
        !self.wrong && self.prefix.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let stream = [message(100), message(0), message(7)].concat();
        for size in 1..stream.len() {
            let mut reader = Reader::default();
            let count: u64 = stream.chunks(size).map(|chunk| reader.push(chunk)).sum();
            assert_eq!((count, reader.is_right()), (3, true), "in pieces of {size}");
        }
    }

    #[test]
    fn a_wrong_byte_and_a_cut_message_are_not_right() {
        let mut wrong = message(100);
        wrong[50] ^= 1;
        let mut reader = Reader::default();
        reader.push(&wrong);
        assert!(!reader.is_right());
        let mut reader = Reader::default();
        reader.push(&message(100)[..50]);
        assert!(!reader.is_right());
    }
}
