//! Certificates.

use serde_json::Value;

use super::{items, text};
use crate::ctl::table::Table;

/// Every secret, with what is wrong with it.
pub fn select(certificates: &Value) -> Vec<Value> {
    let mut secrets: Vec<Value> = items(certificates, "/secrets").cloned().collect();
    for secret in &mut secrets {
        let name = secret["name"].clone();
        let problems = items(certificates, "/problems").filter(|it| it["secret"] == name);
        secret["problems"] = problems.map(|it| it["message"].clone()).collect();
    }
    secrets
}

pub fn table(secrets: &[Value]) -> String {
    let mut table = Table::new([
        "RESOURCE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
    ]);
    for secret in secrets {
        let status = if items(secret, "/problems").next().is_none() { "ACTIVE" } else { "BROKEN" };
        for (part, kind) in [("certificateChain", "Cert Chain"), ("trustBundle", "CA")] {
            for certificate in certificates(&secret[part]) {
                table.push([
                    text(secret, "/name").to_owned(),
                    kind.to_owned(),
                    status.to_owned(),
                    is_valid(certificate).to_string(),
                    text(certificate, "/serialNumber").to_owned(),
                    text(certificate, "/expirationTime").to_owned(),
                    text(certificate, "/validFrom").to_owned(),
                ]);
            }
        }
    }
    table.sorted().print()
}

/// They stand in the secret, or in a file that it names.
fn certificates(part: &Value) -> impl Iterator<Item = &Value> {
    let list = part.get("certificates").unwrap_or(part);
    // A file that cannot be read is a row without certificate.
    let unreadable = part.get("error").map(|_| part);
    list.as_array().into_iter().flatten().chain(unreadable)
}

fn is_valid(certificate: &Value) -> bool {
    let days = certificate["daysUntilExpiration"].as_i64();
    certificate.get("error").is_none() && days.is_some_and(|days| days >= 0)
}
