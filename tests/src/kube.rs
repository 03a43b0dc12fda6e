//! A scripted API server: as much of Kubernetes' API as the controller uses, and every way it can
//! fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::certs::Authority;

/// What is served: kind, where its objects are, and what they are called there.
const KINDS: [(&str, &str, &str); 18] = [
    ("Gateway", "/apis/networking.istio.io/v1", "gateways"),
    ("VirtualService", "/apis/networking.istio.io/v1", "virtualservices"),
    ("DestinationRule", "/apis/networking.istio.io/v1", "destinationrules"),
    ("ServiceEntry", "/apis/networking.istio.io/v1", "serviceentries"),
    ("WorkloadEntry", "/apis/networking.istio.io/v1", "workloadentries"),
    ("EnvoyFilter", "/apis/networking.istio.io/v1alpha3", "envoyfilters"),
    ("RequestAuthentication", "/apis/security.istio.io/v1", "requestauthentications"),
    ("AuthorizationPolicy", "/apis/security.istio.io/v1", "authorizationpolicies"),
    ("Service", "/api/v1", "services"),
    ("EndpointSlice", "/apis/discovery.k8s.io/v1", "endpointslices"),
    ("Secret", "/api/v1", "secrets"),
    ("ConfigMap", "/api/v1", "configmaps"),
    ("Pod", "/api/v1", "pods"),
    ("Node", "/api/v1", "nodes"),
    ("Namespace", "/api/v1", "namespaces"),
    ("Lease", "/apis/coordination.k8s.io/v1", "leases"),
    (
        "ValidatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
    ),
    (
        "MutatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1",
        "mutatingwebhookconfigurations",
    ),
];

/// A running server. It ends with its handle.
pub struct ApiServer {
    port: u16,
    state: Arc<Mutex<State>>,
    task: AbortHandle,
    /// Where kubeconfigs say that its authority is; `None`: it speaks without TLS.
    authorities: Option<TempDir>,
}

const AUTHORITIES: &str = "ca.crt";

/// Objects by path of the collection, `namespace/name`.
type Collections = BTreeMap<String, BTreeMap<String, Value>>;

#[derive(Default)]
struct State {
    collections: Collections,
    version: u64,
    /// Every change with its version, the collection, and the event.
    history: Vec<(u64, String, Value)>,
    /// Versions before this one are no longer kept.
    oldest: u64,
    watches: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    /// Those that are to be told what happened since a version once the server has caught up.
    lagging: Vec<(String, u64, mpsc::UnboundedSender<Bytes>)>,
    uninstalled: BTreeSet<String>,
    forbidden: BTreeSet<String>,
    /// What lists and watches are answered, instead of being served.
    failure: Option<StatusCode>,
    /// Collections that are listed as empty.
    hidden: BTreeSet<String>,
    /// What lists say instead of what there is: objects by collection, and the version.
    past: Option<(Collections, u64)>,
    tokens: BTreeMap<String, Value>,
    secret_readers: BTreeSet<String>,
    requests: Vec<String>,
    gathering: BTreeMap<String, Gathering>,
    tls: Option<TlsAcceptor>,
    connections: Vec<AbortHandle>,
}

/// Requests that wait for each other.
struct Gathering {
    missing: usize,
    /// Closed when all are there.
    gate: Arc<Semaphore>,
}

impl ApiServer {
    /// Without objects, with every kind installed.
    pub async fn start() -> Self {
        Self::launch(State::default(), None).await
    }

    /// The same over TLS, with a certificate of `authority`, which kubeconfigs name by its file.
    pub async fn start_tls(authority: &Authority) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let state = State { tls: Some(acceptor(authority)), ..State::default() };
        let server = Self::launch(state, Some(folder)).await;
        server.publish(authority);
        server
    }

    /// Has a certificate of another authority from now on, and breaks off every connection.
    ///
    /// # Panics
    /// It speaks without TLS.
    pub fn rotate(&self, authority: &Authority) {
        let mut state = self.lock();
        assert!(state.tls.is_some(), "the server speaks TLS");
        state.tls = Some(acceptor(authority));
        state.watches.clear();
        state.connections.drain(..).for_each(|connection| connection.abort());
    }

    /// Writes the authority into the file that kubeconfigs name.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn publish(&self, authority: &Authority) {
        let folder = self.authorities.as_ref().expect("the server speaks TLS");
        fs::write(folder.path().join(AUTHORITIES), authority.root()).expect("write a file");
    }

    async fn launch(state: State, authorities: Option<TempDir>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let accepting = Arc::clone(&shared);
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(respond(&shared, request).await) }
                });
                let mut state = accepting.lock().unwrap();
                let tls = state.tls.clone();
                let connection = tokio::spawn(async move {
                    let builder = http1::Builder::new();
                    let Some(tls) = tls else {
                        // However it ends, the client sees.
                        let _ = builder.serve_connection(TokioIo::new(socket), service).await;
                        return;
                    };
                    if let Ok(stream) = tls.accept(socket).await {
                        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
                state.connections.push(connection.abort_handle());
            }
        });
        Self { port, state, task: task.abort_handle(), authorities }
    }

    /// A kubeconfig that leads here.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let port = self.port;
        let cluster = match &self.authorities {
            None => format!("server: 'http://127.0.0.1:{port}'"),
            Some(folder) => {
                let path = folder.path().join(AUTHORITIES);
                let path = path.display();
                format!("server: 'https://127.0.0.1:{port}', certificate-authority: '{path}'")
            }
        };
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
             clusters: [{{name: test, cluster: {{{cluster}}}}}]\n\
             users: [{{name: test, user: {{}}}}]\n"
        )
    }

    /// Creates or replaces objects, given as JSON.
    pub fn apply(&self, objects: impl IntoIterator<Item = Value>) {
        let mut state = self.lock();
        for object in objects {
            state.write(object);
        }
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let mut state = self.lock();
        let collection = collection_of(kind);
        let object = state.collections.entry(collection.clone()).or_default();
        let mut object =
            object.remove(&format!("{namespace}/{name}")).expect("the object is there");
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.announce(collection, "DELETED", object);
    }

    #[must_use]
    pub fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = self.lock();
        state.collections.get(&collection_of(kind))?.get(&format!("{namespace}/{name}")).cloned()
    }

    /// As if the CRD were not there.
    pub fn uninstall(&self, kind: &str) {
        self.lock().uninstalled.insert(collection_of(kind));
    }

    pub fn install(&self, kind: &str) {
        self.lock().uninstalled.remove(&collection_of(kind));
    }

    /// As if nobody may list a kind.
    pub fn forbid(&self, kind: &str) {
        self.lock().forbidden.insert(collection_of(kind));
    }

    /// Answers lists and watches with this from now on, and ends the watches there are; `None`: serves
    /// them again.
    pub fn fail(&self, failure: Option<StatusCode>) {
        let mut state = self.lock();
        state.failure = failure;
        if failure.is_some() {
            state.watches.clear();
        }
    }

    /// Lists nothing of a kind, or again what there is.
    pub fn hide(&self, kind: &str, is_hidden: bool) {
        let mut state = self.lock();
        if is_hidden {
            state.hidden.insert(collection_of(kind));
        } else {
            state.hidden.remove(&collection_of(kind));
        }
    }

    /// Lists what there is now from now on, whatever changes, and tells new watches of no change, as a
    /// server does that lags behind.
    pub fn lag(&self) {
        let mut state = self.lock();
        state.past = Some((state.collections.clone(), state.version));
    }

    /// Lists what there is again, and tells all watches.
    pub fn catch_up(&self) {
        let mut state = self.lock();
        state.past = None;
        for (collection, from, sender) in std::mem::take(&mut state.lagging) {
            state.tell(collection, from, sender);
        }
    }

    /// Sends the last event of a kind to its watches once more.
    pub fn repeat(&self, kind: &str) {
        let state = self.lock();
        let collection = collection_of(kind);
        let last = state.history.iter().rfind(|(_, of, _)| *of == collection);
        let (_, _, event) = last.expect("something has happened");
        for (_, sender) in state.watches.iter().filter(|(watched, _)| *watched == collection) {
            // The watch may have ended.
            let _ = sender.send(line(event));
        }
    }

    /// Forgets the history, and ends the watches: who comes back is told 410 Gone.
    pub fn expire(&self) {
        let mut state = self.lock();
        state.version += 1;
        state.oldest = state.version;
        state.history.clear();
        state.watches.clear();
    }

    /// A token of a service account for an audience, perhaps bound to a pod.
    #[must_use]
    pub fn token(
        &self,
        audience: &str,
        namespace: &str,
        account: &str,
        pod: Option<&str>,
    ) -> String {
        let mut state = self.lock();
        let token = format!("token-{}", state.tokens.len());
        let extra = pod.map(|pod| json!({"authentication.kubernetes.io/pod-name": [pod]}));
        let status = json!({
            "authenticated": true,
            "audiences": [audience],
            "user": {"username": format!("system:serviceaccount:{namespace}:{account}"), "extra": extra},
        });
        state.tokens.insert(token.clone(), status);
        token
    }

    /// Lets a service account list the Secrets of its namespace.
    pub fn let_read_secrets(&self, namespace: &str, account: &str) {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        self.lock().secret_readers.insert(user);
    }

    /// Answers the next `count` requests that read the object at `path` at the same moment.
    pub fn gather(&self, path: &str, count: usize) {
        let gathering = Gathering { missing: count, gate: Arc::new(Semaphore::new(0)) };
        self.lock().gathering.insert(path.to_owned(), gathering);
    }

    /// `METHOD path?query` of every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    /// The watches that are open now, by kind.
    #[must_use]
    pub fn watches(&self, kind: &str) -> usize {
        let collection = collection_of(kind);
        let mut state = self.lock();
        state.watches.retain(|(_, sender)| !sender.is_closed());
        state.watches.iter().filter(|(other, _)| *other == collection).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let identity = authority.server(&["127.0.0.1"]);
    let config = authority.server_config(&identity, &["http/1.1"], false);
    TlsAcceptor::from(Arc::new(config))
}

fn collection_of(kind: &str) -> String {
    let (_, base, plural) = KINDS.iter().find(|(known, ..)| *known == kind).expect("a known kind");
    format!("{base}/{plural}")
}

fn kind_of(collection: &str) -> &'static str {
    let found = KINDS.iter().find(|(_, base, plural)| format!("{base}/{plural}") == collection);
    found.expect("a known collection").0
}

impl State {
    fn write(&mut self, mut object: Value) {
        let collection = collection_of(object["kind"].as_str().expect("a kind"));
        self.version += 1;
        let version = self.version;
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.insert("resourceVersion".to_owned(), json!(version.to_string()));
        let text = |field| metadata.get(field).and_then(Value::as_str).unwrap_or_default();
        let key = format!("{}/{}", text("namespace"), text("name"));
        let uid = format!("uid-{collection}-{key}");
        metadata.entry("uid").or_insert(json!(uid));
        let objects = self.collections.entry(collection.clone()).or_default();
        let event = match objects.insert(key, object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        self.announce(collection, event, object);
    }

    fn announce(&mut self, collection: String, event: &str, object: Value) {
        let event = json!({"type": event, "object": object});
        for (watched, sender) in &self.watches {
            if *watched == collection {
                // The watch may have ended.
                let _ = sender.send(line(&event));
            }
        }
        self.history.push((self.version, collection, event));
    }
}

fn line(event: &Value) -> Bytes {
    format!("{event}\n").into()
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn respond(state: &Mutex<State>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = query(parts.uri.query().unwrap_or_default());
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if parts.method == Method::GET {
        gathered(state, &path).await;
    }
    let mut state = state.lock().unwrap();
    state.requests.push(format!("{} {}", parts.method, parts.uri));
    if path.ends_with("/tokenreviews") {
        return answer(StatusCode::CREATED, state.review_token(body));
    }
    if path.ends_with("/subjectaccessreviews") {
        return answer(StatusCode::CREATED, state.review_access(body));
    }
    if path == "/version" {
        return answer(
            StatusCode::OK,
            json!({"major": "1", "minor": "36", "gitVersion": "v1.36.3",
            "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "",
            "platform": ""}),
        );
    }
    let served = KINDS.iter().map(|(_, base, plural)| format!("{base}/{plural}"));
    let is_collection = served.into_iter().any(|collection| collection == path);
    if is_collection && parts.method == Method::GET {
        if let Some(failure) = state.failure {
            return failed(failure, "InternalError");
        }
        if state.forbidden.contains(&path) {
            return failed(StatusCode::FORBIDDEN, "Forbidden");
        }
        if state.uninstalled.contains(&path) {
            return failed(StatusCode::NOT_FOUND, "NotFound");
        }
        return if query.get("watch").is_some_and(|value| value == "true" || value == "1") {
            state.watch(&path, &query)
        } else {
            state.list(&path, &query)
        };
    }
    let content_type = parts.headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let is_apply = content_type == Some(b"application/apply-patch+yaml");
    state.single(&parts.method, &path, body, is_apply)
}

/// Waits for the others that are to be answered at the same moment.
async fn gathered(state: &Mutex<State>, path: &str) {
    let gate = {
        let mut state = state.lock().unwrap();
        let Some(gathering) = state.gathering.get_mut(path) else { return };
        gathering.missing -= 1;
        if gathering.missing == 0 {
            gathering.gate.close();
            state.gathering.remove(path);
            return;
        }
        Arc::clone(&gathering.gate)
    };
    // It gives no permits: it is closed.
    let _ = gate.acquire().await;
}

impl State {
    fn list(&self, collection: &str, query: &BTreeMap<String, String>) -> Response<Body> {
        let none = BTreeMap::new();
        let is_hidden = self.hidden.contains(collection);
        let now = (&self.collections, self.version);
        let (all, version) = self.past.as_ref().map_or(now, |(all, version)| (all, *version));
        let objects = all.get(collection).filter(|_| !is_hidden).unwrap_or(&none);
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let after = query.get("continue").cloned().unwrap_or_default();
        let rest = objects.iter().filter(|(key, _)| **key > after);
        let page: Vec<(&String, &Value)> = rest.clone().take(limit).collect();
        let next = match page.last() {
            Some((last, _)) if rest.count() > limit => (*last).clone(),
            _ => String::new(),
        };
        let items: Vec<Value> = page.into_iter().map(|(_, object)| object.clone()).collect();
        let kind = format!("{}List", kind_of(collection));
        let metadata = json!({"resourceVersion": version.to_string(), "continue": next});
        answer(
            StatusCode::OK,
            json!({"kind": kind, "apiVersion": "v1", "metadata": metadata,
            "items": items}),
        )
    }

    fn watch(&mut self, collection: &str, query: &BTreeMap<String, String>) -> Response<Body> {
        let from = query.get("resourceVersion").and_then(|version| version.parse().ok());
        let from: u64 = from.expect("a watch from a version");
        if from < self.oldest {
            return failed(StatusCode::GONE, "Expired");
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        if self.past.is_some() {
            self.lagging.push((collection.to_owned(), from, sender));
        } else {
            self.tell(collection.to_owned(), from, sender);
        }
        let lines = stream::unfold(receiver, |mut receiver| async {
            let line = receiver.recv().await?;
            Some((line, receiver))
        });
        let frames = lines.map(|line| Ok(Frame::data(line)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    /// Tells a watch what happened since a version, and from then on what happens.
    fn tell(&mut self, collection: String, from: u64, sender: mpsc::UnboundedSender<Bytes>) {
        let since = self.history.iter().filter(|(version, ..)| *version > from);
        let events = since.filter(|(_, other, _)| *other == collection);
        let bookmark = json!({"type": "BOOKMARK", "object": {"kind": kind_of(&collection),
            "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}}});
        for event in events.map(|(_, _, event)| event).chain([&bookmark]) {
            // The watch may have ended.
            let _ = sender.send(line(event));
        }
        self.watches.push((collection, sender));
    }

    /// Requests about one object: `GET`, `POST` into the collection, `PUT`, and `PATCH`, which
    /// replaces the fields it names; one that is to be applied need not be there.
    fn single(
        &mut self,
        method: &Method,
        path: &str,
        body: Value,
        is_apply: bool,
    ) -> Response<Body> {
        let Some((collection, key)) = split(path) else {
            return failed(StatusCode::NOT_FOUND, "NotFound");
        };
        let known =
            self.collections.get(&collection).and_then(|objects| objects.get(&key)).cloned();
        let object = match (method.as_str(), known) {
            ("GET", Some(object)) => return answer(StatusCode::OK, object),
            ("POST", _) => body,
            ("PATCH", None) if is_apply && !path.ends_with("/status") => body,
            ("PUT", Some(known)) => {
                let given = &body["metadata"]["resourceVersion"];
                if !given.is_null() && *given != known["metadata"]["resourceVersion"] {
                    return failed(StatusCode::CONFLICT, "Conflict");
                }
                body
            }
            ("PATCH", Some(mut known)) => {
                merge(&mut known, &body);
                known
            }
            (_, None) => return failed(StatusCode::NOT_FOUND, "NotFound"),
            (_, Some(_)) => return failed(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        };
        let mut object = object;
        object["kind"] = json!(kind_of(&collection));
        if let Some((namespace, _)) =
            key.split_once('/').filter(|(namespace, _)| !namespace.is_empty())
        {
            object["metadata"]["namespace"] = json!(namespace);
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let key = format!("{namespace}/{name}");
        if *method == Method::POST
            && self.collections.get(&collection).is_some_and(|o| o.contains_key(&key))
        {
            return failed(StatusCode::CONFLICT, "AlreadyExists");
        }
        self.write(object);
        answer(StatusCode::OK, self.collections[&collection][&key].clone())
    }

    fn review_token(&self, mut review: Value) -> Value {
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        let known = self.tokens.get(token);
        let accepted = known.filter(|status| {
            let wanted = review["spec"]["audiences"].as_array().cloned().unwrap_or_default();
            wanted.contains(&status["audiences"][0])
        });
        review["status"] = accepted.cloned().unwrap_or_else(|| json!({"authenticated": false}));
        review
    }

    fn review_access(&self, mut review: Value) -> Value {
        let user = review["spec"]["user"].as_str().unwrap_or_default();
        review["status"] = json!({"allowed": self.secret_readers.contains(user)});
        review
    }
}

/// The collection and the `namespace/name` of a path to an object, its status, or a namespaced
/// collection.
fn split(path: &str) -> Option<(String, String)> {
    let path = path.strip_suffix("/status").unwrap_or(path);
    for (_, base, plural) in KINDS {
        let Some(rest) = path.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        let collection = format!("{base}/{plural}");
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            ["namespaces", namespace, found, name] if *found == plural => {
                return Some((collection, format!("{namespace}/{name}")));
            }
            ["namespaces", namespace, found] if *found == plural => {
                return Some((collection, format!("{namespace}/")));
            }
            [found, name] if *found == plural => return Some((collection, format!("/{name}"))),
            [found] if *found == plural => return Some((collection, "/".to_owned())),
            _ => {}
        }
    }
    None
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (field, value) in patch {
                merge(into.entry(field).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.replace("%2F", "/"))).collect()
}

fn answer(status: StatusCode, body: Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(body).expect("a response")
}

fn failed(status: StatusCode, reason: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
        "message": reason, "code": status.as_u16()});
    answer(status, body)
}
