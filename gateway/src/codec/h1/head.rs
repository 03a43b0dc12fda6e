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

/// Every line feed has a carriage return in front.
pub(super) fn ends_lines_with_crlf(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).all(|at| at > 0 && bytes[at - 1] == b'\r')
}

/// The same of a head that httparse has taken, and so has no carriage return without a line feed behind
/// it: then to count both is enough.
pub(super) fn complete_ends_lines_with_crlf(head: &[u8]) -> bool {
    let count = |byte| memchr::memchr_iter(byte, head).count();
    count(b'\r') == count(b'\n')
}

/// Adds the fields of a head that begins at `base`, as ranges of it. To a list of the caller's, which
/// is too large to be handed around.
pub(super) fn find_lines(base: usize, parsed: &[httparse::Header<'_>], lines: &mut fields::Lines) {
    let line = |field: &httparse::Header<'_>| {
        (range(base, field.name.as_bytes()), range(base, field.value))
    };
    lines.extend(parsed.iter().map(line));
}

/// Where in the buffer a part of it is.
pub(super) fn range(base: usize, part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - base;
    start..start + part.len()
}
