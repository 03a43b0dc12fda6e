//! Who a verified client certificate says it is.

use std::{fmt::Write as _, net::IpAddr, sync::Arc};

use rustls::pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    oid_registry::{
        OID_DOMAIN_COMPONENT, OID_PKCS9_EMAIL_ADDRESS, OID_USERID, OID_X509_COMMON_NAME,
        OID_X509_COUNTRY_NAME, OID_X509_LOCALITY_NAME, OID_X509_ORGANIZATION_NAME,
        OID_X509_ORGANIZATIONAL_UNIT, OID_X509_SERIALNUMBER, OID_X509_STATE_OR_PROVINCE_NAME,
        OID_X509_STREET_ADDRESS,
    },
    prelude::{AttributeTypeAndValue, FromDer, X509Certificate, X509Name},
};

use super::file::sha256;
use crate::connection::PeerIdentity;

/// The subject alternative names of one certificate.
#[derive(Debug, Default)]
pub(super) struct AlternativeNames<'a> {
    uris: Vec<&'a str>,
    dns: Vec<&'a str>,
    emails: Vec<&'a str>,
    ips: Vec<IpAddr>,
}

impl<'a> AlternativeNames<'a> {
    /// `None` for names that do not parse, and for those with a character no such name has (NUL,
    /// controls, spaces, anything beyond ASCII): two readers may disagree about them.
    pub(super) fn of(certificate: &'a X509Certificate<'_>) -> Option<Self> {
        let mut names = Self::default();
        let Some(extension) = certificate.subject_alternative_name().ok()? else {
            return Some(names);
        };
        for name in &extension.value.general_names {
            match name {
                GeneralName::URI(uri) => names.uris.push(unambiguous(uri)?),
                GeneralName::DNSName(host) => names.dns.push(unambiguous(host)?),
                GeneralName::RFC822Name(email) => names.emails.push(unambiguous(email)?),
                GeneralName::IPAddress(bytes) => names.ips.push(ip_address(bytes)?),
                GeneralName::Invalid(..) => return None,
                GeneralName::OtherName(..)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::RegisteredID(_) => {}
            }
        }
        Some(names)
    }

    /// Whether `name` is one of them. Host names do not have a case; everything else does.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.uris.contains(&name)
            || self.emails.contains(&name)
            || self.dns.iter().any(|dns| dns.eq_ignore_ascii_case(name))
            || name.parse().is_ok_and(|ip: IpAddr| self.ips.contains(&ip))
    }
}

impl PeerIdentity {
    /// From the chain of a finished handshake, leaf first. `None` where the leaf cannot be read, or
    /// is not valid at `now` (seconds since the epoch): a resumed session is not verified again, and
    /// must not outlive the certificate it began with.
    #[must_use]
    pub fn from_chain(chain: &[CertificateDer<'_>], now: i64) -> Option<Self> {
        let leaf = chain.first()?;
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let validity = certificate.validity();
        if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
            return None;
        }
        let names = AlternativeNames::of(&certificate)?;
        Some(Self {
            subject: rfc2253(certificate.subject()).into(),
            uri_sans: names.uris.iter().copied().map(Arc::from).collect(),
            dns_sans: names.dns.iter().copied().map(Arc::from).collect(),
            fingerprint: hex(&sha256(leaf)).into(),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
        })
    }
}

/// The URI of a certificate that has exactly one.
pub(super) fn only_uri(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    match &*AlternativeNames::of(&certificate)?.uris {
        [uri] => Some((*uri).into()),
        _ => None,
    }
}

fn unambiguous(name: &str) -> Option<&str> {
    name.bytes().all(|byte| byte.is_ascii_graphic()).then_some(name)
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A name as OpenSSL's `XN_FLAG_RFC2253` prints it, which is what Envoy forwards: last RDN first.
fn rfc2253(name: &X509Name<'_>) -> String {
    let rdns: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for (index, rdn) in rdns.iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, attribute) in rdn.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type();
    let keyword = [
        (OID_X509_COMMON_NAME, "CN"),
        (OID_X509_ORGANIZATION_NAME, "O"),
        (OID_X509_ORGANIZATIONAL_UNIT, "OU"),
        (OID_X509_COUNTRY_NAME, "C"),
        (OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
        (OID_X509_LOCALITY_NAME, "L"),
        (OID_X509_STREET_ADDRESS, "street"),
        (OID_DOMAIN_COMPONENT, "DC"),
        (OID_USERID, "UID"),
        (OID_PKCS9_EMAIL_ADDRESS, "emailAddress"),
        (OID_X509_SERIALNUMBER, "serialNumber"),
    ]
    .into_iter()
    .find_map(|(known, keyword)| (known == *oid).then_some(keyword));
    match (keyword, attribute.as_str()) {
        (Some(keyword), Ok(value)) => {
            text.push_str(keyword);
            text.push('=');
            write_escaped(text, value);
        }
        (keyword, _) => {
            match keyword {
                Some(keyword) => text.push_str(keyword),
                None => text.push_str(&oid.to_id_string()),
            }
            text.push_str("=#");
            text.push_str(&hex(attribute.as_slice()));
        }
    }
}

/// RFC 2253 section 2.4; bytes beyond ASCII and controls as `\XX`.
fn write_escaped(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' | b' ' if index == 0 => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if index == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                // Writing to a string does not fail.
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}
