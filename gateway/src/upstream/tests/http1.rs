use std::pin::pin;

use super::*;
use crate::upstream::{Caller, ConnectError};

#[tokio::test]
async fn a_finished_exchange_leaves_its_connection_to_the_next() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    let mut first = pool.acquire().await;
    assert!(!first.is_reused());
    let (status, body) = exchange(&mut first, "/").await.expect("the exchange succeeds");
    assert_eq!((status, &body[..]), (200, &b"ok"[..]));
    let address = first.local_addr();
    drop(first);
    assert_eq!((pool.connections(), pool.idle()), (1, 1));

    let second = pool.acquire().await;
    assert_eq!((pool.connections(), pool.idle()), (1, 0));
    assert!(second.is_reused());
    assert_eq!(second.local_addr(), address);
    assert_eq!(second.remote_addr(), Some(server.address));
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_connection_at_hand_is_there_without_waiting() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    pool.exchange("/").await;
    let acquire = pin!(pool.pool.acquire(None, Reuse::Allowed));
    assert!(matches!(poll_once(acquire).await, Poll::Ready(Ok(_))));
}

#[tokio::test]
async fn the_connection_used_last_is_used_first() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    let (mut first, mut second) = (pool.acquire().await, pool.acquire().await);
    exchange(&mut second, "/").await.expect("the exchange succeeds");
    exchange(&mut first, "/").await.expect("the exchange succeeds");
    let last = first.local_addr();
    drop(second);
    drop(first);
    assert_eq!(pool.acquire().await.local_addr(), last);
}

#[tokio::test]
async fn an_unfinished_exchange_closes_its_connection() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    let mut session = pool.acquire().await;
    begin(&mut session, "/").await.expect("there is a response");
    drop(session);
    assert_eq!(pool.connections(), 0);
    pool.exchange("/").await;
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_connection_the_peer_closed_while_idle_is_removed() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    pool.exchange("/last").await;
    pool.has_connections(0).await;
    assert!(!pool.acquire().await.is_reused());
}

#[tokio::test]
async fn a_connection_on_which_more_was_said_than_asked_is_not_used_again() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    pool.exchange("/talkative").await;
    pool.has_connections(0).await;
    let (_, body) = pool.exchange("/").await;
    assert_eq!(&body[..], b"ok");
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_request_whose_reused_connection_died_can_have_a_fresh_one() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    let (mut first, mut second) = (pool.acquire().await, pool.acquire().await);
    exchange(&mut first, "/").await.expect("the exchange succeeds");
    exchange(&mut second, "/").await.expect("the exchange succeeds");
    drop((first, second));

    let mut stale = pool.acquire().await;
    assert!(stale.is_reused());
    exchange(&mut stale, "/drop").await.expect_err("the server closes without an answer");
    assert!(!stale.response_started());

    let retried = within("a connection", pool.pool.acquire(None, Reuse::Never)).await;
    let mut retried = retried.expect("the upstream can be connected to");
    assert!(!retried.is_reused(), "although another idle connection is there");
    exchange(&mut retried, "/").await.expect("the exchange succeeds");
    assert_eq!(server.accepted(), 3);
}

#[tokio::test]
async fn a_fresh_connection_takes_the_place_of_an_idle_one_at_the_limit() {
    let server = Server::http1().await;
    let transport = Transport { max_connections: 1, ..transport(Protocol::Http1) };
    let pool = TestPool::new(server.address, transport);
    pool.exchange("/").await;
    assert_eq!(pool.idle(), 1);
    let fresh = within("a connection", pool.pool.acquire(None, Reuse::Never)).await;
    assert!(!fresh.expect("the upstream can be connected to").is_reused());
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn idle_connections_are_closed_after_the_idle_timeout() {
    let server = Server::http1().await;
    let idle_timeout = Some(Duration::from_millis(20));
    let transport = Transport { idle_timeout, ..transport(Protocol::Http1) };
    let pool = TestPool::new(server.address, transport);
    let mut session = pool.acquire().await;
    exchange(&mut session, "/").await.expect("the exchange succeeds");
    drop(session);
    assert_eq!(pool.connections(), 1);
    pool.has_connections(0).await;
}

#[tokio::test]
async fn a_connection_past_its_age_takes_no_more_requests() {
    let server = Server::http1().await;
    let max_connection_duration = Some(Duration::from_millis(20));
    let transport = Transport { max_connection_duration, ..transport(Protocol::Http1) };
    let pool = TestPool::new(server.address, transport);
    let mut session = pool.acquire().await;
    let opened = Instant::now();
    eventually("the connection is too old", || opened.elapsed() > Duration::from_millis(20)).await;
    exchange(&mut session, "/").await.expect("the exchange succeeds");
    drop(session);
    assert_eq!(pool.connections(), 0);
}

#[tokio::test]
async fn a_connection_carries_no_more_requests_than_allowed() {
    let server = Server::http1().await;
    let transport = Transport { max_requests_per_connection: 2, ..transport(Protocol::Http1) };
    let pool = TestPool::new(server.address, transport);
    for _ in 0..5 {
        pool.exchange("/").await;
    }
    assert_eq!(server.accepted(), 3);
}

#[tokio::test]
async fn beyond_the_connection_limit_requests_wait_for_a_connection() {
    let server = Server::http1().await;
    let transport = Transport { max_connections: 1, ..transport(Protocol::Http1) };
    let pool = TestPool::new(server.address, transport);
    let mut first = pool.acquire().await;
    let mut second = pin!(pool.pool.acquire(None, Reuse::Allowed));
    assert!(poll_once(second.as_mut()).await.is_pending());
    assert_eq!(pool.pending(), 1);

    exchange(&mut first, "/").await.expect("the exchange succeeds");
    drop(first);
    let second = within("a connection", second).await.expect("the connection is passed on");
    assert!(second.is_reused());
    assert_eq!((server.accepted(), pool.pending()), (1, 0));
}

#[tokio::test]
async fn a_waiting_request_gets_a_new_connection_when_the_one_in_use_is_closed() {
    let server = Server::http1().await;
    let transport = Transport { max_connections: 1, ..transport(Protocol::Http1) };
    let pool = TestPool::new(server.address, transport);
    let first = pool.acquire().await;
    let mut second = pin!(pool.pool.acquire(None, Reuse::Allowed));
    assert!(poll_once(second.as_mut()).await.is_pending());
    drop(first);
    let second = within("a connection", second).await.expect("there is room again");
    assert!(!second.is_reused());
}

#[tokio::test]
async fn an_endpoint_has_one_connection_even_if_others_use_up_the_limit() {
    let server = Server::http1().await;
    let transport = Transport { max_connections: 0, ..transport(Protocol::Http1) };
    let pool = TestPool::new(server.address, transport);
    pool.exchange("/").await;
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn no_more_requests_wait_than_allowed() {
    let server = Server::http1().await;
    let transport =
        Transport { max_connections: 1, max_pending_requests: 1, ..transport(Protocol::Http1) };
    let pool = TestPool::new(server.address, transport);
    let _first = pool.acquire().await;
    let mut second = pin!(pool.pool.acquire(None, Reuse::Allowed));
    assert!(poll_once(second.as_mut()).await.is_pending());
    let third = within("an answer", pool.pool.acquire(None, Reuse::Allowed)).await;
    assert_eq!(third.expect_err("the queue is full"), ConnectError::PendingOverflow);
}

#[tokio::test]
async fn a_request_that_gives_up_leaves_its_connection_to_others() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    {
        let mut given_up = pin!(pool.pool.acquire(None, Reuse::Allowed));
        assert!(poll_once(given_up.as_mut()).await.is_pending());
    }
    assert_eq!(pool.pending(), 0);
    let mut session = pool.acquire().await;
    exchange(&mut session, "/").await.expect("the exchange succeeds");
    assert_eq!((server.accepted(), pool.connections()), (1, 1));
}

#[tokio::test]
async fn an_unused_session_keeps_its_connection() {
    let server = Server::http1().await;
    let transport = Transport { max_connections: 1, ..transport(Protocol::Http1) };
    let pool = TestPool::new(server.address, transport);
    let mut first = pool.acquire().await;
    let mut given_up = Box::pin(pool.pool.acquire(None, Reuse::Allowed));
    assert!(poll_once(given_up.as_mut()).await.is_pending());
    exchange(&mut first, "/").await.expect("the exchange succeeds");
    // The connection is granted now, and nobody takes it.
    drop(first);
    drop(given_up);
    assert!(pool.acquire().await.is_reused());
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_refused_connection_is_told_with_its_number() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("the listener is bound");
    drop(listener);
    let pool = TestPool::new(address, transport(Protocol::Http1));
    let error = within("an answer", pool.pool.acquire(None, Reuse::Allowed)).await;
    let error = error.expect_err("nobody listens");
    assert_eq!(error.reason(), "delayed connect error: 111");
    assert_eq!(pool.connections(), 0);
}

#[tokio::test]
async fn a_failed_connect_is_told_to_everyone_it_was_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("the listener is bound");
    drop(listener);
    let transport = Transport { max_connections: 1, ..transport(Protocol::Http1) };
    let pool = TestPool::new(address, transport);
    let acquire = || pool.pool.acquire(None, Reuse::Allowed);
    let (a, b, c) =
        within("answers", async { tokio::join!(acquire(), acquire(), acquire()) }).await;
    for result in [a, b, c] {
        assert_eq!(result.expect_err("nobody listens"), ConnectError::Connect { errno: 111 });
    }
}

#[tokio::test]
async fn a_connect_that_takes_too_long_is_a_timeout() {
    // The handshake never comes: the server accepts and says nothing.
    let server = Server::start(|io, _| async move {
        let _open = io;
        std::future::pending::<()>().await;
    })
    .await;
    let tls = tls::insecure_context(Protocol::Http1);
    let transport = Transport {
        connect_timeout: Duration::from_millis(20),
        tls: Some(tls),
        ..transport(Protocol::Http1)
    };
    let pool = TestPool::new(server.address, transport);
    let acquired = pool.pool.acquire(Some("a.example"), Reuse::Allowed);
    let error = within("an answer", acquired).await.expect_err("there is no handshake");
    assert_eq!(error, ConnectError::Timeout);
}

#[tokio::test]
async fn a_retired_pool_closes_what_is_idle_and_keeps_nothing() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    let mut in_flight = pool.acquire().await;
    pool.exchange("/").await;
    pool.pool.retire();
    assert_eq!(pool.connections(), 1, "the idle one is closed");
    exchange(&mut in_flight, "/").await.expect("what is in flight is finished");
    drop(in_flight);
    assert_eq!(pool.connections(), 0);
    pool.exchange("/").await;
    assert_eq!(pool.connections(), 0, "late requests are served, but nothing is kept");
}

#[tokio::test]
async fn a_dropped_pool_closes_its_connections() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    pool.exchange("/").await;
    let gauges = Arc::clone(&pool.gauges);
    drop(pool);
    let connections = || gauges.connections_active.load(Ordering::SeqCst);
    eventually("its connections are closed", || connections() == 0).await;
    assert_eq!(gauges.connections_idle.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn unix_sockets_are_upstreams_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("upstream.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("the path is free");
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            serve_http1(io).await;
        }
    }));
    let address = Address::Unix(path.into());
    let target =
        Target { address, transport: Arc::new(transport(Protocol::Http1)), identity: None };
    let pool = Pool::new(target, Arc::default());
    let session = within("a connection", pool.acquire(None, Reuse::Allowed)).await;
    let mut session = session.expect("the socket can be connected to");
    assert_eq!(session.remote_addr(), None);
    let (status, _) = exchange(&mut session, "/").await.expect("the exchange succeeds");
    assert_eq!(status, 200);
}

#[tokio::test]
async fn futures_of_the_request_path_stay_small() {
    let server = Server::http1().await;
    let pool = TestPool::new(server.address, transport(Protocol::Http1));
    let caller = Caller { host: None, source: None };
    let size = size_of_val(&pool.pool.acquire_for(caller, Reuse::Allowed));
    assert!(size <= 512, "acquire is {size} bytes");
    assert!(size_of::<Checkout>() <= 256, "a checkout is {} bytes", size_of::<Checkout>());
}

/// hardening C14: an upstream may close a connection at the very moment it is used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_closed_just_as_it_is_used_again_costs_no_request() {
    let server = Server::http1().await;
    let pool = Arc::new(TestPool::new(server.address, transport(Protocol::Http1)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let pool = Arc::clone(&pool);
        clients.spawn(async move {
            for _ in 0..250 {
                let mut session = pool.acquire().await;
                let reused = session.is_reused();
                // The server closes without a word after every answer.
                if exchange(&mut session, "/last").await.is_err() {
                    assert!(reused && !session.response_started());
                    let fresh = within("a connection", pool.pool.acquire(None, Reuse::Never)).await;
                    let mut fresh = fresh.expect("the upstream can be connected to");
                    exchange(&mut fresh, "/last").await.expect("a fresh connection works");
                }
            }
        });
    }
    clients.join_all().await;
    assert_eq!(pool.pending(), 0);
}
