use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use serde_json::{Map, Value as Json, json};

use super::{
    certificate::{IstioCertificateRequest, IstioCertificateResponse},
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Locality, Node, Resource, WHOLE_PUSHES,
    },
    google::{Any, Status, Struct},
    resource::{
        Document, InvalidName, MESH_NAME, MESH_TYPE, OBJECT_TYPE, REJECTIONS_TYPE, Rejection,
        Rejections, ResourceName, SECRET_TYPE, SYNC_NAME, SYNC_TYPE, Sync, type_of_name, version,
    },
};
use crate::api::{Kind, ObjectKey};

fn map(json: Json) -> Map<String, Json> {
    let Json::Object(map) = json else { panic!("{json} is not an object") };
    map
}

fn document(resource: &Resource) -> (String, Json) {
    let any = resource.resource.clone().unwrap();
    let document = Document::decode(any.value).unwrap();
    (any.type_url, serde_json::from_slice(&document.json).unwrap())
}

/// A field of the length-delimited kind.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 0x80, "one byte of length");
    [&[number << 3 | 2, length], content].concat()
}

#[test]
fn a_discovery_request_has_the_field_numbers_of_envoy() {
    let request = DeltaDiscoveryRequest {
        node: Some(Node {
            id: "id".to_owned(),
            cluster: "c".to_owned(),
            metadata: Some(map(json!({"NAMESPACE": "n"})).into()),
            locality: Some(Locality {
                region: "r".to_owned(),
                zone: "z".to_owned(),
                sub_zone: "s".to_owned(),
            }),
            user_agent_name: "weir".to_owned(),
            user_agent_version: "1".to_owned(),
            client_features: vec!["f".to_owned()],
        }),
        type_url: "t".to_owned(),
        resource_names_subscribe: vec!["a".to_owned()],
        resource_names_unsubscribe: vec!["b".to_owned()],
        initial_resource_versions: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        response_nonce: "n".to_owned(),
        error_detail: Some(Status { code: 13, message: "m".to_owned(), details: Vec::new() }),
    };

    let entry = [field(1, b"NAMESPACE"), field(2, &field(3, b"n"))].concat();
    let node = [
        field(1, b"id"),
        field(2, b"c"),
        field(3, &field(1, &entry)),
        field(4, &[field(1, b"r"), field(2, b"z"), field(3, b"s")].concat()),
        field(6, b"weir"),
        field(7, b"1"),
        field(10, b"f"),
    ];
    let expected = [
        field(1, &node.concat()),
        field(2, b"t"),
        field(3, b"a"),
        field(4, b"b"),
        field(5, &[field(1, b"k"), field(2, b"v")].concat()),
        field(6, b"n"),
        field(7, &[vec![0x08, 13], field(2, b"m")].concat()),
    ];
    assert_eq!(request.encode_to_vec(), expected.concat());
    assert_eq!(DeltaDiscoveryRequest::decode(&*expected.concat()).unwrap(), request);
}

#[test]
fn a_discovery_response_has_the_field_numbers_of_envoy() {
    let any = Any { type_url: "t".to_owned(), value: Bytes::from_static(b"body") };
    let response = DeltaDiscoveryResponse {
        system_version_info: "7".to_owned(),
        resources: vec![Resource {
            version: "v".to_owned(),
            resource: Some(any),
            name: "name".to_owned(),
        }],
        type_url: "t".to_owned(),
        nonce: "n".to_owned(),
        removed_resources: vec!["gone".to_owned()],
    };

    let body = [field(1, b"t"), field(2, b"body")].concat();
    let resource = [field(1, b"v"), field(2, &body), field(3, b"name")].concat();
    let expected =
        [field(1, b"7"), field(2, &resource), field(4, b"t"), field(5, b"n"), field(6, b"gone")];
    assert_eq!(response.encode_to_vec(), expected.concat());
}

#[test]
fn fields_of_later_versions_are_skipped() {
    let bytes = [field(4, b"t"), field(9, b"{}"), field(5, b"n")].concat();
    let response = DeltaDiscoveryResponse::decode(&*bytes).unwrap();
    assert_eq!(response.nonce, "n");
}

#[test]
fn a_certificate_request_has_the_field_numbers_of_istio() {
    let metadata = Struct::from(map(json!({"a": true})));
    let request = IstioCertificateRequest {
        csr: "csr".to_owned(),
        validity_duration: 86_400,
        metadata: Some(metadata),
    };
    let entry = [field(1, b"a"), field(2, &[0x20, 1])].concat();
    let expected = [field(1, b"csr"), vec![0x18, 0x80, 0xa3, 0x05], field(4, &field(1, &entry))];
    assert_eq!(request.encode_to_vec(), expected.concat());

    let response =
        IstioCertificateResponse { cert_chain: vec!["leaf".to_owned(), "root".to_owned()] };
    assert_eq!(response.encode_to_vec(), [field(1, b"leaf"), field(1, b"root")].concat());
}

#[test]
fn json_survives_the_way_through_a_struct() {
    let json = json!({
        "LABELS": {"app": "gateway"},
        "flags": [true, false, null],
        "weight": 1.5,
        "nothing": {},
    });
    let message = Struct::decode(&*Struct::from(map(json.clone())).encode_to_vec()).unwrap();
    assert_eq!(Json::Object(message.into()), json);
}

#[test]
fn a_struct_gives_texts_and_nothing_else_as_text() {
    let message = Struct::from(map(json!({"NAMESPACE": "edge", "LABELS": {}})));
    assert_eq!(message.text("NAMESPACE"), Some("edge"));
    assert_eq!(message.text("LABELS"), None);
    assert_eq!(message.text("CLUSTER_ID"), None);
}

#[test]
fn versions_are_the_same_in_every_release() {
    assert_eq!(version(b""), "ef46db3751d8e999");
    assert_eq!(version(b"abc"), "44bc2cf5ad770999");
}

#[test]
fn an_object_travels_without_what_changes_without_a_change() {
    let written = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {
            "name": "reviews",
            "namespace": "shop",
            "uid": "6f1c",
            "generation": 3,
            "resourceVersion": "812",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"manager": "kubectl"}],
            "labels": {"app": "reviews"},
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "notistio.io/dry-run": "true",
                "istio.io/dry-run": "true",
                "networking.istio.io/exportTo": ".",
            },
        },
        "spec": {"hosts": ["reviews"]},
        "status": {"observedGeneration": 2},
    });
    let resource = Resource::of_object(map(written)).unwrap();

    assert_eq!(resource.name, "networking.istio.io/VirtualService/shop/reviews");
    let (type_url, sent) = document(&resource);
    assert_eq!(type_url, OBJECT_TYPE);
    let expected = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {
            "name": "reviews",
            "namespace": "shop",
            "uid": "6f1c",
            "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "reviews"},
            "annotations": {"istio.io/dry-run": "true", "networking.istio.io/exportTo": "."},
        },
        "spec": {"hosts": ["reviews"]},
    });
    assert_eq!(sent, expected);
}

#[test]
fn the_version_of_an_object_follows_its_content() {
    let object = |host: &str, resource_version: &str| {
        let metadata = json!({"name": "a", "resourceVersion": resource_version});
        let object = json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": metadata,
            "spec": {"hosts": [host]},
        });
        Resource::of_object(map(object)).unwrap().version
    };
    assert_eq!(object("a.example", "1"), object("a.example", "2"));
    assert_ne!(object("a.example", "1"), object("b.example", "1"));
}

#[test]
fn secrets_have_a_type_of_their_own_and_are_not_printed() {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "cert", "namespace": "edge"},
        "stringData": {"tls.key": "hunter2"},
    });
    let resource = Resource::of_object(map(secret)).unwrap();
    let body = resource.resource.clone().unwrap();
    let printed = format!("{resource:?} {:?}", Document::decode(body.value.clone()).unwrap());

    assert_eq!(resource.name, "/Secret/edge/cert");
    assert_eq!(body.type_url, SECRET_TYPE);
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(!printed.contains(&format!("{:?}", b"hunter2").replace(['[', ']'], "")), "{printed}");
}

#[test]
fn a_secret_of_another_group_is_an_object() {
    let object =
        json!({"apiVersion": "example.com/v1", "kind": "Secret", "metadata": {"name": "a"}});
    let resource = Resource::of_object(map(object)).unwrap();
    assert_eq!(document(&resource).0, OBJECT_TYPE);
    assert_eq!(resource.name, "example.com/Secret//a");
}

#[test]
fn what_has_no_name_is_no_object() {
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a"}});
    let error = Resource::of_object(map(object)).unwrap_err();
    assert_eq!(error.to_string(), "metadata.name is missing, or not a text");
}

#[test]
fn the_mesh_configuration_and_the_end_of_a_push_have_fixed_names() {
    let mesh = Resource::of_mesh_config(map(json!({"rootNamespace": "weir-system"})));
    assert_eq!(mesh.name, MESH_NAME);
    assert_eq!(document(&mesh), (MESH_TYPE.to_owned(), json!({"rootNamespace": "weir-system"})));

    let sync = Resource::sync("42".to_owned());
    assert_eq!((&*sync.name, &*sync.version), (SYNC_NAME, "42"));
    let body = sync.resource.unwrap();
    assert_eq!(body.type_url, SYNC_TYPE);
    assert_eq!(body.value, field(1, b"42"));
    assert_eq!(Sync::decode(body.value).unwrap().version, "42");
}

#[test]
fn what_came_later_to_the_protocol_has_numbers_that_others_skip() {
    let sync = Resource::sync_at("42".to_owned(), "here".to_owned()).resource.unwrap();
    assert_eq!(sync.value, [field(1, b"42"), field(2, b"here")].concat());
    assert_eq!(WHOLE_PUSHES, "dev.weir.whole-pushes");
}

#[test]
fn the_type_of_a_resource_is_found_by_its_name() {
    let secret = map(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}));
    let service = map(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}));
    for resource in [
        Resource::of_mesh_config(map(json!({}))),
        Resource::of_object(secret).unwrap(),
        Resource::of_object(service).unwrap(),
    ] {
        assert_eq!(type_of_name(&resource.name), resource.resource.unwrap().type_url);
    }
}

#[test]
fn names_of_objects_are_read_as_they_are_written() {
    let key = ObjectKey { kind: Kind::Service, namespace: "shop".into(), name: "reviews".into() };
    let name = ResourceName::from(&key);
    assert_eq!(name.to_string(), "/Service/shop/reviews");
    assert_eq!(name.key(), Some(key));
    assert_eq!("/Service/shop/reviews".parse(), Ok(name));
    assert_eq!("/Later/shop/reviews".parse::<ResourceName>().unwrap().key(), None);
    assert_eq!("other.io/Service/a/b".parse::<ResourceName>().unwrap().key(), None);
    for wrong in ["", "Service/shop/reviews", "a//b/c", "a/b/c/", "a/b/c/d/e"] {
        assert_eq!(wrong.parse::<ResourceName>(), Err(InvalidName), "{wrong}");
    }
}

#[test]
fn every_kind_is_found_by_its_group_and_name() {
    for kind in Kind::ALL {
        let key = ObjectKey { kind, namespace: "a".into(), name: "b".into() };
        assert_eq!(ResourceName::from(&key).key(), Some(key));
    }
}

#[test]
fn rejections_are_found_among_other_details() {
    let rejection =
        Rejection { resource_name: "/Service/a/b".to_owned(), message: "no".to_owned() };
    let rejections = Rejections { rejections: vec![rejection.clone()] };
    let other = Any { type_url: "other".to_owned(), value: Bytes::from_static(b"\xff") };
    let torn = Any { type_url: REJECTIONS_TYPE.to_owned(), value: Bytes::from_static(b"\xff") };
    assert_eq!(
        Rejections::of_details(&[other, torn, rejections.to_any()]),
        vec![rejection],
        "what cannot be read is skipped"
    );
    let entry = [field(1, b"/Service/a/b"), field(2, b"no")].concat();
    assert_eq!(rejections.to_any().value, field(1, &entry));
}
