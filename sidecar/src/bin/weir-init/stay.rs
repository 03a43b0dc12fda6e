//! A container that stays, and can do nothing any more: what comes after it in a pod need not wait
//! until the kubelet has noticed that it ended.

use std::io;

use nix::{
    errno::Errno,
    sys::signal::{SigSet, Signal},
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

/// What could not be done about the process itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("wait for the signal to end")]
    Signal(#[source] Errno),
    #[error("give up the privileges")]
    Privileges(#[source] io::Error),
}

/// The signals that end the process, as they come.
#[derive(Debug)]
pub struct End(SigSet);

impl End {
    /// Keeps these signals until they are waited for. The first process of a container gets no other:
    /// what would end it by default is not delivered.
    pub fn expect() -> Result<Self, Error> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        signals.thread_block().map_err(Error::Signal)?;
        Ok(Self(signals))
    }

    /// Waits until one has come.
    pub fn wait(self) -> Result<(), Error> {
        self.0.wait().map(drop).map_err(Error::Signal)
    }
}

/// Gives up every capability of the calling thread, which is the only one, and the way to get any back:
/// no program that is started from here has more than nothing, whoever owns its file.
pub fn give_up_privileges() -> Result<(), Error> {
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    let done = set_no_new_privs(true).and_then(|()| set_capabilities(None, none));
    done.map_err(|error| Error::Privileges(error.into()))
}
