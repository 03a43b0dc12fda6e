//! From resources to changes of the configuration.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;
use weir_config::{
    api::{MeshConfig, Object, ObjectKey, Source},
    compile::Change,
    diagnostic::{Diagnostic, Severity},
    parse::{self, Parsed},
    validate::validate_mesh_config,
    wire::{
        discovery::Resource,
        resource::{Document, MESH_TYPE, Rejection, ResourceName, SECRET_TYPE},
    },
};

use super::push::Name;
use crate::discovery::{
    apply::Update,
    contain::{FAILED, MESH_FILE, contained},
};

/// What is remarkable about the resources in force, which only reading them shows.
#[derive(Debug, Default)]
pub struct Objects {
    findings: BTreeMap<Name, Vec<Diagnostic>>,
}

/// A push as the configuration sees it.
#[derive(Debug, Default)]
pub struct Translated {
    pub update: Update,
    /// What could not be read.
    pub rejections: Vec<Rejection>,
    /// What could, and has yet to be compiled.
    pub subjects: Vec<(Name, Subject)>,
}

/// What a resource is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Mesh,
    Object(ObjectKey),
}

impl Objects {
    /// Reads the changed resources.
    pub fn translate<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a Name, Option<&'a Resource>)>,
    ) -> Translated {
        let mut translated = Translated::default();
        for (name, resource) in changes {
            self.findings.remove(name);
            match resource {
                Some(resource) => self.put(name, resource, &mut translated),
                None => remove(name, &mut translated),
            }
        }
        translated.update.unread = self.findings.values().flatten().cloned().collect();
        translated
    }

    fn put(&mut self, name: &Name, resource: &Resource, translated: &mut Translated) {
        let body = resource.resource.as_ref().map(|body| body.value.clone()).unwrap_or_default();
        let read = contained(|| match Document::decode(body) {
            Ok(document) if name.type_url == MESH_TYPE => read_mesh(&document),
            Ok(document) => read_object(name, &document),
            Err(error) => Err(vec![problem(name, format!("cannot be decoded: {error}"))]),
        });
        match read.unwrap_or_else(|| Err(vec![problem(name, FAILED.to_owned())])) {
            Ok(Read { content, findings }) => {
                match content {
                    Content::Mesh(mesh) => {
                        translated.subjects.push((name.clone(), Subject::Mesh));
                        translated.update.mesh = Some(*mesh);
                    }
                    Content::Object(object) => {
                        let subject = Subject::Object(object.key());
                        translated.subjects.push((name.clone(), subject));
                        translated.update.changes.push(Change::Upsert(object));
                    }
                    Content::Nothing => {}
                }
                if !findings.is_empty() {
                    self.findings.insert(name.clone(), findings);
                }
            }
            Err(findings) => {
                let message = findings
                    .iter()
                    .filter(|it| it.severity == Severity::Error)
                    .map(text)
                    .collect::<Vec<_>>()
                    .join("; ");
                let resource_name = name.name.clone();
                translated.rejections.push(Rejection { resource_name, message });
                self.findings.insert(name.clone(), findings);
            }
        }
    }
}

/// What a resource is, and what there is to say about it.
struct Read {
    content: Content,
    findings: Vec<Diagnostic>,
}

enum Content {
    /// Boxed: it is large, and one of thousands.
    Mesh(Box<MeshConfig>),
    Object(Arc<Object>),
    /// Of a kind that is not known here: the controller may be newer.
    Nothing,
}

/// A finding as it is told to the controller, which knows the object.
pub(super) fn text(finding: &Diagnostic) -> String {
    match finding.field.as_str() {
        "" => finding.message.clone(),
        field => format!("{field}: {}", finding.message),
    }
}

fn remove(name: &Name, translated: &mut Translated) {
    if let Some(key) = name.name.parse().ok().and_then(|name: ResourceName| name.key()) {
        translated.update.changes.push(Change::Remove(key));
    }
}

fn read_mesh(document: &Document) -> Result<Read, Vec<Diagnostic>> {
    let (config, mut findings) = parse::parse_mesh_config(MESH_FILE, &document.json);
    if let Some(config) = &config {
        let source = Source { file: MESH_FILE.into(), line: 1 };
        findings.extend(validate_mesh_config(config, &source));
    }
    let is_valid = findings.iter().all(|it| it.severity != Severity::Error);
    match config.filter(|_| is_valid) {
        Some(config) => Ok(Read { content: Content::Mesh(Box::new(config)), findings }),
        None => Err(findings),
    }
}

fn read_object(name: &Name, document: &Document) -> Result<Read, Vec<Diagnostic>> {
    let Parsed { objects, diagnostics } =
        parse::parse(&name.name, &document.json, &parse::Options::default());
    let is_valid = diagnostics.iter().all(|it| it.severity != Severity::Error);
    if !is_valid {
        return Err(diagnostics);
    }
    let mut objects = objects.into_iter();
    let content = match (objects.next(), objects.next()) {
        (None, _) => Content::Nothing,
        (Some(object), None) if is_named(name, &object) => Content::Object(Arc::new(object)),
        (Some(_), _) => {
            return Err(vec![problem(name, "holds another object than its name says".to_owned())]);
        }
    };
    Ok(Read { content, findings: diagnostics })
}

/// A resource is removed by its name, so that has to be its object's.
fn is_named(name: &Name, object: &Object) -> bool {
    let key = object.key();
    let expected = ResourceName::from(&key);
    let is_secret = key.kind == weir_config::api::Kind::Secret;
    name.name == expected.to_string() && (name.type_url == SECRET_TYPE) == is_secret
}

fn problem(name: &Name, message: String) -> Diagnostic {
    let source = Source { file: name.name.as_str().into(), line: 1 };
    let severity = Severity::Error;
    Diagnostic { severity, object: None, source, field: String::new(), message }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weir_config::wire::{
        google::Any,
        resource::{MESH_NAME, OBJECT_TYPE},
    };

    use super::*;

    fn object(kind: &str, name: &str, more: Value) -> Resource {
        let Value::Object(mut object) = json!({
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": "shop"},
        }) else {
            panic!("an object")
        };
        if let Value::Object(more) = more {
            object.extend(more);
        }
        Resource::of_object(object).unwrap()
    }

    fn name_of(resource: &Resource) -> Name {
        let body = resource.resource.as_ref().unwrap();
        Name::new(&body.type_url, &resource.name).unwrap()
    }

    fn put(objects: &mut Objects, resource: &Resource) -> Translated {
        objects.translate([(&name_of(resource), Some(resource))])
    }

    #[test]
    fn an_object_is_an_upsert_and_its_removal_is_one() {
        let mut objects = Objects::default();
        let service = object("Service", "web", json!({"spec": {"ports": [{"port": 80}]}}));
        let translated = put(&mut objects, &service);
        let [Change::Upsert(object)] = &translated.update.changes[..] else {
            panic!("{:?}", translated.update.changes)
        };
        assert_eq!(object.key().to_string(), "Service shop/web");
        assert_eq!(translated.subjects.len(), 1);

        let removed = objects.translate([(&name_of(&service), None)]);
        assert_eq!(removed.update.changes, [Change::Remove(object.key())]);
    }

    #[test]
    fn what_cannot_be_read_is_rejected_and_said_until_it_can() {
        let mut objects = Objects::default();
        let wrong = object("Service", "web", json!({"spec": {"ports": "none"}}));
        let translated = put(&mut objects, &wrong);
        assert!(translated.update.changes.is_empty());
        assert_eq!(translated.rejections.len(), 1);
        let rejection = &translated.rejections[0];
        assert_eq!(rejection.resource_name, "/Service/shop/web");
        assert!(rejection.message.starts_with("spec.ports: "), "{}", rejection.message);
        assert_eq!(translated.update.unread.len(), 1);

        let other = object("Service", "other", json!({}));
        assert_eq!(put(&mut objects, &other).update.unread.len(), 1, "it is still wrong");
        let right = object("Service", "web", json!({}));
        assert!(put(&mut objects, &right).update.unread.is_empty());
    }

    #[test]
    fn a_kind_of_a_later_version_is_ignored_with_a_warning() {
        let mut objects = Objects::default();
        let translated = put(&mut objects, &object("Later", "a", json!({})));
        assert!(translated.rejections.is_empty());
        assert!(translated.update.changes.is_empty());
        assert_eq!(translated.update.unread[0].severity, Severity::Warning);
    }

    #[test]
    fn an_object_under_another_name_is_rejected() {
        let mut objects = Objects::default();
        let mut service = object("Service", "web", json!({}));
        service.name = "/Service/shop/other".to_owned();
        assert_eq!(put(&mut objects, &service).rejections.len(), 1);

        let mut secret = object("Secret", "key", json!({}));
        secret.resource.as_mut().unwrap().type_url = OBJECT_TYPE.to_owned();
        assert_eq!(put(&mut objects, &secret).rejections.len(), 1, "a Secret has its own type");
    }

    #[test]
    fn a_body_that_is_no_message_is_rejected() {
        let mut service = object("Service", "web", json!({}));
        let name = name_of(&service);
        let value = b"\xff\xff".as_slice().into();
        service.resource = Some(Any { type_url: OBJECT_TYPE.to_owned(), value });
        let translated = Objects::default().translate([(&name, Some(&service))]);
        assert_eq!(translated.rejections.len(), 1);
    }

    #[test]
    fn the_mesh_configuration_is_taken_over_or_rejected() {
        let mesh = |config: Value| {
            let Value::Object(config) = config else { panic!("an object") };
            Resource::of_mesh_config(config)
        };
        let mut objects = Objects::default();
        let translated = put(&mut objects, &mesh(json!({"rootNamespace": "infra"})));
        assert_eq!(translated.update.mesh.unwrap().root_namespace, "infra");
        let translated = put(&mut objects, &mesh(json!({"rootNamespace": 7})));
        assert_eq!(translated.update.mesh, None);
        assert_eq!(translated.rejections[0].resource_name, MESH_NAME);
    }
}
