//! Pools and dialling against real sockets. Servers say how many connections they took; nothing
//! here sleeps to let something happen.

use std::{
    future::{Future, poll_fn},
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Address, Checkout, Pool, Protocol, Reuse, Target, Transport};
use crate::{
    codec::{self, BodyLength, ClientSession, Frame, StreamError},
    head::{RequestHeader, ResponseHeader},
    limits::Limits,
    telemetry::clusters::ClusterGauges,
};

mod http1;
mod http2;
mod tls;
mod workers;

const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for something that happens elsewhere.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within the deadline: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within the deadline: {what}"),
    }
}

fn transport(protocol: Protocol) -> Transport {
    Transport {
        protocol,
        tls: None,
        tunnels: None,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: None,
        max_connection_duration: None,
        keepalive: None,
        source_address: weir_config::model::cluster::SourceAddress::Any,
        max_requests_per_connection: 0,
        max_concurrent_streams: 1 << 30,
        max_connections: u32::MAX,
        max_pending_requests: u32::MAX,
        pools: 1,
        codec: codec::Options::new(&Limits::default(), "http"),
    }
}

struct TestPool {
    pool: Arc<Pool>,
    gauges: Arc<ClusterGauges>,
}

impl TestPool {
    fn new(address: SocketAddr, transport: Transport) -> Self {
        let gauges = Arc::<ClusterGauges>::default();
        let target = Target {
            address: Address::Ip(address),
            transport: Arc::new(transport),
            identity: None,
        };
        Self { pool: Pool::new(target, Arc::clone(&gauges)), gauges }
    }

    async fn acquire(&self) -> Checkout {
        let acquired = within("a connection", self.pool.acquire(None, Reuse::Allowed)).await;
        acquired.expect("the upstream can be connected to")
    }

    async fn exchange(&self, path: &str) -> (u16, Bytes) {
        let mut session = self.acquire().await;
        exchange(&mut session, path).await.expect("the exchange succeeds")
    }

    fn connections(&self) -> i64 {
        self.gauges.connections_active.load(Ordering::SeqCst)
    }

    fn idle(&self) -> i64 {
        self.gauges.connections_idle.load(Ordering::SeqCst)
    }

    fn pending(&self) -> i64 {
        self.gauges.requests_pending.load(Ordering::SeqCst)
    }

    async fn has_connections(&self, wanted: i64) {
        eventually(&format!("{wanted} connections"), || self.connections() == wanted).await;
    }
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// A GET and all of its response.
pub(crate) async fn exchange(
    session: &mut ClientSession,
    path: &str,
) -> Result<(u16, Bytes), StreamError> {
    let head = begin(session, path).await?;
    let body = finish(session).await?;
    Ok((head.status.as_u16(), body))
}

async fn begin(session: &mut ClientSession, path: &str) -> Result<ResponseHeader, StreamError> {
    let mut request = RequestHeader::build("GET", path).expect("a valid request");
    request.headers.try_insert("host", "upstream.example").expect("a valid header");
    session.write_head(&request, BodyLength::Empty)?;
    session.finish()?;
    within("a response", poll_fn(|cx| session.poll_head(cx))).await
}

async fn finish(session: &mut ClientSession) -> Result<Bytes, StreamError> {
    let mut body = Vec::new();
    while let Some(frame) = within("a body", poll_fn(|cx| session.poll_read(cx))).await? {
        if let Frame::Data(data) = frame {
            body.extend_from_slice(&data);
        }
    }
    Ok(body.into())
}

/// Accepts connections and hands each to a task.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                io.set_nodelay(true).expect("a connected socket");
                connections.spawn(serve(io, count.fetch_add(1, Ordering::SeqCst)));
            }
        });
        Self { address, accepted, _task: AbortOnDropHandle::new(task) }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// An HTTP/1 server. The path says what it does: `/` answers, `/last` answers and closes
    /// without a word, `/talkative` says more than the answer, `/drop` closes without an answer.
    pub(crate) async fn http1() -> Self {
        Self::start(|io, _| serve_http1(io)).await
    }
}

async fn serve_http1(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = Vec::new();
    loop {
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            match io.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end + 4);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer: &[u8] = match &*path {
            "/drop" => return,
            "/talkative" => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 408 \r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        };
        if io.write_all(answer).await.is_err() || path == "/last" {
            return;
        }
    }
}
