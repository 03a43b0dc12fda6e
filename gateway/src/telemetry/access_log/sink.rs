//! Where lines go: buffers the workers append to and one thread that writes them out.
//!
//! A worker never waits for the file. When the writer cannot keep up, or its file or pipe takes
//! nothing, lines beyond the bounded buffers are dropped and counted.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use prometheus::IntCounter;
use tracing::{info, warn};

use super::time::TimeCache;
use crate::worker;

/// A buffer this full is written without waiting for the interval.
const FLUSH_BYTES: usize = 64 * 1024;
/// A buffer this full takes no further line.
const MAX_BYTES: usize = 512 * 1024;
/// Lines wait at most this long while more of them keep coming; the first after a pause does not wait.
const FLUSH_INTERVAL: Duration = Duration::from_millis(250);
/// How often a file is looked at for having been moved away, or tried again after an error.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// One log file, standard output or standard error, with the thread that writes it. Dropping it
/// writes what is left.
#[derive(Debug)]
pub struct Sink(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    buffers: Box<[Mutex<Buffer>]>,
    /// The writer has nothing to do and no timeout set.
    writer_sleeps: AtomicBool,
    writer: OnceLock<Thread>,
    requests: Mutex<Requests>,
    flushed: Condvar,
    counters: Counters,
}

#[derive(Debug, Clone)]
pub struct Counters {
    pub lines: IntCounter,
    pub dropped: IntCounter,
}

/// Lines of some of the workers.
#[derive(Debug, Default)]
pub struct Buffer {
    pub bytes: Vec<u8>,
    pub time: TimeCache,
    lines: u64,
}

/// What the writer is asked to do beside writing.
#[derive(Debug, Default)]
struct Requests {
    close: bool,
    reopen: bool,
    flushes_asked: u64,
    flushes_done: u64,
}

impl Sink {
    /// `buffers`: the number of worker threads.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn open(path: &str, buffers: usize, counters: Counters) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            buffers: (0..buffers.max(1)).map(|_| Mutex::default()).collect(),
            writer_sleeps: AtomicBool::new(false),
            writer: OnceLock::new(),
            requests: Mutex::default(),
            flushed: Condvar::new(),
            counters,
        });
        // The file is opened by the writer: opening a pipe waits for its reader.
        let output = Output::new(Target::of(path));
        let for_writer = Arc::clone(&shared);
        let writer = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || for_writer.write_until_closed(output))?;
        shared.writer.get_or_init(|| writer.thread().clone());
        Ok(Self(shared))
    }

    /// Lets `append` add one line to the calling thread's buffer.
    pub fn write(&self, append: impl FnOnce(&mut Buffer)) {
        let shared = &*self.0;
        // Held for the formatting of one line by this worker, or for a swap of two pointers by the
        // writer; other threads than the workers share the first buffer.
        let mut buffer = lock(worker::own(&shared.buffers));
        if buffer.bytes.len() >= MAX_BYTES {
            shared.counters.dropped.inc();
            return;
        }
        let before = buffer.bytes.len();
        append(&mut buffer);
        buffer.lines += 1;
        let full = before < FLUSH_BYTES && buffer.bytes.len() >= FLUSH_BYTES;
        drop(buffer);
        // Seen true if the writer looked at the buffer before the line was in it: both locked it.
        if full || (shared.writer_sleeps.load(Relaxed) && shared.writer_sleeps.swap(false, Relaxed))
        {
            shared.wake_writer();
        }
    }

    /// Opens the file again, after it was moved away.
    pub fn reopen(&self) {
        lock(&self.0.requests).reopen = true;
        self.0.wake_writer();
    }

    /// Waits until every line written before is in the file; at most `timeout`. Whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        let mut requests = lock(&self.0.requests);
        requests.flushes_asked += 1;
        let ours = requests.flushes_asked;
        self.0.wake_writer();
        let waiting = |requests: &mut Requests| requests.flushes_done < ours;
        let waited = self.0.flushed.wait_timeout_while(requests, timeout, waiting);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        lock(&self.0.requests).close = true;
        self.0.wake_writer();
    }
}

impl Shared {
    fn wake_writer(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// The writer thread.
    fn write_until_closed(&self, mut output: Output) {
        let mut spare = Buffer::default();
        loop {
            let (close, flush) = {
                let mut requests = lock(&self.requests);
                if std::mem::take(&mut requests.reopen) {
                    output.close();
                }
                (requests.close, requests.flushes_asked)
            };
            let wrote = self.write_buffers(&mut output, &mut spare);
            lock(&self.requests).flushes_done = flush;
            self.flushed.notify_all();
            if close {
                return;
            }
            if wrote {
                thread::park_timeout(FLUSH_INTERVAL);
            } else {
                self.writer_sleeps.store(true, Relaxed);
                if self.buffers.iter().all(|buffer| lock(buffer).bytes.is_empty()) {
                    thread::park();
                }
                self.writer_sleeps.store(false, Relaxed);
            }
        }
    }

    /// Whether there was anything to write.
    fn write_buffers(&self, output: &mut Output, spare: &mut Buffer) -> bool {
        let mut wrote = false;
        for buffer in &self.buffers {
            {
                let mut buffer = lock(buffer);
                if buffer.bytes.is_empty() {
                    continue;
                }
                std::mem::swap(&mut buffer.bytes, &mut spare.bytes);
                std::mem::swap(&mut buffer.lines, &mut spare.lines);
            }
            wrote = true;
            let lost = output.write(&spare.bytes).min(spare.lines);
            self.counters.lines.inc_by(spare.lines - lost);
            self.counters.dropped.inc_by(lost);
            spare.bytes.clear();
            spare.lines = 0;
        }
        wrote
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Target {
    Stdout,
    Stderr,
    File(PathBuf),
}

impl Target {
    fn of(path: &str) -> Self {
        match path {
            "/dev/stdout" => Self::Stdout,
            "/dev/stderr" => Self::Stderr,
            path => Self::File(path.into()),
        }
    }

    fn open(&self) -> io::Result<File> {
        match self {
            // Not by the name: the device may belong to another user than we run as by now.
            Self::Stdout => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            Self::Stderr => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
            // Not for everyone to read: lines hold client addresses and request targets.
            Self::File(path) => OpenOptions::new().append(true).create(true).mode(0o640).open(path),
        }
    }

    /// Whether the file of this name is no longer the one that is open.
    fn was_moved(&self, open: &File) -> bool {
        let Self::File(path) = self else { return false };
        match (fs::metadata(path), open.metadata()) {
            (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (Ok(_), Err(_)) => true,
        }
    }
}

/// The file, opened when there is something to write.
struct Output {
    target: Target,
    file: Option<File>,
    checked: Option<Instant>,
    failing: bool,
}

impl Output {
    fn new(target: Target) -> Self {
        Self { target, file: None, checked: None, failing: false }
    }

    fn close(&mut self) {
        self.file = None;
        self.checked = None;
    }

    /// Writes whole lines; returns how many were lost.
    fn write(&mut self, lines: &[u8]) -> u64 {
        let (written, result) = match self.current() {
            Ok(Some(file)) => write_all(file, lines),
            Ok(None) => (0, Ok(())),
            Err(error) => (0, Err(error)),
        };
        match result {
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(%error, "the access log cannot be written, lines are dropped");
                }
                self.file = None;
            }
            Ok(()) if written == lines.len() && std::mem::take(&mut self.failing) => {
                info!("the access log is written again");
            }
            Ok(()) => {}
        }
        memchr::memchr_iter(b'\n', &lines[written..]).count() as u64
    }

    /// The file; `None` shortly after it could not be opened.
    fn current(&mut self) -> io::Result<Option<&mut File>> {
        let due = self.checked.is_none_or(|checked| checked.elapsed() >= CHECK_INTERVAL);
        if due {
            self.checked = Some(Instant::now());
            if self.file.as_ref().is_none_or(|file| self.target.was_moved(file)) {
                self.file = Some(self.target.open()?);
            }
        }
        Ok(self.file.as_mut())
    }
}

/// How much was written, and the error that ended it. A pipe set non-blocking by whoever reads it is
/// waited for, but not for ever: the buffers behind fill meanwhile.
fn write_all(file: &mut File, mut bytes: &[u8]) -> (usize, io::Result<()>) {
    const PATIENCE: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(10);
    let total = bytes.len();
    let mut waits = 0;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return (total - bytes.len(), Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && waits < PATIENCE => {
                waits += 1;
                thread::park_timeout(PAUSE);
            }
            Err(error) => return (total - bytes.len(), Err(error)),
        }
    }
    (total, Ok(()))
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::AsRawFd};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn counters() -> Counters {
        Counters {
            lines: IntCounter::new("lines", "lines").unwrap(),
            dropped: IntCounter::new("dropped", "dropped").unwrap(),
        }
    }

    fn write(sink: &Sink, line: &str) {
        sink.write(|buffer| buffer.bytes.extend_from_slice(line.as_bytes()));
    }

    #[test]
    fn lines_are_in_the_file_after_a_flush() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let counters = counters();
        let sink = Sink::open(path.to_str().unwrap(), 2, counters.clone()).unwrap();
        write(&sink, "one\n");
        write(&sink, "two\n");
        assert!(sink.flush(PATIENCE));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!((counters.lines.get(), counters.dropped.get()), (2, 0));
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_again_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let rotated = dir.path().join("access.log.1");
        let sink = Sink::open(path.to_str().unwrap(), 1, counters()).unwrap();
        write(&sink, "before\n");
        assert!(sink.flush(PATIENCE));
        fs::rename(&path, &rotated).unwrap();
        sink.reopen();
        write(&sink, "after\n");
        assert!(sink.flush(PATIENCE));
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "before\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_noticed_without_a_signal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = Sink::open(path.to_str().unwrap(), 1, counters()).unwrap();
        write(&sink, "before\n");
        assert!(sink.flush(PATIENCE));
        fs::rename(&path, dir.path().join("access.log.1")).unwrap();

        let deadline = Instant::now() + PATIENCE;
        while !path.exists() && Instant::now() < deadline {
            write(&sink, "after\n");
            sink.flush(PATIENCE);
            thread::park_timeout(Duration::from_millis(20));
        }
        assert!(fs::read_to_string(&path).unwrap().starts_with("after\n"));
    }

    #[test]
    fn a_pipe_nobody_reads_costs_lines_but_never_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let counters = counters();
        let sink = Sink::open(&path, 1, counters.clone()).unwrap();
        let line = format!("{}\n", "x".repeat(999));
        let count = 4 * MAX_BYTES / line.len();
        let started = Instant::now();
        for _ in 0..count {
            write(&sink, &line);
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(counters.dropped.get() > 0);
        assert!(!sink.flush(Duration::from_millis(50)), "nobody has read anything yet");

        drop(writer);
        let reading = thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).map(|_| all)
        });
        assert!(sink.flush(PATIENCE));
        drop(sink);
        let read = reading.join().unwrap().unwrap();
        assert_eq!(read.lines().count() as u64, counters.lines.get());
        assert_eq!(counters.lines.get() + counters.dropped.get(), count as u64);
        assert!(read.lines().all(|read| read.len() == 999), "only whole lines");
    }

    #[test]
    fn a_file_that_cannot_be_opened_loses_its_lines_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("access.log");
        let counters = counters();
        let sink = Sink::open(path.to_str().unwrap(), 1, counters.clone()).unwrap();
        write(&sink, "lost\n");
        assert!(sink.flush(PATIENCE));
        assert_eq!(counters.dropped.get(), 1);

        fs::create_dir(dir.path().join("missing")).unwrap();
        sink.reopen();
        write(&sink, "kept\n");
        assert!(sink.flush(PATIENCE));
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept\n");
    }

    #[test]
    fn what_is_buffered_when_the_sink_is_dropped_is_written() {
        let (mut reader, writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let sink = Sink::open(&path, 1, counters()).unwrap();
        write(&sink, "first\n");
        assert!(sink.flush(PATIENCE));
        write(&sink, "last\n");
        drop((sink, writer));
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert_eq!(all, "first\nlast\n");
    }
}
