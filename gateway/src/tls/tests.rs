use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{DnType, DnValue, SanType, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use weir_config::model::secret::SecretMaterial;

use super::{
    test_ca::{Issued, TestCa, client, key_pair, secret, server, trust_bundle},
    *,
};
use crate::connection::PeerIdentity;

fn delta(secrets: &[Arc<Secret>]) -> Delta {
    Delta {
        secrets: secrets
            .iter()
            .map(|secret| (secret.name.clone(), Some(Arc::clone(secret))))
            .collect(),
        ..Delta::default()
    }
}

fn load(secret: &Arc<Secret>) -> Arc<LoadedSecret> {
    let secrets = Secrets::next(&Secrets::default(), &delta(&[Arc::clone(secret)]));
    Arc::clone(secrets.find(&secret.name).unwrap())
}

fn find<'a>(secrets: &'a Secrets, name: &str) -> &'a Arc<LoadedSecret> {
    secrets.find(&SecretName::new(name)).unwrap()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

/// The key inside of PKCS#8 (RFC 5208): version, algorithm, then the octets.
fn inner_key(issued: &Issued) -> Vec<u8> {
    use x509_parser::der_parser::parse_der;
    let PrivateKeyDer::Pkcs8(key) = issued.key() else { panic!("rcgen writes PKCS#8") };
    let (_, object) = parse_der(key.secret_pkcs8_der()).unwrap();
    object.as_sequence().unwrap()[2].as_slice().unwrap().to_vec()
}

#[test]
fn a_key_loads_as_pkcs8_as_pkcs1_and_as_sec1() {
    let ca = TestCa::new("ca");
    let (ecdsa, rsa) = (ca.server("a.example.com"), ca.server_rsa("a.example.com"));
    let cases = [
        (&ecdsa, ecdsa.key_pem.clone()),
        (&rsa, rsa.key_pem.clone()),
        (&rsa, pem("RSA PRIVATE KEY", &inner_key(&rsa))),
        (&ecdsa, pem("EC PRIVATE KEY", &inner_key(&ecdsa))),
    ];
    for (issued, key) in cases {
        let loaded = load(&secret("s", &issued.chain_pem, &key, "", ""));
        assert_eq!(loaded.problem, None);
        assert_eq!(loaded.key.as_ref().unwrap().cert[0], issued.der);
    }
}

#[test]
fn a_chain_is_kept_whole_and_in_order() {
    let ca = TestCa::new("ca");
    let issued = ca.server("a.example.com");
    let chain = format!("{}{}", issued.chain_pem, ca.pem);
    let loaded = load(&secret("s", &chain, &issued.key_pem, "", ""));
    assert_eq!(loaded.key.as_ref().unwrap().cert, [issued.der, ca.der]);
}

#[test]
fn every_broken_secret_says_what_to_do() {
    let ca = TestCa::new("ca");
    let (a, b) = (ca.server("a.example.com"), ca.server("b.example.com"));
    let encrypted = a.key_pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let not_a_certificate = pem("CERTIFICATE", b"hello");
    let cases: [(&str, &str, &str, &str, &str); 10] = [
        (&a.chain_pem, &b.key_pem, "", "", "does not belong to the first certificate"),
        (&a.chain_pem, "", "", "", "no private key; add it as `tls.key`"),
        ("", &a.key_pem, "", "", "no certificate; add it as `tls.crt`"),
        ("", "", "", "", "holds neither a certificate"),
        ("garbage", &a.key_pem, "", "", "no `BEGIN CERTIFICATE` block"),
        (&a.chain_pem, "garbage", "", "", "no `BEGIN PRIVATE KEY`"),
        (&a.chain_pem, &encrypted, "", "", "without a passphrase"),
        (&not_a_certificate, &a.key_pem, "", "", "certificate 1 of the chain is not an X.509"),
        ("", "", &not_a_certificate, "", "certificate 1 of the CA bundle"),
        ("", "", &ca.pem, "garbage", "no `BEGIN X509 CRL` block"),
    ];
    for (chain, key, bundle, crl, expected) in cases {
        let problem = load(&secret("s", chain, key, bundle, crl)).problem.clone().unwrap();
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn blank_parts_are_not_there() {
    let ca = TestCa::new("ca");
    let issued = ca.server("a.example.com");
    let loaded = load(&secret("s", &issued.chain_pem, &issued.key_pem, "\n", " "));
    assert_eq!(loaded.problem, None);
    assert!(loaded.key.is_some() && loaded.roots.is_none());
}

#[test]
fn a_broken_version_leaves_the_last_good_one_in_use() {
    let ca = TestCa::new("ca");
    let issued = ca.server("a.example.com");
    let good = secret("s", &issued.chain_pem, &issued.key_pem, &ca.pem, "");
    let broken = secret("s", &issued.chain_pem, "garbage", "garbage", "");
    let before = Secrets::next(&Secrets::default(), &delta(&[good]));
    let after = Secrets::next(&before, &delta(&[broken]));
    let (old, new) = (find(&before, "s"), find(&after, "s"));
    assert!(Arc::ptr_eq(old.key.as_ref().unwrap(), new.key.as_ref().unwrap()));
    assert!(Arc::ptr_eq(old.roots.as_ref().unwrap(), new.roots.as_ref().unwrap()));
    assert_eq!(new.problem.as_ref().unwrap().matches("PEM").count(), 2, "both parts are said");
}

#[test]
fn a_revocation_list_that_cannot_be_read_takes_the_roots_with_it() {
    let ca = TestCa::new("ca");
    let crl = pem("X509 CRL", b"hello");
    let loaded = load(&secret("s", "", "", &ca.pem, &crl));
    assert!(loaded.roots.is_none(), "nobody may pass whose revocation cannot be looked up");
    assert!(loaded.problem.as_ref().unwrap().contains("revocation list"));
}

#[test]
fn unchanged_secrets_keep_their_identity_and_removed_ones_are_gone() {
    let ca = TestCa::new("ca");
    let (a, b) = (key_pair("a", &ca.server("a")), key_pair("b", &ca.server("b")));
    let before = Secrets::next(&Secrets::default(), &delta(&[Arc::clone(&a), b]));
    let same_text = Arc::new(Secret::clone(&a));
    let mut change = delta(&[same_text]);
    change.secrets.insert(SecretName::new("b"), None);
    let after = Secrets::next(&before, &change);
    assert!(Arc::ptr_eq(find(&before, "a"), find(&after, "a")));
    assert!(after.find(&SecretName::new("b")).is_none());
}

#[test]
fn expiry_is_a_warning_and_the_certificate_stays_in_use() {
    let ca = TestCa::new("ca");
    let mut params = server("a.example.com");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let secrets = Secrets::next(&Secrets::default(), &delta(&[key_pair("s", &ca.issue(params))]));
    assert!(find(&secrets, "s").key.is_some());

    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let problems = secrets.problems(SystemTime::now());
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].severity, Severity::Warning);
    assert!(problems[0].message.contains("expired"), "{}", problems[0].message);
    let in_2019 = secrets.problems(at(1_550_000_000));
    assert!(in_2019[0].message.contains("not valid yet"), "{}", in_2019[0].message);
    assert_eq!(secrets.problems(at(1_600_000_000)), [], "it was fine in 2020");
}

#[test]
fn debug_never_shows_material() {
    let ca = TestCa::new("ca");
    let issued = ca.server("a.example.com");
    let secrets = Secrets::next(&Secrets::default(), &delta(&[key_pair("s", &issued)]));
    let text = format!("{secrets:?}");
    let der = format!("{:?}", issued.key().secret_der());
    assert!(!text.contains("BEGIN") && !text.contains(der.trim_matches(['[', ']'])), "{text}");
}

fn files(dir: &Path) -> Arc<Secret> {
    let path = |name: &str| Some(dir.join(name).to_str().unwrap().into());
    Arc::new(Secret {
        name: SecretName::new("files"),
        material: SecretMaterial::Files {
            certificate_chain: path("tls.crt"),
            private_key: path("tls.key"),
            trust_bundle: None,
            revocation_list: None,
        },
    })
}

fn write(dir: &Path, issued: &Issued) {
    fs::write(dir.join("tls.crt"), &issued.chain_pem).unwrap();
    fs::write(dir.join("tls.key"), &issued.key_pem).unwrap();
}

#[test]
fn files_are_read_again_when_they_change_and_only_then() {
    let ca = TestCa::new("ca");
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (ca.server("a.example.com"), ca.server("a.example.com"));
    write(dir.path(), &old);
    let first = Secrets::next(&Secrets::default(), &delta(&[files(dir.path())]));
    assert_eq!(find(&first, "files").key.as_ref().unwrap().cert[0], old.der);
    assert!(first.refresh_files().is_none(), "nothing has changed");

    write(dir.path(), &old);
    assert!(first.refresh_files().is_none(), "written again with the same content");

    write(dir.path(), &new);
    let second = first.refresh_files().unwrap();
    assert_eq!(find(&second, "files").key.as_ref().unwrap().cert[0], new.der);
}

#[test]
fn a_swapped_symbolic_link_is_a_change() {
    let ca = TestCa::new("ca");
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (ca.server("a.example.com"), ca.server("a.example.com"));
    for (version, issued) in [("v1", &old), ("v2", &new)] {
        fs::create_dir(dir.path().join(version)).unwrap();
        write(&dir.path().join(version), issued);
    }
    let data = dir.path().join("data");
    std::os::unix::fs::symlink("v1", &data).unwrap();
    let first = Secrets::next(&Secrets::default(), &delta(&[files(&data)]));
    // As the kubelet does it.
    let swap = dir.path().join("data_tmp");
    std::os::unix::fs::symlink("v2", &swap).unwrap();
    fs::rename(&swap, &data).unwrap();
    let second = first.refresh_files().unwrap();
    assert_eq!(find(&second, "files").key.as_ref().unwrap().cert[0], new.der);
}

#[test]
fn a_half_written_pair_keeps_the_old_one_until_the_other_half_is_there() {
    let ca = TestCa::new("ca");
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (ca.server("a.example.com"), ca.server("a.example.com"));
    write(dir.path(), &old);
    let first = Secrets::next(&Secrets::default(), &delta(&[files(dir.path())]));
    fs::write(dir.path().join("tls.crt"), &new.chain_pem).unwrap();
    let half = first.refresh_files().unwrap();
    assert_eq!(find(&half, "files").key.as_ref().unwrap().cert[0], old.der);
    assert!(find(&half, "files").problem.is_some());
    fs::write(dir.path().join("tls.key"), &new.key_pem).unwrap();
    let whole = half.refresh_files().unwrap();
    assert_eq!(find(&whole, "files").key.as_ref().unwrap().cert[0], new.der);
    assert_eq!(find(&whole, "files").problem, None);
}

#[test]
fn a_missing_file_is_said_by_its_path_and_picked_up_when_it_comes() {
    let ca = TestCa::new("ca");
    let dir = tempfile::tempdir().unwrap();
    let first = Secrets::next(&Secrets::default(), &delta(&[files(dir.path())]));
    let problem = find(&first, "files").problem.clone().unwrap();
    assert!(problem.contains("tls.crt") && problem.contains("No such file"), "{problem}");
    let issued = ca.server("a.example.com");
    write(dir.path(), &issued);
    let second = first.refresh_files().unwrap();
    assert_eq!(find(&second, "files").key.as_ref().unwrap().cert[0], issued.der);
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn identity_at(issued: &Issued, now: i64) -> Option<PeerIdentity> {
    PeerIdentity::from_chain(&issued.chain(), now)
}

const IN_2026: i64 = 1_780_000_000;

#[test]
fn a_client_is_known_by_all_its_names() {
    let ca = TestCa::new("ca");
    let mut params = client(&[
        uri("spiffe://cluster.local/ns/foo/sa/bar"),
        SanType::DnsName("client.example.com".try_into().unwrap()),
    ]);
    params.distinguished_name.push(DnType::OrganizationName, "Weir, Inc. #1");
    params.distinguished_name.push(DnType::LocalityName, DnValue::Utf8String("Zürich".to_owned()));
    let issued = ca.issue(params);
    let identity = identity_at(&issued, IN_2026).unwrap();
    assert_eq!(identity.principal(), Some("cluster.local/ns/foo/sa/bar"));
    assert_eq!(&*identity.dns_sans[0], "client.example.com");
    assert_eq!(identity.fingerprint.len(), 64);
    let subject = r"L=Z\C3\BCrich,O=Weir\, Inc. #1,CN=client";
    let rcgen_default = r",CN=client";
    assert!(identity.subject.ends_with(rcgen_default), "{}", identity.subject);
    assert_eq!(&*identity.subject, subject);
}

#[test]
fn two_uris_are_no_principal() {
    let ca = TestCa::new("ca");
    let issued = ca.issue(client(&[uri("spiffe://a/ns/b/sa/c"), uri("spiffe://a/ns/b/sa/d")]));
    assert_eq!(identity_at(&issued, IN_2026).unwrap().principal(), None);
}

#[test]
fn names_with_a_nul_or_a_space_are_nobody() {
    let ca = TestCa::new("ca");
    for text in ["spiffe://a/ns/b/sa/c\0.evil", "spiffe://a/ns/b/sa/c d"] {
        let issued = ca.issue(client(&[uri(text)]));
        assert!(identity_at(&issued, IN_2026).is_none(), "{text:?}");
    }
}

#[test]
fn a_certificate_out_of_its_dates_is_nobody() {
    let ca = TestCa::new("ca");
    let mut params = client(&[uri("spiffe://a/ns/b/sa/c")]);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    let issued = ca.issue(params);
    assert!(identity_at(&issued, IN_2026).is_some());
    assert!(identity_at(&issued, 1_700_000_000).is_none(), "2023");
    assert!(identity_at(&issued, 1_900_000_000).is_none(), "2030");
}

#[test]
fn mutated_certificates_never_panic() {
    let ca = TestCa::new("ca");
    let issued = ca.client("spiffe://a/ns/b/sa/c");
    for index in 0..issued.der.len() {
        for bit in 0..8 {
            let mut der = issued.der.to_vec();
            der[index] ^= 1 << bit;
            // Whatever it says; it has to return.
            let _ = PeerIdentity::from_chain(&[CertificateDer::from(der)], IN_2026);
        }
        let cut = CertificateDer::from(issued.der[..index].to_vec());
        assert!(PeerIdentity::from_chain(&[cut], IN_2026).is_none());
    }
}

#[test]
fn a_trust_bundle_alone_is_a_whole_secret() {
    let loaded = load(&trust_bundle("ca", &TestCa::new("ca")));
    assert_eq!(loaded.problem, None);
    assert_eq!(loaded.roots.as_ref().unwrap().len(), 1);
}
