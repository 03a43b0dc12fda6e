//! The origin: what the proxies forward to. It answers from memory and knows nothing but what the case
//! needs, so that it is never the limit; and it checks what arrives.

mod echo;
mod http1;
mod http2;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::Context as _;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::oneshot,
    task::LocalSet,
};
use tokio_rustls::TlsAcceptor;
use weir_tests::net::Owner;

pub use http2::send_all;

use crate::{
    affinity,
    certs::Credentials,
    lan::{self, Lan},
    load::Place,
    scenario::{Case, Listener, Protocol, Upstream},
};

/// A running origin. It ends when dropped.
#[derive(Debug)]
pub struct Origin {
    /// All on the same port.
    pub addresses: Vec<SocketAddr>,
    /// Where it is asked for without a proxy.
    pub place: Place,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How connections are served.
#[derive(Clone)]
enum Service {
    Http1(Arc<http1::Answer>),
    TlsHttp1(TlsAcceptor, Arc<http1::Answer>),
    H2c(Arc<http2::Answer>),
    Echo,
}

impl Origin {
    /// Starts an origin for a case, on a thread of its own bound to the generator's processor. `lan`:
    /// it is the called workload there, else it is on the loopback interface.
    pub fn start(
        case: &Case,
        credentials: &Credentials,
        cpu: usize,
        lan: Option<&Lan>,
    ) -> anyhow::Result<Self> {
        let service = Service::of(case, credentials)?;
        let listeners = match lan {
            Some(lan) => lan
                .server
                .within(Owner::ROOT, || Ok(vec![bind((lan::SERVER, lan::SERVER_PORT).into())?])),
            None => listen(case.proxy.endpoints),
        };
        let listeners = listeners.context("listen for the origin")?;
        let addresses = listeners.iter().map(std::net::TcpListener::local_addr);
        let addresses = addresses.collect::<io::Result<Vec<_>>>()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("origin".into()).spawn(move || {
            // The figures are still right without, only less steady; `run` has said so by now.
            let _ = affinity::pin(cpu);
            let local = LocalSet::new();
            local.block_on(&runtime, async {
                for listener in listeners {
                    tokio::task::spawn_local(accept(listener, service.clone()));
                }
                let _ = stopped.await;
            });
        })?;
        let namespace = lan.map(|lan| Rc::clone(&lan.client));
        let place = Place { addr: addresses[0], namespace };
        Ok(Self { addresses, place, stop: Some(stop), thread: Some(thread) })
    }

    pub fn port(&self) -> u16 {
        self.addresses[0].port()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the origin has already failed the run: it answers nothing any more.
            let _ = thread.join();
        }
    }
}

impl Service {
    fn of(case: &Case, credentials: &Credentials) -> anyhow::Result<Self> {
        let http1 = || Arc::new(http1::Answer::new(case.load.answer_bytes));
        Ok(match (case.proxy.listener, case.load.protocol) {
            (Listener::Passthrough, _) => {
                let config = Arc::new(credentials.server_config()?);
                Self::TlsHttp1(TlsAcceptor::from(config), http1())
            }
            (_, Protocol::Tcp) => Self::Echo,
            _ if case.proxy.upstream == Upstream::H2c => {
                Self::H2c(Arc::new(http2::Answer::new(&case.load)))
            }
            _ => Self::Http1(http1()),
        })
    }

    async fn serve(self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        match self {
            Self::Http1(answer) => http1::serve(stream, &answer).await,
            Self::TlsHttp1(acceptor, answer) => {
                let stream = acceptor.accept(stream).await?;
                http1::serve(stream, &answer).await
            }
            Self::H2c(answer) => http2::serve(stream, answer).await.map_err(io::Error::other),
            Self::Echo => echo::serve(stream).await,
        }
    }
}

async fn accept(listener: std::net::TcpListener, service: Service) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        // Out of files, for example: what is open goes on, and makes room when it ends.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let service = service.clone();
        tokio::task::spawn_local(async move {
            // A connection that breaks is seen, counted and judged on the client's side.
            let _ = service.serve(stream).await;
        });
    }
}

/// As many loopback addresses as wanted, all with one port.
fn listen(count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let first = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let port = first.local_addr()?.port();
    let mut listeners = vec![first];
    for n in 1..count {
        let n = u32::try_from(n).map_err(io::Error::other)?;
        // 127.1.0.1 and up, without the last octets 0 and 255.
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + n / 254 * 256 + n % 254);
        listeners.push(bind(SocketAddr::from((ip, port)))?);
    }
    Ok(listeners)
}

fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::STREAM.nonblocking(),
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
