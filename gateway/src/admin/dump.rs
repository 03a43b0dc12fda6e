//! `/config_dump`: everything the proxy runs and everything that is wrong with it, without secrets.

use serde_json::{Map, Value, json};
use weir_config::{
    diagnostic::Diagnostic,
    model::{Resources, Secret, secret::SecretMaterial},
};

use crate::tls::SecretProblem;

/// Members of a JSON Web Key that are nobody's business (RFC 7518, section 6).
const PRIVATE_JWK_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

pub(super) fn json(
    version: u64,
    resources: &Resources,
    diagnostics: &[Diagnostic],
    problems: &[SecretProblem],
) -> Result<Value, serde_json::Error> {
    // Destructured so that a resource that is added is looked at here, too.
    let Resources {
        settings,
        listeners,
        filter_chains,
        virtual_hosts,
        clusters,
        endpoints,
        secrets,
        dns_records,
        policies,
    } = resources;
    let mut policies = serde_json::to_value(policies)?;
    hide_private_keys(&mut policies);
    let secrets: Map<_, _> =
        secrets.iter().map(|(name, secret)| (name.to_string(), summary(secret))).collect();
    let problems: Vec<_> = problems
        .iter()
        .map(|it| json!({ "secret": it.secret, "severity": it.severity, "message": it.message }))
        .collect();
    let diagnostics: Vec<_> = diagnostics
        .iter()
        .map(|diagnostic| {
            let mut value = json!(diagnostic);
            value["text"] = diagnostic.to_string().into();
            value
        })
        .collect();
    Ok(json!({
        "version": version,
        "diagnostics": diagnostics,
        "secretProblems": problems,
        "settings": serde_json::to_value(settings)?,
        "listeners": serde_json::to_value(listeners)?,
        "filterChains": serde_json::to_value(filter_chains)?,
        "virtualHosts": serde_json::to_value(virtual_hosts)?,
        "clusters": serde_json::to_value(clusters)?,
        "endpoints": serde_json::to_value(endpoints)?,
        "dnsRecords": serde_json::to_value(dns_records)?,
        "policies": policies,
        "secrets": secrets,
    }))
}

/// What a secret holds, not what that is. Certificates are on `/certs`.
fn summary(secret: &Secret) -> Value {
    match &secret.material {
        SecretMaterial::Inline {
            certificate_chain,
            private_key,
            trust_bundle,
            revocation_list,
            ocsp_staple,
        } => json!({
            "inline": {
                "certificateChain": certificate_chain.is_some(),
                "privateKey": private_key.is_some(),
                "trustBundle": trust_bundle.is_some(),
                "revocationList": revocation_list.is_some(),
                "ocspStaple": ocsp_staple.is_some(),
            }
        }),
        SecretMaterial::Files { certificate_chain, private_key, trust_bundle, revocation_list } => {
            json!({
                "files": {
                    "certificateChain": certificate_chain,
                    "privateKey": private_key,
                    "trustBundle": trust_bundle,
                    "revocationList": revocation_list,
                }
            })
        }
    }
}

/// Key sets are configuration text: somebody may have put more into one than belongs there.
fn hide_private_keys(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(inline)) = members.get_mut("inline") {
                *inline = public_part(inline);
            }
            members.values_mut().for_each(hide_private_keys);
        }
        Value::Array(items) => items.iter_mut().for_each(hide_private_keys),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn public_part(jwks: &str) -> String {
    let Ok(mut document) = serde_json::from_str::<Value>(jwks) else {
        return "(not a JSON document)".to_owned();
    };
    let keys = document.get_mut("keys").and_then(Value::as_array_mut);
    for key in keys.into_iter().flatten().filter_map(Value::as_object_mut) {
        for member in PRIVATE_JWK_MEMBERS {
            if let Some(value) = key.get_mut(member) {
                *value = "(hidden)".into();
            }
        }
    }
    document.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_config::model::SecretName;

    use super::*;

    #[test]
    fn a_dump_says_which_secrets_there_are_and_not_what_they_are() {
        let mut resources = Resources::default();
        let name = SecretName::new("kubernetes://default/site");
        let material = SecretMaterial::Inline {
            certificate_chain: Some(Arc::from(&b"CHAIN"[..])),
            private_key: Some(Arc::from(&b"PRIVATE"[..])),
            trust_bundle: None,
            revocation_list: None,
            ocsp_staple: None,
        };
        let secret = Secret { name: name.clone(), material };
        resources.secrets.insert(name, Arc::new(secret));

        let dump = json(7, &resources, &[], &[]).unwrap();
        assert_eq!(dump["version"], 7);
        let secret = &dump["secrets"]["kubernetes://default/site"]["inline"];
        assert_eq!((&secret["privateKey"], &secret["trustBundle"]), (&json!(true), &json!(false)));
        assert!(!dump.to_string().contains("PRIVATE"));
    }

    #[test]
    fn key_sets_lose_their_private_members() {
        let jwks = json!({"keys": [
            {"kty": "oct", "kid": "a", "k": "topsecret"},
            {"kty": "EC", "kid": "b", "x": "public", "d": "topsecret"},
        ]});
        let mut policies = json!({"jwt": [{"keys": {"inline": jwks.to_string()}}, {"keys": {"uri": "https://a"}}]});
        hide_private_keys(&mut policies);
        let text = policies.to_string();
        assert!(text.contains("public") && text.contains("https://a"), "{text}");
        assert!(!text.contains("topsecret"), "{text}");

        let mut broken = json!({"inline": "topsecret"});
        hide_private_keys(&mut broken);
        assert!(!broken.to_string().contains("topsecret"));
    }
}
