//! Whether connections of the workload come to the proxy, where it is somebody outside of the pod who
//! programs that.
//!
//! The proxy's own connections are not redirected, but for the one to this address, which the rules
//! have for nothing else. Without rules nobody is there, so the answer is known at once. The rules are
//! programmed all together or not at all: one connection speaks for the rest of them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::watch,
    time::{error::Elapsed, sleep, timeout},
};

/// On loopback, which even a pod without a route has. The same as in the redirect rules.
const TEST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15002);
/// For one connection that passes nothing but this host's kernel.
const LIMIT: Duration = Duration::from_secs(1);
/// Between two tries: at first, and at most.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is known of it.
#[derive(Debug, Default)]
pub struct Redirection {
    /// The client of the test connection that arrived last.
    arrived: watch::Sender<Option<SocketAddr>>,
    problem: Mutex<Option<String>>,
}

/// Why the test failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("connect: {0}")]
    Connect(#[from] io::Error),
    #[error("somebody else took it")]
    Elsewhere,
    #[error("no answer within {LIMIT:?}")]
    Silence(#[from] Elapsed),
}

impl Redirection {
    /// Whether a redirected connection is only the test, which ends here.
    pub fn is_test(&self, original_dst: SocketAddr, peer: SocketAddr) -> bool {
        if original_dst != TEST {
            return false;
        }
        self.arrived.send_replace(Some(peer));
        true
    }

    /// Returns once connections are redirected; tries for as long as they are not.
    pub async fn awaited(&self) {
        let mut pause = PAUSE;
        while let Err(failed) = self.test().await {
            let problem = format!(
                "the redirect rules are not programmed in this pod, which the agent of the node \
                 does: a connection to {TEST} did not come here: {failed}"
            );
            if self.set_problem(Some(problem.clone())).is_none() {
                tracing::warn!("{problem}");
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if self.set_problem(None).is_some() {
            tracing::info!("the redirect rules are programmed");
        }
    }

    /// Why nobody is served yet, if it is because of this.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The problem before.
    fn set_problem(&self, problem: Option<String>) -> Option<String> {
        let mut known = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut known, problem)
    }

    async fn test(&self) -> Result<(), Failed> {
        let mut arrived = self.arrived.subscribe();
        let stream = timeout(LIMIT, TcpStream::connect(TEST)).await??;
        let own = stream.local_addr()?;
        match timeout(LIMIT, arrived.wait_for(|peer| *peer == Some(own))).await {
            Ok(_) => Ok(()),
            Err(_nobody) => Err(Failed::Elsewhere),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_test_ends_here() {
        let redirection = Redirection::default();
        let peer = SocketAddr::from(([127, 0, 0, 1], 40000));
        assert!(!redirection.is_test(([10, 0, 0, 1], 15002).into(), peer));
        assert!(!redirection.is_test(([127, 0, 0, 1], 80).into(), peer));
        assert_eq!(*redirection.arrived.borrow(), None);
        assert!(redirection.is_test(TEST, peer));
        assert_eq!(*redirection.arrived.borrow(), Some(peer));
    }

    #[tokio::test]
    async fn without_rules_it_says_so_and_goes_on_trying() {
        let redirection = Redirection::default();
        let waited = timeout(Duration::from_millis(300), redirection.awaited()).await;
        assert!(waited.is_err());
        let problem = redirection.problem().unwrap();
        assert!(problem.contains("the agent of the node"), "{problem}");
    }
}
