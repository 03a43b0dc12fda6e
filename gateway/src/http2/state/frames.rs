//! Frames on their way into the connection's queue.

use bytes::Bytes;

use super::State;
use crate::http2::{
    HeadBlock, Reason,
    frame::{FrameHeader, MAX_FRAME_BYTES, flag, kind},
};

/// The longest frame we send, whatever the peer takes: others wait meanwhile.
const MAX_SENT_FRAME: usize = 4 * MAX_FRAME_BYTES;
/// A dynamic table of this size is none: the first thing a block says (RFC 7541 section 6.3).
const NO_TABLE: u8 = 0x20;

impl State {
    fn frame(&mut self, header: FrameHeader, payload: &[u8]) {
        self.out.put(&header.encode());
        self.out.put(payload);
    }

    pub fn control(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.frame(FrameHeader { length: payload.len(), kind, flags, stream }, payload);
        self.wake_connection();
    }

    pub fn window_update(&mut self, stream: u32, increment: u32) {
        self.control(kind::WINDOW_UPDATE, flag::NONE, stream, &increment.to_be_bytes());
    }

    pub(super) fn rst_stream(&mut self, stream: u32, reason: Reason) {
        self.control(kind::RST_STREAM, flag::NONE, stream, &reason.code().to_be_bytes());
    }

    pub fn goaway(&mut self, last: u32, reason: Reason) {
        let payload = [last.to_be_bytes(), reason.code().to_be_bytes()].concat();
        self.control(kind::GOAWAY, flag::NONE, 0, &payload);
    }

    /// HEADERS, and CONTINUATION where one frame does not hold the block.
    pub fn write_block(&mut self, stream: u32, block: &HeadBlock, end: bool) {
        self.flood.send();
        let end_stream = if end { flag::END_STREAM } else { flag::NONE };
        let is_first_block = !std::mem::replace(&mut self.has_sent_block, true);
        let most = MAX_FRAME_BYTES - usize::from(is_first_block);
        let (first, mut rest) = block.as_bytes().split_at(block.as_bytes().len().min(most));
        let all = if rest.is_empty() { flag::END_HEADERS } else { flag::NONE };
        let length = first.len() + usize::from(is_first_block);
        let flags = end_stream | all;
        self.out.put(&FrameHeader { length, kind: kind::HEADERS, flags, stream }.encode());
        if is_first_block {
            self.out.put(&[NO_TABLE]);
        }
        self.out.put(first);
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(rest.len().min(MAX_FRAME_BYTES));
            rest = left;
            let flags = if rest.is_empty() { flag::END_HEADERS } else { flag::NONE };
            let length = piece.len();
            self.frame(FrameHeader { length, kind: kind::CONTINUATION, flags, stream }, piece);
        }
        self.sent(stream, end);
    }

    /// DATA of a length for which there is room.
    pub fn write_data(&mut self, stream: u32, mut data: Bytes, end: bool) {
        let most = self.peer.max_frame_bytes.min(MAX_SENT_FRAME);
        loop {
            let piece = data.split_to(data.len().min(most));
            let is_last = data.is_empty();
            let flags = if end && is_last { flag::END_STREAM } else { flag::NONE };
            self.flood.send();
            let header = FrameHeader { length: piece.len(), kind: kind::DATA, flags, stream };
            self.out.put(&header.encode());
            self.out.put_shared(piece);
            if is_last {
                break;
            }
        }
        self.sent(stream, end);
    }

    /// Part of a message is in the queue; `end`: its last.
    fn sent(&mut self, stream: u32, end: bool) {
        if end {
            self.end_sending(stream);
        }
        self.wake_connection();
    }
}
