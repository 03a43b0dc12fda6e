//! What is to be done about a pod: its sidecar says it, in fields that are never changed.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{question::Answer, rules};

const PROXY: &str = "istio-proxy";
const INIT: &str = "istio-init";
/// Arguments of `weir-init`, a list in JSON: what injection would have given to `istio-init`.
const REDIRECT: &str = "WEIR_REDIRECT";
const MODE: &str = "ISTIO_META_INTERCEPTION_MODE";

/// What this pod needs.
pub fn decide(pod: &Pod) -> Answer {
    let Some(spec) = &pod.spec else { return Answer::Refuse("the pod has no spec".into()) };
    if spec.host_network == Some(true) {
        return skip("it uses the node's network");
    }
    let init = spec.init_containers.iter().flatten();
    if init.clone().any(|container| container.name == INIT) {
        return skip("it programs its rules itself");
    }
    let Some(proxy) = init.chain(&spec.containers).find(|it| it.name == PROXY) else {
        return skip("it has no sidecar");
    };
    let Some(arguments) = variable(proxy, REDIRECT) else {
        let is_ours = proxy.command.iter().flatten().any(|word| word == "weir-sidecar");
        return match variable(proxy, MODE) {
            Some("NONE") => skip("its sidecar captures nothing"),
            _ if is_ours => Answer::Refuse(format!(
                "its sidecar does not say what is to be redirected ({REDIRECT}): create it again \
                 with cni.enabled set for the controller"
            )),
            _ => skip("its sidecar is somebody else's"),
        };
    };
    let read: Result<Vec<String>, _> = serde_json::from_str(arguments);
    match read.map_err(|error| error.to_string()) {
        Ok(arguments) => match rules::settings(&arguments) {
            Ok(_) => Answer::Program(arguments),
            Err(error) => Answer::Refuse(format!("{REDIRECT}: {error}")),
        },
        Err(error) => Answer::Refuse(format!("{REDIRECT}: no list in JSON: {error}")),
    }
}

fn skip(because: &str) -> Answer {
    Answer::Skip(because.into())
}

fn variable<'c>(container: &'c Container, name: &str) -> Option<&'c str> {
    let found = container.env.iter().flatten().find(|variable| variable.name == name);
    found?.value.as_deref()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decided(spec: &Value) -> Answer {
        decide(&serde_json::from_value(json!({ "spec": spec })).unwrap())
    }

    fn with_sidecar(env: &Value) -> Value {
        json!({"containers": [{"name": "app"}], "initContainers": [{"name": "istio-proxy",
            "command": ["weir-sidecar"], "env": env}]})
    }

    #[test]
    fn a_sidecar_says_what_is_programmed() {
        let told =
            json!([{"name": "WEIR_REDIRECT", "value": r#"["-u","1337","-x","10.0.0.0/8"]"#}]);
        let arguments = ["-u", "1337", "-x", "10.0.0.0/8"].map(str::to_owned).to_vec();
        let mut spec = with_sidecar(&told);
        assert_eq!(decided(&spec), Answer::Program(arguments.clone()));
        // The older form.
        let containers = spec["initContainers"].take();
        assert_eq!(decided(&json!({ "containers": containers })), Answer::Program(arguments));
    }

    #[test]
    fn who_needs_nothing_is_skipped() {
        let skipped = |spec: &Value| matches!(decided(spec), Answer::Skip(_));
        assert!(skipped(&json!({"containers": [{"name": "app"}]})));
        let told = json!([{"name": "WEIR_REDIRECT", "value": "[]"}]);
        let mut spec = with_sidecar(&told);
        spec["hostNetwork"] = json!(true);
        assert!(skipped(&spec));
        let mut spec = with_sidecar(&told);
        spec["initContainers"].as_array_mut().unwrap().push(json!({"name": "istio-init"}));
        assert!(skipped(&spec));
        assert!(skipped(&with_sidecar(
            &json!([{"name": "ISTIO_META_INTERCEPTION_MODE", "value": "NONE"}])
        )));
        let mut spec = with_sidecar(&json!([]));
        spec["initContainers"][0]["command"] = Value::Null;
        assert!(skipped(&spec), "another mesh's");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let refused = |env: &Value| match decided(&with_sidecar(env)) {
            Answer::Refuse(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(refused(&json!([])).contains("create it again"));
        let told = |value: &str| refused(&json!([{"name": "WEIR_REDIRECT", "value": value}]));
        assert!(told("-u 1337").contains("no list in JSON"));
        assert!(told(r#"["-i","all"]"#).contains("\"all\" is not a range"));
    }
}
