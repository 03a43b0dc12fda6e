//! What a process costs, as the kernel accounts for it: processor time in nanoseconds, memory,
//! context switches; and what else happened on the machine meanwhile.

use std::{fs, io, time::Duration};

use nix::{
    time::{ClockId, clock_gettime},
    unistd::{Pid, SysconfVar, sysconf},
};

/// Processes and their descendants: a master and its workers count as one proxy, and so do both
/// sidecars of a call.
#[derive(Debug, Clone)]
pub struct Account {
    roots: Vec<Pid>,
}

impl Account {
    pub fn of(pids: impl IntoIterator<Item = u32>) -> Self {
        Self { roots: pids.into_iter().map(|pid| Pid::from_raw(pid.cast_signed())).collect() }
    }

    /// The load generator's and the origin's own.
    pub fn own() -> Self {
        Self { roots: vec![nix::unistd::getpid()] }
    }

    /// Processor time used so far by all threads, ended ones too, and by children that were reaped.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        let mut total = Duration::ZERO;
        for root in &self.roots {
            total += reaped_children(*root)?;
        }
        for pid in self.processes() {
            // A worker may end between being listed and being read.
            if let Ok(time) = process_time(pid) {
                total += time;
            }
        }
        Ok(total)
    }

    /// Bytes resident: all that is private to each process, and what they share counted once.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        let (mut private, mut shared) = (0, 0);
        for pid in self.processes() {
            let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
                continue;
            };
            private += kibibytes(&rollup, "Private_Clean:") + kibibytes(&rollup, "Private_Dirty:");
            let here = kibibytes(&rollup, "Shared_Clean:") + kibibytes(&rollup, "Shared_Dirty:");
            shared = shared.max(here);
        }
        match private {
            0 => Err(io::Error::other(format!("{:?} have no memory figures", self.roots))),
            private => Ok((private + shared) * 1024),
        }
    }

    /// Voluntary and involuntary switches of all threads.
    pub fn context_switches(&self) -> u64 {
        let mut total = 0;
        for pid in self.processes() {
            for task in tasks(pid) {
                let status = fs::read_to_string(format!("/proc/{pid}/task/{task}/status"));
                total += status.map_or(0, |status| {
                    field(&status, "voluntary_ctxt_switches:")
                        + field(&status, "nonvoluntary_ctxt_switches:")
                });
            }
        }
        total
    }

    /// The processes and all below them, callers first.
    pub fn processes(&self) -> Vec<Pid> {
        let mut found = self.roots.clone();
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            next += 1;
            for task in tasks(pid) {
                let path = format!("/proc/{pid}/task/{task}/children");
                let children = fs::read_to_string(path).unwrap_or_default();
                found.extend(
                    children
                        .split_whitespace()
                        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw)),
                );
            }
        }
        found
    }
}

/// The user and system time of children that ended and were waited for.
fn reaped_children(pid: Pid) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before may hold anything, also spaces and brackets.
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let tick = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok());
    let ticks = tick(13).unwrap_or(0) + tick(14).unwrap_or(0);
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100).cast_unsigned();
    Ok(Duration::from_nanos(ticks * 1_000_000_000 / per_second.max(1)))
}

/// The clock of a process counts every thread it ever had, in nanoseconds.
fn process_time(pid: Pid) -> io::Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(pid)?;
    Ok(Duration::from(clock_gettime(clock)?))
}

fn tasks(pid: Pid) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn kibibytes(rollup: &str, name: &str) -> u64 {
    field(rollup, name)
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).map_or(0, |n| n.parse().unwrap_or(0))
}

/// Time of one processor since the machine started, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTicks {
    pub total: u64,
    pub idle: u64,
    /// Taken away by the host of a virtual machine.
    pub steal: u64,
}

impl CpuTicks {
    /// Of one processor, or zeroes where the kernel does not tell.
    pub fn now(cpu: usize) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&stat, cpu)
    }

    fn parse(stat: &str, cpu: usize) -> Self {
        let name = format!("cpu{cpu} ");
        let line = stat.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_default();
        let ticks: Vec<u64> =
            line.split_whitespace().map(|tick| tick.parse().unwrap_or(0)).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
        // user nice system idle iowait irq softirq steal; guests are counted in user already.
        Self { total: ticks.iter().take(8).sum(), idle: at(3) + at(4), steal: at(7) }
    }

    /// The share of the time since `before` that was taken away.
    pub fn stolen_since(self, before: Self) -> f64 {
        share(self.steal - before.steal, self.total - before.total)
    }
}

#[expect(clippy::cast_precision_loss, reason = "ticks of a run are far below 2^52")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_own_process_grows_with_work() {
        let before = Account::own().cpu_time().unwrap();
        let mut x = 1_u64;
        while Account::own().cpu_time().unwrap() < before + Duration::from_millis(5) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(Account::own().cpu_time().unwrap() > before);
    }

    #[test]
    fn a_child_is_part_of_the_account_of_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let processes = Account::own().processes();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(processes.contains(&pid));
        assert!(!Account::own().processes().contains(&pid), "it has ended");
    }

    #[test]
    fn resident_memory_of_the_own_process_is_known() {
        assert!(Account::own().resident_bytes().unwrap() > 100_000);
    }

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let before = CpuTicks::parse("cpu  1\ncpu1 10 0 10 70 0 0 0 10 5 5\n", 1);
        let after = CpuTicks::parse("cpu  1\ncpu1 20 0 20 130 0 0 0 30 9 9\n", 1);
        assert_eq!(before, CpuTicks { total: 100, idle: 70, steal: 10 });
        assert!((after.stolen_since(before) - 0.2).abs() < 1e-9);
    }
}
