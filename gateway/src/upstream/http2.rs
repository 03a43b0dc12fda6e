//! HTTP/2 as it is spoken to upstreams, in pools and in tunnels.

use crate::http2::Config;

/// What one stream may have in flight towards us.
const STREAM_WINDOW: u32 = 256 * 1024;
/// As large as it gets: one that is read slowly must not stop the others of its connection. Memory is
/// bounded by the streams' windows.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// What an upstream is allowed; `max_header_bytes` as [`Config::max_header_bytes`].
pub(super) fn config(max_header_bytes: usize) -> Config {
    Config {
        // Nothing is pushed.
        max_concurrent_streams: 0,
        max_header_bytes,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        connect_protocol: false,
    }
}
