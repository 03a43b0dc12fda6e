//! Replicas on an API server of which each can be cut off, in time that passes as fast as it is asked
//! for.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::{Value, json};
use tonic::codegen::Service;

use super::*;

/// What becomes of the requests of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Intact,
    /// They do not arrive.
    Cut,
    /// They arrive, and the answers do not.
    Deaf,
}

/// As much of an API server as there is a Lease in.
#[derive(Debug, Default)]
struct Server {
    lease: Mutex<Option<Value>>,
    lines: Mutex<BTreeMap<&'static str, Line>>,
}

impl Server {
    fn line(&self, replica: &str) -> Line {
        lock_of(&self.lines).get(replica).copied().unwrap_or(Line::Intact)
    }

    fn set(&self, replica: &'static str, line: Line) {
        lock_of(&self.lines).insert(replica, line);
    }

    fn transitions(&self) -> u64 {
        let lease = lock_of(&self.lease);
        let lease = lease.as_ref().expect("somebody leads");
        lease["spec"]["leaseTransitions"].as_u64().unwrap_or_default()
    }

    fn respond(&self, method: &Method, mut object: Value) -> (StatusCode, Value) {
        let mut lease = lock_of(&self.lease);
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        let refused = |code: StatusCode, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()});
            (code, status)
        };
        let next = match (method, lease.as_ref()) {
            (&Method::GET, Some(lease)) => return (StatusCode::OK, lease.clone()),
            (&Method::POST, None) => 1,
            (&Method::PUT, Some(known)) if version(&object) == version(known) => {
                let known = version(known).as_str().and_then(|text| text.parse::<u64>().ok());
                known.expect("a version of ours") + 1
            }
            (&Method::GET, None) => return refused(StatusCode::NOT_FOUND, "NotFound"),
            _ => return refused(StatusCode::CONFLICT, "Conflict"),
        };
        object["metadata"]["resourceVersion"] = json!(next.to_string());
        *lease = Some(object.clone());
        (StatusCode::OK, object)
    }
}

fn lock_of<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap()
}

/// The way of a replica to the server.
#[derive(Clone)]
struct Way {
    server: Arc<Server>,
    replica: &'static str,
}

impl Service<Request<Body>> for Way {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { server, replica } = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            if server.line(replica) == Line::Cut {
                std::future::pending::<()>().await;
            }
            let object = serde_json::from_slice(&body).unwrap_or_default();
            let (code, answer) = server.respond(&parts.method, object);
            if server.line(replica) == Line::Deaf {
                std::future::pending::<()>().await;
            }
            let response = Response::builder().status(code).body(answer.to_string().into());
            Ok(response.expect("a response"))
        })
    }
}

const REPLICAS: [&str; 3] = ["a", "b", "c"];

struct Replica {
    name: &'static str,
    leadership: Leadership,
    ending: CancellationToken,
}

impl Replica {
    fn start(name: &'static str, server: &Arc<Server>) -> Self {
        let way = Way { server: Arc::clone(server), replica: name };
        let client = Client::new(way, "weir-system");
        let metrics = Arc::new(Metrics::new().unwrap());
        let ending = CancellationToken::new();
        let (leadership, _task) =
            start(client, "weir-system", name.into(), metrics, ending.clone());
        Self { name, leadership, ending }
    }
}

fn holders(replicas: &[Replica]) -> Vec<&'static str> {
    replicas.iter().filter(|it| it.leadership.is_held()).map(|it| it.name).collect()
}

/// Waits until a replica other than `old` leads; all the time there is one at most.
async fn next_leader(replicas: &[Replica], old: Option<&str>) -> &'static str {
    let deadline = Instant::now() + 10 * DURATION;
    loop {
        let holders = holders(replicas);
        assert!(holders.len() <= 1, "{holders:?} lead at the same time");
        match holders[..] {
            [leader] if Some(leader) != old => return leader,
            _ => assert!(Instant::now() < deadline, "nobody leads"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Hardening O05: killed, cut off in both ways, let go.
#[tokio::test(start_paused = true)]
async fn in_a_hundred_changes_of_the_leader_no_two_ever_lead() {
    let server = Arc::new(Server::default());
    let mut replicas = REPLICAS.map(|name| Replica::start(name, &server));
    let mut leader = next_leader(&replicas, None).await;
    for change in 0..100 {
        let old = leader;
        if change % 3 == 0 {
            // It ends, and another process of that name begins, which knows nothing.
            let replica = replicas.iter_mut().find(|it| it.name == old).unwrap();
            replica.ending.cancel();
            leader = next_leader(&replicas, Some(old)).await;
            let replica = replicas.iter_mut().find(|it| it.name == old).unwrap();
            *replica = Replica::start(old, &server);
        } else {
            server.set(old, if change % 3 == 1 { Line::Cut } else { Line::Deaf });
            leader = next_leader(&replicas, Some(old)).await;
            server.set(old, Line::Intact);
        }
        // Whoever comes back leaves the new one alone.
        let until = Instant::now() + 2 * DURATION;
        while Instant::now() < until {
            assert_eq!(holders(&replicas), [leader], "change {change}");
            sleep(Duration::from_millis(500)).await;
        }
    }
    assert_eq!(server.transitions(), 100);
}
