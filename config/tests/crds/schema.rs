//! Types to structural OpenAPI schemas.
//!
//! They refuse what no version of Istio accepts either - another type, another value of an enum, what
//! is required and missing - and nothing else. The rest is for the webhook, which says what to do.
//! Unknown fields are kept at every level: a field of a newer Istio is not lost, and the webhook sees
//! a misspelt one and warns.

use serde_json::{Map, Value, json};

use super::source::{Declared, Field, Of, Shape, Types};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// Fields that Istio requires as well, by the type that has them.
const REQUIRED: &[(&str, &[&str])] = &[
    ("ClaimToHeader", &["header", "claim"]),
    ("Condition", &["key"]),
    ("Destination", &["host"]),
    ("DestinationRule", &["host"]),
    ("EgressListener", &["hosts"]),
    ("HttpCookie", &["name"]),
    ("HttpDirectResponse", &["status"]),
    ("HttpMirrorPolicy", &["destination"]),
    ("HttpRouteDestination", &["destination"]),
    ("IngressListener", &["port"]),
    ("JwtHeader", &["name"]),
    ("JwtRule", &["issuer"]),
    ("PolicyTargetReference", &["kind", "name"]),
    ("RouteDestination", &["destination"]),
    ("Server", &["port", "hosts"]),
    ("ServerPort", &["number", "protocol", "name"]),
    ("ServiceEntry", &["hosts"]),
    ("ServicePort", &["number", "name"]),
    ("Subset", &["name"]),
    ("TlsMatchAttributes", &["sniHosts"]),
    ("TlsRoute", &["match"]),
    ("TunnelSettings", &["targetHost", "targetPort"]),
    ("WarmupConfiguration", &["duration"]),
];

/// The schema of a type, with all that is in it.
pub fn of_type(types: &Types, name: &str) -> Value {
    let mut schema = match leaf(name) {
        Some(leaf) => leaf,
        None => {
            let declared = types.find(name);
            let declared = declared
                .unwrap_or_else(|| panic!("{name} has no schema; add it to source or schema"));
            of_declared(types, name, declared)
        }
    };
    if let Some(docs) = types.find(name).map(|declared| &declared.docs) {
        describe(&mut schema, docs);
    }
    schema
}

fn of_declared(types: &Types, name: &str, declared: &Declared) -> Value {
    match &declared.shape {
        Shape::Struct(fields) => {
            let required = REQUIRED.iter().find(|(of, _)| *of == name).map(|(_, fields)| *fields);
            of_fields(types, name, fields, required.unwrap_or_default())
        }
        Shape::Enum(values) => {
            let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
            json!({ "type": "string", "enum": names })
        }
    }
}

fn of_fields(types: &Types, name: &str, fields: &[Field], required: &[&str]) -> Value {
    for field in required {
        assert!(fields.iter().any(|it| it.name == *field), "{name} has no {field} to require");
    }
    let properties: Map<_, _> =
        fields.iter().map(|field| (field.name.clone(), of_field(types, field))).collect();
    let mut schema = json!({ "type": "object", PRESERVE: true });
    if !properties.is_empty() {
        schema["properties"] = properties.into();
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn of_field(types: &Types, field: &Field) -> Value {
    let mut schema = of(types, &field.of);
    let values = named(&field.of).and_then(|name| types.find(name)).and_then(values);
    let docs = match values {
        Some(values) if !field.docs.is_empty() => format!("{}\n\n{values}", field.docs),
        Some(values) => values,
        None => field.docs.clone(),
    };
    describe(&mut schema, &docs);
    schema
}

fn of(types: &Types, of_what: &Of) -> Value {
    match of_what {
        Of::Named(name) => of_type(types, name),
        Of::List(inner) => json!({ "type": "array", "items": of(types, inner) }),
        Of::Map(inner) => json!({ "type": "object", "additionalProperties": of(types, inner) }),
        Of::Option(inner) => {
            let mut schema = of(types, inner);
            schema["nullable"] = true.into();
            schema
        }
    }
}

/// The type in lists and options.
fn named(of_what: &Of) -> Option<&str> {
    match of_what {
        Of::Named(name) => Some(name),
        Of::Option(inner) | Of::List(inner) => named(inner),
        Of::Map(_) => None,
    }
}

/// What the values of an enum mean, one per line.
fn values(declared: &Declared) -> Option<String> {
    let Shape::Enum(values) = &declared.shape else { return None };
    let lines: Vec<String> = values
        .iter()
        .filter(|value| !value.docs.is_empty())
        .map(|value| format!("{}: {}", value.name, value.docs))
        .collect();
    let documented = [declared.docs.clone(), lines.join("\n")];
    Some(documented.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n"))
}

fn describe(schema: &mut Value, docs: &str) {
    if !docs.is_empty() {
        schema["description"] = docs.replace('`', "").into();
    }
}

/// Types that are read by code of their own, and those of the language.
fn leaf(name: &str) -> Option<Value> {
    let integer = |max: u64| json!({ "type": "integer", "minimum": 0, "maximum": max });
    Some(match name {
        // A duration is Go's or protobuf's; a protocol may be written in any case.
        "String" | "Duration" | "Protocol" | "Base64Bytes" => json!({ "type": "string" }),
        "bool" => json!({ "type": "boolean" }),
        "f64" => json!({ "type": "number" }),
        "u16" => integer(u16::MAX.into()),
        "u32" => integer(u32::MAX.into()),
        "u64" => json!({ "type": "integer", "minimum": 0 }),
        // That only one of them is set, the webhook says better.
        "StringMatch" => {
            let text = |docs: &str| json!({ "type": "string", "description": docs });
            json!({
                "type": "object",
                PRESERVE: true,
                "properties": {
                    "exact": text("The whole value is equal."),
                    "prefix": text("The value starts with this."),
                    "regex": text("RE2 expression that matches the whole value."),
                },
            })
        }
        _ => return None,
    })
}

#[test]
fn every_field_that_is_required_is_one_of_its_type() {
    let types = Types::read();
    for (name, _) in REQUIRED {
        // Looking at it asserts it.
        of_type(&types, name);
    }
}

#[test]
fn what_may_be_left_out_may_be_null_and_lists_know_their_items() {
    let types = Types::read();
    let route = of_type(&types, "HttpRoute");
    let properties = &route["properties"];
    assert_eq!(properties["timeout"]["nullable"], true);
    assert_eq!(properties["timeout"]["type"], "string");
    assert_eq!(properties["match"]["items"]["properties"]["port"]["maximum"], 65_535);
    let headers = &properties["match"]["items"]["properties"]["headers"];
    assert_eq!(headers["additionalProperties"]["properties"]["exact"]["type"], "string");
    assert_eq!(route["properties"]["route"]["items"]["required"], json!(["destination"]));
    assert_eq!(route[PRESERVE], true);
}

#[test]
fn an_enum_lists_its_values_and_says_what_they_mean() {
    let types = Types::read();
    let tls = of_type(&types, "ServerTlsSettings");
    let mode = &tls["properties"]["mode"];
    let all = ["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL"];
    assert_eq!(mode["enum"], json!([&all[..], &["OPTIONAL_MUTUAL"]].concat()));
    let description = mode["description"].as_str().unwrap();
    assert!(description.contains("\nSIMPLE: Terminated with"), "{description}");
}
