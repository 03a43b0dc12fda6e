//! ClientTLSSettings -> UpstreamTls.

use std::sync::Arc;

use super::{Port, Service};
use crate::{
    api::{
        Object, Spec,
        istio::{
            client_tls::{ClientTlsMode, ClientTlsSettings},
            service_entry::Location,
        },
        kubernetes::service::ServiceType,
    },
    compile::{
        View,
        finding::Findings,
        name::mesh_server_name,
        secret::{Credentials, Reference},
    },
    model::{
        SecretName,
        cluster::{Tunnel, UpstreamProtocol, UpstreamTls, UpstreamTrust},
    },
};

/// What `caCertificates` says for the operating system's authorities.
const SYSTEM_ROOTS: &str = "system";

/// The cluster needs TLS that cannot be had. It has been said; sending in clear text is no option.
pub(super) struct Unavailable;

/// Whose TLS it is: that of one cluster.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub(super) view: &'a View,
    pub(super) service: &'a Service,
    pub(super) port: &'a Port,
    /// Empty: all endpoints.
    pub(super) subset: &'a str,
    pub(super) protocol: UpstreamProtocol,
}

/// Settings, and where they stand.
pub(super) struct Origination<'a> {
    pub(super) upstream: Upstream<'a>,
    pub(super) object: &'a Object,
    pub(super) field: &'a str,
}

impl Upstream<'_> {
    /// The mesh's TLS for the endpoints that take it, where no rule says anything about TLS.
    pub(super) fn automatic(&self) -> Option<UpstreamTls> {
        let view = self.view;
        let owner = view.store.find(&self.port.owner)?;
        let is_in_mesh = match &owner.spec {
            Spec::Service(spec) => spec.r#type != ServiceType::ExternalName,
            Spec::ServiceEntry(entry) => entry.location == Location::MeshInternal,
            _ => false,
        };
        let is_on = view.proxy.has_identity && view.mesh.enable_auto_mtls != Some(false);
        (is_on && is_in_mesh)
            .then(|| mesh(Some(self.mesh_server_name()), self.subject_alt_names(&[])))
    }

    fn mesh_server_name(&self) -> Arc<str> {
        mesh_server_name(&self.service.host, self.port.number, self.subset)
    }

    /// Those written in a rule, else the ServiceEntry's.
    fn subject_alt_names(&self, written: &[String]) -> Arc<[Arc<str>]> {
        let owner = self.view.store.find(&self.port.owner);
        let names = match owner.map(|object| &object.spec) {
            Some(Spec::ServiceEntry(entry)) if written.is_empty() => &entry.subject_alt_names,
            _ => written,
        };
        names.iter().map(|name| name.as_str().into()).collect()
    }
}

/// With the proxy's own certificate, to a workload of the mesh.
fn mesh(sni: Option<Arc<str>>, identities: Arc<[Arc<str>]>) -> UpstreamTls {
    UpstreamTls {
        sni,
        certificate: Some(SecretName::workload()),
        trust: UpstreamTrust::Mesh { trust_bundle: SecretName::workload(), identities },
        // What is offered says that the mesh is spoken, and is the proxy's to know.
        alpn: Arc::default(),
    }
}

/// HBONE, for the endpoints that take it, in the place of the mesh's TLS.
pub(super) fn tunnel(view: &View, tls: &UpstreamTls) -> Option<Tunnel> {
    let baggage = view.proxy.hbone.clone()?;
    let is_mesh = matches!(tls.trust, UpstreamTrust::Mesh { .. });
    // Who is asked is told by each CONNECT.
    let tls = UpstreamTls { sni: None, alpn: ["h2".into()].into(), ..tls.clone() };
    is_mesh.then_some(Tunnel { tls, baggage })
}

impl Origination<'_> {
    pub(super) fn compile(
        &self,
        settings: &ClientTlsSettings,
        findings: &mut Findings,
        references: &mut Vec<Reference>,
    ) -> Result<Option<UpstreamTls>, Unavailable> {
        match settings.mode {
            ClientTlsMode::Disable => return Ok(None),
            ClientTlsMode::IstioMutual if self.upstream.view.proxy.has_identity => {
                return Ok(Some(self.mesh(settings)));
            }
            ClientTlsMode::IstioMutual => {
                let message = format!(
                    "ISTIO_MUTUAL is not available without a mesh certificate; requests to {} are \
                     answered 503",
                    self.upstream.service.host
                );
                findings.warn(self.object, format!("{}.mode", self.field), message);
                return Err(Unavailable);
            }
            ClientTlsMode::Simple | ClientTlsMode::Mutual => {}
        }
        let credential = Some(settings.credential_name.as_str()).filter(|name| !name.is_empty());
        let mut secrets = Secrets { origination: self, findings, references };
        let certificate = (settings.mode == ClientTlsMode::Mutual).then(|| match credential {
            Some(name) => secrets.of("credentialName").certificate(name),
            None => secrets
                .of("clientCertificate")
                .certificate_files(&settings.client_certificate, &settings.private_key),
        });
        let trust = if settings.insecure_skip_verify == Some(true) {
            UpstreamTrust::Insecure
        } else {
            let trust_bundle: Option<SecretName> = match credential {
                Some(name) => Some(secrets.of("credentialName").companion_authority(name)),
                None if matches!(settings.ca_certificates.as_str(), "" | SYSTEM_ROOTS) => None,
                None => Some(
                    secrets
                        .of("caCertificates")
                        .authority_files(&settings.ca_certificates, &settings.ca_crl),
                ),
            };
            if trust_bundle.is_none() && !settings.ca_crl.is_empty() {
                let message = "caCrl needs caCertificates; with the system's authorities no \
                               revocation list is read";
                findings.warn(self.object, format!("{}.caCrl", self.field), message);
            }
            UpstreamTrust::Verify { trust_bundle, subject_alt_names: self.names(settings) }
        };
        let sni = Some(settings.sni.as_str()).filter(|sni| !sni.is_empty());
        Ok(Some(UpstreamTls { sni: sni.map(Into::into), certificate, trust, alpn: self.alpn() }))
    }

    fn mesh(&self, settings: &ClientTlsSettings) -> UpstreamTls {
        let sni = match settings.sni.as_str() {
            "" => Some(self.upstream.mesh_server_name()),
            // No name but many: the one the client asked for.
            sni if sni.starts_with('*') => None,
            sni => Some(sni.into()),
        };
        mesh(sni, self.names(settings))
    }

    fn names(&self, settings: &ClientTlsSettings) -> Arc<[Arc<str>]> {
        self.upstream.subject_alt_names(&settings.subject_alt_names)
    }

    fn alpn(&self) -> Arc<[Arc<str>]> {
        let names: &[&str] = match self.upstream.protocol {
            UpstreamProtocol::Http2 => &["h2"],
            UpstreamProtocol::MatchDownstream => &["h2", "http/1.1"],
            UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => &[],
        };
        names.iter().map(|&name| name.into()).collect()
    }
}

/// The fields of the settings that name secrets.
struct Secrets<'a> {
    origination: &'a Origination<'a>,
    findings: &'a mut Findings,
    references: &'a mut Vec<Reference>,
}

impl Secrets<'_> {
    fn of(&mut self, field: &str) -> Credentials<'_> {
        Credentials {
            view: self.origination.upstream.view,
            object: self.origination.object,
            field: format!("{}.{field}", self.origination.field),
            findings: self.findings,
            references: self.references,
        }
    }
}
