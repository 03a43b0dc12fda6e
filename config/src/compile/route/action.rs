//! What a rule does with a request: forward, redirect or answer.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use super::{Context, Rule, Unusable, destination, filter, header, retry};
use crate::{
    api::istio::http_route::{HttpRedirect, HttpRewrite, RedirectPortSelection},
    model::{
        filter::{Cors, Fault},
        matcher::RegexRewrite,
        route::{
            DirectResponse, Forward, HeaderMutation, PathMatch, PathRewrite, Redirect,
            RedirectPath, RedirectPort, RouteAction, RouteMatch, Scheme,
        },
    },
};

/// A rule compiled but for what depends on the match: how a rewritten path is put together.
pub(super) struct Template {
    action: Action,
    pub(super) request_headers: HeaderMutation,
    pub(super) response_headers: HeaderMutation,
    pub(super) cors: Option<Arc<Cors>>,
    pub(super) fault: Option<Arc<Fault>>,
}

enum Action {
    Forward { forward: Box<Forward>, rewrite: Option<Rewrite> },
    Redirect(Redirect),
    DirectResponse(DirectResponse),
}

enum Rewrite {
    /// `rewrite.uri`
    Uri(Arc<str>),
    Regex(RegexRewrite),
}

impl Template {
    pub(super) fn compile(context: &mut Context<'_>, rule: &Rule<'_>) -> Result<Self, Unusable> {
        let route = &*rule.route;
        let field = &rule.field;
        let headers = route.headers.as_ref();
        let headers = header::compile(context, headers, &format!("{field}.headers"));
        let action = if let Some(redirect) = &route.redirect {
            Action::Redirect(compile_redirect(context, redirect, &format!("{field}.redirect"))?)
        } else if let Some(response) = &route.direct_response {
            let Ok(status) = StatusCode::from_u16(response.status) else {
                context.warn(
                    format!("{field}.directResponse.status"),
                    "this rule is skipped: the status must be from 100 to 999",
                );
                return Err(Unusable);
            };
            let body = response.body.as_ref().map(|body| Bytes::copy_from_slice(body.as_bytes()));
            let body = body.unwrap_or_default();
            Action::DirectResponse(DirectResponse { status, body, stands_for: None })
        } else {
            compile_forward(context, rule, headers.host.clone())?
        };
        Ok(Self {
            action,
            request_headers: headers.request,
            response_headers: headers.response,
            cors: route.cors_policy.as_ref().map(|policy| {
                Arc::new(filter::cors(context, policy, &format!("{field}.corsPolicy")))
            }),
            fault: route.fault.as_ref().and_then(|fault| {
                filter::fault(context, fault, &format!("{field}.fault")).map(Arc::new)
            }),
        })
    }

    /// The action for requests that match `matcher`. A prefix that is replaced has to be one, so a
    /// match on any path becomes one on `/`.
    pub(super) fn action_for(&self, mut matcher: RouteMatch) -> (RouteMatch, RouteAction) {
        let action = match &self.action {
            Action::Forward { forward, rewrite } => {
                let mut forward = (**forward).clone();
                forward.path_rewrite = rewrite.as_ref().map(|rewrite| match rewrite {
                    Rewrite::Regex(regex) => PathRewrite::Regex(regex.clone()),
                    Rewrite::Uri(uri) => {
                        if needs_prefix(&mut matcher) {
                            PathRewrite::Prefix(Arc::clone(uri))
                        } else {
                            PathRewrite::Full(Arc::clone(uri))
                        }
                    }
                });
                RouteAction::Forward(forward)
            }
            Action::Redirect(redirect) => {
                let mut redirect = redirect.clone();
                if let Some(RedirectPath::Prefix(prefix)) = &redirect.path
                    && !needs_prefix(&mut matcher)
                {
                    redirect.path = Some(RedirectPath::Full(Arc::clone(prefix)));
                }
                RouteAction::Redirect(redirect)
            }
            Action::DirectResponse(response) => RouteAction::DirectResponse(response.clone()),
        };
        (matcher, action)
    }
}

/// Whether the match has a prefix to replace; one on any path is given `/`.
fn needs_prefix(matcher: &mut RouteMatch) -> bool {
    match matcher.path {
        PathMatch::Any => {
            matcher.path = PathMatch::Prefix("/".into());
            true
        }
        PathMatch::Prefix(_) | PathMatch::SegmentPrefix(_) => true,
        PathMatch::Exact(_) | PathMatch::Regex(_) => false,
    }
}

fn compile_forward(
    context: &mut Context<'_>,
    rule: &Rule<'_>,
    host: Option<Arc<str>>,
) -> Result<Action, Unusable> {
    let route = &*rule.route;
    let field = &rule.field;
    let rewrite = route.rewrite.as_ref();
    let authority = rewrite.map(|rewrite| &rewrite.authority).filter(|name| !name.is_empty());
    let host_rewrite = authority.map(|name| name.as_str().into()).or(host);
    let mut clusters = destination::http(context, &route.route, &format!("{field}.route"))?;
    if host_rewrite.is_some() {
        // The rule's beats the destination's.
        clusters.iter_mut().for_each(|cluster| cluster.host_rewrite = None);
    }
    let retries = route.retries.as_ref();
    let timeout = route.timeout.map(|timeout| timeout.0).filter(|timeout| !timeout.is_zero());
    let forward = Forward {
        clusters: clusters.into(),
        path_rewrite: None,
        host_rewrite,
        timeout,
        retry: retry::compile(context, retries, &format!("{field}.retries")),
        mirrors: destination::mirrors(context, route, field),
    };
    let rewrite = match rewrite {
        Some(rewrite) => compile_rewrite(context, rewrite, &format!("{field}.rewrite"))?,
        None => None,
    };
    Ok(Action::Forward { forward: Box::new(forward), rewrite })
}

fn compile_rewrite(
    context: &mut Context<'_>,
    rewrite: &HttpRewrite,
    field: &str,
) -> Result<Option<Rewrite>, Unusable> {
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        return match RegexRewrite::new(&regex.pattern, &regex.rewrite) {
            Ok(regex) => Ok(Some(Rewrite::Regex(regex))),
            Err(problem) => {
                let field = format!("{field}.uriRegexRewrite");
                context.warn(field, format!("this rule is skipped: {problem}"));
                Err(Unusable)
            }
        };
    }
    let uri = Some(&rewrite.uri).filter(|uri| !uri.is_empty());
    Ok(uri.map(|uri| Rewrite::Uri(uri.as_str().into())))
}

fn compile_redirect(
    context: &mut Context<'_>,
    redirect: &HttpRedirect,
    field: &str,
) -> Result<Redirect, Unusable> {
    let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Arc::from);
    let scheme = match redirect.scheme.as_str() {
        "" => None,
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        _ => {
            context.warn(
                format!("{field}.scheme"),
                "this rule is skipped: the scheme is http or https",
            );
            return Err(Unusable);
        }
    };
    let code = redirect.redirect_code.filter(|&code| code != 0).unwrap_or(301);
    let code = StatusCode::from_u16(code).ok().filter(StatusCode::is_redirection);
    let Some(code) = code else {
        context.warn(
            format!("{field}.redirectCode"),
            "this rule is skipped: redirectCode must be from 300 to 399",
        );
        return Err(Unusable);
    };
    let derived = redirect.derive_port.map(|from| match from {
        RedirectPortSelection::FromProtocolDefault => RedirectPort::FromProtocolDefault,
        RedirectPortSelection::FromRequestPort => RedirectPort::FromRequestPort,
    });
    Ok(Redirect {
        path: match (text(&redirect.uri), text(&redirect.prefix_rewrite)) {
            (Some(uri), _) => Some(RedirectPath::Full(uri)),
            (None, prefix) => prefix.map(RedirectPath::Prefix),
        },
        authority: text(&redirect.authority),
        scheme,
        port: redirect.port.map(RedirectPort::Number).or(derived),
        code,
    })
}
