use serde::Deserialize;

/// `networking.istio.io` EnvoyFilter: accepted so that existing folders load, never applied.
///
/// Its patches speak about Envoy's internals, which do not exist here; nothing of it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct EnvoyFilter {}
