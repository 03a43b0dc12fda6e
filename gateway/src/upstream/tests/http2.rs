use std::{pin::pin, sync::Mutex};

use tokio::sync::Notify;

use super::*;

/// An HTTP/2 server that answers each request when told to.
struct Http2Server {
    server: Server,
    control: Arc<Control>,
}

#[derive(Default)]
struct Control {
    /// Requests whose path is `/hold` wait for this.
    release: Notify,
    /// Connections that ended.
    ended: AtomicUsize,
    go_away: Notify,
    requests: Mutex<Vec<usize>>,
}

impl Http2Server {
    async fn start(max_concurrent_streams: u32) -> Self {
        let control = Arc::new(Control::default());
        let shared = Arc::clone(&control);
        let server = Server::start(move |io, number| {
            serve_http2(io, number, max_concurrent_streams, Arc::clone(&shared))
        })
        .await;
        Self { server, control }
    }

    fn ended(&self) -> usize {
        self.control.ended.load(Ordering::SeqCst)
    }

    async fn has_requests(&self, wanted: usize) {
        let requests = || self.control.requests.lock().expect("not poisoned").len();
        eventually(&format!("{wanted} requests"), || requests() == wanted).await;
    }
}

async fn serve_http2(
    io: impl AsyncRead + AsyncWrite + Unpin,
    number: usize,
    max_concurrent_streams: u32,
    control: Arc<Control>,
) {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(max_concurrent_streams)
        .handshake::<_, Bytes>(io)
        .await
        .expect("a client that speaks HTTP/2");
    let mut answers = tokio::task::JoinSet::new();
    loop {
        let (request, mut respond) = tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok(accepted)) => accepted,
                Some(Err(_)) | None => break,
            },
            () = control.go_away.notified() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        control.requests.lock().expect("not poisoned").push(number);
        let control = Arc::clone(&control);
        answers.spawn(async move {
            if request.uri().path() == "/hold" {
                control.release.notified().await;
            }
            if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
                let _ = body.send_data(Bytes::from_static(b"ok"), true);
            }
        });
    }
    control.ended.fetch_add(1, Ordering::SeqCst);
}

#[tokio::test]
async fn fifty_requests_at_once_open_one_connection() {
    let server = Http2Server::start(1000).await;
    let pool = TestPool::new(server.server.address, transport(Protocol::Http2));
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let pool = Arc::clone(&pool.pool);
        requests.spawn(async move {
            let mut session = pool.acquire(None, Reuse::Allowed).await.expect("a connection");
            exchange(&mut session, "/").await.expect("the exchange succeeds")
        });
    }
    let answers = within("answers", requests.join_all()).await;
    assert!(answers.iter().all(|(status, body)| *status == 200 && &body[..] == b"ok"));
    assert_eq!((answers.len(), server.server.accepted()), (50, 1));
}

#[tokio::test]
async fn streams_of_one_connection_do_not_wait_for_each_other() {
    let server = Http2Server::start(1000).await;
    let pool = TestPool::new(server.server.address, transport(Protocol::Http2));
    let mut held = pool.acquire().await;
    let mut response = pin!(begin(&mut held, "/hold"));
    tokio::select! {
        _ = &mut response => panic!("the response is held back"),
        () = server.has_requests(1) => {}
    }
    assert_eq!(pool.exchange("/").await.0, 200);
    server.control.release.notify_one();
    within("a response", response).await.expect("the response was released");
    assert_eq!(server.server.accepted(), 1);
}

#[tokio::test]
async fn a_second_connection_is_opened_when_the_first_has_all_the_streams_we_allow() {
    let server = Http2Server::start(1000).await;
    let transport = Transport { max_concurrent_streams: 2, ..transport(Protocol::Http2) };
    let pool = TestPool::new(server.server.address, transport);
    let (_a, _b) = (pool.acquire().await, pool.acquire().await);
    assert_eq!(server.server.accepted(), 1);
    let c = pool.acquire().await;
    assert!(!c.is_reused());
    assert_eq!(server.server.accepted(), 2);
}

#[tokio::test]
async fn a_second_connection_is_opened_when_the_first_has_all_the_streams_its_peer_allows() {
    let server = Http2Server::start(1).await;
    let pool = TestPool::new(server.server.address, transport(Protocol::Http2));
    pool.exchange("/").await;
    let first = pool.acquire().await;
    assert!(first.is_reused());
    assert!(!pool.acquire().await.is_reused());
}

#[tokio::test]
async fn a_request_waits_for_a_stream_when_no_more_connections_are_allowed() {
    let server = Http2Server::start(1000).await;
    let transport =
        Transport { max_concurrent_streams: 1, max_connections: 1, ..transport(Protocol::Http2) };
    let pool = TestPool::new(server.server.address, transport);
    let first = pool.acquire().await;
    let mut waiting = pin!(pool.acquire());
    assert!(poll_once(waiting.as_mut()).await.is_pending(), "there is no stream free");
    drop(first);
    assert!(within("a stream", waiting).await.is_reused());
    assert_eq!(server.server.accepted(), 1);
}

#[tokio::test]
async fn after_goaway_streams_finish_and_new_ones_use_another_connection() {
    let server = Http2Server::start(1000).await;
    let pool = TestPool::new(server.server.address, transport(Protocol::Http2));
    let mut held = pool.acquire().await;
    let mut response = pin!(begin(&mut held, "/hold"));
    tokio::select! {
        _ = &mut response => panic!("the response is held back"),
        () = server.has_requests(1) => {}
    }
    server.control.go_away.notify_one();
    let deadline = Instant::now() + DEADLINE;
    while pool.acquire().await.is_reused() {
        assert!(Instant::now() < deadline, "the connection goes on taking streams");
        tokio::task::yield_now().await;
    }
    pool.exchange("/").await;
    server.control.release.notify_one();
    let head = within("a response", response).await.expect("the old stream goes on");
    assert_eq!(head.status.as_u16(), 200);
    assert_eq!(server.server.accepted(), 2);
}

#[tokio::test]
async fn a_connection_that_ended_leaves_the_pool() {
    let server = Http2Server::start(1000).await;
    let pool = TestPool::new(server.server.address, transport(Protocol::Http2));
    pool.exchange("/").await;
    server.control.go_away.notify_one();
    pool.has_connections(0).await;
    pool.exchange("/").await;
    assert_eq!(server.server.accepted(), 2);
}

#[tokio::test]
async fn a_connection_without_streams_is_closed_after_the_idle_timeout() {
    let server = Http2Server::start(1000).await;
    let idle_timeout = Some(Duration::from_millis(20));
    let transport = Transport { idle_timeout, ..transport(Protocol::Http2) };
    let pool = TestPool::new(server.server.address, transport);
    pool.exchange("/").await;
    eventually("the server sees the end", || server.ended() == 1).await;
    pool.has_connections(0).await;
}

#[tokio::test]
async fn a_connection_carries_no_more_streams_than_allowed() {
    let server = Http2Server::start(1000).await;
    let transport = Transport { max_requests_per_connection: 2, ..transport(Protocol::Http2) };
    let pool = TestPool::new(server.server.address, transport);
    for _ in 0..5 {
        pool.exchange("/").await;
    }
    assert_eq!(server.server.accepted(), 3);
    eventually("full connections are closed", || server.ended() == 2).await;
}

#[tokio::test]
async fn a_retired_connection_lives_until_its_streams_are_over() {
    let server = Http2Server::start(1000).await;
    let pool = TestPool::new(server.server.address, transport(Protocol::Http2));
    let mut held = pool.acquire().await;
    {
        let mut response = pin!(begin(&mut held, "/hold"));
        tokio::select! {
            _ = &mut response => panic!("the response is held back"),
            () = server.has_requests(1) => {}
        }
        pool.pool.retire();
        server.control.release.notify_one();
        within("a response", response).await.expect("the stream goes on");
    }
    assert_eq!(&finish(&mut held).await.expect("a complete body")[..], b"ok");
    assert_eq!(server.ended(), 0);
    drop(held);
    eventually("the server sees the end", || server.ended() == 1).await;
    pool.has_connections(0).await;
}

#[tokio::test]
async fn a_peer_that_does_not_speak_http2_is_an_error_of_the_exchange() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http2));
    let mut session = pool.acquire().await;
    assert!(exchange(&mut session, "/").await.is_err());
    drop(session);
    pool.has_connections(0).await;
}
