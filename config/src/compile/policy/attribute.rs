//! What the attributes of AuthorizationPolicy conditions are, and what their values mean.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderName, Method};
use ipnet::IpNet;

use crate::{
    compile::View,
    model::{
        filter::{Attribute, ValueMatch},
        matcher::{FullRegex, StringMatch},
    },
};

/// In policies: the mesh's own trust domain, whatever it is called.
const LOCAL_TRUST_DOMAIN: &str = "cluster.local";

/// Reads the values of one policy.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) view: &'a View,
    /// Of the policy.
    pub(super) namespace: &'a str,
}

impl Values<'_> {
    /// What one value means for an attribute, or what it should have been.
    pub(super) fn of(
        self,
        attribute: &Attribute,
        value: &str,
    ) -> Result<Vec<ValueMatch>, &'static str> {
        let one = |value: ValueMatch| Ok(vec![value]);
        match attribute {
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
                let address = value.parse::<IpAddr>().map(IpNet::from);
                let network = address.or_else(|_| value.parse::<IpNet>());
                one(ValueMatch::Cidr(network.ok().ok_or("an IP address or CIDR")?))
            }
            Attribute::DestinationPort => {
                one(ValueMatch::Port(value.parse().ok().ok_or("a port number")?))
            }
            Attribute::Method if !value.contains('*') => {
                let method = Method::from_bytes(value.as_bytes());
                one(ValueMatch::Method(method.ok().ok_or("an HTTP method")?))
            }
            Attribute::Path if value.contains("{*}") || value.contains("{**}") => {
                let template = path_template(value).ok_or("a path template")?;
                one(ValueMatch::PathTemplate(template))
            }
            Attribute::SourcePrincipal => Ok(self
                .principals(value)
                .iter()
                .map(|principal| ValueMatch::String(string_match(principal)))
                .collect()),
            // No wildcards here, so that a `*` in a name is not taken for one.
            Attribute::SourceServiceAccount => {
                let account = match value.contains('/') {
                    true => value.into(),
                    false => format!("{}/{value}", self.namespace).into(),
                };
                one(ValueMatch::String(StringMatch::Exact(account)))
            }
            Attribute::Host => one(ValueMatch::String(string_match(&value.to_ascii_lowercase()))),
            Attribute::SourceNamespace
            | Attribute::SourceTrustDomain
            | Attribute::ConnectionSni
            | Attribute::Method
            | Attribute::Path
            | Attribute::Header(_)
            | Attribute::RequestPrincipal
            | Attribute::RequestAudiences
            | Attribute::RequestPresenter
            | Attribute::RequestClaim(_) => one(ValueMatch::String(string_match(value))),
        }
    }

    /// A principal of the local trust domain holds for every name that domain has (trap 16).
    fn principals(self, value: &str) -> Vec<String> {
        let Some((domain, rest)) = value.split_once('/') else { return vec![value.to_owned()] };
        let own = self.view.trust_domain();
        let aliases = &self.view.mesh.trust_domain_aliases;
        let is_local =
            domain == LOCAL_TRUST_DOMAIN || domain == own || aliases.iter().any(|a| a == domain);
        if !is_local {
            return vec![value.to_owned()];
        }
        let mut domains = vec![own];
        for alias in aliases {
            if !domains.contains(&alias.as_str()) {
                domains.push(alias);
            }
        }
        domains.into_iter().map(|domain| format!("{domain}/{rest}")).collect()
    }
}

/// The attribute a `when` key names; `None` when it is not one of ours.
pub(super) fn attribute(key: &str) -> Option<Attribute> {
    if let Some(name) = key.strip_prefix("request.headers[") {
        let name = name.strip_suffix(']')?;
        return HeaderName::from_bytes(name.as_bytes()).ok().map(Attribute::Header);
    }
    if let Some(path) = key.strip_prefix("request.auth.claims[") {
        let names = path.strip_suffix(']')?.split("][").map(Arc::from);
        return Some(Attribute::RequestClaim(names.collect()));
    }
    Some(match key {
        "source.ip" => Attribute::SourceIp,
        "remote.ip" => Attribute::RemoteIp,
        "destination.ip" => Attribute::DestinationIp,
        "destination.port" => Attribute::DestinationPort,
        "source.namespace" => Attribute::SourceNamespace,
        "source.principal" => Attribute::SourcePrincipal,
        "source.serviceAccount" => Attribute::SourceServiceAccount,
        "source.trustDomain" => Attribute::SourceTrustDomain,
        "connection.sni" => Attribute::ConnectionSni,
        "request.auth.principal" => Attribute::RequestPrincipal,
        "request.auth.audiences" => Attribute::RequestAudiences,
        "request.auth.presenter" => Attribute::RequestPresenter,
        _ => return None,
    })
}

/// Exact, `x*`, `*x`, or `*` for anything that is not empty.
fn string_match(value: &str) -> StringMatch {
    if value == "*" {
        StringMatch::Present
    } else if let Some(prefix) = value.strip_suffix('*') {
        StringMatch::Prefix(prefix.into())
    } else if let Some(suffix) = value.strip_prefix('*') {
        StringMatch::Suffix(suffix.into())
    } else {
        StringMatch::Exact(value.into())
    }
}

/// `{*}` is one segment, `{**}` any number of them.
fn path_template(template: &str) -> Option<FullRegex> {
    let pattern: Vec<String> = template
        .split("{**}")
        .map(|part| part.split("{*}").map(regex::escape).collect::<Vec<_>>().join("[^/]+"))
        .collect();
    FullRegex::new(&pattern.join(".*")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_exact_or_have_one_wildcard_at_an_end() {
        let forms = ["a", "a*", "*a", "*"].map(string_match);
        assert_eq!(
            forms,
            [
                StringMatch::Exact("a".into()),
                StringMatch::Prefix("a".into()),
                StringMatch::Suffix("a".into()),
                StringMatch::Present,
            ]
        );
    }

    #[test]
    fn a_path_template_matches_segments() {
        for (template, path, expected) in [
            ("/foo/{*}/bar", "/foo/x/bar", true),
            ("/foo/{*}/bar", "/foo/x/y/bar", false),
            ("/foo/{*}/bar", "/foo//bar", false),
            ("/foo/{**}", "/foo/a/b", true),
            ("/foo/{**}", "/foo/", true),
            ("/foo/{**}", "/foo", false),
            ("/a.b/{*}", "/axb/c", false),
        ] {
            let regex = path_template(template).unwrap();
            assert_eq!(regex.is_match(path), expected, "{template} {path}");
        }
    }
}
