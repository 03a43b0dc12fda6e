//! Memory of connections that do nothing: opened, used once, left alone, closed.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{Figure, Sample, Timing, cost::mebibytes};
use crate::{
    limit,
    load::{Client, Failure},
    peer::Running,
};

/// Opened at once: few, so that the proxy's pool of upstream connections stays small.
const OPENERS: usize = 16;

/// After the last connection was opened, before memory is looked at.
const SETTLE: Duration = Duration::from_secs(1);

/// Memory is asked for this often while it is given back.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Within this of the start, all of it was given back.
const BACK: f64 = 1.05;

/// One sample.
pub async fn take(running: &Running, timing: Timing) -> anyhow::Result<Sample> {
    let start = running.resident_at_start;
    let count = running.case.load.connections.min(limit::connections());
    let connections = open(running, count).await.map_err(|f| anyhow::anyhow!("{f}"))?;
    tokio::time::sleep(SETTLE).await;
    let open = running.account.resident_bytes()?;
    let mut sample = Sample::default();
    sample.set(Figure::Resident, mebibytes(open));
    sample.set(Figure::IdleConnection, kibibytes_each(open.saturating_sub(start), count));
    drop(connections);
    let after = given_back(running, (timing.seconds * 10).min(Duration::from_secs(60))).await?;
    sample.set(Figure::ResidentAfterClose, mebibytes(after) / mebibytes(start));
    Ok(sample)
}

async fn open(running: &Running, count: usize) -> Result<Vec<Client>, Failure> {
    let connections = Rc::new(RefCell::new(Vec::with_capacity(count)));
    let mut openers = JoinSet::new();
    for number in 0..OPENERS {
        let (work, connections) = (Rc::clone(&running.work), Rc::clone(&connections));
        let share = count / OPENERS + usize::from(number < count % OPENERS);
        openers.spawn_local(async move {
            let mut random = fastrand::Rng::with_seed(number as u64);
            for _ in 0..share {
                let mut client = Client::open(&work).await?;
                client.exchange(&work, &mut random).await?;
                connections.borrow_mut().push(client);
            }
            Ok(())
        });
    }
    while let Some(opener) = openers.join_next().await {
        opener.map_err(|error| Failure::broken("open connections", error))??;
    }
    Ok(connections.take())
}

/// Waits for memory to be given back; what is resident then.
async fn given_back(running: &Running, patience: Duration) -> anyhow::Result<u64> {
    let deadline = Instant::now() + patience;
    let start = mebibytes(running.resident_at_start);
    loop {
        let resident = running.account.resident_bytes()?;
        if mebibytes(resident) <= start * BACK || Instant::now() > deadline {
            return Ok(resident);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
fn kibibytes_each(bytes: u64, count: usize) -> f64 {
    bytes as f64 / 1024.0 / count as f64
}
