//! The routes of a virtual host. Where they are few, they are made ready when the first request asks for
//! one: nobody calls most of the services a sidecar knows.

use std::sync::{Arc, OnceLock};

use weir_config::model::{self, route::RouteMatch};

use super::{
    Route,
    index::{Matchers, RouteIndex},
    matcher::Subject,
};

/// Up to here they are made ready within a request: that takes microseconds.
const FEW: usize = 16;

/// Routes in the order they are tried.
#[derive(Debug)]
pub(super) struct Routes {
    configs: Arc<[Arc<model::Route>]>,
    ready: OnceLock<Box<Ready>>,
}

#[derive(Debug)]
struct Ready {
    routes: Box<[Arc<Route>]>,
    index: RouteIndex,
}

impl Routes {
    /// Routes that stay in the place they had in `before` are the same objects.
    pub(super) fn new(configs: &Arc<[Arc<model::Route>]>, before: Option<&Self>) -> Self {
        let known = before.and_then(|before| before.ready.get()).map(|ready| &*ready.routes);
        let is_ready = known.is_some() || configs.len() > FEW;
        let ready = is_ready.then(|| Ready::new(configs, known.unwrap_or_default()));
        let ready = ready.map(Box::new).map(OnceLock::from).unwrap_or_default();
        Self { configs: Arc::clone(configs), ready }
    }

    /// The first that matches.
    pub(super) fn select(&self, subject: Subject<'_>) -> Option<&Arc<Route>> {
        let ready = self.ready.get_or_init(|| Box::new(Ready::new(&self.configs, &[])));
        ready.index.find(&ready.routes, subject).map(|position| &ready.routes[position])
    }

    #[cfg(test)]
    pub(super) fn are_ready(&self) -> bool {
        self.ready.get().is_some()
    }

    pub(super) fn have_claims(&self) -> bool {
        self.configs.iter().any(|route| !route.matcher.claims.is_empty())
    }
}

impl Ready {
    fn new(configs: &[Arc<model::Route>], known: &[Arc<Route>]) -> Self {
        let matchers: Vec<&RouteMatch> = configs.iter().map(|route| &route.matcher).collect();
        let routes = configs.iter().enumerate().map(|(i, config)| match known.get(i) {
            Some(route) if Arc::ptr_eq(&route.config, config) => Arc::clone(route),
            _ => Arc::new(Route::new(Arc::clone(config))),
        });
        Self { routes: routes.collect(), index: RouteIndex::new(&matchers) }
    }
}

impl Matchers for Box<[Arc<Route>]> {
    fn matcher(&self, position: usize) -> &RouteMatch {
        &self[position].config.matcher
    }
}
