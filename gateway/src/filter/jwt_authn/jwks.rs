//! The public keys tokens are verified with, and how they come here: with the configuration, or fetched
//! and kept fresh beside the request path (istio-compat 1.8, hardening J09).
//!
//! Without keys every token fails. Keys once fetched are used until they are replaced, or until they
//! have not been confirmed for [`MAX_STALE`].

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::{sync::Notify, task::AbortHandle, time::Instant};
use tracing::{info, warn};
use weir_config::model::filter::{JwksSource, JwtRule};

use super::fetch::{Location, fetch};

/// Between fetches that succeed.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After the first failure; doubled with each further one up to the maximum.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(5 * 60);
/// Between two fetches, however many tokens name a key that is not here.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// After so long without a successful fetch the keys are not used any more.
const MAX_STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// More keys than any provider rotates through; a token without a key id is tried with all of them.
const MAX_KEYS: usize = 64;

/// One key and the only algorithms it may be used with.
pub struct Key {
    id: Option<Box<str>>,
    /// What the key's type, curve and `alg` leave.
    algorithms: Box<[Algorithm]>,
    key: DecodingKey,
}

impl std::fmt::Debug for Key {
    /// Never the material: for HMAC it is the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.algorithms).finish()
    }
}

/// The keys of one issuer at one time.
#[derive(Debug)]
pub struct KeySet {
    /// Differs between any two sets, so that what was verified with one is not taken for verified with
    /// another.
    pub epoch: u64,
    keys: Vec<Key>,
}

/// The document has no key this proxy can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a JWKS document: {0}")]
    Malformed(String),
    #[error(
        "no usable key: RSA of 2048 bits or more, EC P-256 or P-384, Ed25519 and oct are supported"
    )]
    NoUsableKey,
}

impl KeySet {
    /// Reads a JWKS document (RFC 7517 section 5). Keys of other types and for other uses are skipped.
    ///
    /// # Errors
    /// Nothing usable is left.
    pub fn parse(document: &[u8]) -> Result<Self, Error> {
        let document: Document = serde_json::from_slice(document)
            .map_err(|error| Error::Malformed(error.to_string()))?;
        let keys: Vec<_> = document
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
            .filter_map(Key::new)
            .take(MAX_KEYS)
            .collect();
        if keys.is_empty() { Err(Error::NoUsableKey) } else { Ok(Self::of(keys)) }
    }

    /// No keys: nothing can be verified.
    fn empty() -> Self {
        Self::of(Vec::new())
    }

    fn of(keys: Vec<Key>) -> Self {
        static EPOCH: AtomicU64 = AtomicU64::new(0);
        Self { epoch: EPOCH.fetch_add(1, Ordering::Relaxed), keys }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys a token with this header may have been signed with. A key without an id may be any.
    pub fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        self.keys
            .iter()
            .filter(move |key| id.is_none() || key.id.is_none() || key.id.as_deref() == id)
            .filter(move |key| key.algorithms.contains(&algorithm))
            .map(|key| &key.key)
    }
}

#[derive(serde::Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

/// RFC 7517 section 4 and RFC 7518 section 6, as far as we use them.
#[derive(serde::Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl Key {
    fn new(jwk: Jwk) -> Option<Self> {
        if jwk.usage.is_some_and(|usage| usage != "sig") {
            return None;
        }
        let (key, algorithms): (_, &[Algorithm]) = match (&*jwk.kty, jwk.crv.as_deref()) {
            ("RSA", _) => {
                let modulus = base64(&jwk.n?)?;
                // Shorter ones can be factored (hardening J04).
                if modulus.iter().skip_while(|byte| **byte == 0).count() < 256 {
                    return None;
                }
                let key = DecodingKey::from_rsa_raw_components(&modulus, &base64(&jwk.e?)?);
                let algorithms = &[
                    Algorithm::RS256,
                    Algorithm::RS384,
                    Algorithm::RS512,
                    Algorithm::PS256,
                    Algorithm::PS384,
                    Algorithm::PS512,
                ];
                (key, algorithms)
            }
            ("EC", Some("P-256")) => (ec(&jwk.x?, &jwk.y?, 32)?, &[Algorithm::ES256]),
            ("EC", Some("P-384")) => (ec(&jwk.x?, &jwk.y?, 48)?, &[Algorithm::ES384]),
            ("OKP", Some("Ed25519")) => {
                let x = jwk.x?;
                base64(&x).filter(|bytes| bytes.len() == 32)?;
                let key = DecodingKey::from_ed_components(x.trim_end_matches('=')).ok()?;
                (key, &[Algorithm::EdDSA])
            }
            ("oct", _) => {
                let secret = base64(&jwk.k?).filter(|secret| !secret.is_empty())?;
                let algorithms = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
                (DecodingKey::from_secret(&secret), algorithms)
            }
            _ => return None,
        };
        let algorithms: Box<[_]> = match &jwk.alg {
            None => algorithms.into(),
            Some(name) => {
                algorithms.iter().copied().filter(|a| algorithm(name) == Some(*a)).collect()
            }
        };
        (!algorithms.is_empty()).then(|| Self { id: jwk.kid.map(Into::into), algorithms, key })
    }
}

fn ec(x: &str, y: &str, coordinate: usize) -> Option<DecodingKey> {
    for text in [x, y] {
        base64(text).filter(|bytes| bytes.len() == coordinate)?;
    }
    DecodingKey::from_ec_components(x.trim_end_matches('='), y.trim_end_matches('=')).ok()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    // Some issuers pad.
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// The signature algorithms accepted; `none` is not among them.
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        "HS256" => Algorithm::HS256,
        "HS384" => Algorithm::HS384,
        "HS512" => Algorithm::HS512,
        _ => return None,
    })
}

/// Where the keys of a rule are, always at hand.
#[derive(Debug)]
pub struct KeySource {
    shared: Arc<Shared>,
    /// Fetches keys that have an address; ends with this value.
    task: Option<AbortHandle>,
}

#[derive(Debug)]
struct Shared {
    keys: ArcSwap<KeySet>,
    wanted: Notify,
}

impl KeySource {
    /// Keys for `rule`. Those with an address come later, fetched by a task of the current runtime.
    #[must_use]
    pub fn new(rule: &JwtRule) -> Self {
        let location = match &rule.keys {
            JwksSource::Inline(document) => return Self::inline(document, &rule.origin),
            JwksSource::Uri(uri) => Location::Keys(Arc::clone(uri)),
            JwksSource::Discovery => Location::Issuer(Arc::clone(&rule.issuer)),
        };
        let shared = Arc::new(Shared::new(KeySet::empty()));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            warn!(policy = %rule.origin, "no runtime to fetch keys with; all tokens of the issuer fail");
            return Self { shared, task: None };
        };
        let (timeout, origin) = (rule.timeout, Arc::clone(&rule.origin));
        let ask = move || {
            let location = location.clone();
            async move {
                match tokio::time::timeout(timeout, fetch(&location)).await {
                    Ok(fetched) => fetched.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no answer within {timeout:?}")),
                }
            }
        };
        let task = runtime.spawn(keep_fresh(ask, Arc::clone(&shared), origin)).abort_handle();
        Self { shared, task: Some(task) }
    }

    fn inline(document: &str, origin: &str) -> Self {
        let keys = KeySet::parse(document.as_bytes()).unwrap_or_else(|error| {
            // Refused when it was validated; here for configuration from elsewhere.
            warn!(policy = %origin, %error, "the policy's keys are unusable; all tokens of the issuer fail");
            KeySet::empty()
        });
        Self { shared: Arc::new(Shared::new(keys)), task: None }
    }

    /// The keys known now.
    #[must_use]
    pub fn keys(&self) -> arc_swap::Guard<Arc<KeySet>> {
        self.shared.keys.load()
    }

    /// A token named a key that is not here: fetch, unless that was just done.
    pub fn want_refresh(&self) {
        self.shared.wanted.notify_one();
    }
}

impl Drop for KeySource {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Shared {
    fn new(keys: KeySet) -> Self {
        Self { keys: ArcSwap::from_pointee(keys), wanted: Notify::new() }
    }
}

/// Fetches for ever. Says so when fetching begins to fail and when it works again, not each time.
async fn keep_fresh<F, R>(fetch: F, shared: Arc<Shared>, origin: Arc<str>)
where
    F: Fn() -> R + Send,
    R: Future<Output = Result<Bytes, String>> + Send,
{
    let mut backoff = MIN_BACKOFF;
    let mut document = Bytes::new();
    let mut confirmed: Option<Instant> = None;
    let mut failing = false;
    loop {
        let fetched = fetch().await;
        let begun = Instant::now();
        let parsed = fetched.and_then(|fetched| {
            let unchanged = confirmed.is_some() && fetched == document;
            let keys = if unchanged { None } else { Some(KeySet::parse(&fetched)) };
            Ok((fetched, keys.transpose().map_err(|error| error.to_string())?))
        });
        let pause = match parsed {
            Ok((fetched, keys)) => {
                if let Some(keys) = keys {
                    shared.keys.store(Arc::new(keys));
                    document = fetched;
                }
                if failing || confirmed.is_none() {
                    info!(policy = %origin, "keys fetched");
                }
                (confirmed, failing, backoff) = (Some(begun), false, MIN_BACKOFF);
                REFRESH
            }
            Err(error) => {
                if !failing {
                    warn!(policy = %origin, %error, "keys cannot be fetched; trying on");
                }
                failing = true;
                if confirmed.is_some_and(|confirmed| begun - confirmed >= MAX_STALE) {
                    warn!(policy = %origin, "keys are too old; all tokens of the issuer fail");
                    shared.keys.store(Arc::new(KeySet::empty()));
                    confirmed = None;
                }
                let pause = backoff;
                backoff = (backoff * 2).min(MAX_BACKOFF);
                pause
            }
        };
        let early = async {
            shared.wanted.notified().await;
            tokio::time::sleep_until(begun + MIN_INTERVAL).await;
        };
        tokio::select! {
            () = early => {}
            () = tokio::time::sleep_until(begun + pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use super::*;

    const P256: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

    fn document(id: &str) -> String {
        format!(r#"{{"keys":[{{{P256},"kid":"{id}"}}]}}"#)
    }

    fn usable(document: &str) -> Vec<(Option<String>, Vec<Algorithm>)> {
        let keys = KeySet::parse(document.as_bytes()).map(|set| set.keys).unwrap_or_default();
        keys.into_iter().map(|key| (key.id.map(String::from), key.algorithms.to_vec())).collect()
    }

    #[test]
    fn a_key_is_used_only_for_what_its_type_and_algorithm_say() {
        use Algorithm::{ES256, EdDSA, HS256, HS384, HS512};
        let octets = r#""kty":"oct","k":"c2VjcmV0""#;
        let ed = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
        for (key, expected) in [
            (P256.to_owned(), vec![ES256]),
            (format!(r#"{P256},"alg":"ES256","use":"sig""#), vec![ES256]),
            (ed.to_owned(), vec![EdDSA]),
            (octets.to_owned(), vec![HS256, HS384, HS512]),
            (format!(r#"{octets},"alg":"HS256""#), vec![HS256]),
            (format!(r#"{P256},"use":"enc""#), vec![]),
            (format!(r#"{P256},"alg":"RS256""#), vec![]),
            (format!(r#"{P256},"alg":"none""#), vec![]),
            (P256.replace("P-256", "P-384"), vec![]),
            (P256.replace("P-256", "secp256k1"), vec![]),
            (r#""kty":"oct","k":"""#.to_owned(), vec![]),
            (r#""kty":"RSA","n":"AQAB","e":"AQAB""#.to_owned(), vec![]),
        ] {
            let algorithms: Vec<_> = usable(&format!(r#"{{"keys":[{{{key}}}]}}"#))
                .into_iter()
                .flat_map(|(_, a)| a)
                .collect();
            assert_eq!(algorithms, expected, "{key}");
        }
    }

    #[test]
    fn one_unusable_key_does_not_spoil_the_others() {
        let mixed = format!(r#"{{"keys":[1,{{}},{{"kty":"x"}},{{{P256},"kid":"a"}}]}}"#);
        assert_eq!(usable(&mixed), [(Some("a".to_owned()), vec![Algorithm::ES256])]);
        assert_eq!(KeySet::parse(b"{\"keys\":[]}").unwrap_err(), Error::NoUsableKey);
        assert!(matches!(KeySet::parse(b"<html>").unwrap_err(), Error::Malformed(_)));
    }

    #[test]
    fn secrets_are_not_printed() {
        let keys = KeySet::parse(br#"{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"a"}]}"#).unwrap();
        assert!(!format!("{keys:?}").contains("115"), "{keys:?}");
    }

    /// Answers in turn, then the last again and again; tells when it was asked.
    struct Script {
        answers: Mutex<VecDeque<Result<String, String>>>,
        asked: Mutex<Vec<u64>>,
        start: Instant,
    }

    fn run(
        answers: impl IntoIterator<Item = Result<String, String>>,
    ) -> (Arc<Script>, Arc<Shared>) {
        let script = Arc::new(Script {
            answers: Mutex::new(answers.into_iter().collect()),
            asked: Mutex::default(),
            start: Instant::now(),
        });
        let shared = Arc::new(Shared::new(KeySet::empty()));
        let asked = Arc::clone(&script);
        let fetch = move || {
            asked.asked.lock().unwrap().push(asked.start.elapsed().as_secs());
            let mut answers = asked.answers.lock().unwrap();
            let answer =
                if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
            async move { answer.map(Bytes::from) }
        };
        tokio::spawn(keep_fresh(fetch, Arc::clone(&shared), "ns/name".into()));
        (script, shared)
    }

    fn ids(shared: &Shared) -> Vec<String> {
        shared.keys.load().keys.iter().filter_map(|key| key.id.clone().map(String::from)).collect()
    }

    async fn until(script: &Script, second: u64) {
        tokio::time::sleep_until(script.start + Duration::from_secs(second)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_refreshed_and_replaced_when_they_change() {
        let (script, shared) = run([Ok(document("a")), Ok(document("a")), Ok(document("b"))]);
        until(&script, 1).await;
        let first = shared.keys.load().epoch;
        assert_eq!(ids(&shared), ["a"]);
        until(&script, 1_201).await;
        assert_eq!(shared.keys.load().epoch, first, "the same document is the same set");
        until(&script, 2_401).await;
        assert_eq!(ids(&shared), ["b"]);
        assert_ne!(shared.keys.load().epoch, first);
        assert_eq!(*script.asked.lock().unwrap(), [0, 1_200, 2_400]);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_ever_more_slowly() {
        let (script, shared) = run([Err("refused".to_owned())]);
        until(&script, 1_200).await;
        assert_eq!(
            *script.asked.lock().unwrap(),
            [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811, 1_111]
        );
        assert!(shared.keys.load().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_keys_are_kept_until_they_are_too_old() {
        let garbage = Ok("<html>".to_owned());
        let (script, shared) = run([Ok(document("a")), garbage]);
        until(&script, MAX_STALE.as_secs() - 1).await;
        assert_eq!(ids(&shared), ["a"]);
        until(&script, MAX_STALE.as_secs() + MAX_BACKOFF.as_secs()).await;
        assert_eq!(ids(&shared), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_are_asked_for_at_most_every_ten_seconds() {
        let (script, shared) = run([Ok(document("a"))]);
        for second in 1..=45 {
            until(&script, second).await;
            for _ in 0..1_000 {
                shared.wanted.notify_one();
            }
        }
        assert_eq!(*script.asked.lock().unwrap(), [0, 10, 20, 30, 40]);
    }
}
