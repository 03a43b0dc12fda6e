//! What the operating system says of this process, under the names every Prometheus client uses.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::exposition::{Family, describe};

const CPU: Family =
    Family::counter("process_cpu_seconds_total", "Processor time spent in user and system mode.");
const MEMORY: Family = Family::gauge("process_resident_memory_bytes", "Resident memory.");
const OPEN_FILES: Family = Family::gauge("process_open_fds", "Open file descriptors.");
const MAX_FILES: Family = Family::gauge("process_max_fds", "Limit of open file descriptors.");
const THREADS: Family = Family::gauge("process_threads", "Threads.");
const STARTED: Family = Family::gauge("process_start_time_seconds", "When the process started.");

/// Linux counts processor time in hundredths of a second for user space, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self` at each scrape; a family that cannot be read is left out.
#[derive(Debug)]
pub struct ProcessMetrics {
    families: Vec<Desc>,
    started: f64,
}

impl ProcessMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let families = describe(&[CPU, MEMORY, OPEN_FILES, MAX_FILES, THREADS, STARTED])?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { families, started: now.as_secs_f64() })
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stat = Stat::read();
        let values = [
            (CPU, stat.as_ref().map(|stat| stat.cpu_seconds)),
            (MEMORY, resident_bytes()),
            (OPEN_FILES, open_files()),
            (MAX_FILES, max_files()),
            (THREADS, stat.as_ref().map(|stat| stat.threads)),
            (STARTED, Some(self.started)),
        ];
        values.into_iter().filter_map(|(family, value)| Some(single(family, value?))).collect()
    }
}

/// Of `/proc/self/stat`.
struct Stat {
    cpu_seconds: f64,
    threads: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold spaces; proc(5) counts the fields after it from 3.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (number(14)? + number(15)?) / TICKS_PER_SECOND,
            threads: number(20)?,
        })
    }
}

fn resident_bytes() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

fn open_files() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

fn max_files() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn single(described: Family, value: f64) -> MetricFamily {
    let mut family = described.empty();
    family.set_metric(vec![described.sample(Vec::new(), value)]);
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_has_every_number() {
        let metrics = ProcessMetrics::new().unwrap();
        let families = metrics.collect();
        assert_eq!(families.len(), 6);
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name() == name).unwrap();
            family.get_metric()[0].get_gauge().get_value()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_open_fds") >= 3.0);
    }
}
