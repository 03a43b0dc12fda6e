//! Cross-origin resource sharing (`corsPolicy`; istio-compat 1.1).

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use smallvec::SmallVec;
use weir_config::model::{filter, matcher::StringMatch};

use crate::{
    head::{RequestHeader, ResponseHeader},
    local_reply::LocalReply,
};

/// A route's policy with its header values ready to be sent.
#[derive(Debug)]
pub struct Cors {
    allow_origins: std::sync::Arc<[StringMatch]>,
    allow_methods: Option<HeaderValue>,
    allow_headers: Option<HeaderValue>,
    expose_headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    allow_credentials: bool,
    forward_unmatched_preflights: bool,
}

impl Cors {
    #[must_use]
    pub fn new(config: &filter::Cors) -> Self {
        let value = |text: &Option<std::sync::Arc<str>>| {
            text.as_deref()
                .filter(|text| !text.is_empty())
                .and_then(|t| HeaderValue::from_str(t).ok())
        };
        Self {
            allow_origins: config.allow_origins.clone(),
            allow_methods: value(&config.allow_methods),
            allow_headers: value(&config.allow_headers),
            expose_headers: value(&config.expose_headers),
            max_age: config.max_age.map(|age| age.as_secs().into()),
            allow_credentials: config.allow_credentials == Some(true),
            forward_unmatched_preflights: config.forward_unmatched_preflights,
        }
    }

    /// Answers a preflight.
    ///
    /// # Errors
    /// The answer: 200 for an origin that is allowed, and, where unmatched preflights are not to be
    /// forwarded, 200 that allows no origin for the others.
    pub fn preflight(&self, request: &RequestHeader) -> Result<(), LocalReply> {
        if !is_preflight(request) {
            return Ok(());
        }
        let origin = self.allowed_origin(request);
        if origin.is_none() && self.forward_unmatched_preflights {
            return Ok(());
        }
        let mut headers: SmallVec<[(HeaderName, HeaderValue); 2]> = SmallVec::new();
        if let Some(origin) = origin {
            headers.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin));
        }
        if self.allow_credentials {
            headers
                .push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        for (configured, name, asked) in [
            (
                &self.allow_methods,
                header::ACCESS_CONTROL_ALLOW_METHODS,
                header::ACCESS_CONTROL_REQUEST_METHOD,
            ),
            (
                &self.allow_headers,
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                header::ACCESS_CONTROL_REQUEST_HEADERS,
            ),
        ] {
            let Some(configured) = configured else { continue };
            // `*` is said by repeating the question: browsers take no `*` next to credentials.
            let value =
                if configured == "*" { request.headers.get(asked) } else { Some(configured) };
            headers.extend(value.map(|value| (name, value.clone())));
        }
        headers.extend(self.max_age.clone().map(|age| (header::ACCESS_CONTROL_MAX_AGE, age)));
        Err(LocalReply {
            status: StatusCode::OK,
            headers,
            body: bytes::Bytes::new(),
            flag: None,
            details: "cors_response".into(),
            close: false,
        })
    }

    /// The request's origin, if it is allowed.
    #[must_use]
    pub fn allowed_origin(&self, request: &RequestHeader) -> Option<HeaderValue> {
        let value = request.headers.get(header::ORIGIN)?;
        let origin = value.to_str().ok().filter(|origin| !origin.is_empty())?;
        let allowed = self.allow_origins.iter().any(|allowed| {
            matches!(allowed, StringMatch::Exact(any) if &**any == "*") || allowed.is_match(origin)
        });
        allowed.then(|| value.clone())
    }

    /// Tells the browser that `origin` may read the response.
    pub fn on_response(&self, origin: &HeaderValue, response: &mut ResponseHeader) {
        for (name, value) in self.grants(origin) {
            response.headers.insert(name, value);
        }
    }

    /// As [`Cors::on_response`].
    pub fn on_local_reply(&self, origin: &HeaderValue, reply: &mut LocalReply) {
        for (name, value) in self.grants(origin) {
            reply.headers.retain(|(present, _)| *present != name);
            reply.headers.push((name, value));
        }
    }

    fn grants(&self, origin: &HeaderValue) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let credentials = self.allow_credentials.then(|| HeaderValue::from_static("true"));
        [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, Some(origin.clone())),
            (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose_headers.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Whether a browser asks for permission and not for the thing itself (Fetch, "CORS preflight").
#[must_use]
pub fn is_preflight(request: &RequestHeader) -> bool {
    let given =
        |name| request.headers.get(name).is_some_and(|value: &HeaderValue| !value.is_empty());
    request.method == Method::OPTIONS
        && given(header::ORIGIN)
        && given(header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn policy() -> filter::Cors {
        filter::Cors {
            allow_origins: [
                StringMatch::Exact("https://shop.example".into()),
                StringMatch::Prefix("https://dev-".into()),
            ]
            .into(),
            allow_methods: Some("GET,POST".into()),
            allow_headers: Some("*".into()),
            expose_headers: Some("x-total".into()),
            max_age: Some(Duration::from_secs(600)),
            allow_credentials: Some(true),
            forward_unmatched_preflights: true,
        }
    }

    fn preflight(origin: &str) -> RequestHeader {
        let mut request = RequestHeader::build("OPTIONS", "/").unwrap();
        request.headers.try_insert("origin", origin).unwrap();
        request.headers.try_insert("access-control-request-method", "PUT").unwrap();
        request.headers.try_insert("access-control-request-headers", "x-a,x-b").unwrap();
        request
    }

    fn sent(reply: &LocalReply) -> Vec<String> {
        reply
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn a_matched_preflight_is_answered_with_everything_configured() {
        let reply = Cors::new(&policy()).preflight(&preflight("https://shop.example")).unwrap_err();
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(
            sent(&reply),
            [
                "access-control-allow-origin: https://shop.example",
                "access-control-allow-credentials: true",
                "access-control-allow-methods: GET,POST",
                "access-control-allow-headers: x-a,x-b",
                "access-control-max-age: 600",
            ]
        );
    }

    #[test]
    fn an_unmatched_preflight_is_forwarded_or_answered_without_an_origin() {
        let foreign = preflight("https://evil.example");
        assert!(Cors::new(&policy()).preflight(&foreign).is_ok(), "FORWARD is the default");

        let ignoring = Cors::new(&filter::Cors { forward_unmatched_preflights: false, ..policy() });
        let reply = ignoring.preflight(&foreign).unwrap_err();
        assert_eq!(reply.status, StatusCode::OK);
        assert!(sent(&reply).iter().all(|field| !field.starts_with("access-control-allow-origin")));
    }

    #[test]
    fn only_an_options_request_with_origin_and_method_is_a_preflight() {
        let complete = preflight("https://shop.example");
        assert!(is_preflight(&complete));
        let mut get = complete.clone();
        get.method = Method::GET;
        assert!(!is_preflight(&get));
        for name in ["origin", "access-control-request-method"] {
            let mut partial = complete.clone();
            partial.headers.remove(name);
            assert!(!is_preflight(&partial), "without {name}");
        }
    }

    #[test]
    fn the_matched_origin_is_echoed_and_no_other() {
        let cors = Cors::new(&policy());
        for (origin, allowed) in [
            ("https://shop.example", true),
            ("https://dev-7.example", true),
            ("https://shop.example.evil", false),
            ("null", false),
            ("", false),
        ] {
            let found = cors.allowed_origin(&preflight(origin));
            assert_eq!(found.as_ref().map(|o| o.to_str().unwrap()), allowed.then_some(origin));
        }
        let any = Cors::new(&filter::Cors {
            allow_origins: [StringMatch::Exact("*".into())].into(),
            ..policy()
        });
        assert_eq!(
            any.allowed_origin(&preflight("https://x.example")).unwrap(),
            "https://x.example"
        );
    }

    #[test]
    fn a_response_tells_what_may_be_read() {
        let mut response = ResponseHeader::new(StatusCode::OK);
        response.headers.try_insert("access-control-allow-origin", "*").unwrap();
        Cors::new(&policy())
            .on_response(&HeaderValue::from_static("https://shop.example"), &mut response);
        assert_eq!(response.headers["access-control-allow-origin"], "https://shop.example");
        assert_eq!(response.headers["access-control-allow-credentials"], "true");
        assert_eq!(response.headers["access-control-expose-headers"], "x-total");
        assert!(!response.headers.contains_key("access-control-max-age"));
    }
}
