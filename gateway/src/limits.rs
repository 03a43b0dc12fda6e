//! What one client may take: sizes, counts and deadlines (reference `hardening` C1, C2, C4).

use std::time::Duration;

/// Defaults are safe at the edge; every one of them is on.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Request line and header fields together, in bytes. Beyond: 431.
    pub max_header_bytes: usize,
    /// Header fields. Beyond: 431.
    pub max_headers: usize,
    /// The request target alone, in bytes. Beyond: 414.
    pub max_target_bytes: usize,
    /// From the first byte of a request (or the accept) to the end of its head. Beyond: close.
    pub header_timeout: Duration,
    /// Between requests of a connection. Beyond: close.
    pub idle_timeout: Duration,
    /// A body or a response that does not move in either direction. Beyond: reset.
    pub stream_idle_timeout: Duration,
    /// ClientHello to Finished. Beyond: close.
    pub handshake_timeout: Duration,
    /// Streams at once on one HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// HTTP/2 receive windows, in bytes.
    pub h2_stream_window: u32,
    pub h2_connection_window: u32,
    /// Bytes waiting to be written to one side before the other is read no further.
    pub write_high_watermark: usize,
    /// Request body bytes kept so that the request can be sent again.
    pub max_replay_bytes: usize,
    /// Bytes of a request body that wait for a mirror. Beyond: the copy is given up.
    pub max_mirror_bytes: usize,
    /// Copies of requests under way in the whole proxy. Beyond: requests are not copied.
    pub max_mirrored: usize,
    /// An unread request body is read to this many bytes so that the connection can be kept.
    pub max_drain_bytes: u64,
    /// Connections open at once, all listeners together. Beyond: closed at accept.
    pub max_connections: usize,
    /// TLS handshakes in progress at once.
    pub max_handshakes: usize,
    /// Threads that serve, among which connections are shared out.
    pub workers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 60 * 1024,
            max_headers: 100,
            max_target_bytes: 16 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            stream_idle_timeout: Duration::from_secs(300),
            handshake_timeout: Duration::from_secs(10),
            max_concurrent_streams: 100,
            h2_stream_window: 256 * 1024,
            h2_connection_window: 1024 * 1024,
            write_high_watermark: 32 * 1024,
            max_replay_bytes: 64 * 1024,
            max_mirror_bytes: 1024 * 1024,
            max_mirrored: 10_000,
            max_drain_bytes: 64 * 1024,
            max_connections: 100_000,
            max_handshakes: 2_000,
            workers: 1,
        }
    }
}
