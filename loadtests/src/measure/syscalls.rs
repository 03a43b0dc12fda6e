//! System calls per request, counted in a short run of their own: being counted slows a proxy down.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::cost::{all_right, units};
use crate::{
    load::{Load, Pace},
    peer::Running,
};

const WARM_UP: Duration = Duration::from_millis(500);
const COUNTED: Duration = Duration::from_secs(1);

/// A slow rate: what is counted has to be kept up with.
const RATE: f64 = 500.0;

/// What counts.
#[derive(Debug, Clone, Copy)]
enum Tool {
    Perf,
    Strace,
}

/// System calls per unit.
///
/// # Errors
/// When neither perf nor strace can be used.
pub async fn syscalls(running: &Running) -> anyhow::Result<f64> {
    let reload = running.case.load.rate.clamp(1.0, RATE);
    let rate = if running.case.load.rate > 0.0 { reload } else { RATE };
    let mut reasons = Vec::new();
    for tool in [Tool::Perf, Tool::Strace] {
        let load = Load::start(&running.work, Pace::Open { rate, poisson: false }).await;
        tokio::time::sleep(WARM_UP).await;
        let calls = count(running, tool, &load).await;
        let tally = load.stop().await;
        all_right(running, &tally)?;
        match calls {
            Ok(calls) => return Ok(calls),
            Err(error) => reasons.push(format!("{tool:?}: {error:#}")),
        }
    }
    bail!("{}", reasons.join("; "))
}

/// Attaches, counts for a while, detaches. Calls of the moments of attaching and detaching are
/// counted without their requests, which is less than a thousandth.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
async fn count(running: &Running, tool: Tool, load: &Load) -> anyhow::Result<f64> {
    let out = running.settings.dir.join("syscalls.txt");
    let pids = running.account.processes().iter().map(Pid::to_string).collect::<Vec<_>>();
    let mut child = tool.command(&pids, &out).spawn().with_context(|| format!("start {tool:?}"))?;
    // Attaching takes a moment, in which a load is not counted.
    tokio::time::sleep(WARM_UP).await;
    if let Some(status) = child.try_wait()? {
        bail!("ended with {status}");
    }
    load.take();
    tokio::time::sleep(COUNTED).await;
    end(&mut child)?;
    let tally = load.take();
    let text = fs::read_to_string(&out)?;
    let calls = tool.total(&text).with_context(|| format!("no count in {text:?}"))?;
    let all = (WARM_UP + COUNTED).as_secs_f64() / COUNTED.as_secs_f64();
    Ok(calls as f64 / (units(&running.case, &tally) * all))
}

fn end(child: &mut Child) -> anyhow::Result<()> {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    child.wait()?;
    Ok(())
}

impl Tool {
    fn command(self, pids: &[String], out: &std::path::Path) -> Command {
        let mut command = match self {
            Self::Perf => Command::new("perf"),
            Self::Strace => Command::new("strace"),
        };
        match self {
            Self::Perf => {
                command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-o"]);
                command.arg(out).arg("-p").arg(pids.join(","));
            }
            Self::Strace => {
                command.args(["-c", "-f", "-o"]).arg(out);
                command.args(pids.iter().flat_map(|pid| ["-p", pid]));
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn total(self, text: &str) -> Option<u64> {
        match self {
            Self::Perf => {
                let line = text.lines().find(|line| line.contains("sys_enter"))?;
                line.split(',').next()?.parse().ok()
            }
            // % time, seconds, microseconds per call, calls, (errors,) "total"
            Self::Strace => {
                let line = text.lines().find(|line| line.trim_end().ends_with("total"))?;
                line.split_whitespace().nth(3)?.parse().ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_both_tools_are_read() {
        let perf = "# started\n\n4021,,raw_syscalls:sys_enter,1500,100.00,,\n";
        assert_eq!(Tool::Perf.total(perf), Some(4021));
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ------\n\
                      100.00    0.012345           2      5001        12 total\n";
        assert_eq!(Tool::Strace.total(strace), Some(5001));
        assert_eq!(Tool::Perf.total("<not supported>,,raw_syscalls:sys_enter"), None);
    }
}
