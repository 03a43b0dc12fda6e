//! The test harness of files whose tests share a cluster. The standard one cannot say that a test did
//! not run because something is missing, nor do something after the last test.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use futures_util::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::Runtime;

use super::{Cluster, bed};

/// A test, given the cluster of its file.
pub type Test = fn(Arc<Cluster>) -> LocalBoxFuture<'static, ()>;

/// The `main` of a file of tests: `async fn name(cluster: Arc<Cluster>)` each, in a cluster with that
/// many nodes.
///
/// ```ignore
/// weir_tests::cluster_suite! { nodes: 1; the_cluster_is_ready }
/// ```
#[macro_export]
macro_rules! cluster_suite {
    (nodes: $nodes:expr; $($test:ident),+ $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::cluster::suite::run($nodes, &[
                $((stringify!($test), |cluster| Box::pin($test(cluster)))),+
            ])
        }
    };
}

/// What the tests run in: brought up by the first of them that runs, taken away after the last.
#[derive(Debug)]
enum Bed {
    Ready(Arc<Cluster>),
    Missing(String),
    Broken(String),
}

/// Runs the tests that the command line asks for, with the standard harness's arguments and output.
#[must_use]
pub fn run(nodes: u8, tests: &[(&'static str, Test)]) -> ExitCode {
    let arguments = Arguments::from_args();
    let bed = Arc::new(OnceLock::new());
    let runtime = Arc::new(Runtime::new().expect("start a runtime"));
    let trials = tests
        .iter()
        .map(|&(name, test)| {
            let (bed, runtime) = (Arc::clone(&bed), Arc::clone(&runtime));
            Trial::ignorable_test(name, move || match bed.get_or_init(|| Bed::prepare(nodes)) {
                Bed::Ready(cluster) => {
                    let cluster = Arc::clone(cluster);
                    runtime.block_on(test(cluster));
                    Ok(Completion::Completed)
                }
                Bed::Missing(why) => Ok(skip(name, why)),
                Bed::Broken(why) => Err(Failed::from(why)),
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let left = bed.get().map_or(Ok(()), Bed::clear);
    if let Err(error) = &left {
        report(&format!("the cluster is not gone: {error:#}"));
    }
    if left.is_err() || conclusion.has_failed() { ExitCode::from(101) } else { ExitCode::SUCCESS }
}

impl Bed {
    fn prepare(nodes: u8) -> Self {
        // A panic here would be taken for one test's failure, and be repeated by each of the others.
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            if let Some(bed::Missing(why)) = bed::missing()? {
                return Ok(Self::Missing(why));
            }
            let name = format!("test-{}", std::process::id());
            Cluster::up(&name, nodes).map(|cluster| Self::Ready(Arc::new(cluster)))
        }));
        match prepared {
            Ok(Ok(bed)) => bed,
            Ok(Err(error)) => Self::Broken(format!("{error:#}")),
            Err(_) => Self::Broken("preparing the cluster panicked".into()),
        }
    }

    fn clear(&self) -> anyhow::Result<()> {
        match self {
            Self::Ready(cluster) => cluster.down(),
            Self::Missing(_) | Self::Broken(_) => Ok(()),
        }
    }
}

fn skip(name: &str, why: &str) -> Completion {
    report(&format!("skipped: {name}: {why}"));
    Completion::ignored_with(why)
}

#[allow(clippy::print_stderr, reason = "what a test harness is there for")]
fn report(line: &str) {
    eprintln!("{line}");
}
