//! Frames (RFC 9113 sections 4 and 6): their headers, and what is checked of each by itself.

use super::Reason;

pub(super) const HEADER_BYTES: usize = 9;
/// The longest frame we take: what every peer may send, and nobody has asked for more.
pub(super) const MAX_FRAME_BYTES: usize = 16 * 1024;
/// What a client says first (section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Windows before anybody says otherwise, and of the connection.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;
pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;
pub(super) const MAX_STREAM_ID: u32 = (1 << 31) - 1;

pub(super) mod kind {
    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const PRIORITY: u8 = 0x2;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PUSH_PROMISE: u8 = 0x5;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const WINDOW_UPDATE: u8 = 0x8;
    pub const CONTINUATION: u8 = 0x9;
}

pub(super) mod flag {
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Of the payload.
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    /// 0: the connection.
    pub stream: u32,
}

impl FrameHeader {
    /// `None`: not all of it is there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = bytes.first_chunk::<HEADER_BYTES>()?;
        Some(Self {
            length: u32::from_be_bytes([0, *a, *b, *c]) as usize,
            kind: *kind,
            flags: *flags,
            stream: u32::from_be_bytes(*stream) & MAX_STREAM_ID,
        })
    }

    /// # Panics
    /// In debug builds, for a length no frame can have.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        debug_assert!(self.length < 1 << 24, "a frame's length has 24 bits");
        #[expect(clippy::cast_possible_truncation, reason = "frames are cut to size")]
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The payload without its padding (section 6.1).
pub(super) fn without_padding(header: FrameHeader, payload: &[u8]) -> Result<&[u8], Reason> {
    if !header.has(flag::PADDED) {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(Reason::FRAME_SIZE_ERROR)?;
    let length = rest.len().checked_sub(usize::from(*padding)).ok_or(Reason::PROTOCOL_ERROR)?;
    Ok(&rest[..length])
}

/// A number of 31 bits behind a reserved one.
pub(super) fn number(payload: &[u8]) -> Result<u32, Reason> {
    let bytes = <[u8; 4]>::try_from(payload).map_err(|_size| Reason::FRAME_SIZE_ERROR)?;
    Ok(u32::from_be_bytes(bytes) & MAX_STREAM_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = FrameHeader { length: 70_000, kind: 9, flags: 0x25, stream: MAX_STREAM_ID };
        let bytes = header.encode();
        assert_eq!(FrameHeader::parse(&bytes), Some(header));
        assert_eq!(FrameHeader::parse(&bytes[..8]), None);
        let reserved = [0, 0, 0, 0, 0, 0x80, 0, 0, 1];
        assert_eq!(FrameHeader::parse(&reserved).unwrap().stream, 1, "the reserved bit is ignored");
    }

    #[test]
    fn padding_is_taken_off_and_cannot_be_longer_than_the_frame() {
        let header = |flags| FrameHeader { length: 4, kind: 0, flags, stream: 1 };
        assert_eq!(without_padding(header(0), &[2, 7, 0, 0]), Ok(&[2, 7, 0, 0][..]));
        assert_eq!(without_padding(header(flag::PADDED), &[2, 7, 0, 0]), Ok(&[7][..]));
        assert_eq!(without_padding(header(flag::PADDED), &[3, 0, 0, 0]), Ok(&[][..]));
        let refused = without_padding(header(flag::PADDED), &[4, 0, 0, 0]);
        assert_eq!(refused, Err(Reason::PROTOCOL_ERROR));
        assert_eq!(without_padding(header(flag::PADDED), &[]), Err(Reason::FRAME_SIZE_ERROR));
    }
}
