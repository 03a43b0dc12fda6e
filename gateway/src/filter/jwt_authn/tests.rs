use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, StatusCode, header};
use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData,
};
use serde_json::{Value, json};
use weir_config::model::filter::{
    ClaimToHeader, JwksSource, JwtAuthn as Config, JwtLocation, JwtRule,
};

use super::JwtAuthn;
use crate::{
    filter::{
        RequestContext,
        test_support::{info, request},
    },
    head::RequestHeader,
    local_reply::LocalReply,
};

const ISSUER: &str = "https://issuer.example";
/// Seconds since 1970 at which requests come.
const NOW: u64 = 1_800_000_000;

/// A signing key and its public half as a JWK without `kid` and `alg`.
struct Pair {
    key: EncodingKey,
    public: Value,
}

static RSA: LazyLock<Pair> = LazyLock::new(|| {
    let pem = rcgen::KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap().serialize_pem();
    let key = EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
    let mut public =
        serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap()).unwrap();
    public.as_object_mut().unwrap().remove("alg");
    Pair { key, public }
});
static EC: LazyLock<Pair> = LazyLock::new(|| ec(&PKCS_ECDSA_P256_SHA256, "P-256"));
static EC384: LazyLock<Pair> = LazyLock::new(|| ec(&PKCS_ECDSA_P384_SHA384, "P-384"));
static OTHER_EC: LazyLock<Pair> = LazyLock::new(|| ec(&PKCS_ECDSA_P256_SHA256, "P-256"));
static ED: LazyLock<Pair> = LazyLock::new(|| {
    let pair = rcgen::KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let public = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.der_bytes())});
    Pair { key: EncodingKey::from_ed_der(&pair.serialize_der()), public }
});
static HMAC: LazyLock<Pair> = LazyLock::new(|| {
    let secret = b"a secret of at least 256 bits, as it should be";
    let public = json!({"kty": "oct", "k": encode(secret)});
    Pair { key: EncodingKey::from_secret(secret), public }
});

fn ec(algorithm: &'static rcgen::SignatureAlgorithm, curve: &str) -> Pair {
    let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let point = &pair.der_bytes()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    Pair {
        key: EncodingKey::from_ec_der(&pair.serialize_der()),
        public: json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)}),
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn sign(header: &Value, payload: &str, pair: &Pair, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &pair.key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// ES256 with `EC`.
fn token(payload: &Value) -> String {
    sign(&json!({"alg": "ES256", "kid": "ec"}), &payload.to_string(), &EC, Algorithm::ES256)
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "exp": NOW + 600})
}

/// `claims` with `changes`; null removes.
fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn keys(keys: &[(&str, &Pair)]) -> JwksSource {
    let keys: Vec<_> = keys
        .iter()
        .map(|(id, pair)| {
            let mut key = pair.public.clone();
            key["kid"] = json!(id);
            key
        })
        .collect();
    JwksSource::Inline(json!({ "keys": keys }).to_string().into())
}

fn rule() -> JwtRule {
    JwtRule {
        origin: "istio-system/jwt".into(),
        issuer: ISSUER.into(),
        audiences: Arc::default(),
        keys: keys(&[("ec", &EC)]),
        locations: [
            JwtLocation::Header { name: header::AUTHORIZATION, prefix: "Bearer ".into() },
            JwtLocation::QueryParam("access_token".into()),
        ]
        .into(),
        output_payload_to_header: None,
        output_claim_to_headers: Arc::default(),
        forward_original_token: false,
        space_delimited_claims: Arc::default(),
        timeout: Duration::from_secs(5),
    }
}

fn filter(rules: impl IntoIterator<Item = JwtRule>) -> JwtAuthn {
    JwtAuthn::next(None, &Config { rules: rules.into_iter().collect() })
}

/// What passed: the request as it goes on, and whose it is.
#[derive(Debug)]
struct Passed {
    request: RequestHeader,
    context: RequestContext,
    principal: Option<String>,
}

fn run_at(filter: &JwtAuthn, mut request: RequestHeader, now: u64) -> Result<Passed, LocalReply> {
    let mut context = RequestContext::default();
    let mut info = info();
    info.started_at = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
    filter.on_request(&mut request, &mut context, &mut info)?;
    let principal = info.request_principal.map(|principal| principal.to_string());
    Ok(Passed { request, context, principal })
}

fn run(filter: &JwtAuthn, request: RequestHeader) -> Result<Passed, LocalReply> {
    run_at(filter, request, NOW)
}

fn bearing(tokens: &[&str]) -> RequestHeader {
    let mut request = request("GET", "www.example.com", "/p?q=1");
    for token in tokens {
        request.headers.try_append("authorization", format!("Bearer {token}")).unwrap();
    }
    request
}

fn refusal(filter: &JwtAuthn, token: &str) -> String {
    let reply = run(filter, bearing(&[token])).expect_err(token);
    format!("{} {}", reply.status.as_u16(), std::str::from_utf8(&reply.body).unwrap())
}

#[test]
fn a_valid_token_of_every_algorithm_names_the_principal() {
    let (ps, es384) = (Algorithm::PS256, Algorithm::ES384);
    for (name, pair, algorithm) in [
        ("RS256", &*RSA, Algorithm::RS256),
        ("RS512", &RSA, Algorithm::RS512),
        ("PS256", &RSA, ps),
        ("ES256", &EC, Algorithm::ES256),
        ("ES384", &EC384, es384),
        ("EdDSA", &ED, Algorithm::EdDSA),
        ("HS256", &HMAC, Algorithm::HS256),
    ] {
        let filter =
            filter([JwtRule { keys: keys(&[("other", &OTHER_EC), ("k", pair)]), ..rule() }]);
        let token = sign(&json!({"alg": name, "kid": "k"}), &claims().to_string(), pair, algorithm);
        let passed = run(&filter, bearing(&[&token])).expect(name);
        assert_eq!(passed.principal.as_deref(), Some("https://issuer.example/alice"), "{name}");
        assert!(passed.context.claims.is_some());
        let without_id = sign(&json!({"alg": name}), &claims().to_string(), pair, algorithm);
        assert!(run(&filter, bearing(&[&without_id])).is_ok(), "{name} without kid");
    }
}

#[test]
fn a_request_without_a_token_passes_without_a_principal() {
    let mut basic = bearing(&[]);
    basic.headers.try_append("authorization", "Basic dXNlcjpwYXNz").unwrap();
    for request in [bearing(&[]), basic] {
        let passed = run(&filter([rule()]), request).unwrap();
        assert_eq!(passed.principal, None);
        assert!(passed.context.claims.is_none());
    }
}

/// Hardening J01 to J08, J12; the texts are Envoy's.
#[test]
fn a_token_that_is_not_valid_is_refused_in_envoys_words() {
    let filter = filter([rule()]);
    let payload = claims().to_string();
    let signed = |header: Value| sign(&header, &payload, &EC, Algorithm::ES256);
    let unsigned = |header: &str| format!("{}.{}.c2ln", encode(header), encode(&payload));
    let claiming = |text: &str| sign(&json!({"alg": "ES256"}), text, &EC, Algorithm::ES256);
    let good = token(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut flipped = raw.clone();
    flipped[63] ^= 1;
    let as_public_key = EC.public.to_string();
    let confused =
        Pair { key: EncodingKey::from_secret(as_public_key.as_bytes()), public: Value::Null };

    let form = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    let no_key = "Jwks doesn't have key to match kid or alg from Jwt";
    let long_id = "x".repeat(20_000);
    for (token, text) in [
        ("x".to_owned(), form),
        ("a.b".to_owned(), form),
        ("a.b.c.d.e".to_owned(), form),
        (format!("{good}.x"), form),
        (format!("{good} {good}"), form),
        ("?!.a.b".to_owned(), "Jwt header is an invalid Base64url encoded"),
        (unsigned("no json"), "Jwt header is an invalid JSON"),
        (unsigned(r#"{"alg":"ES256","alg":"none"}"#), "Jwt header is an invalid JSON"),
        (unsigned("{}"), "Jwt header [alg] field is required and must be a string"),
        (unsigned(r#"{"alg":1}"#), "Jwt header [alg] field is required and must be a string"),
        (unsigned(r#"{"alg":"none"}"#), "Jwt header [alg] is not supported"),
        (unsigned(r#"{"alg":"NonE"}"#), "Jwt header [alg] is not supported"),
        (unsigned(r#"{"alg":"es256"}"#), "Jwt header [alg] is not supported"),
        (signed(json!({"alg": "ES256", "kid": 1})), "Jwt header [kid] field is not a string"),
        (
            signed(json!({"alg": "ES256", "crit": ["b64"], "b64": false})),
            "Jwt header [crit] is not supported",
        ),
        (signed(json!({"alg": "ES256", "kid": "../../dev/null"})), no_key),
        (signed(json!({"alg": "ES256", "kid": long_id})), no_key),
        (unsigned(r#"{"alg":"RS256","kid":"ec"}"#), no_key),
        (
            sign(&json!({"alg": "HS256", "kid": "ec"}), &payload, &confused, Algorithm::HS256),
            no_key,
        ),
        (
            sign(
                &json!({"alg": "ES256", "jwk": OTHER_EC.public}),
                &payload,
                &OTHER_EC,
                Algorithm::ES256,
            ),
            "Jwt verification fails",
        ),
        (
            sign(
                &json!({"alg": "ES256", "jku": "https://evil.example"}),
                &payload,
                &OTHER_EC,
                Algorithm::ES256,
            ),
            "Jwt verification fails",
        ),
        (
            format!("{}.!.c2ln", encode(r#"{"alg":"ES256"}"#)),
            "Jwt payload is an invalid Base64url encoded",
        ),
        (claiming("[]"), "Jwt payload is an invalid JSON"),
        (
            claiming(r#"{"iss":"https://issuer.example","iss":"x"}"#),
            "Jwt payload is an invalid JSON",
        ),
        (token(&with(json!({"iss": 1}))), "Jwt payload [iss] field is not a string"),
        (token(&with(json!({"sub": 1}))), "Jwt payload [sub] field is not a string"),
        (token(&with(json!({"iat": "1"}))), "Jwt payload [iat] field is not an integer"),
        (token(&with(json!({"nbf": "1"}))), "Jwt payload [nbf] field is not an integer"),
        (token(&with(json!({"exp": "1"}))), "Jwt payload [exp] field is not an integer"),
        (token(&with(json!({"exp": -1}))), "Jwt payload [exp] field is not an integer"),
        (token(&with(json!({"exp": 1e99}))), "Jwt payload [exp] field is not an integer"),
        (token(&with(json!({"jti": 1}))), "Jwt payload [jti] field is not a string"),
        (
            token(&with(json!({"aud": [1]}))),
            "Jwt payload [aud] field is not a string or string list",
        ),
        (token(&with(json!({"iss": "https://issuer.example/"}))), "Jwt issuer is not configured"),
        (token(&with(json!({"iss": "https://Issuer.example"}))), "Jwt issuer is not configured"),
        (token(&with(json!({"iss": null}))), "Jwt issuer is not configured"),
        (format!("{message}.!"), "Jwt signature is an invalid Base64url encoded"),
        (format!("{message}.{signature}="), "Jwt signature is an invalid Base64url encoded"),
        (format!("{message}."), "Jwt verification fails"),
        (format!("{message}.{}", encode(&flipped)), "Jwt verification fails"),
        (format!("{message}.{}", encode(&raw[..63])), "Jwt verification fails"),
        (format!("{message}.{}", encode([0; 64])), "Jwt verification fails"),
    ] {
        assert_eq!(refusal(&filter, &token), format!("401 {text}"), "{token}");
    }
}

#[test]
fn a_refusal_challenges_the_client_and_tells_the_log() {
    let mut reply = run(&filter([rule()]), bearing(&["x"])).unwrap_err();
    let (name, challenge) = reply.headers.remove(0);
    assert_eq!(name, header::WWW_AUTHENTICATE);
    assert_eq!(challenge, "Bearer realm=\"http://www.example.com/p\", error=\"invalid_token\"");
    assert_eq!(
        reply.details,
        "jwt_authn_access_denied{Jwt_is_not_in_the_form_of_Header.Payload.Signature_with_two_dots_and_3_sections}"
    );
    assert_eq!(reply.flag, None);
}

/// Hardening J05: sixty seconds of skew, to the second; the same for a token verified before.
#[test]
fn a_token_is_valid_in_its_time_only() {
    let expired = Some("Jwt is expired");
    let early = Some("Jwt not yet valid");
    for (changes, now, problem) in [
        (json!({"exp": NOW}), NOW + 60, None),
        (json!({"exp": NOW}), NOW + 61, expired),
        (json!({"exp": NOW as f64 + 0.5}), NOW + 60, None),
        (json!({"exp": NOW as f64 + 0.5}), NOW + 61, expired),
        (json!({"exp": 0}), NOW, expired),
        (json!({"exp": u64::MAX}), NOW, None),
        (json!({"exp": null}), NOW, None),
        (json!({"nbf": NOW}), NOW - 60, None),
        (json!({"nbf": NOW}), NOW - 61, early),
        (json!({"iat": NOW + 1_000}), NOW, None),
    ] {
        let filter = filter([rule()]);
        let token = token(&with(changes.clone()));
        for round in ["first", "again"] {
            let answer = run_at(&filter, bearing(&[&token]), now).err();
            let text = answer.map(|reply| String::from_utf8(reply.body.to_vec()).unwrap());
            assert_eq!(text.as_deref(), problem, "{changes} at {now}, {round}");
        }
    }
}

#[test]
fn a_token_verified_before_still_expires() {
    let filter = filter([rule()]);
    let token = token(&claims());
    assert!(run_at(&filter, bearing(&[&token]), NOW).is_ok());
    assert!(run_at(&filter, bearing(&[&token]), NOW + 660).is_ok());
    let late = run_at(&filter, bearing(&[&token]), NOW + 661).unwrap_err();
    assert_eq!(late.body, "Jwt is expired");
}

#[test]
fn a_token_verified_before_does_not_vouch_for_a_similar_one() {
    let filter = filter([rule()]);
    let good = token(&claims());
    assert!(run(&filter, bearing(&[&good])).is_ok());
    let signature = good.rsplit('.').next().unwrap();
    let forged = with(json!({"sub": "root"})).to_string();
    let forged =
        format!("{}.{}.{signature}", encode(r#"{"alg":"ES256","kid":"ec"}"#), encode(forged));
    assert_eq!(refusal(&filter, &forged), "401 Jwt verification fails");
}

/// Hardening J06.
#[test]
fn an_audience_has_to_be_named_exactly() {
    let wanted: Arc<[Arc<str>]> = ["web".into(), "api".into()].into();
    let filter = filter([JwtRule { audiences: wanted, ..rule() }]);
    for (audience, allowed) in [
        (json!("web"), true),
        (json!(["other", "api"]), true),
        (json!("Web"), false),
        (json!("we"), false),
        (json!("web2"), false),
        (json!([]), false),
        (Value::Null, false),
    ] {
        let answer = run(&filter, bearing(&[&token(&with(json!({"aud": audience})))]));
        if allowed {
            assert!(answer.is_ok(), "{audience}");
        } else {
            let reply = answer.unwrap_err();
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{audience}");
            assert_eq!(reply.body, "Audiences in Jwt are not allowed");
        }
    }
}

fn other_rule() -> JwtRule {
    JwtRule { issuer: "https://other.example".into(), keys: keys(&[("o", &OTHER_EC)]), ..rule() }
}

fn other_token() -> String {
    let payload = with(json!({"iss": "https://other.example", "sub": "bob"})).to_string();
    sign(&json!({"alg": "ES256", "kid": "o"}), &payload, &OTHER_EC, Algorithm::ES256)
}

#[test]
fn with_two_rules_a_token_of_either_is_valid() {
    let filter = filter([rule(), other_rule()]);
    for (token, principal) in [
        (token(&claims()), "https://issuer.example/alice"),
        (other_token(), "https://other.example/bob"),
    ] {
        assert_eq!(run(&filter, bearing(&[&token])).unwrap().principal.as_deref(), Some(principal));
    }
    assert_eq!(
        refusal(&filter, &token(&with(json!({"exp": 1})))),
        "401 Jwt is expired",
        "what its own issuer's rule says counts"
    );
    assert_eq!(
        refusal(&filter, &token(&with(json!({"iss": "https://third.example"})))),
        "401 Jwt issuer is not configured"
    );
}

/// Hardening J02.
#[test]
fn a_key_of_one_issuer_signs_nothing_for_another() {
    let filter = filter([rule(), other_rule()]);
    let payload = claims().to_string();
    for id in ["o", "ec"] {
        let token =
            sign(&json!({"alg": "ES256", "kid": id}), &payload, &OTHER_EC, Algorithm::ES256);
        assert_eq!(
            run(&filter, bearing(&[&token])).unwrap_err().status,
            StatusCode::UNAUTHORIZED,
            "{id}"
        );
    }
}

/// Hardening J07.
#[test]
fn of_several_tokens_all_have_to_be_valid() {
    let filter = filter([rule(), other_rule()]);
    let good = token(&claims());
    let expired = token(&with(json!({"exp": 1})));
    let both = run(&filter, bearing(&[&other_token(), &good])).unwrap();
    assert_eq!(both.principal.as_deref(), Some("https://issuer.example/alice"), "the first rule's");
    for tokens in [[&*good, &*expired], [&expired, &good]] {
        assert_eq!(run(&filter, bearing(&tokens)).unwrap_err().body, "Jwt is expired");
    }
    let mut elsewhere = bearing(&[&good]);
    elsewhere.uri = format!("/p?access_token={expired}").parse().unwrap();
    assert_eq!(run(&filter, elsewhere).unwrap_err().body, "Jwt is expired");
    let same_twice = bearing(&[&good, &good]);
    assert!(run(&filter, same_twice).is_ok());
}

#[test]
fn a_token_is_taken_away_unless_it_is_to_be_forwarded() {
    let token = token(&claims());
    let sent = || {
        let mut request = bearing(&[&token]);
        request.uri = format!("/p?a=1&access_token={token}").parse().unwrap();
        request
    };
    let stripped = run(&filter([rule()]), sent()).unwrap().request;
    assert!(!stripped.headers.contains_key("authorization"));
    assert_eq!(stripped.uri, "/p?a=1");
    let forwarding = JwtRule { forward_original_token: true, ..rule() };
    let forwarded = run(&filter([forwarding]), sent()).unwrap().request;
    assert!(forwarded.headers.contains_key("authorization"));
    assert_eq!(forwarded.uri.query().unwrap().len(), "a=1&access_token=".len() + token.len());
}

/// Hardening J10.
#[test]
fn fields_made_from_claims_are_never_the_clients() {
    let output = |header: &'static str, claim: &[&str]| ClaimToHeader {
        header: HeaderName::from_static(header),
        claim: claim.iter().map(|name| (*name).into()).collect(),
    };
    let rule = JwtRule {
        output_payload_to_header: Some(HeaderName::from_static("x-payload")),
        output_claim_to_headers: [
            output("x-sub", &["sub"]),
            output("x-level", &["a", "level"]),
            output("x-admin", &["admin"]),
            output("x-list", &["list"]),
            output("x-evil", &["evil"]),
            output("x-none", &["none"]),
        ]
        .into(),
        ..rule()
    };
    let filter = filter([rule]);
    let names = ["x-payload", "x-sub", "x-level", "x-admin", "x-list", "x-evil", "x-none"];
    let forged = |tokens: &[&str]| {
        let mut request = bearing(tokens);
        for name in names {
            request.headers.try_append(name, "forged").unwrap();
        }
        request
    };
    let fields = |request: &RequestHeader| -> BTreeMap<String, String> {
        request
            .headers
            .iter()
            .filter(|(name, _)| names.contains(&name.as_str()))
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect()
    };
    let payload = with(json!({
        "a": {"level": 3}, "admin": true, "list": ["x"], "evil": "a\r\nx-injected: 1",
    }));
    let passed = run(&filter, forged(&[&token(&payload)])).unwrap();
    let expected = [
        ("x-admin", "true".to_owned()),
        ("x-level", "3".to_owned()),
        ("x-payload", encode(payload.to_string())),
        ("x-sub", "alice".to_owned()),
    ];
    assert_eq!(
        fields(&passed.request),
        expected.map(|(name, value)| (name.to_owned(), value)).into()
    );
    let anonymous = run(&filter, forged(&[])).unwrap();
    assert_eq!(fields(&anonymous.request), BTreeMap::new());
}

#[test]
fn a_preflight_is_not_asked_for_credentials() {
    let mut preflight = bearing(&["not a token"]);
    preflight.method = http::Method::OPTIONS;
    preflight.headers.try_insert("origin", "https://shop.example").unwrap();
    assert!(run(&filter([rule()]), preflight.clone()).is_err(), "not one without a method");
    preflight.headers.try_insert("access-control-request-method", "GET").unwrap();
    assert_eq!(run(&filter([rule()]), preflight).unwrap().principal, None);
}

/// Hardening J09, CVE-2026-31837: no keys are no excuse.
#[test]
fn without_keys_every_token_fails() {
    for document in
        ["", "{}", "<html>", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#]
    {
        let filter =
            filter([JwtRule { keys: JwksSource::Inline(document.into()), ..rule() }, other_rule()]);
        assert_eq!(
            refusal(&filter, &token(&claims())),
            "401 Jwks remote fetch is failed",
            "{document}"
        );
        assert!(
            run(&filter, bearing(&[&other_token()])).is_ok(),
            "the other issuer is not concerned"
        );
    }
}

#[test]
fn a_rule_that_stays_keeps_its_keys_and_a_changed_one_forgets_its_tokens() {
    let first = filter([rule(), other_rule()]);
    let changed = JwtRule { forward_original_token: true, ..rule() };
    let second = JwtAuthn::next(Some(&first), &Config { rules: [changed, other_rule()].into() });
    assert!(Arc::ptr_eq(&first.providers[1], &second.providers[1]));
    assert!(!Arc::ptr_eq(&first.providers[0], &second.providers[0]));
    assert!(Arc::ptr_eq(&first.providers[0].keys, &second.providers[0].keys), "the same source");

    let token = token(&claims());
    assert!(run(&second, bearing(&[&token])).is_ok());
    let rotated = JwtRule { keys: keys(&[("ec", &OTHER_EC)]), ..rule() };
    let third = JwtAuthn::next(Some(&second), &Config { rules: [rotated].into() });
    assert_eq!(refusal(&third, &token), "401 Jwt verification fails");
}

/// Hardening J09: closed before the first keys are there, open after, with nobody waiting for them.
#[tokio::test]
async fn keys_with_an_address_are_fetched_beside_the_requests() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/keys", listener.local_addr().unwrap());
    let filter = filter([JwtRule { keys: JwksSource::Uri(uri.into()), ..rule() }]);
    let token = token(&claims());
    assert_eq!(refusal(&filter, &token), "401 Jwks remote fetch is failed");

    let JwksSource::Inline(document) = rule().keys else { unreachable!() };
    let (mut stream, _) = listener.accept().await.unwrap();
    assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", document.len());
    stream.write_all(format!("{head}{document}").as_bytes()).await.unwrap();

    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while run(&filter, bearing(&[&token])).is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the keys never arrived");
        tokio::task::yield_now().await;
    }
}

/// Any damage to a token makes it invalid: nothing panics, and no second spelling is taken for it.
#[test]
fn a_damaged_token_is_never_the_token_it_was() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let filter = filter([rule()]);
    let token = token(&claims());
    for _ in 0..1_000 {
        let mut damaged = token.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..damaged.len());
            match random.u8(..4) {
                0 => damaged[at] = random.u8(0x21..0x7f),
                1 => damaged.insert(at, b"._-=A"[random.usize(..5)]),
                // Something stays: an empty field is no token, and that is another matter.
                2 => damaged.truncate(at.max(4)),
                _ => drop(damaged.remove(at)),
            }
        }
        let damaged = String::from_utf8(damaged).unwrap();
        let outcome = run(&filter, bearing(&[&damaged]));
        assert_eq!(outcome.is_ok(), damaged == token, "seed {seed}: {damaged} for {token}");
    }
}
