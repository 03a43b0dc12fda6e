//! Frames that are not of a message.

use super::{Outcome, is_idle};
use crate::http2::{
    Error, Reason,
    frame::{FrameHeader, MAX_WINDOW, flag, kind, number},
    state::{Role, SHUTDOWN_PING, Shutdown, State},
};

pub(super) fn control(state: &mut State, frame: FrameHeader, payload: &[u8]) -> Outcome {
    match frame.kind {
        kind::PRIORITY => priority(state, frame, payload),
        kind::RST_STREAM => rst_stream(state, frame, payload),
        kind::SETTINGS => settings(state, frame, payload),
        kind::PUSH_PROMISE => Err(Reason::PROTOCOL_ERROR),
        kind::PING => ping(state, frame, payload),
        kind::GOAWAY => goaway(state, frame, payload),
        kind::WINDOW_UPDATE => window_update(state, frame, payload),
        // Section 5.5: what is not known is ignored.
        _ => Ok(()),
    }
}

/// Not used; section 5.3 of RFC 7540 is still what a peer may have broken.
fn priority(state: &mut State, frame: FrameHeader, payload: &[u8]) -> Outcome {
    if frame.stream == 0 {
        return Err(Reason::PROTOCOL_ERROR);
    }
    if payload.len() != 5 {
        return stream_fault(state, frame.stream, Reason::FRAME_SIZE_ERROR);
    }
    if number(&payload[..4])? == frame.stream {
        return stream_fault(state, frame.stream, Reason::PROTOCOL_ERROR);
    }
    Ok(())
}

/// A fault of a stream that may not have been begun, which cannot be reset.
fn stream_fault(state: &mut State, id: u32, reason: Reason) -> Outcome {
    if is_idle(state, id) { Err(reason) } else { state.fault(id, reason) }
}

fn rst_stream(state: &mut State, frame: FrameHeader, payload: &[u8]) -> Outcome {
    let reason = <[u8; 4]>::try_from(payload).map_err(|_size| Reason::FRAME_SIZE_ERROR)?;
    if is_idle(state, frame.stream) {
        return Err(Reason::PROTOCOL_ERROR);
    }
    let reason = Reason::from(u32::from_be_bytes(reason));
    state.break_off(frame.stream, Error::Reset(reason));
    Ok(())
}

fn settings(state: &mut State, frame: FrameHeader, payload: &[u8]) -> Outcome {
    if frame.stream != 0 {
        return Err(Reason::PROTOCOL_ERROR);
    }
    if !frame.has(flag::ACK) {
        return state.set_peer(payload);
    }
    state.is_known = true;
    if payload.is_empty() { Ok(()) } else { Err(Reason::FRAME_SIZE_ERROR) }
}

fn ping(state: &mut State, frame: FrameHeader, payload: &[u8]) -> Outcome {
    if frame.stream != 0 {
        return Err(Reason::PROTOCOL_ERROR);
    }
    let payload = <[u8; 8]>::try_from(payload).map_err(|_size| Reason::FRAME_SIZE_ERROR)?;
    if !frame.has(flag::ACK) {
        state.control(kind::PING, flag::ACK, 0, &payload);
    } else if payload == SHUTDOWN_PING && state.shutdown == Shutdown::Announced {
        state.shutdown = Shutdown::Final;
        state.goaway(state.last_peer, Reason::NO_ERROR);
    }
    Ok(())
}

fn goaway(state: &mut State, frame: FrameHeader, payload: &[u8]) -> Outcome {
    if frame.stream != 0 {
        return Err(Reason::PROTOCOL_ERROR);
    }
    let last = number(payload.get(..4).ok_or(Reason::FRAME_SIZE_ERROR)?)?;
    if payload.len() < 8 {
        return Err(Reason::FRAME_SIZE_ERROR);
    }
    state.shutdown = Shutdown::Final;
    if state.role == Role::Client {
        let excluded: Vec<u32> = state.streams.keys().filter(|id| **id > last).copied().collect();
        for id in excluded {
            state.break_off(id, Error::GoAway);
        }
        state.wake_openers();
    }
    state.wake_connection();
    Ok(())
}

fn window_update(state: &mut State, frame: FrameHeader, payload: &[u8]) -> Outcome {
    let increment = i64::from(number(payload)?);
    let id = frame.stream;
    if id == 0 {
        if increment == 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        state.send_window += increment;
        return if state.send_window > MAX_WINDOW {
            Err(Reason::FLOW_CONTROL_ERROR)
        } else {
            Ok(())
        };
    }
    if is_idle(state, id) {
        return Err(Reason::PROTOCOL_ERROR);
    }
    if increment == 0 {
        return state.fault(id, Reason::PROTOCOL_ERROR);
    }
    let Some(stream) = state.streams.get_mut(&id) else { return Ok(()) };
    stream.send_window += increment;
    if stream.send_window > MAX_WINDOW {
        return state.fault(id, Reason::FLOW_CONTROL_ERROR);
    }
    stream.writer.wake();
    Ok(())
}
