//! A list of plugins as text, with our entry and without.

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The type of our entry, which is the name of the plugin's file.
pub const TYPE: &str = "weir-cni";

/// The list with `entry` as its last; `None`: it is so already.
///
/// # Errors
/// It is no list.
pub fn with(text: &str, entry: &Value) -> anyhow::Result<Option<String>> {
    let mut list = parse(text)?;
    let plugins = plugins(&mut list)?;
    if plugins.is_empty() {
        bail!("it has no plugins");
    }
    if plugins.last() == Some(entry) && plugins.iter().filter(|it| is_ours(it)).count() == 1 {
        return Ok(None);
    }
    plugins.retain(|plugin| !is_ours(plugin));
    // Last: the pod's network is complete then.
    plugins.push(entry.clone());
    Ok(Some(print(&list)))
}

/// The list without our entry; `None`: it has none.
///
/// # Errors
/// It is no list.
pub fn without(text: &str) -> anyhow::Result<Option<String>> {
    let mut list = parse(text)?;
    let plugins = plugins(&mut list)?;
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    Ok((plugins.len() < before).then(|| print(&list)))
}

fn parse(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).context("it is no JSON")
}

fn plugins(list: &mut Value) -> anyhow::Result<&mut Vec<Value>> {
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut);
    plugins.context("it has no list of plugins")
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").is_some_and(|name| name == TYPE)
}

fn print(list: &Value) -> String {
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIST: &str = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [
        {"type": "ptp", "ipam": {"type": "host-local"}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;

    fn entry(agent: &str) -> Value {
        json!({"type": "weir-cni", "agent": agent})
    }

    fn types(text: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(text).unwrap();
        let plugins = list["plugins"].as_array().unwrap();
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_entry_is_the_last_and_there_once() {
        let with_one = with(LIST, &entry("/a")).unwrap().unwrap();
        assert_eq!(types(&with_one), ["ptp", "portmap", "weir-cni"]);
        assert_eq!(with(&with_one, &entry("/a")).unwrap(), None);
        let changed = with(&with_one, &entry("/b")).unwrap().unwrap();
        assert_eq!(types(&changed), ["ptp", "portmap", "weir-cni"]);
        assert!(changed.contains("\"/b\"") && !changed.contains("\"/a\""));
        // Somebody has put his own behind it.
        let behind = with_one.replace("portmap", "bandwidth").replace("ptp", "weir-cni");
        assert_eq!(
            types(&with(&behind, &entry("/a")).unwrap().unwrap()),
            ["bandwidth", "weir-cni"]
        );
    }

    #[test]
    fn without_it_is_what_it_was() {
        let with_one = with(LIST, &entry("/a")).unwrap().unwrap();
        let restored = without(&with_one).unwrap().unwrap();
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parsed(&restored), parsed(LIST));
        assert_eq!(without(LIST).unwrap(), None);
    }

    #[test]
    fn what_is_no_list_stays() {
        for (text, told) in [
            ("{", "no JSON"),
            (r#"{"type": "bridge"}"#, "no list of plugins"),
            (r#"{"plugins": []}"#, "no plugins"),
        ] {
            let error = with(text, &entry("/a")).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
