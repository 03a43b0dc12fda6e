//! Request authentication: who sent this, by their token (RequestAuthentication, istio-compat 1.8).
//!
//! A request without a token passes, and has no principal; requiring one is authorization's part. Every
//! token that is there has to be valid for one of the rules that look in its place.

mod fetch;
mod jwks;
mod location;
mod strict_json;
#[cfg(test)]
mod tests;
mod token_cache;
mod verify;

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;
use smallvec::SmallVec;
use weir_config::model::filter::{self, JwtRule};

use self::{
    jwks::KeySource,
    token_cache::TokenCache,
    verify::{Problem, Token, check_time},
};
use super::{Claims, RequestContext, cors};
use crate::{head::RequestHeader, local_reply::LocalReply, telemetry::StreamInfo};

/// Rules with their keys and what they verified before.
#[derive(Debug)]
pub struct JwtAuthn {
    providers: Box<[Arc<Provider>]>,
}

#[derive(Debug)]
struct Provider {
    rule: JwtRule,
    keys: Arc<KeySource>,
    verified: TokenCache,
}

/// A token and who looks where it is.
struct Found<'a> {
    provider: usize,
    location: usize,
    token: Cow<'a, str>,
}

impl JwtAuthn {
    /// The filter for `config`. A rule that stays the same keeps its keys and its verified tokens; one
    /// that only looks elsewhere keeps its keys.
    #[must_use]
    pub fn next(previous: Option<&Self>, config: &filter::JwtAuthn) -> Self {
        let known: &[Arc<Provider>] =
            previous.map(|previous| &*previous.providers).unwrap_or_default();
        let providers = config.rules.iter().map(|rule| {
            if let Some(same) = known.iter().find(|provider| provider.rule == *rule) {
                return Arc::clone(same);
            }
            let same_keys = known.iter().find(|provider| {
                let other = &provider.rule;
                (&other.keys, &other.issuer, other.timeout)
                    == (&rule.keys, &rule.issuer, rule.timeout)
            });
            let keys = match same_keys {
                Some(provider) => Arc::clone(&provider.keys),
                None => Arc::new(KeySource::new(rule)),
            };
            Arc::new(Provider { rule: rule.clone(), keys, verified: TokenCache::default() })
        });
        Self { providers: providers.collect() }
    }

    /// Finds out who sent the request, takes the token away where it is not to be forwarded, and writes
    /// the fields made from its claims.
    ///
    /// # Errors
    /// 401 for a token that is not valid, 403 for one meant for somebody else.
    pub fn on_request(
        &self,
        request: &mut RequestHeader,
        context: &mut RequestContext,
        info: &mut StreamInfo,
    ) -> Result<(), LocalReply> {
        let now =
            info.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // A preflight carries no credentials of its own (Envoy's `bypass_cors_preflight`).
        let found = if cors::is_preflight(request) { SmallVec::new() } else { self.find(request) };
        let accepted =
            self.verify(&found, now).map_err(|problem| refusal(problem, request, context))?;
        let spent: SmallVec<[(usize, usize); 2]> = match &accepted {
            Some((accepting, _)) if !self.providers[*accepting].rule.forward_original_token => {
                found
                    .iter()
                    .filter(|found| found.provider == *accepting)
                    .map(|found| (found.provider, found.location))
                    .collect()
            }
            _ => SmallVec::new(),
        };
        drop(found);
        for (provider, number) in spent {
            location::remove(&self.providers[provider].rule.locations[number], request);
        }
        self.remove_outputs(request);
        if let Some((accepting, claims)) = accepted {
            self.providers[accepting].write_outputs(&claims, request);
            info.request_principal.clone_from(&claims.principal);
            context.claims = Some(claims);
        }
        Ok(())
    }

    /// Every token there is, as often as a rule looks at it.
    fn find<'a>(&self, request: &'a RequestHeader) -> SmallVec<[Found<'a>; 2]> {
        let mut found = SmallVec::new();
        for (provider, rule) in self.providers.iter().map(|provider| &provider.rule).enumerate() {
            for (number, place) in rule.locations.iter().enumerate() {
                for token in location::find(place, request) {
                    found.push(Found { provider, location: number, token });
                }
            }
        }
        found
    }

    /// Whose tokens these are: the first rule with a valid one, and its claims. All have to be valid,
    /// so that none that nobody checked gets upstream.
    fn verify(
        &self,
        found: &[Found<'_>],
        now: u64,
    ) -> Result<Option<(usize, Arc<Claims>)>, Problem> {
        let mut accepted: Option<(usize, Arc<Claims>)> = None;
        for (i, Found { token, .. }) in found.iter().enumerate() {
            if found[..i].iter().any(|earlier| earlier.token == *token) {
                continue;
            }
            let readers = found.iter().filter(|reader| reader.token == *token).map(|f| f.provider);
            let (provider, claims) = self.verify_one(token, readers, now)?;
            if accepted.as_ref().is_none_or(|(first, _)| provider < *first) {
                accepted = Some((provider, claims));
            }
        }
        Ok(accepted)
    }

    /// The first of `readers` the token is valid for. What another issuer's rule thinks of it says less
    /// than what its own does.
    fn verify_one(
        &self,
        token: &str,
        readers: impl Iterator<Item = usize> + Clone,
        now: u64,
    ) -> Result<(usize, Arc<Claims>), Problem> {
        for reader in readers.clone() {
            let provider = &self.providers[reader];
            if let Some(known) = provider.verified.find(token, provider.keys.keys().epoch) {
                check_time(known.validity, now)?;
                return Ok((reader, known.claims));
            }
        }
        let parsed = Token::parse(token)?;
        let mut worst = Problem::UnknownIssuer;
        for reader in readers {
            let provider = &self.providers[reader];
            match parsed.verify(&provider.rule, &provider.keys.keys(), now) {
                Ok(verified) => {
                    let claims = Arc::clone(&verified.claims);
                    provider.verified.insert(token, verified);
                    return Ok((reader, claims));
                }
                Err(Problem::UnknownIssuer) => {}
                Err(problem) => {
                    if problem == Problem::NoKey {
                        provider.keys.want_refresh();
                    }
                    worst = problem;
                }
            }
        }
        Err(worst)
    }

    /// Fields made from claims are the proxy's word; a client's are forged (hardening J10).
    fn remove_outputs(&self, request: &mut RequestHeader) {
        for provider in &self.providers {
            let JwtRule { output_payload_to_header, output_claim_to_headers, .. } = &provider.rule;
            let claims = output_claim_to_headers.iter().map(|output| &output.header);
            for name in output_payload_to_header.iter().chain(claims) {
                request.headers.remove(name);
            }
        }
    }
}

impl Provider {
    fn write_outputs(&self, claims: &Claims, request: &mut RequestHeader) {
        let JwtRule { output_payload_to_header, output_claim_to_headers, .. } = &self.rule;
        let payload = output_payload_to_header
            .iter()
            .map(|name| (name, HeaderValue::from_str(&claims.encoded).ok()));
        let outputs = output_claim_to_headers
            .iter()
            .map(|output| (&output.header, claims.find(&output.claim).and_then(field_value)));
        let fields: SmallVec<[(HeaderName, HeaderValue); 4]> = payload
            .chain(outputs)
            .filter_map(|(name, value)| Some((name.clone(), value?)))
            .collect();
        for (name, value) in fields {
            // Valid by their types.
            request.headers.insert(name, value);
        }
    }
}

/// A claim as the value of a field. Lists, objects and what no field may hold are left out.
fn field_value(claim: &Value) -> Option<HeaderValue> {
    match claim {
        Value::String(text) => HeaderValue::from_str(text).ok(),
        Value::Bool(value) => Some(HeaderValue::from_static(if *value { "true" } else { "false" })),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            HeaderValue::try_from(number.to_string()).ok()
        }
        Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn refusal(problem: Problem, request: &RequestHeader, context: &RequestContext) -> LocalReply {
    let status = match problem {
        Problem::AudienceNotAllowed => StatusCode::FORBIDDEN,
        _ => StatusCode::UNAUTHORIZED,
    };
    let text = problem.text();
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    // Without the query, which may hold the token; quotation marks would end the realm.
    let path = request.uri.path().replace(['"', '\\'], "%22");
    let realm: String =
        format!("{}://{host}{path}", context.scheme.as_str()).chars().take(256).collect();
    let challenge = format!("Bearer realm=\"{realm}\", error=\"invalid_token\"");
    LocalReply {
        status,
        headers: HeaderValue::try_from(challenge)
            .map(|challenge| (header::WWW_AUTHENTICATE, challenge))
            .into_iter()
            .collect(),
        body: bytes::Bytes::from_static(text.as_bytes()),
        flag: None,
        details: Cow::Owned(format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_"))),
        close: false,
    }
}
