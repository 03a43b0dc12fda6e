use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use weir_config::wire::certificate::IstioCertificateResponse;

use super::*;

const IDENTITY: &str = "spiffe://cluster.local/ns/edge/sa/gateway";

type Root = CertifiedIssuer<'static, KeyPair>;

fn root() -> Root {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate that begins so many seconds from now, and ends an hour later.
fn signed(root: &Root, identity: &str, key: &KeyPair, begins: i64) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(identity.try_into().unwrap())];
    let begins = UNIX_EPOCH + Duration::from_secs((now() + begins).try_into().unwrap());
    params.not_before = begins.into();
    params.not_after = (begins + Duration::from_secs(3600)).into();
    params.signed_by(key, root).unwrap().pem()
}

fn answer(chain: &[&str], key: &KeyPair) -> Result<Workload, String> {
    let cert_chain = chain.iter().map(|&pem| pem.to_owned()).collect();
    let answer = IstioCertificateResponse { cert_chain };
    client::workload(answer, IDENTITY, key).map_err(|error| error.to_string())
}

#[test]
fn what_the_authority_answers_is_checked_before_it_is_used() {
    let (root, key) = (root(), KeyPair::generate().unwrap());
    let good = signed(&root, IDENTITY, &key, -60);
    let workload = answer(&[&good, &root.pem()], &key).unwrap();
    assert_eq!(workload.secret.name, SecretName::workload());

    // Our clock is three minutes slow, or the authority's fast.
    let ahead = signed(&root, IDENTITY, &key, 180);
    assert!(answer(&[&ahead, &root.pem()], &key).is_ok());

    let other = signed(&root, "spiffe://cluster.local/ns/edge/sa/other", &key, -60);
    let foreign = signed(&root, IDENTITY, &KeyPair::generate().unwrap(), -60);
    let early = signed(&root, IDENTITY, &key, 600);
    let late = signed(&root, IDENTITY, &key, -7200);
    for (certificate, problem) in [
        (&other, "it is for spiffe://cluster.local/ns/edge/sa/other, not for "),
        (&foreign, "the private key does not belong to the first certificate"),
        (&early, "it is valid only in "),
        (&late, "it has expired"),
        (&String::new(), "certificate"),
    ] {
        let error = answer(&[certificate, &root.pem()], &key).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
    assert!(answer(&[&good], &key).unwrap_err().contains("certificate"), "the root is missing");
    assert!(answer(&[], &key).unwrap_err().contains("it has no certificate"));
}

#[test]
fn every_root_of_a_rotation_is_believed() {
    let (old, new, key) = (root(), root(), KeyPair::generate().unwrap());
    let leaf = signed(&old, IDENTITY, &key, -60);
    let workload = answer(&[&leaf, &old.pem(), &new.pem()], &key).unwrap();
    assert_eq!(tls::load(&workload.secret).roots.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_in_files_is_followed_and_what_does_not_fit_is_not_used() {
    let dir = TempDir::new().unwrap();
    let (root, key) = (root(), KeyPair::generate().unwrap());
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(CERTIFICATE, &signed(&root, IDENTITY, &key, -60));
    write(KEY, &key.serialize_pem());
    write(ROOTS, &root.pem());
    let (sender, mut current) = watch::channel(None);
    let folder = dir.path().to_owned();
    let following = tokio::spawn(async move { follow_files(&folder, &sender).await });
    let first = current.wait_for(Option::is_some).await.unwrap().clone().unwrap();

    let next = KeyPair::generate().unwrap();
    write(KEY, &next.serialize_pem());
    tokio::time::sleep(FILES_INTERVAL * 3).await;
    let now = current.borrow().clone().unwrap();
    assert!(Arc::ptr_eq(&now, &first), "the key of the next certificate came first");
    write(CERTIFICATE, &signed(&root, IDENTITY, &next, -60));
    let changed = current.wait_for(|it| it.as_ref().is_some_and(|it| !Arc::ptr_eq(it, &first)));
    assert!(changed.await.is_ok());
    following.abort();
}

#[test]
fn a_kept_certificate_is_used_by_its_owner_as_long_as_it_is_valid() {
    use std::os::unix::fs::PermissionsExt;

    let dir = TempDir::new().unwrap();
    let (root, key) = (root(), KeyPair::generate().unwrap());
    let good = answer(&[&signed(&root, IDENTITY, &key, -60), &root.pem()], &key).unwrap();
    assert!(kept::read(dir.path(), IDENTITY).is_none());
    kept::write(dir.path(), &good).unwrap();
    kept::write(dir.path(), &good).unwrap();
    let read = kept::read(dir.path(), IDENTITY).unwrap();
    assert!(read.secret.material == good.secret.material, "it is the same, with its key");
    assert!(kept::read(dir.path(), "spiffe://cluster.local/ns/edge/sa/other").is_none());
    let mode = fs::metadata(dir.path().join("identity")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let certificate = signed(&root, IDENTITY, &key, -7200);
    let text = fs::read_to_string(dir.path().join("identity")).unwrap();
    let mut kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    kept["certificate_chain"] = certificate.into();
    fs::write(dir.path().join("identity"), kept.to_string()).unwrap();
    assert!(kept::read(dir.path(), IDENTITY).is_none(), "it has expired");
}
