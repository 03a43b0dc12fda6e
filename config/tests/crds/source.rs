//! The types that YAML is read into, as the sources have them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Expr, ExprLit, Fields, GenericArgument, Item, Lit, Meta, PathArguments, Type,
};

/// Where they are, under `src/api`.
const SOURCES: [&str; 4] = ["istio", "mesh_config/outbound_mode.rs", "number.rs", "selector.rs"];

/// Everything that derives `Deserialize`, by its name in Rust.
pub struct Types(BTreeMap<String, Declared>);

/// A struct or an enum.
pub struct Declared {
    pub docs: String,
    pub shape: Shape,
}

pub enum Shape {
    Struct(Vec<Field>),
    /// Only of values without content.
    Enum(Vec<Value>),
}

pub struct Field {
    /// As written in YAML.
    pub name: String,
    pub docs: String,
    pub of: Of,
}

/// One value of an enum.
pub struct Value {
    /// As written in YAML.
    pub name: String,
    pub docs: String,
}

/// What a field holds.
pub enum Of {
    Option(Box<Self>),
    List(Box<Self>),
    /// Names are text.
    Map(Box<Self>),
    Named(String),
}

impl Types {
    pub fn read() -> Self {
        let api = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/api");
        let mut types = BTreeMap::new();
        for source in SOURCES {
            for file in files(&api.join(source)) {
                let text = fs::read_to_string(&file).unwrap();
                for item in syn::parse_file(&text).unwrap().items {
                    let Some((name, declared)) = declared(item) else { continue };
                    let twice = types.insert(name.clone(), declared).is_some();
                    assert!(!twice, "two types are named {name}; schemas need one name each");
                }
            }
        }
        Self(types)
    }

    pub fn find(&self, name: &str) -> Option<&Declared> {
        self.0.get(name)
    }
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut files: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn declared(item: Item) -> Option<(String, Declared)> {
    let (name, attributes, shape) = match item {
        Item::Struct(item) if is_read(&item.attrs) => {
            let fields = fields(&item.fields, &Serde::of(&item.attrs));
            (item.ident, item.attrs, Shape::Struct(fields))
        }
        Item::Enum(item) if is_read(&item.attrs) => {
            let case = Serde::of(&item.attrs).rename_all;
            let values = item.variants.iter().map(|variant| {
                assert!(matches!(variant.fields, Fields::Unit), "{} holds something", item.ident);
                let name = Serde::of(&variant.attrs).rename;
                let name =
                    name.unwrap_or_else(|| case_of_variant(&variant.ident.to_string(), &case));
                Value { name, docs: docs(&variant.attrs) }
            });
            let values = values.collect();
            (item.ident, item.attrs, Shape::Enum(values))
        }
        _ => return None,
    };
    Some((name.to_string(), Declared { docs: docs(&attributes), shape }))
}

fn fields(fields: &Fields, serde: &Serde) -> Vec<Field> {
    let named = |field: &syn::Field| {
        let ident = field.ident.as_ref().expect("structs have named fields").to_string();
        let name = Serde::of(&field.attrs).rename;
        let name = name.unwrap_or_else(|| case_of_field(&ident, &serde.rename_all));
        Field { name, docs: docs(&field.attrs), of: of(&field.ty) }
    };
    fields.iter().map(named).collect()
}

fn of(r#type: &Type) -> Of {
    let Type::Path(path) = r#type else { panic!("a field is neither a type nor a generic one") };
    let last = path.path.segments.last().unwrap();
    let arguments: Vec<&Type> = match &last.arguments {
        PathArguments::AngleBracketed(arguments) => arguments
            .args
            .iter()
            .map(|argument| match argument {
                GenericArgument::Type(r#type) => r#type,
                _ => panic!("{} has an argument that is no type", last.ident),
            })
            .collect(),
        _ => Vec::new(),
    };
    match (last.ident.to_string().as_str(), arguments.as_slice()) {
        ("Option", [inner]) => Of::Option(Box::new(of(inner))),
        ("Vec", [inner]) => Of::List(Box::new(of(inner))),
        ("BTreeMap", [_, inner]) => Of::Map(Box::new(of(inner))),
        (name, []) => Of::Named(name.to_owned()),
        (name, _) => panic!("{name} is a generic type that has no schema"),
    }
}

/// What `serde` is told about names.
#[derive(Default)]
struct Serde {
    rename: Option<String>,
    rename_all: String,
}

impl Serde {
    fn of(attributes: &[Attribute]) -> Self {
        let mut serde = Self::default();
        for attribute in attributes.iter().filter(|it| it.path().is_ident("serde")) {
            attribute
                .parse_nested_meta(|meta| {
                    if meta.path.is_ident("rename") {
                        serde.rename = Some(meta.value()?.parse::<syn::LitStr>()?.value());
                    } else if meta.path.is_ident("rename_all") {
                        serde.rename_all = meta.value()?.parse::<syn::LitStr>()?.value();
                    } else if meta.path.is_ident("deserialize_with") {
                        // Of a map whose keys are more than text; the API server knows only text.
                        meta.value()?.parse::<syn::LitStr>()?;
                    } else if !meta.path.is_ident("default") {
                        return Err(meta.error("the schemas do not know this attribute"));
                    }
                    Ok(())
                })
                .unwrap();
        }
        serde
    }
}

fn is_read(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|it| it.path().is_ident("derive")).any(|derive| {
        let mut found = false;
        derive
            .parse_nested_meta(|meta| {
                found |= meta.path.is_ident("Deserialize");
                Ok(())
            })
            .unwrap();
        found
    })
}

fn case_of_field(name: &str, case: &str) -> String {
    assert_eq!(case, "camelCase", "of {name}");
    let mut words = name.split('_');
    let mut camel = words.next().unwrap().to_owned();
    for word in words {
        camel.push_str(&word[..1].to_ascii_uppercase());
        camel.push_str(&word[1..]);
    }
    camel
}

fn case_of_variant(name: &str, case: &str) -> String {
    match case {
        "" => name.to_owned(),
        "UPPERCASE" => name.to_ascii_uppercase(),
        "SCREAMING_SNAKE_CASE" => {
            let mut snake = String::new();
            for (at, letter) in name.char_indices() {
                if at > 0 && letter.is_ascii_uppercase() {
                    snake.push('_');
                }
                snake.push(letter.to_ascii_uppercase());
            }
            snake
        }
        _ => panic!("{name}: the schemas do not know {case}"),
    }
}

/// The lines of a documentation comment, paragraphs apart.
fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> = lines.collect();
    let paragraphs = lines.split(String::is_empty).map(|lines| lines.join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

#[test]
fn names_are_those_serde_reads() {
    for (name, expected) in [("hosts", "hosts"), ("h2_upgrade_policy", "h2UpgradePolicy")] {
        assert_eq!(case_of_field(name, "camelCase"), expected);
    }
    assert_eq!(case_of_variant("DnsRoundRobin", "SCREAMING_SNAKE_CASE"), "DNS_ROUND_ROBIN");
    assert_eq!(case_of_variant("Allow", "UPPERCASE"), "ALLOW");
    assert_eq!(case_of_variant("NotIn", ""), "NotIn");
}
