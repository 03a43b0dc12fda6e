//! Tokens and the keys to check them with.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::{Value, json};

/// Signs tokens of one issuer with one key.
pub struct Issuer {
    name: String,
    key: EncodingKey,
    key_id: String,
    algorithm: Algorithm,
}

impl Issuer {
    /// With an elliptic-curve key (ES256).
    #[must_use]
    pub fn new(name: &str, key_id: &str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("generate a key");
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a PEM key");
        Self { name: name.into(), key, key_id: key_id.into(), algorithm: Algorithm::ES256 }
    }

    /// With an RSA key (RS256).
    #[must_use]
    pub fn rsa(name: &str, key_id: &str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("generate a key");
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).expect("a PEM key");
        Self { name: name.into(), key, key_id: key_id.into(), algorithm: Algorithm::RS256 }
    }

    /// The public half, as a JSON Web Key Set.
    #[must_use]
    pub fn jwks(&self) -> String {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a public key");
        jwk.common.key_id = Some(self.key_id.clone());
        json!({ "keys": [jwk] }).to_string()
    }

    /// A token for `subject`, valid for an hour, with more or other claims.
    #[must_use]
    pub fn token(&self, subject: &str, claims: Value) -> String {
        let mut all = json!({
            "iss": self.name, "sub": subject, "iat": now(), "exp": now() + 3600,
        });
        for (name, value) in claims.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.key_id.clone());
        encode(&header, &all, &self.key).expect("sign a token")
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970").as_secs()
}
