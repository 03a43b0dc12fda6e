//! Certificates for tests.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use weir_config::model::{Secret, SecretName, secret::SecretMaterial};

/// A certificate authority with a key of its own.
pub(crate) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
}

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) spki_der: Vec<u8>,
    pub(crate) serial: Vec<u8>,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), pem, der }
    }

    pub(crate) fn issue(&self, params: CertificateParams) -> Issued {
        self.issue_for(params, &KeyPair::generate().unwrap())
    }

    fn issue_for(&self, mut params: CertificateParams, key: &KeyPair) -> Issued {
        use rcgen::PublicKeyData;
        let serial: Vec<u8> = (0..8).map(|_| fastrand::u8(1..0x7f)).collect();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        Issued {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            der: certificate.der().clone(),
            spki_der: key.subject_public_key_info(),
            serial,
        }
    }

    pub(crate) fn server(&self, host: &str) -> Issued {
        self.issue(server(host))
    }

    pub(crate) fn server_rsa(&self, host: &str) -> Issued {
        self.issue_for(server(host), &KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap())
    }

    /// A client certificate with the URI as its only name.
    pub(crate) fn client(&self, uri: &str) -> Issued {
        self.issue(client(&[SanType::URI(uri.try_into().unwrap())]))
    }

    /// A list that revokes `revoked`, good until the year given.
    pub(crate) fn crl(&self, revoked: &[&Issued], until: i32) -> String {
        let crl = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|issued| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&issued.serial),
                    revocation_time: date_time_ymd(2021, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        crl.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Issued {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.der.clone()]
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap()
    }
}

/// Signed by nobody but itself.
pub(crate) fn self_signed(params: &CertificateParams) -> Issued {
    use rcgen::PublicKeyData;
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Issued {
        chain_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        der: certificate.der().clone(),
        spki_der: key.subject_public_key_info(),
        serial: Vec::new(),
    }
}

pub(crate) fn server(host: &str) -> CertificateParams {
    let mut params = CertificateParams::new([host.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

pub(crate) fn client(names: &[SanType]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "client");
    params.subject_alt_names = names.to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A secret with its parts inline; empty parts are not there.
pub(crate) fn secret(name: &str, chain: &str, key: &str, bundle: &str, crl: &str) -> Arc<Secret> {
    let part = |pem: &str| (!pem.is_empty()).then(|| Arc::from(pem.as_bytes()));
    Arc::new(Secret {
        name: SecretName::new(name),
        material: SecretMaterial::Inline {
            certificate_chain: part(chain),
            private_key: part(key),
            trust_bundle: part(bundle),
            revocation_list: part(crl),
            ocsp_staple: None,
        },
    })
}

pub(crate) fn key_pair(name: &str, issued: &Issued) -> Arc<Secret> {
    secret(name, &issued.chain_pem, &issued.key_pem, "", "")
}

pub(crate) fn trust_bundle(name: &str, ca: &TestCa) -> Arc<Secret> {
    secret(name, "", "", &ca.pem, "")
}
