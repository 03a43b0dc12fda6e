//! Names as DNS, Kubernetes and HTTP allow them. Pure predicates; the callers word the messages.

use std::net::IpAddr;

/// A DNS label: letters, digits and inner hyphens, at most 63. Case does not matter in DNS.
pub(super) fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    bytes.len() <= 63
        && bytes.iter().all(inner)
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// A Kubernetes label name, such as a namespace: a DNS label in lower case.
pub(super) fn is_kubernetes_label(text: &str) -> bool {
    is_dns_label(text) && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// A Kubernetes object name: labels in lower case joined by dots, at most 253.
pub(super) fn is_kubernetes_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|label| !label.is_empty() && is_kubernetes_part(label))
}

fn is_kubernetes_part(text: &str) -> bool {
    // Parts of a name have no limit of their own, unlike DNS labels.
    let bytes = text.as_bytes();
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.iter().all(|byte| edge(byte) || *byte == b'-')
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
}

/// A DNS name of one or more labels. One label is a short name, resolved in the object's namespace.
pub(super) fn is_fqdn(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let last_is_number = || {
        let last = name.rsplit('.').next().unwrap_or(name);
        last.bytes().all(|byte| byte.is_ascii_digit())
    };
    !name.is_empty() && name.len() <= 255 && name.split('.').all(is_dns_label) && !last_is_number()
}

/// As [`is_fqdn`], or with a wildcard first: `*`, `*.example.com`, `*-a.example.com`.
pub(super) fn is_wildcard_domain(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('*') else { return is_fqdn(text) };
    match rest.strip_prefix('.') {
        Some(domain) => is_fqdn(domain),
        None => rest.is_empty() || is_fqdn(rest.strip_prefix('-').unwrap_or(rest)),
    }
}

/// `*a.example.com`: a wildcard for part of a label.
pub(super) fn is_partial_wildcard(text: &str) -> bool {
    text.strip_prefix('*').is_some_and(|rest| !rest.is_empty() && !rest.starts_with('.'))
}

pub(super) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// An address, or an address and prefix length.
pub(super) fn is_ip_or_cidr(text: &str) -> bool {
    is_ip(text) || is_cidr(text)
}

pub(super) fn is_cidr(text: &str) -> bool {
    text.parse::<ipnet::IpNet>().is_ok()
}

/// `unix:///path`; `Some(false)` when the path is not absolute, `None` when it is no socket at all.
pub(super) fn unix_socket_is_absolute(text: &str) -> Option<bool> {
    let path = text.strip_prefix("unix://")?;
    Some(path.starts_with('/') && !path.ends_with('/'))
}

/// The name of an HTTP header: an RFC 9110 token without the signs nobody uses.
pub(super) fn is_header_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(allowed)
}

/// The key of a Kubernetes label: `[prefix/]name`.
pub(super) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_kubernetes_name(prefix) && is_label_word(name),
        None => is_label_word(text),
    }
}

/// The value of a Kubernetes label; may be empty.
pub(super) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_word(text)
}

fn is_label_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    bytes.len() <= 63
        && bytes.iter().all(inner)
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// Splits `[namespace/]name`.
pub(super) fn split_namespace(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names() {
        for good in ["a", "a.b", "A.example.com.", "1.a", "xn--mnchen-3ya.de", &"a".repeat(63)] {
            assert!(is_fqdn(good), "{good}");
        }
        for bad in ["", ".", "a..b", "-a", "a-", "a_b", "*.a", "a.1", "10.0.0.1", &"a".repeat(64)] {
            assert!(!is_fqdn(bad), "{bad}");
        }
        assert!(!is_fqdn(&"a.".repeat(129)));
    }

    #[test]
    fn wildcards_stand_first_or_not_at_all() {
        for good in ["*", "*.a", "*.a.b", "*-a.b", "*a.b", "a.b"] {
            assert!(is_wildcard_domain(good), "{good}");
        }
        for bad in ["**", "*.", "*.*.a", "a.*", "*-", "a*.b"] {
            assert!(!is_wildcard_domain(bad), "{bad}");
        }
        assert!(is_partial_wildcard("*-a.b") && !is_partial_wildcard("*.a"));
        assert!(!is_partial_wildcard("*"));
    }

    #[test]
    fn kubernetes_names_and_labels() {
        assert!(is_kubernetes_name("a.b-c.1") && is_kubernetes_label("prod-1"));
        for bad in ["", "A", "a_b", "a.", "-a", "a/b"] {
            assert!(!is_kubernetes_name(bad), "{bad}");
        }
        assert!(is_label_key("app.kubernetes.io/name") && is_label_key("app"));
        for bad in ["", "/a", "a/", "a/b/c", "-a"] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(is_label_value("") && is_label_value("v1.2_3-x") && !is_label_value("a b"));
    }
}
