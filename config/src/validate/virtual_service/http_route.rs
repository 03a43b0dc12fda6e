//! Rules for the http rules of a VirtualService.

use super::{
    super::{Findings, name, percent, regex, time},
    fault, header, http_match, retry,
};
use crate::{
    api::{
        StringMatch,
        istio::{
            http_route::{
                CorsPolicy, Delegate, HttpDirectResponse, HttpRedirect, HttpRewrite, HttpRoute,
                RegexRewrite,
            },
            virtual_service::VirtualService,
        },
    },
    diagnostic::FieldPath,
};

const LARGE_BODY: usize = 100 * 1024;
const MAX_BODY: usize = 1024 * 1024;

const CORS_METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

pub(super) fn validate(
    virtual_service: &VirtualService,
    http: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let is_delegate = virtual_service.hosts.is_empty();
    let gateways = &virtual_service.gateways;
    let at_gateway = gateways.iter().any(|gateway| gateway != "mesh") || is_delegate;
    for (index, rule) in virtual_service.http.iter().enumerate() {
        let at = http.index(index);
        action(rule, is_delegate, at, findings);
        let matches = at.field("match");
        for (index, condition) in rule.matches.iter().enumerate() {
            http_match::validate(condition, at_gateway, matches.index(index), findings);
        }
        forwarding(rule, at, findings);
        header::validate(rule.headers.as_ref(), at.field("headers"), findings);
        authority(rule, at, findings);
        if let Some(cors) = &rule.cors_policy {
            self::cors(cors, at.field("corsPolicy"), findings);
        }
        if let Some(injection) = &rule.fault {
            fault::validate(injection, at.field("fault"), findings);
        }
    }
}

/// Exactly one of route, redirect, directResponse, delegate, and what each excludes.
fn action(rule: &HttpRoute, is_delegate: bool, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let actions = [
        ("route", !rule.route.is_empty()),
        ("redirect", rule.redirect.is_some()),
        ("directResponse", rule.direct_response.is_some()),
        ("delegate", rule.delegate.is_some()),
    ];
    let chosen: Vec<&str> = actions.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    match chosen[..] {
        [] => findings.error(
            at,
            "the rule says nothing about what to do; set route, redirect, directResponse or delegate",
        ),
        [_] => {}
        _ => findings.error(
            at,
            format!("only one action per rule; this one has {}", chosen.join(", ")),
        ),
    }
    let answers = ["redirect", "directResponse"].into_iter().find(|name| chosen.contains(name));
    if let Some(name) = answers {
        let excluded = [("fault", rule.fault.is_some()), ("rewrite", rule.rewrite.is_some())];
        for (field, _) in excluded.into_iter().filter(|(_, set)| *set) {
            findings.error(
                at.field(field),
                format!("a rule with {name} forwards nothing, so {field} cannot apply; remove it"),
            );
        }
    }
    if let Some(redirect) = &rule.redirect {
        self::redirect(redirect, rule, at.field("redirect"), findings);
    }
    if let Some(response) = &rule.direct_response {
        direct_response(response, at.field("directResponse"), findings);
    }
    if let Some(delegate) = &rule.delegate {
        self::delegate(delegate, is_delegate, at.field("delegate"), findings);
    }
}

fn delegate(
    delegate: &Delegate,
    is_delegate: bool,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if is_delegate {
        findings.error(at, "a delegate (a VirtualService without hosts) cannot delegate further");
    }
    if !name::is_kubernetes_name(&delegate.name) {
        findings.error(at.field("name"), "the name of a VirtualService without hosts is needed");
    }
}

fn redirect(
    redirect: &HttpRedirect,
    rule: &HttpRoute,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let texts = [&redirect.uri, &redirect.prefix_rewrite, &redirect.authority, &redirect.scheme];
    let has_port = redirect.port.is_some() || redirect.derive_port.is_some();
    if texts.into_iter().all(|text| text.is_empty()) && !has_port {
        findings.error(
            at,
            "the redirect leads back to the same address; set uri, prefixRewrite, authority, scheme \
             or port",
        );
    }
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        findings.error(at, "only one of uri and prefixRewrite may be set");
    }
    let all_prefixes = !rule.matches.is_empty()
        && rule.matches.iter().all(|m| matches!(m.uri, Some(StringMatch::Prefix(_))));
    if !redirect.prefix_rewrite.is_empty() && !all_prefixes {
        findings.error(
            at.field("prefixRewrite"),
            "replaces the prefix that matched, so every match needs a uri with prefix",
        );
    }
    if redirect.port.is_some() && redirect.derive_port.is_some() {
        findings.error(at, "only one of port and derivePort may be set");
    }
    if redirect.port == Some(0) {
        findings.error(at.field("port"), "a port number is from 1 to 65535");
    }
    if !["", "http", "https"].contains(&redirect.scheme.as_str()) {
        findings.error(at.field("scheme"), "the scheme is http or https");
    }
    match redirect.redirect_code {
        None | Some(301 | 302 | 303 | 307 | 308) => {}
        Some(300..=399) => findings.warning(
            at.field("redirectCode"),
            "clients do not follow this status; use 301, 302, 303, 307 or 308",
        ),
        Some(_) => findings
            .error(at.field("redirectCode"), "not a redirect; use 301, 302, 303, 307 or 308"),
    }
}

fn direct_response(response: &HttpDirectResponse, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if !(200..=600).contains(&response.status) {
        findings.error(at.field("status"), "a status from 200 to 600 is needed");
    }
    let Some(body) = &response.body else { return };
    let at = at.field("body");
    if body.string.is_some() && body.bytes.is_some() {
        findings.error(at, "only one of string and bytes may be set");
    }
    let size = body.as_bytes().len();
    if size > MAX_BODY {
        findings.error(at, format!("the body has {size} bytes; at most {MAX_BODY} are accepted"));
    } else if size > LARGE_BODY {
        findings.warning(
            at,
            format!("the body has {size} bytes, all kept in memory; serve it from an upstream"),
        );
    }
}

/// What a rule does on the way to its destinations.
fn forwarding(rule: &HttpRoute, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let route = at.field("route");
    for (index, to) in rule.route.iter().enumerate() {
        let at = route.index(index);
        super::destination(to.destination.as_ref(), at.field("destination"), findings);
        header::validate(to.headers.as_ref(), at.field("headers"), findings);
    }
    super::weights(rule.route.iter().map(|to| to.weight), route, findings);
    mirrors(rule, at, findings);
    time::validate_or_zero(rule.timeout, at.field("timeout"), findings);
    if let Some(retries) = &rule.retries {
        retry::validate(retries, at.field("retries"), findings);
    }
    if let Some(rewrite) = &rule.rewrite {
        self::rewrite(rewrite, at.field("rewrite"), findings);
    }
}

fn mirrors(rule: &HttpRoute, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if rule.mirror.is_some() {
        if !rule.mirrors.is_empty() {
            findings.error(at.field("mirror"), "only one of mirror and mirrors may be set");
        }
        super::destination(rule.mirror.as_ref(), at.field("mirror"), findings);
    }
    if rule.mirror_percent.is_some_and(|percent| percent > 100) {
        findings.error(at.field("mirrorPercent"), "a percentage is at most 100");
    }
    percent::validate(rule.mirror_percentage, at.field("mirrorPercentage"), findings);
    let list = at.field("mirrors");
    for (index, mirror) in rule.mirrors.iter().enumerate() {
        let at = list.index(index);
        super::destination(mirror.destination.as_ref(), at.field("destination"), findings);
        percent::validate(mirror.percentage, at.field("percentage"), findings);
    }
}

fn rewrite(rewrite: &HttpRewrite, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let HttpRewrite { uri, authority, uri_regex_rewrite } = rewrite;
    if uri.is_empty() && authority.is_empty() && uri_regex_rewrite.is_none() {
        findings.error(at, "the rewrite changes nothing; set uri, authority or uriRegexRewrite");
    }
    let Some(RegexRewrite { pattern, rewrite }) = uri_regex_rewrite else { return };
    if !uri.is_empty() {
        findings.error(at, "only one of uri and uriRegexRewrite may be set");
    }
    let at = at.field("uriRegexRewrite");
    if pattern.is_empty() || rewrite.is_empty() {
        findings.error(at, "both match and rewrite are needed");
    } else {
        regex::validate_rewrite(pattern, rewrite, at, findings);
    }
}

/// The Host header sent upstream can be changed in two ways; both at once would be a race.
fn authority(rule: &HttpRoute, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let rewritten = rule.rewrite.as_ref().is_some_and(|rewrite| !rewrite.authority.is_empty());
    let by_headers = rule.headers.as_ref().is_some_and(header::sets_authority);
    if rewritten && by_headers {
        findings.error(
            at.field("rewrite").field("authority"),
            "headers.request also changes the Host header; keep one of the two",
        );
    }
}

fn cors(cors: &CorsPolicy, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let origins = at.field("allowOrigins");
    for (index, origin) in cors.allow_origins.iter().enumerate() {
        let at = origins.index(index);
        match origin {
            StringMatch::Present => {
                findings.error(at, "an origin is needed; set exact, prefix or regex");
            }
            StringMatch::Regex(pattern) => regex::validate(pattern, at.field("regex"), findings),
            StringMatch::Exact(text) | StringMatch::Prefix(text) if text.is_empty() => {
                findings.error(at, "the origin is empty");
            }
            StringMatch::Exact(_) | StringMatch::Prefix(_) => {}
        }
    }
    if !cors.allow_origin.is_empty() {
        findings.warning(at.field("allowOrigin"), "deprecated; use allowOrigins");
    }
    let methods = at.field("allowMethods");
    for (index, method) in cors.allow_methods.iter().enumerate() {
        if !CORS_METHODS.contains(&method.as_str()) {
            findings.error(
                methods.index(index),
                format!("{method:?} is not a method; use one of {}", CORS_METHODS.join(", ")),
            );
        }
    }
    header_names(&cors.allow_headers, at.field("allowHeaders"), findings);
    header_names(&cors.expose_headers, at.field("exposeHeaders"), findings);
    if let Some(max_age) = cors.max_age {
        if max_age.0.subsec_nanos() != 0 {
            findings.error(at.field("maxAge"), "must be a whole number of seconds");
        }
        time::validate_or_zero(Some(max_age), at.field("maxAge"), findings);
    }
}

fn header_names(names: &[String], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    for (index, header) in names.iter().enumerate() {
        if header != "*" && !name::is_header_name(header) {
            findings.error(at.index(index), format!("{header:?} is not a header name"));
        }
    }
}
