//! `istio.v1.auth.IstioCertificateService`: who asks has been found out before.

use std::{sync::Arc, time::SystemTime};

use tonic::Status;
use tracing::{debug, warn};
use weir_config::wire::certificate::{IstioCertificateRequest, IstioCertificateResponse};

use super::{Authorities, issue::Refusal};

impl Authorities {
    /// Signs for the workload `namespace`/`service_account` of the trust domain.
    ///
    /// # Errors
    /// It may not be signed, or cannot be now.
    pub fn create(
        self: &Arc<Self>,
        trust_domain: &str,
        (namespace, service_account): (&str, &str),
        request: &IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, Status> {
        self.metrics.requests.inc();
        let Some(signing) = self.signing() else {
            return Err(Status::unavailable("this replica has no authority yet"));
        };
        let identity = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}");
        let IstioCertificateRequest { csr, validity_duration, metadata: _ } = request;
        match signing.workload(csr, &identity, *validity_duration, SystemTime::now()) {
            Ok(cert_chain) => {
                self.metrics.issued.inc();
                debug!(identity, "issued a certificate");
                Ok(IstioCertificateResponse { cert_chain })
            }
            Err(refusal) => {
                self.metrics.refused.inc();
                warn!(identity, "no certificate: {refusal}");
                Err(status(&refusal))
            }
        }
    }
}

fn status(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::Malformed(_) => Status::invalid_argument(message),
        Refusal::NotYours(_) => Status::permission_denied(message),
        Refusal::Failed(_) => Status::internal(message),
    }
}
