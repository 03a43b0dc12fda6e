//! Objects that nobody wrote: the golden cases with parts of them removed, doubled, exchanged and
//! replaced. Nothing may panic, and where an object came from may not show in what is made of it.

use std::{collections::BTreeMap, fs};

use serde_yaml::{Mapping, Value};

use super::{incremental::Random, *};
use crate::{api::ObjectKey, compile::ProxyKind, diagnostic::Severity, validate::validate};

/// Values that are right somewhere and wrong elsewhere, and those that are at the end of a range.
const VALUES: [&str; 32] = [
    "null",
    "true",
    "0",
    "-1",
    "1",
    "80",
    "65535",
    "65536",
    "4294967295",
    "1e308",
    "''",
    "'*'",
    "'*.example.com'",
    "a",
    "web",
    "'.'",
    "'/'",
    "'%'",
    "'%REQ(:path)%'",
    "'[a-'",
    "'(a|b)*'",
    "10.0.0.1",
    "'::/0'",
    "1h",
    "0s",
    "'  '",
    "'\\\\'",
    "é",
    "[]",
    "{}",
    "[a, a]",
    "{a: b}",
];

/// The documents of all golden cases.
fn documents() -> Vec<Value> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut documents = Vec::new();
    for folder in ["compile", "validate", "parse"] {
        let mut files: Vec<_> = fs::read_dir(directory.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
            .collect();
        files.sort();
        for file in files {
            let text = fs::read_to_string(file).unwrap();
            for document in text.split("\n---\n") {
                documents.extend(serde_yaml::from_str::<Value>(document).ok());
            }
        }
    }
    documents.retain(Value::is_mapping);
    documents
}

/// One change somewhere in `value`; `donor` is where parts of other objects are taken from.
fn mutate(value: &mut Value, donor: &Value, random: &mut Random) {
    let descend = random.below(4) != 0;
    match value {
        Value::Mapping(map) if descend && !map.is_empty() => {
            let at = random.below(map.len());
            let (_, child) = map.iter_mut().nth(at).unwrap();
            mutate(child, donor, random);
        }
        Value::Sequence(list) if descend && !list.is_empty() => {
            let at = random.below(list.len());
            mutate(&mut list[at], donor, random);
        }
        Value::Mapping(map) if !map.is_empty() && random.below(2) == 0 => {
            let key = map.keys().nth(random.below(map.len())).unwrap().clone();
            map.remove(&key);
        }
        Value::Sequence(list) if !list.is_empty() && random.below(2) == 0 => {
            let item = list[random.below(list.len())].clone();
            list.push(item);
        }
        value => *value = replacement(donor, random),
    }
}

fn replacement(donor: &Value, random: &mut Random) -> Value {
    let literal = serde_yaml::from_str(VALUES[random.below(VALUES.len())]).unwrap();
    if random.below(2) == 0 {
        return literal;
    }
    let mut part = donor;
    while random.below(4) != 0 {
        part = match part {
            Value::Mapping(map) if !map.is_empty() => {
                map.values().nth(random.below(map.len())).unwrap()
            }
            Value::Sequence(list) if !list.is_empty() => &list[random.below(list.len())],
            _ => break,
        };
    }
    part.clone()
}

/// Objects stay what they are called, so that versions of one meet.
fn rewritten(document: &Value, donor: &Value, random: &mut Random) -> Vec<Arc<Object>> {
    let mut changed = document.clone();
    for _ in 0..=random.below(4) {
        mutate(&mut changed, donor, random);
    }
    if let (Value::Mapping(map), Value::Mapping(original)) = (&mut changed, document) {
        for key in ["apiVersion", "kind", "metadata"] {
            restore(map, original, key);
        }
    }
    let text = serde_json::to_string(&changed).unwrap_or_default();
    let parsed = parse("mutated.yaml", text.as_bytes(), &Options::default());
    parsed.objects.into_iter().map(Arc::new).collect()
}

fn restore(map: &mut Mapping, original: &Mapping, key: &str) {
    if let Some(value) = original.get(key) {
        map.insert(key.into(), value.clone());
    }
}

#[test]
fn whatever_objects_say_the_result_is_the_same_as_starting_anew() {
    let documents = documents();
    assert!(documents.len() > 100);
    for seed in 1..=6_u64 {
        let mut random = Random::new(seed);
        let kind = match seed % 3 {
            0 => ProxyKind::Sidecar { addresses: Vec::new() },
            _ => ProxyKind::Gateway,
        };
        let proxy = Proxy { kind, stands_alone: seed % 2 == 0, ..proxy() };
        let mut compiler = Compiler::new(proxy.clone(), None);
        let mut followed = Resources::default();
        let mut in_force: BTreeMap<ObjectKey, Arc<Object>> = BTreeMap::new();
        for step in 0..300 {
            let document = &documents[random.below(documents.len())];
            let donor = &documents[random.below(documents.len())];
            let mut changes = Vec::new();
            for object in rewritten(document, donor, &mut random) {
                let key = object.key();
                if random.below(8) == 0 {
                    in_force.remove(&key);
                    changes.push(Change::Remove(key));
                    continue;
                }
                let found = validate(&object);
                if found.iter().all(|diagnostic| diagnostic.severity != Severity::Error) {
                    in_force.insert(key, Arc::clone(&object));
                }
                changes.push(Change::Upsert(object));
            }
            followed.apply(&compiler.apply(changes));
            assert_eq!(&followed, compiler.resources(), "seed {seed}, step {step}");
            if step % 50 == 49 {
                let (anew, _) = compile(proxy.clone(), None, in_force.values().rev().cloned());
                assert_eq!(compiler.resources(), &anew, "seed {seed}, step {step}");
            }
        }
        assert!(in_force.len() > 20, "most objects are still right");
        // Serialised for dumps, whatever they hold.
        serde_json::to_string(compiler.resources()).unwrap();
    }
}
