//! Which processor runs what. The proxy has one for itself; the generator and the origin share another.

use std::{
    io,
    process::{Child, Command},
    thread,
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The processors of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    /// Of the load generator and the origin.
    pub generator: usize,
    /// Of the proxy, alone.
    pub proxy: usize,
}

impl Cpus {
    /// The first two this process may use; the same one twice where there is only one.
    pub fn allowed() -> io::Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
        let generator = cpus.next().unwrap_or(0);
        Ok(Self { generator, proxy: cpus.next().unwrap_or(generator) })
    }

    /// Whether the proxy has its processor for itself; if not, figures say little.
    pub fn apart(self) -> bool {
        self.generator != self.proxy
    }
}

/// Binds the calling thread, and what it starts from now on.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Starts a process on one processor. It inherits the binding from a thread that exists only for
/// that, so that no thread of the process ever ran elsewhere.
pub fn spawn(cpu: usize, command: &mut Command) -> io::Result<Child> {
    thread::scope(|scope| {
        let starter = scope.spawn(|| {
            pin(cpu)?;
            command.spawn()
        });
        starter.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
    })
}
