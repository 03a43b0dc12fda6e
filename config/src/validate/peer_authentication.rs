//! Rules for PeerAuthentication.

use super::{Findings, selector};
use crate::{api::istio::PeerAuthentication, diagnostic::FieldPath};

pub(super) fn validate(
    policy: &PeerAuthentication,
    spec: FieldPath<'_>,
    findings: &mut Findings<'_>,
) {
    let PeerAuthentication { selector: workloads, mtls: _, port_level_mtls } = policy;
    let labels = workloads.as_ref().map(|selector| &selector.match_labels);
    if let Some(labels) = labels {
        selector::workload(labels, spec.field("selector").field("matchLabels"), findings);
    }
    let at = spec.field("portLevelMtls");
    if !port_level_mtls.is_empty() && labels.is_none_or(|labels| labels.is_empty()) {
        findings.error(at, "modes of single ports need a selector with labels: add one");
    }
    if port_level_mtls.contains_key(&0) {
        findings.error(at.key("0"), "a port number from 1 to 65535 is needed");
    }
}
