//! SETTINGS (RFC 9113 section 6.5): what each side says of itself.

use super::{
    Reason,
    frame::{DEFAULT_WINDOW, MAX_FRAME_BYTES, MAX_WINDOW},
};

const HEADER_TABLE_SIZE: u16 = 0x1;
const ENABLE_PUSH: u16 = 0x2;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;
const MAX_HEADER_LIST_SIZE: u16 = 0x6;
/// RFC 8441.
const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;

/// Streams a peer is expected to take before it has said: the least that section 6.5.2 recommends.
pub const ASSUMED_STREAMS: u32 = 100;

/// What this side allows its peer.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Streams the peer may have open.
    pub max_concurrent_streams: u32,
    /// Of a head: names and values, and 32 bytes for each field (RFC 9113 section 6.5.2).
    pub max_header_bytes: usize,
    /// Bytes of a body that may be in flight towards us, at most 2^31-1.
    pub stream_window: u32,
    /// The same for all bodies together; never below the protocol's 65,535.
    pub connection_window: u32,
    /// Requests may be extended CONNECTs (RFC 8441).
    pub connect_protocol: bool,
}

impl Config {
    /// The SETTINGS of a server.
    pub(super) fn server(&self) -> Vec<u8> {
        let mut settings = Vec::with_capacity(24);
        put(&mut settings, MAX_CONCURRENT_STREAMS, self.max_concurrent_streams);
        self.put_common(&mut settings);
        if self.connect_protocol {
            put(&mut settings, ENABLE_CONNECT_PROTOCOL, 1);
        }
        settings
    }

    /// The SETTINGS of a client, which wants nothing pushed.
    pub(super) fn client(&self) -> Vec<u8> {
        let mut settings = Vec::with_capacity(24);
        put(&mut settings, ENABLE_PUSH, 0);
        self.put_common(&mut settings);
        settings
    }

    fn put_common(&self, settings: &mut Vec<u8>) {
        put(settings, INITIAL_WINDOW_SIZE, self.stream_window);
        let max_header_bytes = u32::try_from(self.max_header_bytes).unwrap_or(u32::MAX);
        put(settings, MAX_HEADER_LIST_SIZE, max_header_bytes);
    }
}

fn put(settings: &mut Vec<u8>, id: u16, value: u32) {
    settings.extend_from_slice(&id.to_be_bytes());
    settings.extend_from_slice(&value.to_be_bytes());
}

/// What the peer has said of itself, or every peer is before it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerSettings {
    pub initial_window: i64,
    pub max_frame_bytes: usize,
    /// `None`: as many as one likes.
    pub max_concurrent_streams: Option<u32>,
    pub connect_protocol: bool,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            initial_window: i64::from(DEFAULT_WINDOW),
            max_frame_bytes: MAX_FRAME_BYTES,
            max_concurrent_streams: Some(ASSUMED_STREAMS),
            connect_protocol: false,
        }
    }
}

impl PeerSettings {
    /// Takes a SETTINGS frame in. The sizes of compression tables do not matter: nothing we send uses
    /// one.
    pub fn update(&mut self, payload: &[u8]) -> Result<(), Reason> {
        let (settings, []) = payload.as_chunks::<6>() else {
            return Err(Reason::FRAME_SIZE_ERROR);
        };
        for [a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                ENABLE_PUSH if value > 1 => return Err(Reason::PROTOCOL_ERROR),
                MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = Some(value),
                INITIAL_WINDOW_SIZE => {
                    let window = i64::from(value);
                    if window > MAX_WINDOW {
                        return Err(Reason::FLOW_CONTROL_ERROR);
                    }
                    self.initial_window = window;
                }
                MAX_FRAME_SIZE => {
                    if !(MAX_FRAME_BYTES as u32..1 << 24).contains(&value) {
                        return Err(Reason::PROTOCOL_ERROR);
                    }
                    self.max_frame_bytes = value as usize;
                }
                ENABLE_CONNECT_PROTOCOL => match value {
                    0 if self.connect_protocol => return Err(Reason::PROTOCOL_ERROR),
                    0 => {}
                    1 => self.connect_protocol = true,
                    _ => return Err(Reason::PROTOCOL_ERROR),
                },
                HEADER_TABLE_SIZE | ENABLE_PUSH | MAX_HEADER_LIST_SIZE => {}
                // Section 6.5.2: what is not known is ignored.
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updated(settings: &[(u16, u32)]) -> Result<PeerSettings, Reason> {
        let mut payload = Vec::new();
        for (id, value) in settings {
            put(&mut payload, *id, *value);
        }
        let mut peer = PeerSettings::default();
        peer.update(&payload).map(|()| peer)
    }

    #[test]
    fn what_a_peer_says_is_kept_and_what_it_does_not_say_stays() {
        let peer = updated(&[(3, 7), (4, 1), (5, 16_384), (0xabcd, 1), (8, 1)]).unwrap();
        assert_eq!(peer.max_concurrent_streams, Some(7));
        assert_eq!(peer.initial_window, 1);
        assert_eq!(peer.max_frame_bytes, 16_384);
        assert!(peer.connect_protocol);
        let peer = updated(&[]).unwrap();
        assert_eq!(
            (peer.initial_window, peer.max_concurrent_streams),
            (65_535, Some(ASSUMED_STREAMS))
        );
    }

    #[test]
    fn values_outside_of_their_range_are_errors() {
        for (id, value, expected) in [
            (2, 2, Reason::PROTOCOL_ERROR),
            (4, 1 << 31, Reason::FLOW_CONTROL_ERROR),
            (5, 16_383, Reason::PROTOCOL_ERROR),
            (5, 1 << 24, Reason::PROTOCOL_ERROR),
            (8, 2, Reason::PROTOCOL_ERROR),
        ] {
            assert_eq!(updated(&[(id, value)]).unwrap_err(), expected, "{id} = {value}");
        }
        let cut = PeerSettings::default().update(&[0; 7]);
        assert_eq!(cut, Err(Reason::FRAME_SIZE_ERROR));
    }
}
