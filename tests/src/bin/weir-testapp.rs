//! The application of the tests in a cluster: `backend::echo` in a pod. It tells which version it is
//! (`VERSION`) and which pod answers (`POD_NAME`), listens on `PORT` of `LISTEN`, and ends as an application
//! should: on SIGTERM it serves for `GRACE_SECONDS` more, which is until nobody sends it new
//! connections, then it lets every connection finish what it carries.
//!
//! With `TLS` it speaks TLS, with the `tls.crt` and `tls.key` of that folder. With `NEXT` it calls
//! `HOST:PORT` for every request, and answers well only what was answered well there.
//!
//! With `CALLS` it is a client too: to the end it calls `HOST:PORT` some five hundred times a second,
//! and writes what came of it, a line every second.

use std::{
    env, fs,
    io::{Write as _, stdout},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use http::Version;
use serde_json::json;
use tokio::{
    net::lookup_host,
    signal::unix::{SignalKind, signal},
};
use weir_tests::{
    backend::{echo::Echo, relay::Next},
    certs::Identity,
    client::{http::Request, load::Load},
};

/// At once, each with a pause between two of its calls.
const CALLERS: usize = 5;
const PAUSE: Duration = Duration::from_millis(10);
const ROUND: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let everywhere = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let ip = env::var("LISTEN").map_or(Ok(everywhere), |ip| ip.parse())?;
    let address = (ip, number("PORT", 8080)?).into();
    let grace = number("GRACE_SECONDS", 2)?;
    let version = env::var("VERSION").unwrap_or_else(|_| "v1".into());
    let pod = env::var("POD_NAME").unwrap_or_default();
    let mut terminated = signal(SignalKind::terminate())?;
    let echo = if let Ok(folder) = env::var("TLS") {
        let config = identity(Path::new(&folder))?.server_config(&["h2", "http/1.1"]);
        Echo::start_tls_in_pod(&version, &pod, address, config).await
    } else if let Ok(next) = env::var("NEXT") {
        Echo::start_relay_in_pod(&version, &pod, address, Next::new(&next)).await
    } else {
        Echo::start_in_pod(&version, &pod, address).await
    };
    let calls = env::var("CALLS").ok().map(|to| tokio::spawn(call(to)));
    terminated.recv().await;
    tokio::time::sleep(Duration::from_secs(grace.into())).await;
    if let Some(calls) = calls {
        calls.abort();
    }
    echo.drain().await;
    Ok(())
}

async fn call(to: String) -> anyhow::Result<()> {
    let host = to.split(':').next().unwrap_or_default();
    let request = Request::get(host, "/called");
    loop {
        let address = lookup_host(&to).await?.next().context("the host has no address")?;
        let load = Load::start_paced(address, Version::HTTP_11, CALLERS, &request, PAUSE);
        tokio::time::sleep(ROUND).await;
        let tally = load.stop().await;
        let line = json!({ "succeeded": tally.succeeded, "failures": tally.failures });
        writeln!(stdout(), "{line}")?;
    }
}

fn identity(folder: &Path) -> anyhow::Result<Identity> {
    let read = |name| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    Ok(Identity { certificate: read("tls.crt")?, key: read("tls.key")? })
}

fn number(variable: &str, default: u16) -> anyhow::Result<u16> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(default),
    }
}
