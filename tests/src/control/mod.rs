//! A controller that a test scripts: it sends what the test gave it, in the protocol of
//! `weir_config::wire`, and remembers what proxies said.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use serde::Deserialize as _;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use weir_config::wire::{
    discovery::{Node, Resource},
    resource::Rejection,
};

use crate::{certs::Authority, ports};

mod service;

/// What the certificate of the controller is for.
pub const SERVER_NAME: &str = "weir-controller.weir-system.svc";
/// What proxies have to show, unless a test says otherwise.
const TOKEN: &str = "token-of-the-gateway";

/// The controller, and the files a proxy needs to find it. Ends with its handle.
pub struct Control {
    authority: Arc<Authority>,
    shared: Arc<Shared>,
    dir: TempDir,
    port: u16,
    running: Option<CancellationToken>,
}

/// What connections share with the test.
struct Shared {
    state: Mutex<State>,
    /// Raised with every change of what there is to send.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    resources: BTreeMap<(&'static str, String), Resource>,
    token: String,
    streams: Vec<Stream>,
    signed: Vec<Signed>,
    certificate_seconds: Option<i64>,
    /// Where in time pushes are.
    position: String,
    /// Proxies that have something are told that this controller knows less.
    is_behind: bool,
}

/// What was seen of one stream.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    pub node: Node,
    /// Names and versions the proxy said it has.
    pub initial: BTreeMap<String, String>,
    /// And where in time that is.
    pub position: Option<String>,
    /// Names of the resources sent and of those removed, without the end of pushes.
    pub sent: Vec<String>,
    pub removed: Vec<String>,
    /// Ends of pushes that were answered.
    pub acknowledged: usize,
    pub rejections: Vec<Rejection>,
}

/// A certificate that was asked for.
#[derive(Debug, Clone)]
pub struct Signed {
    pub authorization: String,
    /// URI names of the request.
    pub names: Vec<String>,
}

impl Control {
    /// Starts with nothing to send.
    pub async fn start() -> Self {
        let state = State { token: TOKEN.to_owned(), ..State::default() };
        let dir = TempDir::with_prefix("weir-control-").expect("create a temporary folder");
        let authority = Arc::new(Authority::new("mesh root"));
        std::fs::write(dir.path().join("root-cert.pem"), authority.root()).expect("write the root");
        std::fs::write(dir.path().join("istio-token"), TOKEN).expect("write the token");
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(0) });
        let mut control = Self { authority, shared, dir, port: ports::free(), running: None };
        control.restart().await;
        control
    }

    /// Starts listening again, on the port of before.
    pub async fn restart(&mut self) {
        let stop = CancellationToken::new();
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await.expect("bind the port");
        let identity = self.authority.server(&[SERVER_NAME]);
        let mut tls = self.authority.server_config(&identity, &["h2"], false);
        tls.max_early_data_size = 0;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(accept(
            listener,
            acceptor,
            Arc::clone(&self.shared),
            Arc::clone(&self.authority),
            stop.clone(),
        ));
        self.running = Some(stop);
    }

    /// Breaks all connections and listens no longer.
    pub async fn stop(&mut self) {
        let stop = self.running.take().expect("it is running");
        stop.cancel();
        let port = self.port;
        crate::eventually::eventually("the controller's port is closed", async || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.err()
        })
        .await;
    }

    /// Sends the objects of this YAML from now on. The namespace is `default` where there is none.
    pub fn apply(&self, yaml: &str) {
        for object in documents(yaml) {
            let resource = Resource::of_object(object).expect("a Kubernetes object");
            self.put(resource);
        }
    }

    /// Sends the MeshConfig of this YAML from now on.
    pub fn mesh_config(&self, yaml: &str) {
        let mut documents = documents(yaml);
        let mut config = documents.pop().expect("a mesh configuration");
        // Added to Kubernetes' objects only.
        config.remove("metadata");
        self.put(Resource::of_mesh_config(config));
    }

    /// Sends any resource from now on.
    pub fn put(&self, resource: Resource) {
        let type_url = resource.resource.as_ref().expect("a body").type_url.clone();
        let type_url = service::known_type(&type_url);
        self.shared.lock().resources.insert((type_url, resource.name.clone()), resource);
        self.shared.raise();
    }

    /// Removes the resource of that name.
    pub fn remove(&self, name: &str) {
        let before = self.shared.lock().resources.len();
        self.shared.lock().resources.retain(|(_, known), _| known != name);
        assert_ne!(self.shared.lock().resources.len(), before, "{name} is not there");
        self.shared.raise();
    }

    /// Says of the next pushes that they are up to there.
    pub fn set_position(&self, position: &str) {
        position.clone_into(&mut self.shared.lock().position);
    }

    /// Sends proxies away that say up to where they have been told, as one does that knows less.
    pub fn set_behind(&self, is_behind: bool) {
        self.shared.lock().is_behind = is_behind;
    }

    /// Ends a push although nothing changed.
    pub fn sync(&self) {
        self.shared.raise();
    }

    /// Accepts no other token than this one.
    pub fn accept_token(&self, token: &str) {
        token.clone_into(&mut self.shared.lock().token);
    }

    /// Certificates live for this long instead of as long as was asked for.
    pub fn certificate_seconds(&self, seconds: i64) {
        self.shared.lock().certificate_seconds = Some(seconds);
    }

    /// Every stream so far, the oldest first.
    #[must_use]
    pub fn streams(&self) -> Vec<Stream> {
        self.shared.lock().streams.clone()
    }

    /// Every certificate so far.
    #[must_use]
    pub fn signed(&self) -> Vec<Signed> {
        self.shared.lock().signed.clone()
    }

    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    #[must_use]
    pub fn root_file(&self) -> PathBuf {
        self.dir.path().join("root-cert.pem")
    }

    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("istio-token")
    }

    /// A folder for a proxy's copy.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What a gateway has to be told to follow this controller.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let path = |path: &Path| path.to_str().expect("paths are text").to_owned();
        let pairs = [
            ("--discovery", format!("127.0.0.1:{}", self.port)),
            ("--discovery-name", SERVER_NAME.to_owned()),
            ("--discovery-root", path(&self.root_file())),
            ("--discovery-token", path(&self.token_file())),
        ];
        pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(stop) = &self.running {
            stop.cancel();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }

    fn raise(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

/// What differs between what a proxy has and what it should have.
struct Difference {
    put: BTreeMap<&'static str, Vec<Resource>>,
    removed: BTreeMap<&'static str, Vec<String>>,
}

impl State {
    fn difference(&self, held: &BTreeMap<(&'static str, String), String>) -> Difference {
        let mut difference = Difference { put: BTreeMap::new(), removed: BTreeMap::new() };
        for (key, resource) in &self.resources {
            if held.get(key) != Some(&resource.version) {
                difference.put.entry(key.0).or_default().push(resource.clone());
            }
        }
        let gone = held.keys().filter(|key| !self.resources.contains_key(key));
        for (type_url, name) in gone.collect::<BTreeSet<_>>() {
            difference.removed.entry(type_url).or_default().push(name.clone());
        }
        difference
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    authority: Arc<Authority>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { continue };
            let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
            connections.spawn(service::serve(tcp, acceptor, shared, Arc::clone(&authority)));
        }
    };
    stop.run_until_cancelled(accepting).await;
}

fn documents(yaml: &str) -> Vec<Map<String, Value>> {
    serde_yaml::Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .filter(|document| !document.is_null())
        .map(|document| {
            let Value::Object(mut object) = document else { panic!("{document} is no object") };
            let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
            let metadata = metadata.as_object_mut().expect("metadata is an object");
            metadata.entry("namespace").or_insert_with(|| "default".into());
            object
        })
        .collect()
}
