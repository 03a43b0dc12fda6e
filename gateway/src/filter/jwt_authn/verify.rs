//! One token: its form, its time, its audience, its signature. The order of checks and the words for
//! what is wrong are those of Envoy's filter, which clients and dashboards know.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use weir_config::model::filter::JwtRule;

use super::{
    jwks::{self, KeySet},
    strict_json,
    token_cache::{Validity, Verified},
};
use crate::filter::Claims;

/// Clocks may differ by this much, in seconds.
const CLOCK_SKEW: u64 = 60;

/// Why a token is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    Form,
    HeaderBase64,
    HeaderJson,
    HeaderAlgorithm,
    AlgorithmNotSupported,
    HeaderKeyId,
    HeaderCritical,
    PayloadBase64,
    PayloadJson,
    Issuer,
    Subject,
    IssuedAt,
    NotBefore,
    Expires,
    TokenId,
    Audiences,
    SignatureBase64,
    UnknownIssuer,
    NotYetValid,
    Expired,
    AudienceNotAllowed,
    KeysNotFetched,
    NoKey,
    Signature,
}

impl Problem {
    /// The response's body.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Form => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::HeaderBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson => "Jwt header is an invalid JSON",
            Self::HeaderAlgorithm => "Jwt header [alg] field is required and must be a string",
            Self::AlgorithmNotSupported => "Jwt header [alg] is not supported",
            Self::HeaderKeyId => "Jwt header [kid] field is not a string",
            Self::HeaderCritical => "Jwt header [crit] is not supported",
            Self::PayloadBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadJson => "Jwt payload is an invalid JSON",
            Self::Issuer => "Jwt payload [iss] field is not a string",
            Self::Subject => "Jwt payload [sub] field is not a string",
            Self::IssuedAt => "Jwt payload [iat] field is not an integer",
            Self::NotBefore => "Jwt payload [nbf] field is not an integer",
            Self::Expires => "Jwt payload [exp] field is not an integer",
            Self::TokenId => "Jwt payload [jti] field is not a string",
            Self::Audiences => "Jwt payload [aud] field is not a string or string list",
            Self::SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::AudienceNotAllowed => "Audiences in Jwt are not allowed",
            Self::KeysNotFetched => "Jwks remote fetch is failed",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::Signature => "Jwt verification fails",
        }
    }
}

/// A token whose form is right; nothing in it is believed yet.
#[derive(Debug)]
pub struct Token<'a> {
    signed: &'a [u8],
    signature: &'a str,
    encoded_payload: &'a str,
    algorithm: Algorithm,
    key_id: Option<String>,
    payload: Map<String, Value>,
    validity: Validity,
}

impl<'a> Token<'a> {
    /// Takes a token in compact form apart (RFC 7515 section 7.1).
    ///
    /// # Errors
    /// Anything that is not exactly what a token is made of. Parts of the header that could name keys
    /// (`jku`, `x5u`, `jwk`, `x5c`) are not looked at.
    pub fn parse(token: &'a str) -> Result<Self, Problem> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Problem::Form);
        };
        let decode = |part: &str, problem| URL_SAFE_NO_PAD.decode(part).map_err(|_invalid| problem);
        let fields = decode(header, Problem::HeaderBase64)?;
        let fields = strict_json::parse_object(&fields).ok_or(Problem::HeaderJson)?;
        let name = fields.get("alg").and_then(Value::as_str).ok_or(Problem::HeaderAlgorithm)?;
        let algorithm = jwks::algorithm(name).ok_or(Problem::AlgorithmNotSupported)?;
        let key_id = optional_text(&fields, "kid", Problem::HeaderKeyId)?.map(ToOwned::to_owned);
        // Names extensions that change what the token means (RFC 7515 section 4.1.11); we know none.
        if fields.contains_key("crit") {
            return Err(Problem::HeaderCritical);
        }
        let claims = decode(payload, Problem::PayloadBase64)?;
        let claims = strict_json::parse_object(&claims).ok_or(Problem::PayloadJson)?;
        let validity = check_types(&claims)?;
        decode(signature, Problem::SignatureBase64)?;
        Ok(Self {
            signed: &token.as_bytes()[..header.len() + 1 + payload.len()],
            signature,
            encoded_payload: payload,
            algorithm,
            key_id,
            payload: claims,
            validity,
        })
    }

    /// Checks the token against one rule, `now` in seconds since 1970.
    ///
    /// # Errors
    /// What is wrong with it. [`Problem::NoKey`]: it may have been signed with a key newer than `keys`.
    pub fn verify(&self, rule: &JwtRule, keys: &KeySet, now: u64) -> Result<Verified, Problem> {
        let issuer = self.payload.get("iss").and_then(Value::as_str);
        if !rule.issuer.is_empty() && issuer != Some(&*rule.issuer) {
            return Err(Problem::UnknownIssuer);
        }
        check_time(self.validity, now)?;
        let claims =
            Claims::new(self.payload.clone(), self.encoded_payload, &rule.space_delimited_claims);
        let allowed = |audience: &str| rule.audiences.iter().any(|allowed| **allowed == *audience);
        if !rule.audiences.is_empty() && !claims.audiences().any(allowed) {
            return Err(Problem::AudienceNotAllowed);
        }
        if keys.is_empty() {
            return Err(Problem::KeysNotFetched);
        }
        let mut candidates = keys.candidates(self.key_id.as_deref(), self.algorithm).peekable();
        if candidates.peek().is_none() {
            return Err(Problem::NoKey);
        }
        if !candidates.any(|key| self.is_signed_with(key)) {
            return Err(Problem::Signature);
        }
        Ok(Verified { claims: Arc::new(claims), validity: self.validity, epoch: keys.epoch })
    }

    fn is_signed_with(&self, key: &DecodingKey) -> bool {
        // An error is a key that does not fit, which is no signature either.
        jsonwebtoken::crypto::verify(self.signature, self.signed, key, self.algorithm)
            .unwrap_or(false)
    }
}

/// Whether a token is in its time. Checked on every use, also of a token verified before.
///
/// # Errors
/// It is too early or too late, clock skew considered.
pub fn check_time(validity: Validity, now: u64) -> Result<(), Problem> {
    if validity.not_before.is_some_and(|not_before| not_before > now.saturating_add(CLOCK_SKEW)) {
        return Err(Problem::NotYetValid);
    }
    if validity.expires.is_some_and(|expires| now > expires.saturating_add(CLOCK_SKEW)) {
        return Err(Problem::Expired);
    }
    Ok(())
}

/// Registered claims have the types of RFC 7519 section 4.1.
fn check_types(claims: &Map<String, Value>) -> Result<Validity, Problem> {
    optional_text(claims, "iss", Problem::Issuer)?;
    optional_text(claims, "sub", Problem::Subject)?;
    optional_text(claims, "jti", Problem::TokenId)?;
    optional_time(claims, "iat", Problem::IssuedAt)?;
    match claims.get("aud") {
        None | Some(Value::String(_)) => {}
        Some(Value::Array(audiences)) if audiences.iter().all(Value::is_string) => {}
        Some(_) => return Err(Problem::Audiences),
    }
    Ok(Validity {
        not_before: optional_time(claims, "nbf", Problem::NotBefore)?,
        expires: optional_time(claims, "exp", Problem::Expires)?,
    })
}

fn optional_text<'m>(
    object: &'m Map<String, Value>,
    name: &str,
    problem: Problem,
) -> Result<Option<&'m str>, Problem> {
    object.get(name).map(|value| value.as_str().ok_or(problem)).transpose()
}

/// NumericDate; a fraction of a second is cut off.
fn optional_time(
    object: &Map<String, Value>,
    name: &str,
    problem: Problem,
) -> Result<Option<u64>, Problem> {
    let Some(value) = object.get(name) else { return Ok(None) };
    let seconds = value.as_u64().or_else(|| {
        // Up to 2^53 every second is a float of its own.
        value.as_f64().filter(|s| (0.0..9_007_199_254_740_992.0).contains(s)).map(|s| s as u64)
    });
    seconds.map(Some).ok_or(problem)
}
