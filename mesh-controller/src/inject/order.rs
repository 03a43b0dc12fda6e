//! The order of containers. Ours have places; the others keep theirs among themselves, so that two
//! webhooks that both order do not do it for ever.

use serde_json::Value;

use super::{
    knobs::Knobs,
    pod::{INIT, PROXY, Pod, VALIDATION, name_of},
};

/// Native: rules, then the sidecar, then whoever needs the network. Else: a validation first, the
/// rules last, as no other init container could use the network under them.
pub fn sort(pod: &mut Pod, knobs: &Knobs) {
    let is_native = pod.list("initContainers").iter().any(|container| name_of(container) == PROXY);
    if let Some(containers) = pod.list_mut("initContainers") {
        let place = |container: &Value| match (name_of(container), is_native) {
            (VALIDATION, _) | (INIT, true) => 0,
            (PROXY, true) => 1,
            (INIT, false) => 3,
            _ => 2,
        };
        containers.sort_by_key(place);
    }
    if let Some(containers) = pod.list_mut("containers") {
        let holds = knobs.holds;
        containers.sort_by_key(|container| match name_of(container) {
            PROXY if holds => 0,
            PROXY => 2,
            _ => 1,
        });
    }
}
