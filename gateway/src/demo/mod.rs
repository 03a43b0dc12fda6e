//! `weir-gateway demo`: the quickstart example with servers behind it, and what to try.

#![expect(clippy::print_stdout, reason = "a command that prints what to try")]

use std::{net::SocketAddr, process::ExitCode, thread, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
    time::sleep,
};

mod echo;

use self::echo::Echo;
use crate::{
    app,
    bootstrap::{Bootstrap, ConfigSource},
};

/// What `examples/quickstart/services.yaml` routes to.
const UPSTREAMS: [(&str, &str, u16); 3] =
    [("web", "v1", 9001), ("web", "v2", 9002), ("api", "v1", 9003)];

/// Runs the gateway until it is told to end, with the example's upstreams.
///
/// # Errors
/// An upstream's port is taken, or whatever keeps a gateway from starting.
pub fn run(bootstrap: Bootstrap) -> anyhow::Result<ExitCode> {
    let dir = match &bootstrap.source {
        ConfigSource::Files { paths, .. } => {
            paths.iter().map(|path| path.display().to_string()).collect()
        }
        ConfigSource::Discovery(_) => String::new(),
    };
    let admin = bootstrap.admin;
    let mut upstreams = Vec::new();
    for (name, version, port) in UPSTREAMS {
        let upstream = Echo::bind(name, version, port).with_context(|| {
            format!("bind port {port} for the demo's {name} {version}; is another demo running?")
        })?;
        upstreams.push(upstream);
    }
    let runtime =
        Builder::new_current_thread().enable_all().build().context("start the demo's runtime")?;
    // Not joined: it ends with the process, as the gateway does.
    thread::Builder::new()
        .name("demo".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::join!(echo::serve(upstreams), async {
                    until_ready(admin).await;
                    println!("{}", what_to_try(&dir, admin));
                })
            })
        })
        .context("start the demo's upstreams")?;
    app::run(bootstrap)
}

/// Asks the admin port; for ever, because the gateway's log says why it is not ready.
async fn until_ready(admin: SocketAddr) {
    while !is_ready(admin).await.unwrap_or(false) {
        sleep(Duration::from_millis(50)).await;
    }
}

async fn is_ready(admin: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.0 200"))
}

fn what_to_try(dir: &str, admin: SocketAddr) -> String {
    format!(
        "\
The gateway serves http://localhost:8080 and https://localhost:8443 as {dir} says.
Behind it are three servers that tell what they are asked: web v1 and v2, api.

A canary: nine in ten answers are of v1, one is of v2
  for i in $(seq 20); do curl -s localhost:8080/ | grep version; done
Testers always get v2
  curl -H 'x-user: tester' localhost:8080/
Another path goes to another server, which sees /users
  curl localhost:8080/api/users
A redirect
  curl -i localhost:8080/old
HTTPS, HTTP/2
  curl --cacert {dir}/ca.pem https://localhost:8443/
A page that needs a token: without, and with
  curl -i localhost:8080/private
  curl -H \"Authorization: Bearer $(cat {dir}/token.txt)\" localhost:8080/private
Change it while it runs, and ask again
  sed -i 's/weight: 90/weight: 50/; s/weight: 10/weight: 50/' {dir}/routes.yaml
What it is doing
  curl {admin}/clusters
  curl -s {admin}/stats/prometheus | grep istio_requests_total

Ctrl-C ends it."
    )
}
