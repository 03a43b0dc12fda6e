//! What heads of requests and responses have in common when they are parsed.

use std::ops::Range;

use memchr::memmem;

use super::fields;

/// Slots for fields, whatever the configured limit says.
pub(super) const MAX_HEADERS: usize = 256;

/// Remembers how much of an incomplete head was looked at, so that a head that comes byte by byte
/// does not cost the square of its length.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    parsed: usize,
    searched: usize,
}

impl HeadScan {
    /// Below this, parsing again is cheaper than thinking about it.
    const ALWAYS: usize = 1024;

    /// Is it worth parsing now? Yes when the end of the head came, and now and then for errors.
    pub fn is_due(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() < Self::ALWAYS {
            return true;
        }
        let from = self.searched.saturating_sub(3).min(bytes.len());
        let ended = memmem::find(&bytes[from..], b"\n\r\n").is_some()
            || memmem::find(&bytes[from..], b"\n\n").is_some();
        self.searched = bytes.len();
        let due = ended || bytes.len() >= self.parsed * 2;
        if due {
            self.parsed = bytes.len();
        }
        due
    }
}

/// Every line feed has a carriage return in front. (httparse has seen to it that every carriage
/// return is followed by a line feed.)
pub(super) fn ends_lines_with_crlf(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).all(|at| at > 0 && bytes[at - 1] == b'\r')
}

/// The fields of a head that begins at `base`, as ranges of it.
pub(super) fn lines(base: usize, parsed: &[httparse::Header<'_>]) -> fields::Lines {
    let line = |field: &httparse::Header<'_>| {
        (range(base, field.name.as_bytes()), range(base, field.value))
    };
    parsed.iter().map(line).collect()
}

/// Where in the buffer a part of it is.
pub(super) fn range(base: usize, part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - base;
    start..start + part.len()
}
