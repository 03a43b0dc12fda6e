//! Message bodies: where they end when read, how their end is shown when written (RFC 9112 section 6).

use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use http::HeaderMap;

use super::{
    super::{BodyLength, Frame, StreamError, field},
    buffer::{ReadBuffer, WriteBuffer},
    chunked::{ChunkedDecoder, Decoded},
};
use crate::io::Io;

/// Reads one body.
#[derive(Debug)]
pub(super) enum BodyReader {
    /// Nothing (more) to read.
    Done,
    /// Bytes still to come.
    Exact(u64),
    Chunked(ChunkedDecoder),
    /// Everything up to the end of the stream; tunnels too.
    UntilClose,
}

impl BodyReader {
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::Exact(0))
    }

    /// The next part of the body, from the buffer if it has any, else from the socket.
    pub fn poll(
        &mut self,
        read: &mut ReadBuffer,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame>, StreamError>> {
        loop {
            match self.decode(read)? {
                Decoded::Frame(frame) => {
                    // Nobody has to come back for the end behind trailers: they are the end.
                    if matches!(frame, Frame::Trailers(_)) {
                        *self = Self::Done;
                    }
                    return Poll::Ready(Ok(Some(frame)));
                }
                Decoded::End => {
                    *self = Self::Done;
                    return Poll::Ready(Ok(None));
                }
                Decoded::NeedMore => {}
            }
            if ready!(read.poll_fill(io, cx))? == 0 {
                return Poll::Ready(self.end_of_stream());
            }
        }
    }

    fn decode(&mut self, read: &mut ReadBuffer) -> Result<Decoded, StreamError> {
        let bytes = read.bytes();
        match self {
            Self::Done | Self::Exact(0) => Ok(Decoded::End),
            Self::Chunked(decoder) => decoder.decode(bytes),
            Self::Exact(_) | Self::UntilClose if bytes.is_empty() => Ok(Decoded::NeedMore),
            Self::Exact(remaining) => {
                let take = usize::try_from(*remaining).unwrap_or(usize::MAX).min(bytes.len());
                *remaining -= take as u64;
                Ok(Decoded::Frame(Frame::Data(bytes.split_to(take).freeze())))
            }
            Self::UntilClose => Ok(Decoded::Frame(Frame::Data(bytes.split().freeze()))),
        }
    }

    fn end_of_stream(&mut self) -> Result<Option<Frame>, StreamError> {
        match self {
            Self::UntilClose => {
                *self = Self::Done;
                Ok(None)
            }
            Self::Done | Self::Exact(_) | Self::Chunked(_) => {
                Err(StreamError::Closed { started: true })
            }
        }
    }
}

/// Writes one body.
#[derive(Debug)]
pub(super) enum BodyWriter {
    /// The message has none, whatever is handed over (HEAD, 204, 304).
    Dropped,
    /// Bytes still owed.
    Exact(u64),
    Chunked,
    /// The end of the stream is the end of the body; tunnels too.
    UntilClose,
}

impl BodyWriter {
    pub fn write(&mut self, data: Bytes, out: &mut WriteBuffer) -> Result<(), StreamError> {
        // An empty chunk would end the body.
        if data.is_empty() {
            return Ok(());
        }
        match self {
            Self::Dropped => {}
            Self::Exact(owed) => {
                *owed = owed.checked_sub(data.len() as u64).ok_or(StreamError::Length)?;
                out.push(data);
            }
            Self::Chunked => {
                write_chunk_size(data.len(), out);
                out.push(data);
                out.tail().put_slice(b"\r\n");
            }
            Self::UntilClose => out.push(data),
        }
        Ok(())
    }

    /// Ends the body. Trailers go out where the framing has a place for them.
    pub fn finish(
        &self,
        trailers: Option<HeaderMap>,
        out: &mut WriteBuffer,
    ) -> Result<(), StreamError> {
        match self {
            Self::Exact(1..) => Err(StreamError::Length),
            Self::Dropped | Self::Exact(0) | Self::UntilClose => Ok(()),
            Self::Chunked => {
                let tail = out.tail();
                tail.put_slice(b"0\r\n");
                for (name, value) in &trailers.map(field::clean_trailers).unwrap_or_default() {
                    super::encode::field(tail, name.as_str().as_bytes(), value.as_bytes());
                }
                tail.put_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

fn write_chunk_size(mut size: usize, out: &mut WriteBuffer) {
    let mut line = *b"0000000000000000\r\n";
    let mut start = 16;
    while size > 0 {
        start -= 1;
        line[start] = b"0123456789abcdef"[size & 15];
        size >>= 4;
    }
    out.tail().put_slice(&line[start..]);
}

/// The length a reader was made for, as the other side is to be told.
pub(super) fn length_of(reader: &BodyReader) -> BodyLength {
    match reader {
        BodyReader::Done | BodyReader::Exact(0) => BodyLength::Empty,
        BodyReader::Exact(length) => BodyLength::Exact(*length),
        BodyReader::Chunked(_) | BodyReader::UntilClose => BodyLength::Unknown,
    }
}
