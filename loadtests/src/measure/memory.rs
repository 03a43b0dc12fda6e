//! Memory of a proxy that has its configuration and was asked for nothing yet.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{Figure, Sample, cost::mebibytes};
use crate::peer::{Running, page};

/// Memory is asked for this often while it is given back.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// So often in a row it has to be no less than before, to be called at rest.
const AT_REST: usize = 4;
/// Freed memory goes back to the system within ten seconds or so.
const GIVEN_BACK: Duration = Duration::from_secs(30);
/// Less than this is no change.
const NOISE: f64 = 0.1;

/// One sample.
pub async fn take(running: &Running) -> anyhow::Result<Sample> {
    let mut sample = Sample::default();
    let deadline = Instant::now() + GIVEN_BACK;
    let (mut least, mut unmoved) = (resident(running)?, 0);
    while unmoved < AT_REST && Instant::now() < deadline {
        tokio::time::sleep(ASK_AGAIN).await;
        let now = resident(running)?;
        unmoved = if now < least - NOISE { 0 } else { unmoved + 1 };
        least = least.min(now);
    }
    sample.set(Figure::ResidentAtRest, least);
    // Only now: to be asked costs memory.
    knows_all(running).await?;
    Ok(sample)
}

fn resident(running: &Running) -> anyhow::Result<f64> {
    Ok(mebibytes(running.account.resident_bytes()?))
}

/// Whether the last of the services is there.
async fn knows_all(running: &Running) -> anyhow::Result<()> {
    let Some(last) = running.case.proxy.services.checked_sub(1) else { return Ok(()) };
    let clusters = page(&crate::load::plain(running.admin()), "/clusters").await?;
    let host = format!("service-{last}.shop.svc.cluster.local");
    ensure!(clusters.contains(&host), "{} does not know {host}", running.peer);
    Ok(())
}
