//! Kubernetes' strategic merge of pods: objects are merged, lists whose items have a key are merged by
//! it, and others are replaced.

use serde_json::Value;

/// Lists that are merged, and what tells their items apart.
const KEYS: [(&str, &str); 9] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("ephemeralContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("hostAliases", "ip"),
];
const DIRECTIVE: &str = "$patch";

/// Merges an overlay into a pod or a part of one. `null` removes; so does an item with
/// `$patch: delete`.
pub fn merge(base: &mut Value, overlay: &Value) {
    let (Value::Object(base), Value::Object(overlay)) = (&mut *base, overlay) else {
        *base = overlay.clone();
        return;
    };
    if overlay.get(DIRECTIVE).is_some_and(|directive| directive == "replace") {
        *base = overlay.clone();
        base.remove(DIRECTIVE);
        return;
    }
    for (field, value) in overlay {
        let key = KEYS.iter().find(|(list, _)| list == field).map(|(_, key)| *key);
        match (value, key) {
            (Value::Null, _) => {
                base.remove(field);
            }
            (Value::Array(items), Some(key)) => {
                let list = base.entry(field).or_insert_with(|| Value::Array(Vec::new()));
                merge_items(list, items, key);
            }
            (value, _) => match base.get_mut(field) {
                Some(there) => merge(there, value),
                None => {
                    base.insert(field.clone(), value.clone());
                }
            },
        }
    }
}

fn merge_items(list: &mut Value, items: &[Value], key: &str) {
    let Value::Array(list) = list else {
        *list = Value::Array(items.to_vec());
        return;
    };
    for item in items {
        let same = list.iter().position(|there| there.get(key) == item.get(key));
        let is_deleted = item.get(DIRECTIVE).is_some_and(|directive| directive == "delete");
        match same {
            Some(at) if is_deleted => drop(list.remove(at)),
            Some(at) => merge(&mut list[at], item),
            None if is_deleted => {}
            None => list.push(item.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut base: Value, overlay: &Value) -> Value {
        merge(&mut base, overlay);
        base
    }

    #[test]
    fn items_with_the_same_key_are_merged_and_others_added() {
        let base = json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]});
        let overlay = json!({"env": [{"name": "C", "value": "3"}, {"name": "A", "value": "4"}]});
        assert_eq!(
            merged(base, &overlay),
            json!({"env": [
                {"name": "A", "value": "4"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}
            ]})
        );
    }

    #[test]
    fn lists_without_a_key_are_replaced() {
        let base = json!({"args": ["a", "b"], "tolerations": [{"key": "x"}]});
        let overlay = json!({"args": ["c"]});
        assert_eq!(merged(base, &overlay), json!({"args": ["c"], "tolerations": [{"key": "x"}]}));
    }

    #[test]
    fn nothing_and_a_directive_remove() {
        let base = json!({"a": 1, "volumes": [{"name": "v"}, {"name": "w"}]});
        let overlay = json!({"a": null, "volumes": [{"name": "v", "$patch": "delete"}]});
        assert_eq!(merged(base, &overlay), json!({"volumes": [{"name": "w"}]}));
    }
}
