//! Which filter chain a server name gets: exact before the longest wildcard before `*`.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use weir_config::model::matcher::HostPattern;

use super::filter_chain::Chain;

/// Chains by the server names they are for.
#[derive(Debug, Default, Clone)]
pub(super) struct ServerNames {
    exact: FxHashMap<Arc<str>, Arc<Chain>>,
    /// By `.example.com` for `*.example.com`.
    suffix: FxHashMap<Arc<str>, Arc<Chain>>,
    any: Option<Arc<Chain>>,
}

impl ServerNames {
    /// Of two chains with one server name the first has it.
    pub(super) fn insert(&mut self, chain: &Arc<Chain>) {
        for name in &*chain.config.server_names {
            let chain = || Arc::clone(chain);
            match name {
                HostPattern::Exact(host) => {
                    self.exact.entry(Arc::clone(host)).or_insert_with(chain);
                }
                HostPattern::Suffix(suffix) => {
                    self.suffix.entry(Arc::clone(suffix)).or_insert_with(chain);
                }
                HostPattern::Any => self.insert_any(&chain()),
            }
        }
    }

    pub(super) fn insert_any(&mut self, chain: &Arc<Chain>) {
        self.any.get_or_insert_with(|| Arc::clone(chain));
    }

    pub(super) fn select(&self, server_name: Option<&str>) -> Option<&Arc<Chain>> {
        server_name.and_then(|name| self.select_named(name)).or(self.any.as_ref())
    }

    fn select_named(&self, name: &str) -> Option<&Arc<Chain>> {
        if let Some(chain) = self.exact.get(name) {
            return Some(chain);
        }
        if self.suffix.is_empty() {
            return None;
        }
        // The leftmost dot leaves the longest suffix. A wildcard stands for at least one label.
        memchr::memchr_iter(b'.', name.as_bytes())
            .filter(|dot| *dot > 0)
            .find_map(|dot| self.suffix.get(&name[dot..]))
    }
}
