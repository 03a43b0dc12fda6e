//! What the annotations of a pod may say. What cannot be read is a reason to reject the pod: a typo in
//! an exclusion would otherwise be found in production.

use serde_json::Value;

use super::pod::Pod;

type Check = fn(&str) -> Result<(), String>;

/// Annotations whose value has a form. Others are any text, or somebody else's.
const CHECKS: [(&str, Check); 28] = [
    ("sidecar.istio.io/interceptionMode", mode),
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", ranges_or_all),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", ranges),
    ("traffic.sidecar.istio.io/includeInboundPorts", ports_or_all),
    ("traffic.sidecar.istio.io/excludeInboundPorts", ports),
    ("traffic.sidecar.istio.io/includeOutboundPorts", ports),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", ports),
    ("traffic.sidecar.istio.io/excludeInterfaces", interfaces),
    ("traffic.sidecar.istio.io/kubevirtInterfaces", interfaces),
    ("istio.io/reroute-virtual-interfaces", interfaces),
    ("status.sidecar.istio.io/port", port_or_none),
    ("readiness.status.sidecar.istio.io/initialDelaySeconds", number),
    ("readiness.status.sidecar.istio.io/periodSeconds", number),
    ("readiness.status.sidecar.istio.io/failureThreshold", number),
    ("readiness.status.sidecar.istio.io/applicationPorts", ports),
    ("sidecar.istio.io/rewriteAppHTTPProbers", boolean),
    ("sidecar.istio.io/nativeSidecar", boolean),
    ("sidecar.istio.io/capNetBindService", boolean),
    ("prometheus.istio.io/merge-metrics", boolean),
    ("sidecar.istio.io/proxyCPU", quantity),
    ("sidecar.istio.io/proxyCPULimit", quantity),
    ("sidecar.istio.io/proxyMemory", quantity),
    ("sidecar.istio.io/proxyMemoryLimit", quantity),
    ("sidecar.istio.io/userVolume", list_or_object),
    ("sidecar.istio.io/userVolumeMount", list_or_object),
    ("sidecar.istio.io/proxyImageType", image_type),
    ("proxy.istio.io/overrides", object),
    ("sidecar.istio.io/status", object),
];

/// Everything that is wrong with the annotations.
pub fn problems(pod: &Pod) -> Vec<String> {
    let problem = |(name, check): &(&str, Check)| {
        let error = check(pod.annotation(name)?).err()?;
        Some(format!("metadata.annotations[{name}]: {error}"))
    };
    CHECKS.iter().filter_map(problem).collect()
}

/// As Go reads it.
pub fn is_true(word: &str) -> bool {
    matches!(word, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn boolean(word: &str) -> Result<(), String> {
    let is_false = matches!(word, "0" | "f" | "F" | "false" | "FALSE" | "False");
    ensure(is_true(word) || is_false, word, "true or false")
}

fn mode(word: &str) -> Result<(), String> {
    ensure(["REDIRECT", "TPROXY", "NONE"].contains(&word), word, "REDIRECT, TPROXY or NONE")
}

fn port(word: &str) -> Result<(), String> {
    ensure(word.parse::<u16>().is_ok_and(|port| port > 0), word, "a port from 1 to 65535")
}

fn port_or_none(word: &str) -> Result<(), String> {
    ensure(word.parse::<u16>().is_ok(), word, "a port, or 0 for none")
}

fn number(word: &str) -> Result<(), String> {
    ensure(word.parse::<i32>().is_ok_and(|number| number >= 0), word, "a number from 0")
}

fn ports(list: &str) -> Result<(), String> {
    items(list).try_for_each(port)
}

fn ports_or_all(list: &str) -> Result<(), String> {
    if list.trim() == "*" { Ok(()) } else { ports(list) }
}

fn ranges(list: &str) -> Result<(), String> {
    let expected = "a range of addresses, such as 10.0.0.0/8";
    items(list).try_for_each(|item| ensure(is_range(item), item, expected))
}

fn ranges_or_all(list: &str) -> Result<(), String> {
    if list.trim() == "*" { Ok(()) } else { ranges(list) }
}

fn is_range(item: &str) -> bool {
    let Some((address, bits)) = item.split_once('/') else { return false };
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    bits.parse::<u8>().is_ok_and(|bits| bits <= if address.is_ipv4() { 32 } else { 128 })
}

fn interfaces(list: &str) -> Result<(), String> {
    let is_name = |name: &str| {
        let name = name.strip_suffix('+').unwrap_or(name);
        (1..16).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\"\\*".contains(&byte))
    };
    let expected = "an interface: names have up to 15 characters";
    items(list).try_for_each(|item| ensure(is_name(item), item, expected))
}

/// Kubernetes' quantities: a number and a suffix.
fn quantity(word: &str) -> Result<(), String> {
    const SUFFIXES: [&str; 15] =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    let (number, suffix) = word.split_at(end);
    let is_number = number.parse::<f64>().is_ok();
    ensure(is_number && SUFFIXES.contains(&suffix), word, "a quantity, such as 100m or 128Mi")
}

fn list_or_object(text: &str) -> Result<(), String> {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let is_one = value.is_some_and(|value| value.is_array() || value.is_object());
    ensure(is_one, text, "a list or an object in JSON")
}

fn object(text: &str) -> Result<(), String> {
    let value: Option<Value> = serde_json::from_str(text).ok();
    ensure(value.is_some_and(|value| value.is_object()), text, "an object in JSON")
}

fn image_type(word: &str) -> Result<(), String> {
    let is_tag = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    ensure(is_tag && !word.is_empty(), word, "the ending of an image's tag")
}

fn ensure(is_so: bool, word: &str, expected: &str) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(format!("{word:?} is not {expected}")) }
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}
