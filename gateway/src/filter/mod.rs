//! Stages 9 and 15: the HTTP filters and their order.
//!
//! The order is Istio's. Filters that hold for the whole proxy are in [`HttpFilters`], those of a route
//! in [`RouteFilters`]; both are destructured where the order is written, so that a filter nobody runs
//! does not compile.

use std::sync::{Arc, LazyLock};

use http::HeaderValue;
use weir_config::model::{self, WorkloadPolicies, route::Scheme};

use crate::{
    connection::ConnectionInfo,
    head::{RequestHeader, ResponseHeader},
    local_reply::LocalReply,
    telemetry::StreamInfo,
};

pub mod authz;
pub mod claims;
pub mod cors;
pub mod fault;
pub mod header_mutation;
pub mod jwt_authn;
pub mod network_authz;
pub mod template;
#[cfg(test)]
pub(crate) mod test_support;
#[cfg(test)]
mod tests;

pub use self::claims::Claims;

/// What the stages found out about one request and later stages decide by. `normalize` makes it.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The scheme the client used, as far as it can be trusted.
    pub scheme: Scheme,
    /// The request asks for a WebSocket.
    pub upgrade: bool,
    /// A rewritten host is kept in `x-forwarded-host`.
    pub append_forwarded_host: bool,
    /// Of the validated token; `None`: there was none.
    pub claims: Option<Arc<Claims>>,
    /// The origin the route's CORS policy allows; its response has to say so.
    pub cors_origin: Option<HeaderValue>,
}

impl Default for RequestContext {
    fn default() -> Self {
        Self {
            scheme: Scheme::Http,
            upgrade: false,
            append_forwarded_host: false,
            claims: None,
            cors_origin: None,
        }
    }
}

/// Filters of every request of this proxy.
#[derive(Debug, Default)]
pub struct HttpFilters {
    jwt_authn: Option<jwt_authn::JwtAuthn>,
    authz: Option<authz::Authz>,
    network_authz: Option<network_authz::NetworkAuthz>,
    policies: Arc<WorkloadPolicies>,
}

/// Filters of one route.
#[derive(Debug, Default)]
pub struct RouteFilters {
    cors: Option<cors::Cors>,
    fault: Option<Arc<model::filter::Fault>>,
    response_headers: model::route::HeaderMutation,
}

impl HttpFilters {
    /// Those that let everything pass.
    #[must_use]
    pub fn none() -> &'static Self {
        static NONE: LazyLock<HttpFilters> = LazyLock::new(HttpFilters::default);
        &NONE
    }

    /// The filters after a change. Rules that stay the same keep their keys and verified tokens.
    ///
    /// Keys with an address are fetched by tasks of the runtime this is called in.
    #[must_use]
    pub fn next(previous: &Self, policies: &Arc<WorkloadPolicies>) -> Self {
        let WorkloadPolicies { jwt_authn, authz } = &**policies;
        Self {
            jwt_authn: jwt_authn
                .as_ref()
                .map(|config| jwt_authn::JwtAuthn::next(previous.jwt_authn.as_ref(), config)),
            authz: authz.as_ref().map(|config| authz::Authz::new(Arc::clone(config))),
            network_authz: authz.as_ref().map(|config| network_authz::NetworkAuthz::new(config)),
            policies: Arc::clone(policies),
        }
    }

    /// What these filters were made from.
    #[must_use]
    pub fn policies(&self) -> &Arc<WorkloadPolicies> {
        &self.policies
    }

    /// Who is asking? Runs with the route found by the request alone. A route table with matches on
    /// claims has to select again after this, before [`HttpFilters::on_request`].
    ///
    /// # Errors
    /// The answer to a preflight, or 401 and 403 for a token that is not valid.
    pub fn authenticate(
        &self,
        route: &RouteFilters,
        request: &mut RequestHeader,
        context: &mut RequestContext,
        info: &mut StreamInfo,
    ) -> Result<(), LocalReply> {
        let Self { jwt_authn, authz: _, network_authz: _, policies: _ } = self;
        let RouteFilters { cors, fault: _, response_headers: _ } = route;

        // A preflight carries no credentials, so it is answered before anything asks for them.
        if let Some(cors) = cors {
            cors.preflight(request)?;
            // Already here, so that a browser may read why it is refused.
            context.cors_origin = cors.allowed_origin(request);
        }
        if let Some(jwt_authn) = jwt_authn {
            jwt_authn.on_request(request, context, info)?;
        }
        Ok(())
    }

    /// May they, and what goes wrong on purpose? Runs with the route that will be taken.
    ///
    /// # Errors
    /// 403, or the fault to inject.
    pub async fn on_request(
        &self,
        route: &RouteFilters,
        request: &RequestHeader,
        context: &mut RequestContext,
        info: &mut StreamInfo,
    ) -> Result<(), LocalReply> {
        let Self { jwt_authn: _, authz, network_authz: _, policies: _ } = self;
        let RouteFilters { cors, fault, response_headers: _ } = route;

        // Again, because the route may be another one now.
        context.cors_origin = cors.as_ref().and_then(|cors| cors.allowed_origin(request));
        // After jwt_authn: its policies are about who that found.
        if let Some(authz) = authz {
            authz.on_request(request, context, info)?;
        }
        // Last, so that a fault is only injected into traffic that would have been served.
        if let Some(fault) = fault {
            fault::on_request(fault, info, &mut fastrand::Rng::new()).await?;
        }
        Ok(())
    }

    /// Stage 5 of a TCP connection: authorization by what is known of the connection alone.
    ///
    /// # Errors
    /// `%CONNECTION_TERMINATION_DETAILS%` of the connection to be closed.
    pub fn on_connection(&self, connection: &ConnectionInfo) -> Result<(), String> {
        let Self { jwt_authn: _, authz: _, network_authz, policies: _ } = self;
        network_authz.as_ref().map_or(Ok(()), |authz| authz.on_connection(connection))
    }
}

impl RouteFilters {
    #[must_use]
    pub fn new(config: &model::Route) -> Self {
        Self {
            cors: config.cors.as_deref().map(cors::Cors::new),
            fault: config.fault.clone(),
            response_headers: config.response_headers.clone(),
        }
    }

    /// Stage 15, for the upstream's response. `destination` are the mutations of the cluster chosen.
    pub fn on_response(
        &self,
        destination: &model::route::HeaderMutation,
        request: &RequestHeader,
        response: &mut ResponseHeader,
        context: &RequestContext,
        info: &StreamInfo,
    ) {
        let Self { cors, fault: _, response_headers } = self;

        if let (Some(cors), Some(origin)) = (cors, &context.cors_origin) {
            cors.on_response(origin, response);
        }
        // Last: what the operator wrote wins over what the filters said.
        for mutation in [response_headers, destination] {
            header_mutation::apply_to_response(mutation, request, response, info);
        }
    }

    /// The same for a reply of the proxy's own, so that a browser may read a 401 or 503 as well.
    /// `on_response`'s mutations are for what the route answers, not for what goes wrong before.
    pub fn on_local_reply(&self, context: &RequestContext, reply: &mut LocalReply) {
        let Self { cors, fault: _, response_headers: _ } = self;
        if let (Some(cors), Some(origin)) = (cors, &context.cors_origin) {
            cors.on_local_reply(origin, reply);
        }
    }
}
