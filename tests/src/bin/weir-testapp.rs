//! The application of the tests in a cluster: `backend::echo` in a pod. It tells which version it is
//! (`VERSION`) and which pod answers (`POD_NAME`), listens on `PORT`, and ends as an application
//! should: on SIGTERM it serves for `GRACE_SECONDS` more, which is until nobody sends it new
//! connections, then it lets every connection finish what it carries.

use std::{env, time::Duration};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use weir_tests::backend::echo::Echo;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port = number("PORT", 8080)?;
    let grace = number("GRACE_SECONDS", 2)?;
    let version = env::var("VERSION").unwrap_or_else(|_| "v1".into());
    let pod = env::var("POD_NAME").unwrap_or_default();
    let mut terminated = signal(SignalKind::terminate())?;
    let echo = Echo::start_in_pod(&version, &pod, port).await;
    terminated.recv().await;
    tokio::time::sleep(Duration::from_secs(grace.into())).await;
    echo.drain().await;
    Ok(())
}

fn number(variable: &str, default: u16) -> anyhow::Result<u16> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(default),
    }
}
