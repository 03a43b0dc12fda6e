//! Redirected connections, from where they were going to the chain that serves them.
//!
//! Where the destination alone decides, nothing is read. Else the first bytes do; a client that says
//! nothing for [`SILENCE`] may be one that waits for the server to speak, so the server is connected to
//! then, and whoever speaks first decides. An HTTP client that was only slow is served as such.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead as _, ReadBuf},
    time::{Instant, timeout, timeout_at},
};
use weir_config::model::listener::NetworkFilter;

use super::{
    ListenerState,
    destination::DestinationChains,
    filter_chain::{Chain, ChainTls},
    first_bytes::{FirstBytes, classify, classify_bytes, is_h2},
    original_dst::original_dst,
    serve::{Accepted, Binding, Established, record_no_chain},
    tls::{self, HandshakeError, Hello},
};
use crate::{
    connection::{ConnectionInfo, TlsInfo},
    io::Io,
    tcp::{Opened, TcpProxy, peer_exchange},
    telemetry::peer_metadata::{Described, PEER_EXCHANGE},
};

/// After this without a word of the client, the server is asked whether it speaks first.
const SILENCE: Duration = Duration::from_millis(200);
/// What ALPN calls HTTP/2.
const H2: &[u8; 2] = b"h2";
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
    /// Who the client has shown to be before, where it came through a tunnel (HBONE).
    known: Option<TlsInfo>,
}

/// A connection that came through a tunnel.
pub(super) struct Inner {
    pub(super) io: Io,
    pub(super) peer_addr: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Of the tunnel.
    pub(super) tls: TlsInfo,
}

/// The same as [`establish`], for a connection that came through a tunnel, and of which is known who
/// makes it: mutual TLS is behind it.
pub(super) async fn establish_inner(
    binding: &Binding,
    state: Arc<ListenerState>,
    inner: Inner,
) -> Option<Established> {
    let Inner { io, peer_addr, destination, tls } = inner;
    let chains = Arc::clone(state.chains.destination(destination));
    let transparent_source = state.config.is_transparent.then(|| peer_addr.ip());
    // What the tunnel speaks is nothing its inside has agreed on.
    let known = Some(TlsInfo { alpn: None, ..tls });
    let original_dst = destination;
    let redirected =
        Redirected { binding, state, peer_addr, original_dst, transparent_source, known };
    let is_http = |chain: Option<&Arc<Chain>>| {
        chain.is_some_and(|chain| matches!(chain.config.network, NetworkFilter::Http { .. }))
    };
    if is_http(chains.known_any()) || is_http(chains.known_http()) {
        return redirected.detect(io, &chains).await;
    }
    let chain = redirected.chain(chains.known_any())?;
    Some(redirected.established(io, chain, Vec::new()))
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
    if binding.shared.engine.redirection.is_test(original_dst, peer_addr) {
        return None;
    }
    // A call of the workload's own service was redirected, and is seen to come from us.
    let transparent_source = found.is_untouched.then(|| peer_addr.ip());
    let known = None;
    let redirected =
        Redirected { binding, state, peer_addr, original_dst, transparent_source, known };
    let chains = Arc::clone(redirected.state.chains.destination(original_dst));
    if let Some(chain) = chains.only() {
        return Some(redirected.established(io, Arc::clone(chain), Vec::new()));
    }
    if chains.is_tls_only() {
        return Box::pin(redirected.secure(io, &chains, Vec::new())).await;
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
        let classify: fn(&[u8]) -> Option<FirstBytes> =
            if self.is_bytes_only(chains) { classify_bytes } else { classify };
        let mut bytes = Vec::new();
        let mut early = None;
        let first = match timeout(SILENCE, read_first(&mut io, &mut bytes, classify)).await {
            Ok(first) => first?,
            Err(_silence) => {
                if let Some((proxy, chain)) = self.may_speak_first(chains) {
                    let opened = self.open_early(proxy, &chain).await?;
                    let mut opened = Box::new(opened);
                    let reading = read_first(&mut io, &mut bytes, classify);
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
                    let reading = read_first(&mut io, &mut bytes, classify);
                    timeout_at(deadline, reading).await.unwrap_or(Some(FirstBytes::Other))?
                }
            }
        };
        match first {
            // Inside a tunnel it is the application's. Boxed, so that a client that says nothing does not
            // hold the room for it.
            FirstBytes::Tls if self.known.is_none() => {
                Box::pin(self.secure(io, chains, bytes)).await
            }
            FirstBytes::Http => {
                let chain = self.chain(self.http(chains))?;
                Some(self.established(io, chain, bytes))
            }
            FirstBytes::Tls | FirstBytes::Other => {
                let chain = self.chain(self.any(chains))?;
                let established = self.established(io, chain, bytes);
                Some(Established { early, ..established })
            }
        }
    }

    /// Requests are not told from anything else: a port of TCP.
    fn is_bytes_only(&self, chains: &DestinationChains) -> bool {
        let (Some(http), Some(any)) = (self.http(chains), self.any(chains)) else { return false };
        Arc::ptr_eq(http, any) && matches!(any.config.network, NetworkFilter::TcpProxy { .. })
    }

    /// Where to connect to see whether the server speaks first: only where clear text is served, and
    /// where what is known of the client is enough to let it in.
    fn may_speak_first(&self, chains: &DestinationChains) -> Option<(TcpProxy, Arc<Chain>)> {
        let chain = self.any(chains)?;
        let NetworkFilter::TcpProxy { clusters, idle_timeout } = &chain.config.network else {
            return None;
        };
        let info = self.info(None, self.known.clone());
        let snapshot = self.binding.shared.engine.snapshot();
        let filters = snapshot.filters_for(info.direction);
        let is_clear = self.known.is_some() || matches!(chain.tls, ChainTls::None);
        let is_let_in = is_clear && filters.on_connection(&info).is_ok();
        let (clusters, idle_timeout) = (Arc::clone(clusters), *idle_timeout);
        let proxy = TcpProxy { clusters, idle_timeout, hello: Vec::new() };
        is_let_in.then(|| (proxy, Arc::clone(chain)))
    }

    async fn open_early(&self, proxy: TcpProxy, chain: &Chain) -> Option<Opened> {
        let engine = &self.binding.shared.engine;
        Opened::open(engine, self.info(None, self.known.clone()), &proxy, &chain.drain_signal())
            .await
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
                let (io, said) = self.exchanged(io, &tls).await?;
                let info = self.info(server_name, Some(tls));
                self.describe(&info, said);
                Ok(Some(Established { io, info, chain, hello: Vec::new(), early: None }))
            }
        }
    }

    /// For a request.
    fn http<'a>(&self, chains: &'a DestinationChains) -> Option<&'a Arc<Chain>> {
        match &self.known {
            Some(_) => chains.known_http(),
            None => chains.http(),
        }
    }

    /// For what is neither a request nor TLS.
    fn any<'a>(&self, chains: &'a DestinationChains) -> Option<&'a Arc<Chain>> {
        match &self.known {
            Some(_) => chains.known_any(),
            None => chains.any(),
        }
    }

    fn chain(&self, selected: Option<&Arc<Chain>>) -> Option<Arc<Chain>> {
        if selected.is_none() {
            record_no_chain(&self.binding.shared.engine, self.info(None, self.known.clone()));
        }
        selected.cloned()
    }

    fn established(&self, io: Io, chain: Arc<Chain>, hello: Vec<u8>) -> Established {
        let mut known = self.known.clone();
        if let Some(tls) = known.as_mut().filter(|_| is_h2(&hello)) {
            tls.alpn = Some(H2.as_slice().into());
        }
        Established { io, info: self.info(None, known), chain, hello, early: None }
    }

    /// What a client says of itself that was promised to be told the same.
    async fn exchanged(
        &self,
        io: Io,
        tls: &TlsInfo,
    ) -> Result<(Io, Option<Described>), HandshakeError> {
        if tls.alpn.as_deref() != Some(PEER_EXCHANGE) {
            return Ok((io, None));
        }
        Ok(peer_exchange::answer(io, &self.binding.shared.engine.telemetry.own).await?)
    }

    fn describe(&self, info: &ConnectionInfo, said: Option<Described>) {
        if let Some(said) = said {
            self.binding.shared.engine.telemetry.peers.describe(&info.peer, &said);
        }
    }

    fn info(&self, server_name: Option<Arc<str>>, tls: Option<TlsInfo>) -> Arc<ConnectionInfo> {
        let peer = tls.as_ref().and_then(|tls| tls.peer.as_ref());
        let peers = &self.binding.shared.engine.telemetry.peers;
        let identified = peer.and_then(|peer| peers.workload(peer));
        let mut info = self.state.info(self.peer_addr, self.original_dst, server_name, tls);
        if let Some(info) = Arc::get_mut(&mut info) {
            info.peer.identified = identified;
            info.transparent_source = self.transparent_source;
        }
        info
    }
}

/// Reads until it is clear what begins. A client that ends before that has said what it is to say;
/// `None`: the connection is broken.
async fn read_first(
    io: &mut Io,
    bytes: &mut Vec<u8>,
    classify: fn(&[u8]) -> Option<FirstBytes>,
) -> Option<FirstBytes> {
    loop {
        if let Some(first) = classify(bytes) {
            return Some(first);
        }
        if poll_fn(|cx| poll_read_into(cx, io, bytes)).await.ok()? == 0 {
            return Some(FirstBytes::Other);
        }
    }
}

/// Adds what is there to `bytes`, and says how much. Who waits for something has no buffer.
fn poll_read_into(
    cx: &mut Context<'_>,
    io: &mut Io,
    bytes: &mut Vec<u8>,
) -> Poll<io::Result<usize>> {
    let mut room = [const { MaybeUninit::uninit() }; READ_BYTES];
    let mut buf = ReadBuf::uninit(&mut room);
    ready!(Pin::new(io).poll_read(cx, &mut buf))?;
    bytes.extend_from_slice(buf.filled());
    Poll::Ready(Ok(buf.filled().len()))
}
