//! The difference of two objects as a JSON patch (RFC 6902).

use serde_json::{Map, Value, json};

/// What turns `before` into `after`. Lists that differ are replaced as a whole: a patch by index would
/// be about other items as soon as somebody else adds one.
pub fn between(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare("", before, after, &mut operations);
    operations
}

fn compare(path: &str, before: &Value, after: &Value, operations: &mut Vec<Value>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Value::Object(before), Value::Object(after)) => fields(path, before, after, operations),
        (_, after) => operations.push(json!({ "op": "replace", "path": path, "value": after })),
    }
}

fn fields(
    path: &str,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    operations: &mut Vec<Value>,
) {
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        operations.push(json!({ "op": "remove", "path": below(path, name) }));
    }
    for (name, after) in after {
        let path = below(path, name);
        match before.get(name) {
            Some(before) => compare(&path, before, after, operations),
            None => operations.push(json!({ "op": "add", "path": path, "value": after })),
        }
    }
}

fn below(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_added_removed_and_replaced_where_they_are() {
        let before = json!({"a": {"b/c": 1, "d": 2}, "list": [1], "same": [1, 2]});
        let after = json!({"a": {"b/c": 3, "~": {}}, "list": [1, 2], "same": [1, 2]});
        assert_eq!(
            between(&before, &after),
            [
                json!({"op": "remove", "path": "/a/d"}),
                json!({"op": "replace", "path": "/a/b~1c", "value": 3}),
                json!({"op": "add", "path": "/a/~0", "value": {}}),
                json!({"op": "replace", "path": "/list", "value": [1, 2]}),
            ]
        );
    }
}
