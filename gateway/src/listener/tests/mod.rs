//! Real sockets, real clients, real handshakes: a listener with everything behind it down to an
//! upstream that says its name and then echoes.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Handle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weir_config::model::{
    Cluster, ClusterEndpoints, ClusterName, FilterChainName, Secret, SecretName, Settings,
    cluster::{
        CircuitBreakers, Discovery, Endpoint, EndpointAddress, LbPolicy, SourceAddress,
        UpstreamProtocol,
    },
    listener::{BindAddress, ClientAuth, DownstreamTls, ListenerKind, NetworkFilter, TlsVersion},
    matcher::HostPattern,
    route::{HeaderMutation, WeightedCluster},
};

use super::*;
use crate::{
    cluster::{Environment, Resolver},
    engine::Engine,
    limits::Limits,
    snapshot::Snapshot,
    telemetry::{Telemetry, labels::Reporter},
    tls::{provider, test_ca::Issued},
    worker::Workers,
};

mod client_auth;
mod destinations;
mod lifecycle;
mod overload;
mod resumption;
mod server_name;
mod tcp;
mod tunnelled;

/// The part of a proxy these tests are about, fed with changes.
struct Gateway {
    engine: Arc<Engine>,
    manager: Arc<ListenerManager>,
    resources: Resources,
    secrets: Secrets,
    resolver: Resolver,
}

impl Gateway {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        let telemetry = Telemetry::new(&Reporter::new("test", &BTreeMap::new()), 2);
        let engine = Arc::new(Engine::new(limits, Arc::new(telemetry)));
        Self {
            manager: ListenerManager::new(Arc::clone(&engine), Workers::new([Handle::current()])),
            engine,
            resources: Resources::default(),
            secrets: Secrets::default(),
            resolver: Resolver::with_name_server((Ipv4Addr::LOCALHOST, 53).into()).unwrap(),
        }
    }

    async fn apply(&mut self, delta: Delta) {
        self.resources.apply(&delta);
        self.secrets = Secrets::next(&self.secrets, &delta);
        self.publish(&delta).await;
    }

    async fn publish(&self, delta: &Delta) {
        let environment = Arc::new(Environment {
            secrets: self.secrets.clone(),
            resolver: self.resolver.clone(),
            limits: self.engine.limits.clone(),
            telemetry: Arc::clone(&self.engine.telemetry),
        });
        let prev = self.engine.snapshot();
        let next = Arc::new(Snapshot::next(&prev, &self.resources, delta, &environment));
        self.engine.telemetry.apply(&next.settings);
        self.engine.publish(Arc::clone(&next));
        self.manager.apply(&next.listeners).await;
    }

    async fn bound(&self, listener: &str) -> Result<BoundAddress, String> {
        let status = self.manager.status().await;
        status.into_iter().find(|status| status.name.as_str() == listener).unwrap().bound
    }

    async fn address(&self, listener: &str) -> SocketAddr {
        match self.bound(listener).await {
            Ok(BoundAddress::Ip(address)) => address,
            other => panic!("{listener} does not listen on a port: {other:?}"),
        }
    }

    fn metrics(&self) -> String {
        let families = self.engine.telemetry.metrics.registry().gather();
        prometheus::TextEncoder::new().encode_to_string(&families).unwrap()
    }

    /// The first metric line that has all of `parts`.
    async fn metric(&self, parts: &[&str]) -> String {
        eventually(&format!("a metric with {parts:?}"), || {
            let text = self.metrics();
            text.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(String::from)
        })
        .await
    }
}

async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let poll = async {
        loop {
            if let Some(value) = check() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), poll).await.unwrap_or_else(|_| panic!("{what}"))
}

/// What `change` does to a delta; deltas of tests read as lists of these.
fn delta(changes: impl IntoIterator<Item = Change>) -> Delta {
    let mut delta = Delta::default();
    for change in changes {
        match change {
            Change::Listener(config) => {
                delta.listeners.insert(config.name.clone(), Some(Arc::new(config)));
            }
            Change::Chain(config) => {
                delta.filter_chains.insert(config.name.clone(), Some(Arc::new(*config)));
            }
            Change::Secret(config) => {
                delta.secrets.insert(config.name.clone(), Some(config));
            }
            Change::Cluster(config, endpoints) => {
                delta.endpoints.insert(config.name.clone(), Some(Arc::new(endpoints)));
                delta.clusters.insert(config.name.clone(), Some(Arc::new(*config)));
            }
            Change::Settings(settings) => delta.settings = Some(Arc::new(settings)),
            Change::NoListener(name) => {
                delta.listeners.insert(ListenerName::new(name), None);
            }
            Change::NoChain(name) => {
                delta.filter_chains.insert(FilterChainName::new(name), None);
            }
            Change::NoSecret(name) => {
                delta.secrets.insert(SecretName::new(name), None);
            }
        }
    }
    delta
}

enum Change {
    Listener(Listener),
    Chain(Box<FilterChain>),
    Secret(Arc<Secret>),
    Cluster(Box<Cluster>, ClusterEndpoints),
    Settings(Settings),
    NoListener(&'static str),
    NoChain(&'static str),
    NoSecret(&'static str),
}

/// On a port of its own.
fn listener(name: &str, kind: ListenerKind) -> Change {
    listener_at(name, kind, BindAddress::Ip((Ipv4Addr::LOCALHOST, 0).into()))
}

fn listener_at(name: &str, kind: ListenerKind, address: BindAddress) -> Change {
    let name = ListenerName::new(name);
    Change::Listener(Listener { name, address, port: 443, kind, is_transparent: false })
}

/// A chain of listener `tls`, or of the one named before a `/`, that proxies to `cluster`.
fn chain(name: &str, hosts: &[&str], tls: Option<DownstreamTls>, cluster: &str) -> Change {
    let listener = name.split_once('/').map_or("tls", |(listener, _)| listener);
    Change::Chain(Box::new(FilterChain {
        name: FilterChainName::new(name),
        listener: ListenerName::new(listener),
        server_names: hosts.iter().map(|host| HostPattern::parse(host)).collect(),
        redirected: None,
        mesh_only: false,
        tls,
        network: NetworkFilter::TcpProxy { clusters: [to(cluster, 1)].into(), idle_timeout: None },
        gateway: "test/gateway".into(),
    }))
}

fn to(cluster: &str, weight: u32) -> WeightedCluster {
    WeightedCluster {
        cluster: ClusterName::new(cluster),
        weight,
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        host_rewrite: None,
    }
}

/// SIMPLE with the certificate of a secret.
fn simple(secret: &str) -> DownstreamTls {
    DownstreamTls {
        certificates: [SecretName::new(secret)].into(),
        client_auth: ClientAuth::None,
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
        cipher_suites: Arc::default(),
        alpn: Arc::default(),
    }
}

fn cluster(name: &str, addresses: &[SocketAddr]) -> Change {
    let endpoint = |address: &SocketAddr| Endpoint {
        address: EndpointAddress::Ip(*address),
        weight: 1,
        locality: Arc::default(),
        mesh_tls: false,
        hbone: false,
        workload: Arc::default(),
    };
    let name = ClusterName::new(name);
    let endpoints = ClusterEndpoints {
        cluster: name.clone(),
        endpoints: addresses.iter().map(endpoint).collect(),
    };
    let config = Cluster {
        name,
        discovery: Discovery::Static,
        protocol: UpstreamProtocol::Tcp,
        lb_policy: LbPolicy::RoundRobin,
        hash_key: None,
        warmup: None,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: None,
        tcp_idle_timeout: None,
        max_connection_duration: None,
        tcp_keepalive: None,
        max_requests_per_connection: 0,
        max_concurrent_streams: 100,
        circuit_breakers: CircuitBreakers::default(),
        auto_mtls: false,
        tunnel: None,
        source_address: SourceAddress::Any,
        outlier_detection: None,
        tls: None,
        destination: Default::default(),
    };
    Change::Cluster(Box::new(config), endpoints)
}

/// A server that says its name in a line and then echoes, until the test ends.
async fn echo(name: &'static str) -> SocketAddr {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(format!("{name}\n").as_bytes()).await;
                let (mut r, mut w) = stream.split();
                let _ = tokio::io::copy(&mut r, &mut w).await;
            });
        }
    });
    address
}

/// A client connection to an `echo`, whatever is in between.
struct Client<S>(BufReader<S>);

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    fn new(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match tokio::time::timeout(Duration::from_secs(10), self.0.read_line(&mut line)).await {
            Err(_) => panic!("nothing came in ten seconds"),
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(line.trim_end().to_owned()),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Whether what is sent comes back.
    async fn is_alive(&mut self) -> bool {
        self.0.get_mut().write_all(b"ping\n").await.is_ok()
            && self.line().await.is_ok_and(|line| line == "ping")
    }

    /// Waits for the other side to close, and whether it did so cleanly.
    async fn closed(&mut self) -> io::Result<()> {
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), self.0.read_to_end(&mut rest))
            .await
            .expect("still open after ten seconds")
            .map(|_| ())
    }
}

async fn connect(address: SocketAddr) -> Client<TcpStream> {
    Client::new(TcpStream::connect(address).await.unwrap())
}

/// A TLS client that takes any server certificate: which one it gets is the test.
#[derive(Clone)]
struct TlsClient {
    config: ClientConfig,
}

impl TlsClient {
    fn new() -> Self {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_no_client_auth();
        Self { config }
    }

    fn with_certificate(issued: &Issued) -> Self {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_auth_cert(issued.chain(), issued.key())
            .unwrap();
        Self { config }
    }

    fn without_server_name(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> io::Result<Client<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let handshake = connector.connect(name, stream);
        let stream = tokio::time::timeout(Duration::from_secs(10), handshake).await??;
        Ok(Client::new(stream))
    }

    /// The first line from the upstream, or why there is none. In TLS 1.3 a client learns only with
    /// its first read that its certificate was refused.
    async fn greeting(&self, address: SocketAddr, name: &str) -> io::Result<String> {
        self.connect(address, name).await?.line().await
    }
}

impl Client<TlsStream<TcpStream>> {
    fn server_certificate(&self) -> CertificateDer<'static> {
        self.session().peer_certificates().unwrap()[0].clone()
    }

    fn session(&self) -> &rustls::ClientConnection {
        self.0.get_ref().get_ref().1
    }
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
