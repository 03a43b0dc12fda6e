use rcgen::{DnType, KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::*;
use crate::ca::{
    root::{Data, Signer},
    rotate::{Plan, Roots},
};

const HOUR: Duration = Duration::from_secs(3600);
const IDENTITY: &str = "spiffe://cluster.local/ns/edge/sa/gateway";
const LIMITS: Limits = Limits { default: HOUR, max: Duration::from_secs(24 * 3600) };

fn signing_at(now: SystemTime) -> Signing {
    let plan = Plan { lifetime: 1000 * HOUR, certificate: LIMITS.max };
    let authority = Roots::generate("cluster.local", plan, now).unwrap().authority();
    Signing::new(authority, LIMITS).unwrap()
}

fn request(key: &KeyPair, names: Vec<SanType>) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "root of everything");
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn uri(name: &str) -> Vec<SanType> {
    vec![SanType::URI(name.try_into().unwrap())]
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn issued(signing: &Signing, names: Vec<SanType>, seconds: i64) -> Vec<String> {
    let key = KeyPair::generate().unwrap();
    signing.workload(&request(&key, names), IDENTITY, seconds, SystemTime::now()).unwrap()
}

#[test]
fn a_certificate_says_who_asked_and_nothing_of_what_was_asked_for() {
    let signing = signing_at(SystemTime::now());
    for names in [uri(IDENTITY), Vec::new()] {
        let chain = issued(&signing, names, 0);
        assert_eq!(chain.len(), 2, "the leaf and the root");
        let leaf = der(&chain[0]);
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical, "the subject is empty (RFC 5280 section 4.2.1.6)");
        assert_eq!(names.value.general_names, [GeneralName::URI(IDENTITY)]);
        assert_eq!(leaf.subject().iter().count(), 0);
        assert!(!leaf.is_ca());
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && !usage.any);
        let root = der(&chain[1]);
        let (_, root) = X509Certificate::from_der(&root).unwrap();
        assert_eq!(leaf.issuer(), root.subject());
    }
}

#[test]
fn a_request_for_another_name_is_refused() {
    let signing = signing_at(SystemTime::now());
    let key = KeyPair::generate().unwrap();
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    for (names, other) in [
        (uri("spiffe://cluster.local/ns/edge/sa/admin"), "spiffe://cluster.local/ns/edge/sa/admin"),
        ([uri(IDENTITY), vec![dns("bank.example")]].concat(), "bank.example"),
        (vec![SanType::IpAddress([10, 0, 0, 1].into())], "10.0.0.1"),
    ] {
        let refusal = signing.workload(&request(&key, names), IDENTITY, 0, SystemTime::now());
        assert_eq!(refusal, Err(Refusal::NotYours(other.to_owned())));
    }
}

#[test]
fn a_lifetime_is_what_was_asked_for_within_the_limits() {
    let signing = signing_at(SystemTime::now());
    for (asked, given) in
        [(0, HOUR), (-5, HOUR), (1, MIN_LIFETIME), (7200, 2 * HOUR), (i64::MAX, LIMITS.max)]
    {
        let chain = issued(&signing, Vec::new(), asked);
        let leaf = crate::ca::root::validity(&chain[0]).unwrap();
        let lifetime = leaf.not_after.duration_since(leaf.not_before).unwrap();
        let expected = given + BACKDATED;
        let difference = lifetime.abs_diff(expected);
        assert!(difference <= Duration::from_secs(1), "{asked}: {lifetime:?}");
    }
}

#[test]
fn no_certificate_outlives_its_issuer() {
    let made = SystemTime::now() - 999 * HOUR - HOUR / 2;
    let signing = signing_at(made);
    let leaf = crate::ca::root::validity(&issued(&signing, Vec::new(), 7200)[0]).unwrap();
    assert_eq!(leaf.not_after, signing.authority.signer.validity().unwrap().not_after);
}

#[test]
fn what_is_no_request_is_refused() {
    let signing = signing_at(SystemTime::now());
    let now = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    let good = request(&key, uri(IDENTITY));
    let large = format!("{good}{}", " ".repeat(MAX_REQUEST));
    // The name inside is changed, and with it what was signed.
    let mut params = CertificateParams::default();
    params.subject_alt_names = uri(IDENTITY);
    let forged = params.serialize_request(&key).unwrap();
    let mut bytes = forged.der().to_vec();
    let at = bytes.windows(4).position(|window| window == b"edge").unwrap();
    bytes[at] = b'f';
    let forged = pem_of("CERTIFICATE REQUEST", &bytes);
    for (what, text) in [("empty", ""), ("no PEM", "edge"), ("large", &large), ("forged", &forged)]
    {
        let refusal = signing.workload(text, IDENTITY, 0, now);
        assert!(matches!(refusal, Err(Refusal::Malformed(_))), "{what}: {refusal:?}");
    }
}

fn pem_of(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<_> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn keys_of_the_usual_kinds_are_signed() {
    let signing = signing_at(SystemTime::now());
    for key in [
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096).unwrap(),
    ] {
        let request = request(&key, uri(IDENTITY));
        assert!(signing.workload(&request, IDENTITY, 0, SystemTime::now()).is_ok());
    }
}

#[test]
fn serial_numbers_do_not_repeat() {
    let signing = signing_at(SystemTime::now());
    let serials: std::collections::BTreeSet<_> = (0..20)
        .map(|_| {
            let leaf = der(&issued(&signing, Vec::new(), 0)[0]);
            X509Certificate::from_der(&leaf).unwrap().1.raw_serial().to_vec()
        })
        .collect();
    assert_eq!(serials.len(), 20);
}

#[test]
fn a_plugged_in_intermediate_is_part_of_every_chain() {
    let now = SystemTime::now();
    let root = Signer::generate("root", 1000 * HOUR, now).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "intermediate");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let intermediate = params.signed_by(&key, &root.issuer().unwrap()).unwrap().pem();
    let entry = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    let data: Data = [
        entry("ca-cert.pem", &intermediate),
        entry("ca-key.pem", &key.serialize_pem()),
        entry("cert-chain.pem", &format!("{intermediate}{}", root.certificate)),
        entry("root-cert.pem", &root.certificate),
    ]
    .into();

    let signing = Signing::new(Authority::plugged_in(&data).unwrap(), LIMITS).unwrap();
    let chain = issued(&signing, Vec::new(), 0);
    assert_eq!(chain.len(), 3);
    assert_eq!(der(&chain[1]), der(&intermediate));
    assert_eq!(der(&chain[2]), der(&root.certificate));
    let served = signing.server(&["weir-controller.infra.svc".to_owned()], IDENTITY, now).unwrap();
    assert_eq!(served.chain.len(), 2, "who verifies has the root");

    let tls: Data = [
        entry("tls.crt", &format!("{intermediate}{}", root.certificate)),
        entry("tls.key", &key.serialize_pem()),
        entry("ca.crt", &root.certificate),
    ]
    .into();
    assert_eq!(Authority::plugged_in(&tls).unwrap(), *signing.authority(), "the other names");

    let mut wrong = data.clone();
    wrong.insert("ca-key.pem".to_owned(), KeyPair::generate().unwrap().serialize_pem().into());
    let error = Authority::plugged_in(&wrong).unwrap_err().to_string();
    assert_eq!(error, "the key does not belong to the certificate");
    let mut incomplete = data;
    incomplete.remove("root-cert.pem");
    let error = Authority::plugged_in(&incomplete).unwrap_err().to_string();
    assert_eq!(error, "it has no root-cert.pem or ca.crt");
}
