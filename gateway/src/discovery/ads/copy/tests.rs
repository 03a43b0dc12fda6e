use std::time::Duration;

use tempfile::TempDir;
use weir_config::wire::{
    google::Any,
    resource::{OBJECT_TYPE, SECRET_TYPE},
};

use super::*;

fn identity(namespace: &str) -> Identity {
    Identity { namespace: namespace.to_owned(), service_account: "gateway".to_owned() }
}

fn resource(type_url: &str, name: &str, body: &str) -> (Name, Resource) {
    let value = body.as_bytes().to_vec().into();
    let resource = Resource {
        version: format!("version of {body}"),
        resource: Some(Any { type_url: type_url.to_owned(), value }),
        name: name.to_owned(),
    };
    (Name::new(type_url, name).unwrap(), resource)
}

fn object(name: &str, body: &str) -> (Name, Resource) {
    resource(OBJECT_TYPE, name, body)
}

/// The end of a push.
fn sync(version: &str) -> Sync {
    Sync { version: version.to_owned(), position: format!("place of {version}") }
}

fn open(dir: &TempDir) -> (Copy, Saved) {
    Copy::open(dir.path(), identity("edge")).unwrap()
}

/// Names and bodies of what is restored.
fn restored(saved: &Saved) -> Vec<(String, String)> {
    let body = |resource: &Resource| resource.resource.clone().unwrap().value.to_vec();
    saved
        .resources
        .iter()
        .map(|(name, it)| (name.name.clone(), String::from_utf8(body(it)).unwrap()))
        .collect()
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(name, body)| (name.to_owned(), body.to_owned())).into()
}

fn file_of(dir: &TempDir) -> PathBuf {
    dir.path().join(FILE)
}

#[test]
fn what_was_in_force_is_restored() {
    let dir = TempDir::new().unwrap();
    let (mut copy, saved) = open(&dir);
    assert!(saved.resources.is_empty() && saved.as_of.is_none() && saved.problem.is_none());
    let secret = resource(SECRET_TYPE, "a", "secret");
    copy.write(&[object("a", "1"), object("b", "1"), secret], &[], &sync("push 1")).unwrap();
    copy.write(&[object("a", "2")], &[object("b", "").0], &sync("push 2")).unwrap();
    drop(copy);

    let (_, saved) = open(&dir);
    assert_eq!(restored(&saved), pairs([("a", "2"), ("a", "secret")]), "types are kept apart");
    assert_eq!(saved.sync, sync("push 2"));
    assert_eq!(saved.resources[0].1.version, "version of 2");
    let age = SystemTime::now().duration_since(saved.as_of.unwrap()).unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
    assert_eq!(saved.problem, None);
}

#[test]
fn only_the_owner_may_read_it() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = open(&dir);
    copy.write(&[object("a", "1")], &[], &sync("1")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file_of(&dir)), 0o600);

    drop(copy);
    fs::set_permissions(file_of(&dir), fs::Permissions::from_mode(0o644)).unwrap();
    let _copy = open(&dir);
    assert_eq!(mode(&file_of(&dir)), 0o600, "also after somebody was careless");
    let made = dir.path().join("made");
    let _made = Copy::open(&made, identity("edge")).unwrap();
    assert_eq!(mode(&made), 0o700);
}

#[test]
fn a_torn_push_leaves_the_one_before_it() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = open(&dir);
    copy.write(&[object("a", "1"), object("b", "1")], &[], &sync("push 1")).unwrap();
    let whole = fs::metadata(file_of(&dir)).unwrap().len();
    copy.write(&[object("a", "2")], &[object("b", "").0], &sync("push 2")).unwrap();
    let end = fs::metadata(file_of(&dir)).unwrap().len();
    drop(copy);
    let bytes = fs::read(file_of(&dir)).unwrap();

    for length in whole + 1..end {
        let length = usize::try_from(length).unwrap();
        fs::write(file_of(&dir), &bytes[..length]).unwrap();
        let (_, saved) = open(&dir);
        assert_eq!(restored(&saved), pairs([("a", "1"), ("b", "1")]), "cut to {length}");
        assert!(saved.problem.unwrap().contains("push 1, is used"));
    }
}

#[test]
fn what_follows_a_torn_push_is_found_again() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = open(&dir);
    copy.write(&[object("a", "1")], &[], &sync("push 1")).unwrap();
    copy.write(&[object("a", "torn"), object("c", "torn")], &[], &sync("push 2")).unwrap();
    drop(copy);
    let bytes = fs::read(file_of(&dir)).unwrap();
    fs::write(file_of(&dir), &bytes[..bytes.len() - 3]).unwrap();

    let (mut copy, _) = open(&dir);
    copy.write(&[object("b", "1")], &[], &sync("push 3")).unwrap();
    drop(copy);
    let (_, saved) = open(&dir);
    assert_eq!(restored(&saved), pairs([("a", "1"), ("b", "1")]));
    assert_eq!(saved.problem, None);
}

#[test]
fn a_changed_byte_is_found() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = open(&dir);
    copy.write(&[object("a", "1")], &[], &sync("push 1")).unwrap();
    drop(copy);
    let bytes = fs::read(file_of(&dir)).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(file_of(&dir), &changed).unwrap();
        let (_, saved) = open(&dir);
        assert!(saved.resources.is_empty(), "byte {at}");
        assert!(saved.problem.is_some(), "byte {at}");
    }
}

#[test]
fn a_foreign_file_is_said_not_used_and_replaced() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = Copy::open(dir.path(), identity("other")).unwrap();
    copy.write(&[object("a", "of another")], &[], &sync("1")).unwrap();
    drop(copy);
    let (mut copy, saved) = open(&dir);
    assert!(saved.resources.is_empty());
    assert!(saved.problem.unwrap().contains("is the configuration of gateway in other"));
    copy.write(&[object("b", "1")], &[], &sync("1")).unwrap();
    drop(copy);
    assert_eq!(restored(&open(&dir).1), pairs([("b", "1")]));

    fs::write(file_of(&dir), "apiVersion: v1").unwrap();
    let (mut copy, saved) = open(&dir);
    assert!(saved.problem.unwrap().contains("is no copy of a configuration"));
    copy.write(&[object("c", "1")], &[], &sync("1")).unwrap();
    drop(copy);
    assert_eq!(restored(&open(&dir).1), pairs([("c", "1")]));
}

#[test]
fn the_file_stays_as_large_as_what_is_in_force() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = open(&dir);
    let large = "x".repeat(10_000);
    copy.write(&[object("kept", "1")], &[], &sync("first")).unwrap();
    for push in 0..1_000 {
        let body = format!("{push}{large}");
        copy.write(&[object("changed", &body)], &[], &sync(&push.to_string())).unwrap();
    }
    let size = fs::metadata(file_of(&dir)).unwrap().len();
    assert!(size < 2 * MIN_OUTDATED, "{size}");
    drop(copy);
    let (_, saved) = open(&dir);
    assert_eq!(saved.sync, sync("999"));
    let changed = format!("999{large}");
    assert_eq!(restored(&saved), pairs([("changed", &changed), ("kept", "1")]));
}

#[test]
fn a_folder_serves_one_process() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = open(&dir);
    copy.write(&[object("a", "1")], &[], &sync("1")).unwrap();
    let error = Copy::open(dir.path(), identity("edge")).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
}

#[test]
fn what_cannot_be_written_for_long_takes_no_more_memory_than_what_is_in_force() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = open(&dir);
    copy.write(&[object("kept", "1")], &[], &sync("1")).unwrap();
    // Neither can the file be replaced, nor the one that is open be written any more.
    fs::create_dir_all(dir.path().join("last-good.new").join("in the way")).unwrap();
    copy.file = Some(File::open(file_of(&dir)).unwrap());
    let body = "x".repeat(10_000);
    for edition in 0..300 {
        copy.write(&[object("a", &format!("{edition} {body}"))], &[], &sync("2")).unwrap_err();
    }
    assert!(copy.unwritten.len() < 1_100_000, "{} bytes wait", copy.unwritten.len());
    fs::remove_dir_all(dir.path().join("last-good.new")).unwrap();
    copy.write(&[object("b", "1")], &[], &sync("3")).unwrap();
    drop(copy);
    let (_, saved) = open(&dir);
    let last = format!("299 {body}");
    assert_eq!(restored(&saved), pairs([("a", &*last), ("b", "1"), ("kept", "1")]));
}

#[test]
fn what_could_not_be_written_is_written_with_the_next_push() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = open(&dir);
    // A folder of that name cannot be replaced by a file.
    fs::create_dir_all(file_of(&dir).join("in the way")).unwrap();
    copy.write(&[object("a", "1")], &[], &sync("1")).unwrap_err();
    fs::remove_dir_all(file_of(&dir)).unwrap();
    copy.write(&[object("b", "1")], &[], &sync("2")).unwrap();
    drop(copy);
    let (_, saved) = open(&dir);
    assert_eq!(restored(&saved), pairs([("a", "1"), ("b", "1")]));
    assert_eq!(saved.sync.version, "2");
}

#[test]
fn the_push_that_ended_others_early_is_left_out_and_named() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = open(&dir);
    copy.write(&[object("a", "1"), object("b", "1")], &[], &sync("push 1")).unwrap();
    copy.write(&[object("a", "2")], &[object("b", "").0], &sync("push 2")).unwrap();
    drop(copy);
    let starts = dir.path().join("starts");

    fs::write(&starts, "1").unwrap();
    let (_, saved) = open(&dir);
    assert_eq!(restored(&saved), pairs([("a", "2")]), "one may be an accident");
    assert_eq!(fs::read_to_string(&starts).unwrap(), "2", "until it has lived long enough");
    drop(saved);
    assert!(!starts.exists(), "an orderly end is none");

    fs::write(&starts, "2").unwrap();
    let (mut copy, saved) = open(&dir);
    assert_eq!(restored(&saved), pairs([("a", "1"), ("b", "1")]));
    let suspects: Vec<_> =
        saved.suspects.iter().map(|(it, version)| (&*it.name, &**version)).collect();
    assert_eq!(suspects, [("a", "version of 2")]);
    assert!(saved.problem.unwrap().contains("push 2"), "it is said");
    copy.write(&[object("c", "1")], &[], &sync("push 3")).unwrap();
    // It ends in order, with all that it has.
    drop((copy, saved.probation));
    let (_, saved) = open(&dir);
    assert_eq!(restored(&saved), pairs([("a", "1"), ("b", "1"), ("c", "1")]));
    assert_eq!(saved.problem, None);
}

#[test]
fn one_push_after_the_other_is_left_out_until_none_is_there() {
    let dir = TempDir::new().unwrap();
    let (mut copy, _) = open(&dir);
    copy.write(&[object("a", "1")], &[], &sync("push 1")).unwrap();
    copy.write(&[object("a", "2")], &[], &sync("push 2")).unwrap();
    drop(copy);
    let starts = dir.path().join("starts");
    for left in [vec![("a".to_owned(), "1".to_owned())], Vec::new()] {
        fs::write(&starts, "2").unwrap();
        assert_eq!(restored(&open(&dir).1), left);
    }
    assert!(!starts.exists(), "of nothing there is nothing to be careful about");
    let (mut copy, saved) = open(&dir);
    assert!(saved.resources.is_empty());
    copy.write(&[object("b", "1")], &[], &sync("push 3")).unwrap();
    drop(copy);
    assert_eq!(restored(&open(&dir).1), pairs([("b", "1")]));
}
