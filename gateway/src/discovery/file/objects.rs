//! What the files say, and which object is in force where they say more than one thing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use smallvec::SmallVec;
use weir_config::{
    api::{Object, ObjectKey, Source},
    diagnostic::{Diagnostic, Severity},
    parse::Parsed,
};

/// Object changes since the last look: `None` is a removal.
pub type ObjectChanges = BTreeMap<ObjectKey, Option<Arc<Object>>>;

/// The files and their objects. An object belongs to the first file, by path, that defines it.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<Arc<Path>, FileObjects>,
    /// Files that define an object, in order. More than one is a mistake, and is said.
    definitions: BTreeMap<ObjectKey, SmallVec<[Arc<Path>; 1]>>,
    duplicates: BTreeSet<ObjectKey>,
    /// Files there is something to say about: few, where there may be 10,000 files.
    remarked: BTreeSet<PathBuf>,
    changes: ObjectChanges,
}

#[derive(Debug, Default)]
struct FileObjects {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    diagnostics: Vec<Diagnostic>,
}

impl Files {
    /// Whether any object came from this file.
    #[must_use]
    pub fn has_objects(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|file| !file.objects.is_empty())
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(|path| &**path)
    }

    /// Takes over what a file says now. What of it cannot be read keeps its last good version.
    pub fn replace(&mut self, path: &Path, parsed: Parsed) {
        let mut file = FileObjects { objects: BTreeMap::new(), diagnostics: parsed.diagnostics };
        for object in parsed.objects {
            let key = object.key();
            if let Some(first) = file.objects.get(&key) {
                file.diagnostics.push(duplicate(&key, &object.source, &first.source));
            } else {
                file.objects.insert(key, Arc::new(object));
            }
        }
        if let Some(previous) = self.files.get(path) {
            file.keep_last_good(previous);
        }
        self.exchange(path, Some(file));
    }

    /// The file is there but cannot be read: its objects stay.
    pub fn fail(&mut self, path: &Path, why: Diagnostic) {
        self.remarked.insert(path.to_owned());
        self.files.entry(path.into()).or_default().diagnostics = vec![why];
    }

    /// The file is gone, and so are its objects.
    pub fn remove(&mut self, path: &Path) {
        self.exchange(path, None);
    }

    /// Everything that changed since the last call.
    pub fn take_changes(&mut self) -> ObjectChanges {
        if self.changes.len() > self.definitions.len() / 2 {
            self.pack();
        }
        std::mem::take(&mut self.changes)
    }

    /// Everything there is to say about the files as they are.
    pub fn diagnostics(&self) -> impl Iterator<Item = Diagnostic> {
        let remarked = self.remarked.iter().filter_map(|path| self.files.get(&**path));
        let of_files = remarked.flat_map(|file| &file.diagnostics).cloned();
        of_files.chain(self.duplicates.iter().flat_map(|key| self.duplicate_diagnostics(key)))
    }

    fn exchange(&mut self, path: &Path, file: Option<FileObjects>) {
        let keys = |file: Option<&FileObjects>| {
            file.into_iter().flat_map(|file| file.objects.keys().cloned()).collect::<BTreeSet<_>>()
        };
        let old = keys(self.files.get(path));
        let new = keys(file.as_ref());
        let touched: Vec<_> = old.union(&new).cloned().collect();
        let before: Vec<_> = touched.iter().map(|key| self.in_force(key).cloned()).collect();
        let known = self.files.get_key_value(path).map(|(path, _)| Arc::clone(path));
        let path = known.unwrap_or_else(|| path.into());

        for key in old.difference(&new) {
            if let Some(paths) = self.definitions.get_mut(key) {
                paths.retain(|known| *known != path);
                if paths.is_empty() {
                    self.definitions.remove(key);
                }
            }
        }
        for key in new.difference(&old) {
            let paths = self.definitions.entry(key.clone()).or_default();
            let place = paths.partition_point(|known| *known < path);
            paths.insert(place, Arc::clone(&path));
        }
        if file.as_ref().is_some_and(|file| !file.diagnostics.is_empty()) {
            self.remarked.insert(path.to_path_buf());
        } else {
            self.remarked.remove(&*path);
        }
        match file {
            Some(file) => self.files.insert(path, file),
            None => self.files.remove(&path),
        };

        for (key, before) in touched.into_iter().zip(before) {
            if self.definitions.get(&key).is_some_and(|paths| paths.len() > 1) {
                self.duplicates.insert(key.clone());
            } else {
                self.duplicates.remove(&key);
            }
            let now = self.in_force(&key).cloned();
            if now != before {
                self.changes.insert(key, now);
            }
        }
    }

    /// Gives back the room that insertion left, which costs what the change did.
    fn pack(&mut self) {
        self.definitions = std::mem::take(&mut self.definitions).into_iter().collect();
        for file in self.files.values_mut() {
            file.objects = std::mem::take(&mut file.objects).into_iter().collect();
        }
    }

    fn in_force(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        let path = self.definitions.get(key)?.first()?;
        self.files.get(path)?.objects.get(key)
    }

    fn duplicate_diagnostics(&self, key: &ObjectKey) -> Vec<Diagnostic> {
        let paths = self.definitions.get(key).into_iter().flatten();
        let defined: Vec<_> =
            paths.filter_map(|path| self.files.get(path)?.objects.get(key)).collect();
        let Some((first, others)) = defined.split_first() else { return Vec::new() };
        others.iter().map(|other| duplicate(key, &other.source, &first.source)).collect()
    }
}

impl FileObjects {
    /// Keeps what `previous` had of the objects that can no longer be read. A document that could not
    /// even be told which object it is may have been any of those that are missing now.
    fn keep_last_good(&mut self, previous: &Self) {
        let errors = || self.diagnostics.iter().filter(|it| it.severity == Severity::Error);
        let any = errors().any(|diagnostic| diagnostic.object.is_none());
        let broken: BTreeSet<_> =
            errors().filter_map(|diagnostic| diagnostic.object.clone()).collect();
        for (key, object) in &previous.objects {
            if any || broken.contains(key) {
                self.objects.entry(key.clone()).or_insert_with(|| Arc::clone(object));
            }
        }
    }
}

fn duplicate(key: &ObjectKey, source: &Source, first: &Source) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        object: Some(key.clone()),
        source: source.clone(),
        field: String::new(),
        message: format!("already defined at {first}, which is used; remove one of them"),
    }
}

#[cfg(test)]
mod tests {
    use weir_config::{
        api::Kind,
        parse::{Options, parse},
    };

    use super::*;

    fn service(name: &str, port: u16) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
             ports: [{{name: http, port: {port}}}]\n"
        )
    }

    fn replace(files: &mut Files, path: &str, text: &str) {
        files.replace(Path::new(path), parse(path, text.as_bytes(), &Options::default()));
    }

    /// `name:port` for an object, `-name` for a removal.
    fn changes(files: &mut Files) -> Vec<String> {
        let describe = |(key, object): (ObjectKey, Option<Arc<Object>>)| match object {
            Some(object) => {
                assert_eq!(key.kind, Kind::Service);
                let weir_config::api::Spec::Service(spec) = &object.spec else { panic!("{key}") };
                format!("{}:{}", key.name, spec.ports[0].port)
            }
            None => format!("-{}", key.name),
        };
        files.take_changes().into_iter().map(describe).collect()
    }

    fn messages(files: &Files) -> Vec<String> {
        files.diagnostics().map(|diagnostic| diagnostic.to_string()).collect()
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let mut files = Files::default();
        replace(&mut files, "a.yaml", &(service("x", 1) + &service("y", 2)));
        assert_eq!(changes(&mut files), ["x:1", "y:2"]);
        replace(&mut files, "a.yaml", &(service("x", 1) + &service("y", 3)));
        assert_eq!(changes(&mut files), ["y:3"]);
        replace(&mut files, "a.yaml", &service("x", 1));
        assert_eq!(changes(&mut files), ["-y"]);
        files.remove(Path::new("a.yaml"));
        assert_eq!(changes(&mut files), ["-x"]);
    }

    #[test]
    fn of_two_definitions_the_first_by_path_is_used_and_both_are_named() {
        let mut files = Files::default();
        replace(&mut files, "b.yaml", &service("x", 2));
        replace(&mut files, "a.yaml", &service("x", 1));
        assert_eq!(changes(&mut files), ["x:1"]);
        let expected = "error: b.yaml:2: Service default/x: already defined at a.yaml:2, which is \
                        used; remove one of them";
        assert_eq!(messages(&files), [expected]);

        files.remove(Path::new("a.yaml"));
        assert_eq!(changes(&mut files), ["x:2"]);
        assert_eq!(messages(&files), [""; 0]);
    }

    #[test]
    fn of_two_definitions_in_one_file_the_first_is_used() {
        let mut files = Files::default();
        replace(&mut files, "a.yaml", &(service("x", 1) + &service("x", 2)));
        assert_eq!(changes(&mut files), ["x:1"]);
        assert!(messages(&files)[0].contains("already defined at a.yaml:2"), "{files:?}");
    }

    #[test]
    fn an_object_that_moves_to_another_file_is_never_removed() {
        let mut files = Files::default();
        replace(&mut files, "a.yaml", &service("x", 1));
        changes(&mut files);
        files.remove(Path::new("a.yaml"));
        replace(&mut files, "b.yaml", &service("x", 1));
        assert_eq!(changes(&mut files), ["x:1"]);
    }

    #[test]
    fn a_broken_object_keeps_its_last_good_version() {
        let mut files = Files::default();
        replace(&mut files, "a.yaml", &(service("x", 1) + &service("y", 2) + &service("z", 3)));
        changes(&mut files);
        let broken = service("x", 1).replace("port: 1", "port: [1]") + &service("y", 4);
        replace(&mut files, "a.yaml", &broken);
        assert_eq!(changes(&mut files), ["y:4", "-z"], "x is as it was");
        assert_eq!(messages(&files).len(), 1);

        replace(&mut files, "a.yaml", &(service("x", 5) + &service("y", 4)));
        assert_eq!(changes(&mut files), ["x:5"]);
        assert_eq!(messages(&files), [""; 0]);
    }

    #[test]
    fn a_document_that_cannot_be_read_at_all_removes_nothing() {
        let mut files = Files::default();
        replace(&mut files, "a.yaml", &(service("x", 1) + &service("y", 2)));
        changes(&mut files);
        replace(&mut files, "a.yaml", &(service("x", 3) + "---\nkind: [unclosed\n"));
        assert_eq!(changes(&mut files), ["x:3"], "y may be the one that is broken");
    }

    #[test]
    fn a_file_that_cannot_be_opened_keeps_its_objects() {
        let mut files = Files::default();
        replace(&mut files, "a.yaml", &service("x", 1));
        changes(&mut files);
        let why = Diagnostic {
            severity: Severity::Error,
            object: None,
            source: Source { file: "a.yaml".into(), line: 1 },
            field: String::new(),
            message: "permission denied".to_owned(),
        };
        files.fail(Path::new("a.yaml"), why);
        assert_eq!(changes(&mut files), [""; 0]);
        assert_eq!(messages(&files), ["error: a.yaml:1: permission denied"]);
    }
}
