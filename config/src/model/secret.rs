//! Certificates, keys and trust bundles as they were given. The proxy parses them; only it can say
//! whether a key fits its certificate.

use std::{fmt, sync::Arc};

use super::name::SecretName;

/// A Kubernetes Secret or the files of a server's `tls` block.
#[derive(Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    pub name: SecretName,
    pub material: SecretMaterial,
}

#[derive(Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum SecretMaterial {
    /// PEM text from a Secret or ConfigMap.
    Inline {
        certificate_chain: Option<Arc<[u8]>>,
        #[serde(skip)]
        private_key: Option<Arc<[u8]>>,
        trust_bundle: Option<Arc<[u8]>>,
        revocation_list: Option<Arc<[u8]>>,
        ocsp_staple: Option<Arc<[u8]>>,
    },
    /// Paths the proxy reads, and reads again when they change.
    Files {
        certificate_chain: Option<Arc<str>>,
        private_key: Option<Arc<str>>,
        trust_bundle: Option<Arc<str>>,
        revocation_list: Option<Arc<str>>,
    },
}

impl fmt::Debug for Secret {
    /// Never the material.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}
