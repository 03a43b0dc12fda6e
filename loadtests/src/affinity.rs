//! Which processor runs what. The proxy has one for itself, unless it is asked to have several workers; the
//! generator and the origin share another.

use std::{
    io,
    process::{Child, Command},
    thread,
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};

/// The processors of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    /// Of the load generator and the origin.
    pub generator: usize,
    /// Of the proxy, alone; the first of them where it has several workers.
    pub proxy: usize,
    /// Of each proxy, a processor for each: the generator's as well where there are no others.
    pub workers: usize,
}

impl Cpus {
    /// The first two this process may use; the same one twice where there is only one.
    pub fn allowed() -> io::Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
        let generator = cpus.next().unwrap_or(0);
        Ok(Self { generator, proxy: cpus.next().unwrap_or(generator), workers: 1 })
    }

    /// Whether the proxy has its processor for itself; if not, figures say little.
    pub fn apart(self) -> bool {
        self.of_proxy().all(|cpu| cpu != self.generator)
    }

    /// One for each worker.
    fn of_proxy(self) -> impl Iterator<Item = usize> {
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        let online = online.and_then(|online| usize::try_from(online).ok()).unwrap_or(1);
        (self.proxy..).take(self.workers).map(move |cpu| cpu % online.max(self.proxy + 1))
    }
}

/// Binds the calling thread, and what it starts from now on.
pub fn pin(cpu: usize) -> io::Result<()> {
    bind([cpu])
}

fn bind(cpus: impl IntoIterator<Item = usize>) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Starts a proxy on its processors. It inherits the binding from a thread that exists only for
/// that, so that no thread of the process ever ran elsewhere.
pub fn spawn(cpus: Cpus, command: &mut Command) -> io::Result<Child> {
    thread::scope(|scope| {
        let starter = scope.spawn(|| {
            bind(cpus.of_proxy())?;
            command.spawn()
        });
        starter.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
    })
}
