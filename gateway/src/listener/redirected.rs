//! Redirected connections, from where they were going to the chain that serves them.
//!
//! Where the destination alone decides, nothing is read. Else the first bytes do; a client that says
//! nothing for [`SILENCE`] may be one that waits for the server to speak, so the server is connected to
//! then, and whoever speaks first decides. An HTTP client that was only slow is served as such.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout, timeout_at},
};
use weir_config::model::listener::NetworkFilter;

use super::{
    ListenerState,
    destination::DestinationChains,
    filter_chain::{Chain, ChainTls},
    first_bytes::{FirstBytes, classify},
    original_dst::original_dst,
    serve::{Accepted, Binding, Established, record_no_chain},
    tls::{self, HandshakeError, Hello},
};
use crate::{
    connection::{ConnectionInfo, TlsInfo},
    io::Io,
    tcp::{Early, TcpProxy},
};

/// After this without a word of the client, the server is asked whether it speaks first.
const SILENCE: Duration = Duration::from_millis(200);
/// Read at once.
const READ_BYTES: usize = 4 * 1024;

/// A redirected connection before anything is known of what it is.
struct Redirected<'a> {
    binding: &'a Binding,
    state: Arc<ListenerState>,
    peer_addr: SocketAddr,
    original_dst: SocketAddr,
    /// Whose name the connection goes on in.
    transparent_source: Option<IpAddr>,
}

/// The chain of a connection and what it takes to serve it there; `None`: it is closed.
pub(super) async fn establish(binding: &Binding, accepted: Accepted) -> Option<Established> {
    let Accepted { io, peer_addr, local_addr } = accepted;
    let state = binding.state.load_full();
    let found = original_dst(&io, local_addr, state.config.port);
    let Some(found) = found.filter(|found| !is_our_own(binding, found.address.port())) else {
        binding.refused(1, "not redirected");
        return None;
    };
    let original_dst = found.address;
    // A call of the workload's own service was redirected, and is seen to come from us.
    let transparent_source = found.is_untouched.then(|| peer_addr.ip());
    let redirected = Redirected { binding, state, peer_addr, original_dst, transparent_source };
    let chains = Arc::clone(redirected.state.chains.destination(original_dst));
    if let Some(chain) = chains.only() {
        return Some(redirected.established(io, Arc::clone(chain), Vec::new()));
    }
    if chains.is_tls_only() {
        return redirected.secure(io, &chains, Vec::new()).await;
    }
    redirected.detect(io, &chains).await
}

/// A port of ours as destination would be a connection to ourselves, for ever.
fn is_our_own(binding: &Binding, port: u16) -> bool {
    let snapshot = binding.shared.engine.snapshot();
    snapshot.listeners.iter().any(|it| it.config.kind.is_redirected() && it.config.port == port)
}

impl Redirected<'_> {
    async fn detect(&self, mut io: Io, chains: &DestinationChains) -> Option<Established> {
        let limits = &self.binding.shared.engine.limits;
        let deadline = Instant::now() + limits.header_timeout;
        let mut bytes = Vec::new();
        let mut early = None;
        let first = match timeout(SILENCE, read_first(&mut io, &mut bytes)).await {
            Ok(first) => first?,
            Err(_silence) => {
                if let Some((proxy, chain)) = self.may_speak_first(chains) {
                    let opened = self.open_early(proxy, &chain).await?;
                    let mut opened = Box::new(opened);
                    let reading = read_first(&mut io, &mut bytes);
                    tokio::select! {
                        first = timeout_at(deadline, reading) => {
                            early = Some(opened);
                            first.unwrap_or(Some(FirstBytes::Other))?
                        }
                        () = opened.spoken() => {
                            early = Some(opened);
                            FirstBytes::Other
                        }
                    }
                } else {
                    let reading = read_first(&mut io, &mut bytes);
                    timeout_at(deadline, reading).await.unwrap_or(Some(FirstBytes::Other))?
                }
            }
        };
        match first {
            FirstBytes::Tls => self.secure(io, chains, bytes).await,
            FirstBytes::Http => {
                let chain = self.chain(chains.http())?;
                Some(self.established(io, chain, bytes))
            }
            FirstBytes::Other => {
                let chain = self.chain(chains.any())?;
                let established = self.established(io, chain, bytes);
                Some(Established { early, ..established })
            }
        }
    }

    /// Where to connect to see whether the server speaks first: only where clear text is served, and
    /// where what is known of the client is enough to let it in.
    fn may_speak_first(&self, chains: &DestinationChains) -> Option<(TcpProxy, Arc<Chain>)> {
        let chain = chains.any()?;
        let NetworkFilter::TcpProxy { clusters, idle_timeout } = &chain.config.network else {
            return None;
        };
        let info = self.info(None, None);
        let snapshot = self.binding.shared.engine.snapshot();
        let filters = snapshot.filters_for(info.direction);
        let is_clear = matches!(chain.tls, ChainTls::None);
        let is_let_in = is_clear && filters.on_connection(&info).is_ok();
        let (clusters, idle_timeout) = (Arc::clone(clusters), *idle_timeout);
        let proxy = TcpProxy { clusters, idle_timeout, hello: Vec::new() };
        is_let_in.then(|| (proxy, Arc::clone(chain)))
    }

    async fn open_early(&self, proxy: TcpProxy, chain: &Chain) -> Option<Early> {
        let engine = &self.binding.shared.engine;
        Early::open(engine, self.info(None, None), &proxy, &chain.drain_signal()).await
    }

    /// ClientHello, chain, and the handshake where that is ours to do.
    async fn secure(
        &self,
        io: Io,
        chains: &DestinationChains,
        bytes: Vec<u8>,
    ) -> Option<Established> {
        let limit = self.binding.shared.engine.limits.handshake_timeout;
        let outcome = timeout(limit, self.handshake(io, chains, bytes)).await;
        outcome.unwrap_or(Err(HandshakeError::Timeout)).unwrap_or_else(|error| {
            let cause: &(dyn std::error::Error + 'static) = &error;
            tracing::debug!(listener = %self.binding.name(), cause, "handshake failed");
            self.binding.metrics.handshake_error(error.reason());
            None
        })
    }

    async fn handshake(
        &self,
        mut io: Io,
        chains: &DestinationChains,
        bytes: Vec<u8>,
    ) -> Result<Option<Established>, HandshakeError> {
        let hello = Hello::read_on(&mut io, bytes).await?;
        let server_name = hello.server_name.clone();
        let selected = chains.tls(hello.mesh_offer(), server_name.as_deref());
        let Some(chain) = self.chain(selected) else { return Ok(None) };
        match &chain.tls {
            ChainTls::None => {
                let info = self.info(server_name, None);
                Ok(Some(Established { io, info, chain, hello: hello.bytes, early: None }))
            }
            ChainTls::Unavailable(why) => Err(HandshakeError::Unavailable(Arc::clone(why))),
            ChainTls::Terminate(config) => {
                let overload = &self.binding.shared.overload;
                let (io, tls) = tls::terminate(io, hello, &chain, config, overload).await?;
                let info = self.info(server_name, Some(tls));
                Ok(Some(Established { io, info, chain, hello: Vec::new(), early: None }))
            }
        }
    }

    fn chain(&self, selected: Option<&Arc<Chain>>) -> Option<Arc<Chain>> {
        if selected.is_none() {
            record_no_chain(&self.binding.shared.engine, self.info(None, None));
        }
        selected.cloned()
    }

    fn established(&self, io: Io, chain: Arc<Chain>, hello: Vec<u8>) -> Established {
        Established { io, info: self.info(None, None), chain, hello, early: None }
    }

    fn info(&self, server_name: Option<Arc<str>>, tls: Option<TlsInfo>) -> Arc<ConnectionInfo> {
        let peer = tls.as_ref().and_then(|tls| tls.peer.as_ref());
        let peers = &self.binding.shared.engine.telemetry.peers;
        let peer_workload = peer.and_then(|peer| peers.workload(peer));
        let info = self.state.info(self.peer_addr, self.original_dst, server_name, tls);
        let transparent_source = self.transparent_source;
        match Arc::try_unwrap(info) {
            Ok(info) => Arc::new(ConnectionInfo { peer_workload, transparent_source, ..info }),
            Err(info) => info,
        }
    }
}

/// Reads until it is clear what begins. A client that ends before that has said what it is to say;
/// `None`: the connection is broken.
async fn read_first(io: &mut Io, bytes: &mut Vec<u8>) -> Option<FirstBytes> {
    loop {
        if let Some(first) = classify(bytes) {
            return Some(first);
        }
        bytes.reserve(READ_BYTES);
        if io.read_buf(bytes).await.ok()? == 0 {
            return Some(FirstBytes::Other);
        }
    }
}
