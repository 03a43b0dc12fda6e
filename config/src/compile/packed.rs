//! Room in trees.

use std::collections::BTreeMap;

/// Makes the map again without the room that insertion leaves: keys that come in their order fill its
/// nodes by half, and a configuration comes like that when it is read.
pub(crate) fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}
