//! What `compile` makes of real YAML.

use std::sync::Arc;

use super::{Change, Compiler, Proxy, compile};
use crate::{
    api::{MeshConfig, Object},
    diagnostic::Diagnostic,
    model::Resources,
    parse::{Options, parse, parse_mesh_config},
};

mod golden;
mod incremental;
mod isolation;
mod mutation;
mod rules;
mod sidecar;

/// A proxy as the examples expect it.
fn proxy() -> Proxy {
    let labels = [("istio".to_owned(), "ingressgateway".to_owned())];
    Proxy { labels: labels.into(), ..Proxy::default() }
}

/// Every object of `yaml`, which has to be readable without a word.
pub(super) fn objects(yaml: &str) -> Vec<Arc<Object>> {
    let parsed = parse("test.yaml", yaml.as_bytes(), &Options::default());
    assert_eq!(parsed.diagnostics, [], "the test's YAML is read without diagnostics");
    parsed.objects.into_iter().map(Arc::new).collect()
}

fn mesh(yaml: &str) -> MeshConfig {
    let (mesh, diagnostics) = parse_mesh_config("mesh.yaml", yaml.as_bytes());
    assert_eq!(diagnostics, []);
    mesh.unwrap()
}

fn compiled(yaml: &str) -> (Resources, Vec<Diagnostic>) {
    compile(proxy(), None, objects(yaml))
}

/// The resources of YAML that there is nothing to say about.
fn resources(yaml: &str) -> Resources {
    let (resources, diagnostics) = compiled(yaml);
    assert_eq!(texts(&diagnostics), Vec::<String>::new());
    resources
}

/// What there is to say about YAML.
fn findings(yaml: &str) -> Vec<String> {
    texts(&compiled(yaml).1)
}

fn texts(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(ToString::to_string).collect()
}
