//! Frames from the peer: read one after another, checked, and taken into the state.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Error, Reason, RequestHead,
    frame::{FrameHeader, HEADER_BYTES, MAX_FRAME_BYTES, PREFACE, flag, kind, without_padding},
    head::{Collector, Malformed, content_length},
    hpack::{Decoder, Undecodable},
    state::{Role, Shutdown, State},
    stream::{Receiving, StreamState},
};
use control::control;

mod control;

/// Frames a block may be continued in, whatever is in them (CVE-2024-27316, hardening T03).
const MAX_CONTINUATIONS: u32 = 32;
/// 1xx heads nobody has taken yet.
const MAX_UNREAD_HEADS: usize = 32;
/// Longer data keeps the memory it was read into, of which it is a part worth keeping.
const KEEP_FROM: usize = 8 * 1024;

/// A request that has begun, on a stream that is in the state.
#[derive(Debug)]
pub(super) struct Arrived {
    pub stream: u32,
    pub head: RequestHead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    Preface,
    /// The first frame has to be.
    Settings,
    Frames,
}

/// A head of which not all has come.
#[derive(Debug)]
struct Partial {
    frame: FrameHeader,
    bytes: Vec<u8>,
    continuations: u32,
}

#[derive(Debug)]
pub(super) struct Input {
    pub buffer: BytesMut,
    decoder: Decoder,
    partial: Option<Box<Partial>>,
    expects: Expects,
}

/// What becomes of the connection: it goes on, or ends for a reason.
type Outcome = Result<(), Reason>;

impl Input {
    /// `read` was read already.
    pub fn new(role: Role, read: BytesMut) -> Self {
        let expects = match role {
            Role::Server => Expects::Preface,
            Role::Client => Expects::Settings,
        };
        Self { buffer: read, decoder: Decoder::default(), partial: None, expects }
    }

    /// Anything but the preface has come.
    pub fn has_heard(&self) -> bool {
        self.expects == Expects::Frames
    }

    /// Takes in what was read, up to the next request. `None`: all of it, but for the beginning of a
    /// frame.
    ///
    /// # Errors
    /// The connection has to end.
    pub fn next(&mut self, state: &mut State) -> Result<Option<Arrived>, Reason> {
        if self.expects == Expects::Preface && !self.skip_preface()? {
            return Ok(None);
        }
        while state.ended.is_none() {
            let Some(frame) = FrameHeader::parse(&self.buffer) else { return Ok(None) };
            if frame.length > MAX_FRAME_BYTES {
                return Err(Reason::FRAME_SIZE_ERROR);
            }
            if self.expects == Expects::Settings {
                if frame.kind != kind::SETTINGS || frame.has(flag::ACK) {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                self.expects = Expects::Frames;
            }
            if self.buffer.len() < HEADER_BYTES + frame.length {
                return Ok(None);
            }
            state.flood.receive(frame);
            if state.flood.is_exceeded() {
                return Err(Reason::ENHANCE_YOUR_CALM);
            }
            if let Some(arrived) = self.take(state, frame)? {
                return Ok(Some(arrived));
            }
        }
        Ok(None)
    }

    fn skip_preface(&mut self) -> Result<bool, Reason> {
        let length = self.buffer.len().min(PREFACE.len());
        if self.buffer[..length] != PREFACE[..length] {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if length < PREFACE.len() {
            return Ok(false);
        }
        self.buffer.advance(length);
        self.expects = Expects::Settings;
        Ok(true)
    }

    /// Takes one frame in, all of which is there.
    fn take(&mut self, state: &mut State, frame: FrameHeader) -> Result<Option<Arrived>, Reason> {
        if self.partial.is_some() != (frame.kind == kind::CONTINUATION) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if frame.kind == kind::DATA {
            self.data(state, frame)?;
            return Ok(None);
        }
        let payload = &self.buffer[HEADER_BYTES..HEADER_BYTES + frame.length];
        let arrived = match frame.kind {
            kind::HEADERS => {
                let block = block_of(frame, payload)?;
                if frame.has(flag::END_HEADERS) {
                    head(&mut self.decoder, state, frame, block)?
                } else {
                    let bytes = block.to_vec();
                    self.partial = Some(Box::new(Partial { frame, bytes, continuations: 0 }));
                    None
                }
            }
            kind::CONTINUATION => {
                let partial = self.partial.take().ok_or(Reason::PROTOCOL_ERROR)?;
                let (partial, is_whole) = continued(partial, state, frame, payload)?;
                if is_whole {
                    head(&mut self.decoder, state, partial.frame, &partial.bytes)?
                } else {
                    self.partial = Some(partial);
                    None
                }
            }
            _ => {
                control(state, frame, payload)?;
                None
            }
        };
        self.buffer.advance(HEADER_BYTES + frame.length);
        Ok(arrived)
    }

    fn data(&mut self, state: &mut State, frame: FrameHeader) -> Outcome {
        let payload = &self.buffer[HEADER_BYTES..HEADER_BYTES + frame.length];
        let body = without_padding(frame, payload)?;
        let is_padded = body.len() != payload.len();
        let length = body.len();
        let data = if length < KEEP_FROM || is_padded {
            let data = Bytes::copy_from_slice(body);
            self.buffer.advance(HEADER_BYTES + frame.length);
            data
        } else {
            self.buffer.advance(HEADER_BYTES);
            self.buffer.split_to(frame.length).freeze()
        };
        body_data(state, frame, data)
    }
}

/// The block in a HEADERS frame, without what priorities are left of (section 6.2).
fn block_of(frame: FrameHeader, payload: &[u8]) -> Result<&[u8], Reason> {
    if frame.stream == 0 {
        return Err(Reason::PROTOCOL_ERROR);
    }
    let payload = without_padding(frame, payload)?;
    if !frame.has(flag::PRIORITY) {
        return Ok(payload);
    }
    payload.get(5..).ok_or(Reason::FRAME_SIZE_ERROR)
}

fn continued(
    mut partial: Box<Partial>,
    state: &State,
    frame: FrameHeader,
    payload: &[u8],
) -> Result<(Box<Partial>, bool), Reason> {
    if frame.stream != partial.frame.stream {
        return Err(Reason::PROTOCOL_ERROR);
    }
    partial.continuations += 1;
    // Compression makes a head shorter. One that is longer than it may be when it is not compressed is
    // not worth decoding; up to twice of that somebody is told what is wrong.
    let most = state.config.max_header_bytes.saturating_mul(2).max(MAX_FRAME_BYTES);
    if partial.continuations > MAX_CONTINUATIONS || partial.bytes.len() + payload.len() > most {
        return Err(Reason::ENHANCE_YOUR_CALM);
    }
    partial.bytes.extend_from_slice(payload);
    Ok((partial, frame.has(flag::END_HEADERS)))
}

/// A complete head: of a request, of a response, or trailers.
fn head(
    decoder: &mut Decoder,
    state: &mut State,
    frame: FrameHeader,
    block: &[u8],
) -> Result<Option<Arrived>, Reason> {
    // Whatever becomes of it, for the table's sake.
    let mut fields = Collector::new(state.config.max_header_bytes);
    let decoded = decoder.decode(block, |field| fields.take(field));
    decoded.map_err(|Undecodable| Reason::COMPRESSION_ERROR)?;
    if fields.is_bomb() {
        return Err(Reason::ENHANCE_YOUR_CALM);
    }
    let (id, end) = (frame.stream, frame.has(flag::END_STREAM));
    match state.streams.get(&id) {
        // It has reset the stream itself.
        Some(StreamState { error: Some(Error::Reset(_)), .. }) => Err(Reason::STREAM_CLOSED),
        Some(stream) if stream.error.is_some() => Ok(None),
        Some(stream) => match stream.receiving {
            Receiving::Head => response(state, id, fields, end).map(|()| None),
            Receiving::Body => trailers(state, id, fields, end).map(|()| None),
            Receiving::Ended => state.fault(id, Reason::STREAM_CLOSED).map(|()| None),
        },
        None if state.role == Role::Server => request(state, id, fields, end),
        None if state.is_begun_by_us(id) => Ok(None),
        None => Err(Reason::PROTOCOL_ERROR),
    }
}

fn request(
    state: &mut State,
    id: u32,
    fields: Collector,
    end: bool,
) -> Result<Option<Arrived>, Reason> {
    if id.is_multiple_of(2) {
        return Err(Reason::PROTOCOL_ERROR);
    }
    if id <= state.last_peer {
        return if state.was_reset_here(id) { Ok(None) } else { Err(Reason::STREAM_CLOSED) };
    }
    if state.shutdown == Shutdown::Final {
        // It knows by our GOAWAY that nobody looks at this one.
        return Ok(None);
    }
    state.last_peer = id;
    let connect_protocol = state.config.connect_protocol;
    let Ok(head) = fields.into_request(connect_protocol) else {
        state.fault(id, Reason::PROTOCOL_ERROR)?;
        return Ok(None);
    };
    let owed = match content_length(&head.headers) {
        Ok(Some(length)) if end && length > 0 => Err(Malformed),
        length => length,
    };
    let Ok(owed) = owed else {
        state.fault(id, Reason::PROTOCOL_ERROR)?;
        return Ok(None);
    };
    let Some(stream) = state.accept_stream(id)? else { return Ok(None) };
    stream.owed = owed;
    if end {
        state.end_receiving(id);
    }
    Ok(Some(Arrived { stream: id, head }))
}

fn response(state: &mut State, id: u32, fields: Collector, end: bool) -> Outcome {
    let Some(stream) = state.streams.get_mut(&id) else { return Ok(()) };
    let Ok(head) = fields.into_response() else {
        return state.fault(id, Reason::PROTOCOL_ERROR);
    };
    if head.status.is_informational() {
        if end || stream.heads.len() >= MAX_UNREAD_HEADS {
            return state.fault(id, Reason::PROTOCOL_ERROR);
        }
    } else {
        let has_no_body = stream.is_head_request || matches!(head.status.as_u16(), 204 | 304);
        match content_length(&head.headers) {
            Ok(owed) if has_no_body || !end || owed.unwrap_or(0) == 0 => {
                stream.owed = owed.filter(|_| !has_no_body);
            }
            Ok(_) | Err(Malformed) => return state.fault(id, Reason::PROTOCOL_ERROR),
        }
        stream.receiving = Receiving::Body;
    }
    stream.heads.push_back(head);
    stream.reader.wake();
    if end {
        state.end_receiving(id);
    }
    Ok(())
}

fn trailers(state: &mut State, id: u32, fields: Collector, end: bool) -> Outcome {
    let Some(stream) = state.streams.get_mut(&id) else { return Ok(()) };
    let is_short = stream.owed.is_some_and(|owed| owed > 0);
    match fields.into_trailers() {
        Ok(trailers) if end && !is_short => stream.trailers = Some(trailers),
        Ok(_) | Err(Malformed) => return state.fault(id, Reason::PROTOCOL_ERROR),
    }
    state.end_receiving(id);
    Ok(())
}

/// DATA without its padding, which counts against the windows as well.
fn body_data(state: &mut State, frame: FrameHeader, data: Bytes) -> Outcome {
    let (id, end) = (frame.stream, frame.has(flag::END_STREAM));
    let flow = u32::try_from(frame.length).map_err(|_length| Reason::FRAME_SIZE_ERROR)?;
    let length = u32::try_from(data.len()).map_err(|_length| Reason::FRAME_SIZE_ERROR)?;
    if is_idle(state, id) {
        return Err(Reason::PROTOCOL_ERROR);
    }
    if !state.receive_window.receive(flow) {
        return Err(Reason::FLOW_CONTROL_ERROR);
    }
    let Some(stream) = state.streams.get_mut(&id).filter(|stream| stream.error.is_none()) else {
        state.release_connection(flow);
        // One that its owner has reset is expected to say more; one that was complete is not.
        return match state.was_reset_here(id) || state.is_begun_by_us(id) {
            true => Ok(()),
            false => state.fault(id, Reason::STREAM_CLOSED),
        };
    };
    if let Some(reason) = data_fault(stream, frame, length) {
        state.release_connection(flow);
        return state.fault(id, reason);
    }
    stream.unreleased += flow;
    if !data.is_empty() {
        stream.keep(data);
    }
    if flow > length {
        state.release(id, flow - length);
    }
    if end {
        state.end_receiving(id);
    }
    Ok(())
}

/// Counts data of a body. What is wrong with it, if something is.
fn data_fault(stream: &mut StreamState, frame: FrameHeader, length: u32) -> Option<Reason> {
    match stream.receiving {
        Receiving::Ended => return Some(Reason::STREAM_CLOSED),
        Receiving::Head => return Some(Reason::PROTOCOL_ERROR),
        Receiving::Body => {}
    }
    let flow = u32::try_from(frame.length).unwrap_or(u32::MAX);
    if !stream.receive_window.receive(flow) {
        return Some(Reason::FLOW_CONTROL_ERROR);
    }
    let end = frame.has(flag::END_STREAM);
    is_not_owed(stream, u64::from(length), end).then_some(Reason::PROTOCOL_ERROR)
}

/// Takes data off what `content-length` said. Whether it is not what was said.
fn is_not_owed(stream: &mut StreamState, length: u64, end: bool) -> bool {
    let Some(owed) = &mut stream.owed else { return false };
    match owed.checked_sub(length) {
        None => true,
        Some(left) => {
            *owed = left;
            end && left > 0
        }
    }
}

/// A stream nobody has begun.
fn is_idle(state: &State, id: u32) -> bool {
    match state.role {
        Role::Server => id == 0 || id.is_multiple_of(2) || id > state.last_peer,
        Role::Client => !state.is_begun_by_us(id),
    }
}
