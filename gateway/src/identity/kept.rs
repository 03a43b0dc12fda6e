//! The certificate on disk, so that a process that is started again has one while the authority is
//! away. With its key: the folder is this process's own, in a pod in memory and gone with it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use serde::{Deserialize, Serialize};
use weir_config::model::secret::SecretMaterial;

use super::{client::is_for, material, usable};
use crate::tls::Workload;

const FILE: &str = "identity";
const NEXT: &str = "identity.next";

/// PEM, all of it.
#[derive(Serialize, Deserialize)]
struct Kept {
    certificate_chain: String,
    private_key: String,
    trust_bundle: String,
}

/// What was written, if it can still be believed.
pub(super) fn read(folder: &Path, identity: &str) -> Option<Workload> {
    let text = fs::read(folder.join(FILE)).ok()?;
    let Kept { certificate_chain, private_key, trust_bundle } =
        serde_json::from_slice(&text).ok()?;
    let pem = |text: String| Some(text.into_bytes().into());
    let workload =
        usable(material(pem(certificate_chain), pem(private_key), pem(trust_bundle))).ok()?;
    // Of another, who had the folder before.
    is_for(&workload, identity).is_ok().then_some(workload)
}

/// Replaces what was written before as a whole. Only its owner may read it.
pub(super) fn write(folder: &Path, workload: &Workload) -> io::Result<()> {
    let SecretMaterial::Inline { certificate_chain, private_key, trust_bundle, .. } =
        &workload.secret.material
    else {
        return Ok(());
    };
    let text = |pem: &Option<std::sync::Arc<[u8]>>| {
        String::from_utf8_lossy(pem.as_deref().unwrap_or_default()).into_owned()
    };
    let kept = Kept {
        certificate_chain: text(certificate_chain),
        private_key: text(private_key),
        trust_bundle: text(trust_bundle),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let next = folder.join(NEXT);
    // One that a crash has left may have other permissions.
    let _ = fs::remove_file(&next);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(&serde_json::to_vec(&kept)?)?;
    fs::rename(next, folder.join(FILE))
}
