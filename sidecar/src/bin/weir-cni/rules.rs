//! Rules in the network namespace of somebody else: those of `weir-init` with the same arguments.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use clap::Parser as _;
use weir_sidecar::{
    arguments::{Arguments, Environment},
    redirect::{self, NamespaceError, Settings},
    with_causes,
};

const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// Why they are not programmed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("arguments of weir-init: {0}")]
    Arguments(String),
    #[error("{path} is the node's network, not a pod's")]
    Node { path: String },
    #[error("find the network namespace {path}: {source}")]
    Namespace {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{}", with_causes(.0))]
    Enter(#[from] NamespaceError),
    #[error("{}", with_causes(.0))]
    Kernel(#[from] redirect::Error),
}

/// What these arguments ask for. Names and name servers are those of the pod's image, which is not ours
/// to look into: injection gives numbers, and captures queries to any server.
pub fn settings(arguments: &[String]) -> Result<Settings, Error> {
    let words = std::iter::once("weir-init").chain(arguments.iter().map(String::as_str));
    let parsed = Arguments::try_parse_from(words);
    let parsed = parsed.map_err(|error| Error::Arguments(error.kind().to_string()))?;
    let settings = parsed.settings(&Environment::default());
    settings.map_err(|error| Error::Arguments(with_causes(&error)))
}

/// Programs them in the network namespace of this file.
pub fn program(arguments: &[String], namespace: &Path) -> Result<(), Error> {
    let settings = settings(arguments)?;
    is_of_a_pod(namespace)?;
    Ok(redirect::in_namespace(namespace, || redirect::apply(&settings))??)
}

/// Whether there are any.
pub fn are_programmed(namespace: &Path) -> Result<bool, Error> {
    is_of_a_pod(namespace)?;
    Ok(redirect::in_namespace(namespace, redirect::is_applied)??)
}

/// Rules in the node's own namespace would take all of its traffic to where nobody listens.
fn is_of_a_pod(namespace: &Path) -> Result<(), Error> {
    let path = namespace.display().to_string();
    let identity = |file: &Path| fs::metadata(file).map(|it| (it.dev(), it.ino()));
    let failed = |source| Error::Namespace { path: path.clone(), source };
    let own = identity(Path::new(OWN_NAMESPACE)).map_err(failed)?;
    match identity(namespace).map_err(failed)? == own {
        true => Err(Error::Node { path }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use weir_sidecar::redirect::Mode;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn they_are_those_of_the_init_container() {
        let told = words("-p 15001 -z 15006 -u 1337 -g 1337 -m TPROXY -i * -b 80 -x 10.0.0.0/8");
        let settings = settings(&told).unwrap();
        assert_eq!(settings.mode, Mode::Tproxy);
        assert_eq!(settings.outbound_exclude.len(), 1);
    }

    #[test]
    fn what_has_no_meaning_is_told() {
        let told = |text: &str| settings(&words(text)).unwrap_err().to_string();
        assert!(told("-i all").contains("\"all\" is not a range"), "{}", told("-i all"));
        assert!(told("--help").starts_with("arguments of weir-init"));
        assert!(told("--unheard-of").starts_with("arguments of weir-init"));
    }

    #[test]
    fn the_own_namespace_is_left_alone() {
        let own = Path::new("/proc/self/ns/net");
        assert!(matches!(program(&[], own), Err(Error::Node { .. })));
        assert!(matches!(are_programmed(own), Err(Error::Node { .. })));
    }
}
