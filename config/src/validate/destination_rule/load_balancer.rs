//! Rules for load balancing.

use std::collections::BTreeSet;

use super::super::{Findings, name, time};
use crate::{
    api::istio::load_balancer::{
        ConsistentHashLb, Distribute, Failover, HttpCookie, LoadBalancerSettings,
        LocalityLoadBalancerSetting, Maglev, WarmupConfiguration,
    },
    diagnostic::FieldPath,
};

/// Maglev tables are smaller than this, as in Envoy.
const MAX_TABLE_SIZE: u64 = 5_000_011;

const REGION_LABEL: &str = "topology.kubernetes.io/region";

pub(super) fn validate(
    settings: &LoadBalancerSettings,
    has_outlier_detection: bool,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    if settings.simple.is_some() && settings.consistent_hash.is_some() {
        findings.error(at, "only one of simple and consistentHash may be set");
    }
    if let Some(hash) = &settings.consistent_hash {
        consistent_hash(hash, at.field("consistentHash"), findings);
    }
    if settings.locality_lb_setting.is_some() && settings.zone_aware_lb_setting.is_some() {
        findings.error(at, "only one of localityLbSetting and zoneAwareLbSetting may be set");
    }
    if let Some(locality) = &settings.locality_lb_setting {
        let at = at.field("localityLbSetting");
        self::locality(locality, at, findings);
        let fails_over = !locality.failover.is_empty() || !locality.failover_priority.is_empty();
        if fails_over && !has_outlier_detection {
            findings.warning(
                at,
                "without outlierDetection no endpoint is ever unhealthy, so nothing fails over; add it",
            );
        }
    }
    if let Some(zone_aware) = &settings.zone_aware_lb_setting {
        let at = at.field("zoneAwareLbSetting");
        failover(&zone_aware.failover, at.field("failover"), findings);
    }
    if settings.warmup_duration_secs.is_some() {
        findings.warning(at.field("warmupDurationSecs"), "deprecated; use warmup.duration");
        time::validate(settings.warmup_duration_secs, at.field("warmupDurationSecs"), findings);
    }
    if let Some(warmup) = &settings.warmup {
        self::warmup(warmup, at.field("warmup"), findings);
    }
}

fn consistent_hash(hash: &ConsistentHashLb, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let keys = [
        !hash.http_header_name.is_empty(),
        hash.http_cookie.is_some(),
        hash.use_source_ip,
        !hash.http_query_parameter_name.is_empty(),
    ];
    match keys.into_iter().filter(|set| *set).count() {
        0 => findings.warning(
            at,
            "there is no key to hash, so endpoints are chosen at random; set httpHeaderName, \
             httpCookie, useSourceIp or httpQueryParameterName",
        ),
        1 => {}
        _ => findings.error(
            at,
            "only one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName may be set",
        ),
    }
    if !hash.http_header_name.is_empty() && !name::is_header_name(&hash.http_header_name) {
        findings.error(at.field("httpHeaderName"), "not a header name");
    }
    if let Some(cookie) = &hash.http_cookie {
        self::cookie(cookie, at.field("httpCookie"), findings);
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        findings.error(at, "only one of ringHash and maglev may be set");
    }
    if hash.minimum_ring_size.is_some() {
        let at = at.field("minimumRingSize");
        if hash.ring_hash.is_some() || hash.maglev.is_some() {
            findings.error(at, "ringHash and maglev say their own size; remove the field");
        } else {
            findings.warning(at, "deprecated; use ringHash.minimumRingSize");
        }
    }
    if let Some(Maglev { table_size }) = &hash.maglev {
        let at = at.field("maglev");
        let at = at.field("tableSize");
        if !table_size.is_some_and(|size| size < MAX_TABLE_SIZE && is_prime(size)) {
            findings.error(at, "a prime number below 5000011 is needed, for example 65537");
        }
    }
}

fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|n| n * n <= number).all(|n| !number.is_multiple_of(n))
}

fn cookie(cookie: &HttpCookie, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if cookie.name.is_empty() {
        findings.error(at.field("name"), "the cookie needs a name");
    } else if !is_cookie_text(&cookie.name) || cookie.name.contains(['=', ' ']) {
        findings
            .error(at.field("name"), "a cookie's name has no spaces, =, ; or control characters");
    }
    if !is_cookie_text(&cookie.path) {
        findings.error(at.field("path"), "an attribute has no ; or control characters");
    }
    time::validate_or_zero(cookie.ttl, at.field("ttl"), findings);
    let mut names = BTreeSet::new();
    let attributes = at.field("attributes");
    for (index, attribute) in cookie.attributes.iter().enumerate() {
        let at = attributes.index(index);
        let at = at.field("name");
        if attribute.name.is_empty() {
            findings.error(at, "an attribute needs a name");
        } else if !is_cookie_text(&attribute.name) || !is_cookie_text(&attribute.value) {
            findings.error(at, "an attribute has no ; or control characters");
        } else if !names.insert(attribute.name.to_ascii_lowercase()) {
            findings.error(at, "another attribute has this name; remove one");
        }
    }
}

/// Whether the text leaves `Set-Cookie` one cookie.
fn is_cookie_text(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b';')
}

fn locality(
    locality: &LocalityLoadBalancerSetting,
    at: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let LocalityLoadBalancerSetting { distribute, failover, failover_priority, enabled: _ } =
        locality;
    if !distribute.is_empty() && (!failover.is_empty() || !failover_priority.is_empty()) {
        findings.error(at, "distribute excludes failover and failoverPriority; keep one");
    }
    let by_region = failover_priority.iter().any(|key| key.split('=').next() == Some(REGION_LABEL));
    if !failover.is_empty() && by_region {
        findings.error(
            at.field("failoverPriority"),
            format!("failover already orders regions; remove {REGION_LABEL}"),
        );
    }
    let keys = at.field("failoverPriority");
    for (index, key) in failover_priority.iter().enumerate() {
        if key.is_empty() || key.starts_with('=') {
            findings.error(keys.index(index), "a label key, or key=value, is needed");
        }
    }
    self::distribute(distribute, at.field("distribute"), findings);
    self::failover(failover, at.field("failover"), findings);
}

fn distribute(distribute: &[Distribute], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    for (index, entry) in distribute.iter().enumerate() {
        let at = at.index(index);
        locality_name(&entry.from, at.field("from"), findings);
        for (earlier, other) in distribute[..index].iter().enumerate() {
            if overlap(&other.from, &entry.from) {
                findings.error(
                    at.field("from"),
                    format!("overlaps with distribute[{earlier}].from; each client has one entry"),
                );
            }
        }
        let to = at.field("to");
        for (locality, weight) in &entry.to {
            locality_name(locality, to.key(locality), findings);
            if !(1..=100).contains(weight) {
                findings.error(to.key(locality), "a share is from 1 to 100 percent");
            }
        }
        let sum: u64 = entry.to.values().copied().map(u64::from).sum();
        if sum != 100 {
            findings.error(to, format!("the shares add up to {sum} percent; make it 100"));
        }
    }
}

/// `region/zone/subzone`; later parts may be left out, and the last may be `*`.
fn locality_name(locality: &str, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    let parts: Vec<&str> = locality.split('/').collect();
    let wildcard = parts.iter().position(|part| part.contains('*'));
    let wildcard_last = wildcard.is_none_or(|at| at + 1 == parts.len() && parts[at] == "*");
    if parts.len() > 3 || parts.contains(&"") || !wildcard_last {
        findings.error(
            at,
            format!("{locality:?} is not a locality; write region/zone/subzone, the last may be *"),
        );
    }
}

fn overlap(a: &str, b: &str) -> bool {
    let covers = |wide: &str, narrow: &str| {
        wide == narrow
            || wide == "*"
            || wide.strip_suffix("/*").is_some_and(|prefix| {
                narrow
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            || narrow.strip_prefix(wide).is_some_and(|rest| rest.starts_with('/'))
    };
    covers(a, b) || covers(b, a)
}

fn failover(failover: &[Failover], at: FieldPath<'_>, findings: &mut Findings<'_>) {
    for (index, Failover { from, to }) in failover.iter().enumerate() {
        let at = at.index(index);
        if from == to {
            findings.error(at, "a region cannot take over for itself; from and to differ");
        }
        for (field, region) in [("from", from), ("to", to)] {
            if region.is_empty() || region.contains(['/', '*']) {
                findings
                    .error(at.field(field), format!("{region:?} is not a region; write its name"));
            }
        }
    }
}

fn warmup(warmup: &WarmupConfiguration, at: FieldPath<'_>, findings: &mut Findings<'_>) {
    if warmup.duration.is_none() {
        findings.error(at.field("duration"), "the length of the warmup is needed");
    }
    time::validate(warmup.duration, at.field("duration"), findings);
    if warmup.minimum_percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        findings.error(at.field("minimumPercent"), "a percentage is from 0 to 100");
    }
    if warmup.aggression.is_some_and(|aggression| aggression <= 0.0) {
        findings.error(at.field("aggression"), "must be above 0; 1 grows linearly");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes() {
        let primes: Vec<u64> = (0..20).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19]);
        assert!(is_prime(65_537) && !is_prime(65_536));
    }

    #[test]
    fn localities_overlap_when_one_holds_the_other() {
        assert!(overlap("us/*", "us/west") && overlap("us", "us/west/a") && overlap("*", "eu"));
        assert!(!overlap("us/west", "us/east") && !overlap("us/*", "usa/west"));
    }
}
