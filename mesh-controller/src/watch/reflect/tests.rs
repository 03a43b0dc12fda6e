//! A watch on an API server that does not answer, in time that passes as fast as it is asked for.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tower_service::Service;
use weir_config::api::Kind;

use super::*;
use crate::watch::{WATCHED, WatchedKind};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// A list is answered; a watch begins, and there is nothing to say.
    Quiet,
    /// The request arrives, and that is all.
    Hangs,
    /// A watch tells of this object.
    Tells,
}

#[derive(Clone)]
struct Server(Arc<Mutex<(Mood, Vec<String>)>>);

type Frames = Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

impl Server {
    fn new(mood: Mood) -> Self {
        Self(Arc::new(Mutex::new((mood, Vec::new()))))
    }

    fn set(&self, mood: Mood) {
        self.lock().0 = mood;
    }

    /// What was asked for since the last time: `list`, or `watch` with the version.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().1)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Mood, Vec<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn service(name: &str, version: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version},
        "spec": {"ports": [{"port": 80}]}})
}

impl Service<Request<Body>> for Server {
    type Response = Response<StreamBody<Frames>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.contains("watch=true");
        let version = query.split('&').find_map(|it| it.strip_prefix("resourceVersion="));
        let mood = {
            let mut state = self.lock();
            let asked = if is_watch {
                format!("watch {}", version.unwrap_or_default())
            } else {
                "list".into()
            };
            state.1.push(asked);
            state.0
        };
        Box::pin(async move {
            let list = json!({"kind": "ServiceList", "metadata": {"resourceVersion": "7"},
                "items": [service("web", "5")]});
            let event = json!({"type": "ADDED", "object": service("new", "9")});
            let text = match (mood, is_watch) {
                (Mood::Hangs, _) => std::future::pending().await,
                (_, false) => list.to_string(),
                (Mood::Quiet, true) => String::new(),
                (Mood::Tells, true) => format!("{event}\n"),
            };
            let first = stream::iter([Ok(Frame::data(Bytes::from(text)))]);
            let body: Frames = if is_watch {
                // It stays open, and silent.
                Box::pin(futures_util::StreamExt::chain(first, stream::pending()))
            } else {
                Box::pin(first)
            };
            Ok(Response::new(StreamBody::new(body)))
        })
    }
}

/// A watch of Services, and what it reports.
fn start(server: &Server) -> mpsc::Receiver<Vec<Change>> {
    let (sender, changes) = mpsc::channel(64);
    let of_services = |it: &&Watched| it.kind == WatchedKind::Object(Kind::Service);
    let reflector = Reflector {
        watched: WATCHED.iter().find(of_services).unwrap(),
        client: Client::new(server.clone(), "weir-system"),
        domain: "cluster.local".into(),
        timing: Timing::default(),
        metrics: Arc::new(Metrics::new().unwrap()),
        changes: sender,
        reachable: Arc::default(),
    };
    tokio::spawn(reflector.run(|| {}));
    changes
}

/// The names of the objects of the next report that has some.
async fn next(changes: &mut mpsc::Receiver<Vec<Change>>) -> Vec<String> {
    loop {
        let names = names(changes.recv().await.unwrap());
        if !names.is_empty() {
            return names;
        }
    }
}

/// How far a watch has come is reported besides.
fn names(batch: Vec<Change>) -> Vec<String> {
    let name = |change: Change| match change {
        Change::Upsert(entry) => Some(entry.key.name.to_string()),
        Change::Listed { .. } | Change::Watched { .. } => None,
        other => panic!("{other:?}"),
    };
    batch.into_iter().filter_map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_asked_for_again_where_it_stopped_and_nothing_is_lost() {
    let server = Server::new(Mood::Quiet);
    let mut changes = start(&server);
    assert_eq!(next(&mut changes).await, ["web"]);
    sleep(3 * SILENCE + Duration::from_secs(1)).await;
    assert_eq!(server.asked(), ["list", "watch 7", "watch 7", "watch 7", "watch 7"]);
    server.set(Mood::Tells);
    assert_eq!(next(&mut changes).await, ["new"]);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_never_answers_is_noticed_and_nothing_is_deleted() {
    let server = Server::new(Mood::Quiet);
    let mut changes = start(&server);
    assert_eq!(next(&mut changes).await, ["web"]);
    server.set(Mood::Hangs);
    sleep(Duration::from_secs(1800)).await;
    let asked = server.asked();
    assert_eq!(asked[..2], ["list", "watch 7"]);
    assert!(asked[2..].iter().all(|it| it == "watch 7"), "{asked:?}");
    // Each is given up after a while, and made again with a back-off.
    assert!((20..100).contains(&asked.len()), "{}", asked.len());
    while let Ok(batch) = changes.try_recv() {
        assert_eq!(names(batch), [""; 0], "nothing is reported of an object");
    }
    server.set(Mood::Tells);
    assert_eq!(next(&mut changes).await, ["new"]);
}
