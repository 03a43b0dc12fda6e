//! Counting gRPC messages as they pass (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

/// A flag byte and four bytes of length stand before every message.
const PREFIX: usize = 5;

/// Counts the messages of one body, however it is cut into frames. A message counts when its prefix is
/// complete.
#[derive(Debug, Default)]
pub struct MessageCounter {
    count: u64,
    length: [u8; 4],
    /// Bytes of the prefix that have come.
    prefix: usize,
    /// Bytes of the message that have not.
    rest: u32,
}

impl MessageCounter {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn see(&mut self, mut data: &[u8]) {
        loop {
            let skipped = data.len().min(usize::try_from(self.rest).unwrap_or(usize::MAX));
            data = &data[skipped..];
            // No more than `rest`, which is one.
            self.rest -= u32::try_from(skipped).unwrap_or(self.rest);
            let Some((byte, following)) = data.split_first() else { return };
            if let Some(at) = self.prefix.checked_sub(1) {
                self.length[at] = *byte;
            }
            self.prefix += 1;
            if self.prefix == PREFIX {
                self.count += 1;
                self.prefix = 0;
                self.rest = u32::from_be_bytes(self.length);
            }
            data = following;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let announced = u32::try_from(length).unwrap().to_be_bytes();
        [&[0][..], &announced, &vec![1; length]].concat()
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let body = [message(0), message(3), message(300), message(1)].concat();
        for size in 1..body.len() {
            let mut counter = MessageCounter::default();
            body.chunks(size).for_each(|piece| counter.see(piece));
            assert_eq!(counter.count(), 4, "in pieces of {size}");
        }
    }

    #[test]
    fn a_message_counts_once_its_length_is_known() {
        let mut counter = MessageCounter::default();
        counter.see(&[0, 0xff, 0xff, 0xff]);
        assert_eq!(counter.count(), 0);
        counter.see(&[0xff, 1, 2, 3]);
        counter.see(&[0; 1000]);
        assert_eq!(counter.count(), 1, "the rest of 4 GiB is still to come");
    }
}
