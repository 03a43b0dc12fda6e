//! Bytes both ways at once, each direction ending on its own (half-close), with a limit on silence.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Bytes read before they are written. With nothing to write, a direction has no buffer.
const BUFFER_BYTES: usize = 32 * 1024;
/// Buffers a thread keeps for the next direction that has something to copy.
const SPARE_BUFFERS: usize = 8;

/// Bytes moved so far, counted when they were written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub to_upstream: u64,
    pub to_downstream: u64,
}

/// How a copy ended.
#[derive(Debug)]
pub enum End {
    /// Both sides said all they had to say.
    Complete,
    /// Nothing moved for the time allowed.
    Idle,
    Downstream(io::Error),
    Upstream(io::Error),
}

/// A copy under way. No `async fn`, which would keep its arguments and what it makes of them side by
/// side: ten thousand idle connections are ten thousand of these.
pub struct BothWays {
    up: Direction,
    down: Direction,
    moved: Moved,
    last_move: Instant,
    idle: Option<Idle>,
}

/// The limit on silence.
struct Idle {
    timeout: Duration,
    /// Only moved when it fires: once per timeout, not once per packet.
    timer: Pin<Box<Sleep>>,
}

impl BothWays {
    /// `hello` was read from downstream already, and `greeting` from upstream.
    pub fn new(hello: Vec<u8>, greeting: Option<Buffer>, idle_timeout: Option<Duration>) -> Self {
        let now = Instant::now();
        let idle = |timeout| Idle { timeout, timer: Box::pin(sleep_until(now + timeout)) };
        Self {
            up: Direction { buffer: Buffer::holding(hello), ..Direction::default() },
            down: Direction { buffer: greeting, ..Direction::default() },
            moved: Moved::default(),
            last_move: now,
            idle: idle_timeout.map(idle),
        }
    }

    pub fn moved(&self) -> Moved {
        self.moved
    }

    /// Copies; ready when both directions have ended, one failed, or nothing moved for the time
    /// allowed.
    pub fn poll<D, U>(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut D,
        upstream: &mut U,
    ) -> Poll<End>
    where
        D: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { up, down, moved, last_move, idle } = self;
        let before = *moved;
        let to_upstream = up.poll(cx, downstream, upstream, &mut moved.to_upstream);
        if let Poll::Ready(Err(failure)) = to_upstream {
            return Poll::Ready(failure.end(End::Downstream, End::Upstream));
        }
        let to_downstream = down.poll(cx, upstream, downstream, &mut moved.to_downstream);
        if let Poll::Ready(Err(failure)) = to_downstream {
            return Poll::Ready(failure.end(End::Upstream, End::Downstream));
        }
        if to_upstream.is_ready() && to_downstream.is_ready() {
            return Poll::Ready(End::Complete);
        }
        if *moved != before {
            *last_move = Instant::now();
        }
        while let Some(Idle { timeout, timer }) = idle {
            ready!(timer.as_mut().poll(cx));
            let at = *last_move + *timeout;
            if at <= Instant::now() {
                return Poll::Ready(End::Idle);
            }
            timer.as_mut().reset(at);
        }
        Poll::Pending
    }
}

/// Which side of a direction failed.
enum Failure {
    Read(io::Error),
    Write(io::Error),
}

impl Failure {
    fn end(self, read: fn(io::Error) -> End, write: fn(io::Error) -> End) -> End {
        match self {
            Self::Read(error) => read(error),
            Self::Write(error) => write(error),
        }
    }
}

/// One direction: read, write, and at the end of what is read the end of what is written.
#[derive(Default)]
struct Direction {
    /// There only while it holds something that is not written yet.
    buffer: Option<Buffer>,
    /// Written, but perhaps not out of the writer's own buffer (TLS).
    unflushed: bool,
    read_ended: bool,
    write_ended: bool,
}

/// Bytes that were read and are not written yet.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    written: usize,
    filled: usize,
}

impl Buffer {
    /// What can be read now, in a buffer taken for it; `None`: all was read.
    pub fn poll_read<R: AsyncRead + Unpin>(
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<Option<Self>>> {
        let mut bytes = spare::take();
        let mut buf = ReadBuf::new(&mut bytes);
        let read = Pin::new(reader).poll_read(cx, &mut buf);
        let filled = buf.filled().len();
        if filled > 0 {
            return Poll::Ready(Ok(Some(Self { bytes, written: 0, filled })));
        }
        spare::put(bytes);
        ready!(read)?;
        Poll::Ready(Ok(None))
    }

    fn holding(bytes: Vec<u8>) -> Option<Self> {
        let filled = bytes.len();
        (filled > 0).then(|| Self { bytes: bytes.into_boxed_slice(), written: 0, filled })
    }
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &mut u64,
    ) -> Poll<Result<(), Failure>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.write_ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_write(cx, writer, moved)).map_err(Failure::Write)?;
            if self.read_ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failure::Write)?;
                self.write_ended = true;
                continue;
            }
            match Buffer::poll_read(cx, reader) {
                Poll::Ready(read) => {
                    self.buffer = read.map_err(Failure::Read)?;
                    self.read_ended = self.buffer.is_none();
                }
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Failure::Write)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Ready when nothing is left to write.
    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        moved: &mut u64,
    ) -> Poll<io::Result<()>> {
        while let Some(buffer) = &mut self.buffer {
            let unwritten = &buffer.bytes[buffer.written..buffer.filled];
            let n = ready!(Pin::new(&mut *writer).poll_write(cx, unwritten))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *moved += n as u64;
            self.unflushed = true;
            buffer.written += n;
            if buffer.written == buffer.filled
                && let Some(Buffer { bytes, .. }) = self.buffer.take()
            {
                spare::put(bytes);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Buffers of this thread that nobody uses. Thousands of idle connections share a few.
mod spare {
    use super::{BUFFER_BYTES, RefCell, SPARE_BUFFERS};

    thread_local! {
        static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn take() -> Box<[u8]> {
        BUFFERS
            .with_borrow_mut(Vec::pop)
            .unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    pub(super) fn put(buffer: Box<[u8]>) {
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() < SPARE_BUFFERS && buffer.len() == BUFFER_BYTES {
                buffers.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A copy between two pipes, and the far ends of them.
    fn start(
        first: &[u8],
        idle_timeout: Option<Duration>,
    ) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<(End, Moved)>) {
        let (client, mut downstream) = duplex(1024);
        let (server, mut upstream) = duplex(1024);
        let first = first.to_vec();
        let copying = tokio::spawn(async move {
            let mut copying = BothWays::new(first, None, idle_timeout);
            let end = poll_fn(|cx| copying.poll(cx, &mut downstream, &mut upstream)).await;
            (end, copying.moved())
        });
        (client, server, copying)
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let (mut client, mut server, copying) = start(b"", None);
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question", "the end of the question was passed on");
        server.write_all(b"the answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"the answer", "the answer comes after the end of the question");
        let (end, moved) = copying.await.unwrap();
        assert!(matches!(end, End::Complete), "{end:?}");
        assert_eq!(moved, Moved { to_upstream: 8, to_downstream: 10 });
    }

    #[tokio::test]
    async fn what_was_read_before_goes_first_and_counts() {
        let (mut client, mut server, copying) = start(b"hello ", None);
        client.write_all(b"world").await.unwrap();
        drop(client);
        let mut text = Vec::new();
        server.read_to_end(&mut text).await.unwrap();
        assert_eq!(text, b"hello world");
        drop(server);
        assert_eq!(copying.await.unwrap().1.to_upstream, 11);
    }

    #[tokio::test]
    async fn an_echo_larger_than_all_buffers_passes_when_both_sides_write_at_once() {
        let (client, mut server, copying) = start(b"", None);
        const SIZE: usize = 8 << 20;
        let (mut reader, mut writer) = tokio::io::split(client);
        let writing = tokio::spawn(async move {
            writer.write_all(&vec![7; SIZE]).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let echo = tokio::spawn(async move {
            let (mut r, mut w) = tokio::io::split(&mut server);
            tokio::io::copy(&mut r, &mut w).await.unwrap();
            w.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        reader.read_to_end(&mut back).await.unwrap();
        assert_eq!(back.len(), SIZE);
        writing.await.unwrap();
        echo.await.unwrap();
        let all = SIZE as u64;
        assert_eq!(copying.await.unwrap().1, Moved { to_upstream: all, to_downstream: all });
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_copy_and_traffic_in_one_direction_is_not_silence() {
        let begun = Instant::now();
        let (mut client, server, copying) = start(b"", Some(Duration::from_secs(10)));
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.write_all(b"x").await.unwrap();
        }
        let (end, moved) = copying.await.unwrap();
        assert!(matches!(end, End::Idle), "{end:?}");
        assert_eq!(moved.to_upstream, 3);
        assert_eq!(begun.elapsed().as_secs(), 34, "ten seconds after the last byte");
        drop(server);
    }

    #[tokio::test]
    async fn the_side_that_broke_off_is_known() {
        let (client, server, copying) = start(b"", None);
        drop(server);
        let mut client = client;
        // Writing to a pipe whose reader is gone fails.
        client.write_all(b"anybody?").await.unwrap();
        let (end, _) = copying.await.unwrap();
        assert!(matches!(end, End::Upstream(_)), "{end:?}");
    }

    #[tokio::test]
    async fn a_direction_with_nothing_to_write_has_no_buffer() {
        let (client, mut downstream) = duplex(1024);
        let (_server, mut upstream) = duplex(1024);
        let mut direction = Direction::default();
        let mut moved = 0;
        poll_fn(|cx| {
            let polled = direction.poll(cx, &mut downstream, &mut upstream, &mut moved);
            assert!(polled.is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(direction.buffer.is_none());
        drop(client);
    }
}
