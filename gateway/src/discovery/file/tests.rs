//! Real folders, really watched.

use std::{
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    time::Duration,
};

use tempfile::TempDir;
use weir_config::api::{ObjectKey, Spec};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
         ports: [{{name: http, port: {port}}}]\n"
    )
}

/// A folder, and what a reader of its changes has put together.
struct Folder {
    dir: TempDir,
    rx: Option<mpsc::Receiver<Changes>>,
    objects: BTreeMap<ObjectKey, u16>,
    diagnostics: Vec<String>,
    /// Every state there was, to see what was in force in between.
    history: Vec<Vec<String>>,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let (objects, diagnostics, history) = Default::default();
        Self { dir, rx: None, objects, diagnostics, history }
    }

    fn start(files: &[(&str, &str)]) -> Self {
        let mut folder = Self::new(files);
        folder.watch(vec![folder.path("")]);
        folder
    }

    fn watch(&mut self, paths: Vec<PathBuf>) {
        let mesh_config = Some(self.path("mesh.conf")).filter(|path| path.exists());
        let options = Options { paths, mesh_config, namespace: "default".to_owned() };
        let (source, changes) = FileSource::load(options).unwrap();
        self.take(changes);
        self.rx = Some(source.watch().unwrap());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn take(&mut self, changes: Changes) {
        for (key, object) in changes.objects {
            match object {
                Some(object) => {
                    let Spec::Service(spec) = &object.spec else { panic!("{key}") };
                    self.objects.insert(key, spec.ports[0].port);
                }
                None => drop(self.objects.remove(&key)),
            }
        }
        self.diagnostics = changes.diagnostics.iter().map(ToString::to_string).collect();
        self.history.push(self.state());
    }

    /// `name:port`, sorted.
    fn state(&self) -> Vec<String> {
        self.objects.iter().map(|(key, port)| format!("{}:{port}", key.name)).collect()
    }

    /// Takes changes until this is the state.
    async fn until(&mut self, expected: &[&str]) {
        while self.state() != expected {
            self.next(|this| format!("{:?} instead of {expected:?}", this.state())).await;
        }
    }

    async fn until_said(&mut self, part: &str) {
        while !self.diagnostics.iter().any(|said| said.contains(part)) {
            self.next(|this| format!("{part:?} is not said in {:?}", this.diagnostics)).await;
        }
    }

    async fn until_quiet(&mut self) {
        while !self.diagnostics.is_empty() {
            self.next(|this| format!("{:?}", this.diagnostics)).await;
        }
    }

    async fn next(&mut self, state: impl Fn(&Self) -> String) {
        let next = self.rx.as_mut().unwrap().recv();
        match tokio::time::timeout(PATIENCE, next).await {
            Ok(Some(changes)) => self.take(changes),
            Ok(None) => panic!("the watching ended: {}", state(self)),
            Err(_) => panic!("no further change: {}", state(self)),
        }
    }
}

#[tokio::test]
async fn a_folder_is_read_to_its_depth_at_the_start() {
    let folder = Folder::start(&[
        ("a.yaml", &service("a", 1)),
        ("team/b.yml", &service("b", 2)),
        (".hidden.yaml", &service("c", 3)),
    ]);
    assert_eq!(folder.state(), ["a:1", "b:2"]);
}

#[tokio::test]
async fn an_edit_is_told_within_50_milliseconds() {
    let mut folder = Folder::start(&[("a.yaml", &service("a", 0))]);
    // Of several, the quickest: the machine may be busy with other things.
    let mut quickest = Duration::MAX;
    for port in 1..=10 {
        let started = Instant::now();
        folder.write("a.yaml", &service("a", port));
        folder.until(&[&format!("a:{port}")]).await;
        quickest = quickest.min(started.elapsed());
    }
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
}

#[tokio::test]
async fn files_and_folders_that_come_and_go_are_noticed() {
    let mut folder = Folder::start(&[("a.yaml", &service("a", 1))]);
    folder.write("b.yaml", &service("b", 2));
    folder.until(&["a:1", "b:2"]).await;
    fs::create_dir_all(folder.path("team/shop")).unwrap();
    folder.write("team/shop/c.yaml", &service("c", 3));
    folder.until(&["a:1", "b:2", "c:3"]).await;
    folder.write("team/shop/c.yaml", &service("c", 4));
    folder.until(&["a:1", "b:2", "c:4"]).await;
    fs::remove_file(folder.path("b.yaml")).unwrap();
    folder.until(&["a:1", "c:4"]).await;
    fs::remove_dir_all(folder.path("team")).unwrap();
    folder.until(&["a:1"]).await;
}

#[tokio::test]
async fn a_file_replaced_by_a_rename_is_never_missing() {
    let mut folder = Folder::start(&[("a.yaml", &service("a", 1))]);
    // As vim does: the old file moves away before the new one is written.
    fs::rename(folder.path("a.yaml"), folder.path("a.yaml~")).unwrap();
    folder.write("a.yaml", &service("a", 2));
    folder.until(&["a:2"]).await;
    // As everybody else does: the new one takes the old one's place.
    folder.write(".a.yaml.tmp", &service("a", 3));
    fs::rename(folder.path(".a.yaml.tmp"), folder.path("a.yaml")).unwrap();
    folder.until(&["a:3"]).await;
    assert!(folder.history.iter().all(|state| !state.is_empty()), "{:?}", folder.history);
}

#[tokio::test]
async fn a_file_written_in_pieces_is_not_seen_in_pieces() {
    let mut folder = Folder::start(&[("a.yaml", &(service("a", 1) + &service("b", 1)))]);
    let mut file = File::create(folder.path("a.yaml")).unwrap();
    for piece in (service("a", 2) + &service("b", 2)).as_bytes().chunks(20) {
        file.write_all(piece).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(file);
    folder.until(&["a:2", "b:2"]).await;
    assert_eq!(folder.history, [["a:1", "b:1"], ["a:2", "b:2"]]);
}

#[tokio::test]
async fn a_file_that_stays_empty_gives_up_its_objects() {
    let mut folder = Folder::start(&[("a.yaml", &service("a", 1))]);
    let emptied = Instant::now();
    folder.write("a.yaml", "");
    folder.until(&[]).await;
    assert!(emptied.elapsed() >= Duration::from_millis(400), "an editor may be about to write it");
}

#[tokio::test]
async fn a_broken_file_keeps_what_it_said_and_says_so() {
    let mut folder = Folder::start(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("b", 1))]);
    folder.write("a.yaml", "kind: [");
    folder.until_said("error: a.yaml:1: ").await;
    folder.write("b.yaml", &service("b", 2));
    folder.until(&["a:1", "b:2"]).await;
    folder.write("a.yaml", &service("a", 3));
    folder.until(&["a:3", "b:2"]).await;
    folder.until_quiet().await;
}

#[tokio::test]
async fn a_folder_that_goes_as_a_whole_keeps_what_it_said() {
    let mut folder = Folder::new(&[("conf/a.yaml", &service("a", 1))]);
    folder.watch(vec![folder.path("conf")]);
    fs::remove_dir_all(folder.path("conf")).unwrap();
    folder.until_said("stays in force").await;
    assert_eq!(folder.state(), ["a:1"]);

    fs::create_dir(folder.path("conf")).unwrap();
    folder.write("conf/b.yaml", &service("b", 2));
    folder.until(&["b:2"]).await;
    folder.until_quiet().await;
    folder.write("conf/b.yaml", &service("b", 3));
    folder.until(&["b:3"]).await;
}

#[tokio::test]
async fn a_mounted_config_map_is_replaced_at_once() {
    let mut folder = Folder::new(&[
        ("..1/a.yaml", &service("a", 1)),
        ("..1/b.yaml", &service("b", 1)),
        ("..2/a.yaml", &service("a", 2)),
        ("..2/b.yaml", &service("b", 2)),
    ]);
    symlink("..1", folder.path("..data")).unwrap();
    for name in ["a.yaml", "b.yaml"] {
        symlink(format!("..data/{name}"), folder.path(name)).unwrap();
    }
    folder.watch(vec![folder.path("")]);
    assert_eq!(folder.state(), ["a:1", "b:1"]);
    symlink("..2", folder.path("..data_tmp")).unwrap();
    fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
    folder.until(&["a:2", "b:2"]).await;
    assert_eq!(folder.history.len(), 2, "{:?}", folder.history);
}

#[tokio::test]
async fn a_folder_that_is_a_link_may_be_switched() {
    let mut folder = Folder::new(&[
        ("release-1/a.yaml", &service("a", 1)),
        ("release-2/a.yaml", &service("a", 2)),
    ]);
    symlink("release-1", folder.path("current")).unwrap();
    folder.watch(vec![folder.path("current")]);
    symlink("release-2", folder.path("next")).unwrap();
    fs::rename(folder.path("next"), folder.path("current")).unwrap();
    folder.until(&["a:2"]).await;
    folder.write("release-2/a.yaml", &service("a", 3));
    folder.until(&["a:3"]).await;
}

#[tokio::test]
async fn a_file_may_be_given_instead_of_a_folder() {
    let mut folder = Folder::new(&[("one.conf", &service("a", 1)), ("b.yaml", &service("b", 1))]);
    folder.watch(vec![folder.path("one.conf")]);
    assert_eq!(folder.state(), ["a:1"]);
    folder.write("one.conf", &service("a", 2));
    folder.until(&["a:2"]).await;
    folder.write("tmp", &service("a", 3));
    fs::rename(folder.path("tmp"), folder.path("one.conf")).unwrap();
    folder.until(&["a:3"]).await;
}

#[tokio::test]
async fn the_mesh_configuration_is_watched_too() {
    let mut folder = Folder::new(&[("mesh.conf", "trustDomain: one\n"), ("a.yaml", "")]);
    let options = Options {
        paths: vec![folder.path("a.yaml")],
        mesh_config: Some(folder.path("mesh.conf")),
        namespace: "default".to_owned(),
    };
    let (source, changes) = FileSource::load(options).unwrap();
    assert_eq!(changes.mesh_config.unwrap().trust_domain, "one");
    folder.rx = Some(source.watch().unwrap());

    folder.write("mesh.conf", "trustDomain: [\n");
    folder.until_said("mesh.conf").await;
    folder.write("mesh.conf", "trustDomain: not/one\n");
    folder.until_said("trustDomain").await;
    folder.write("mesh.conf", "trustDomain: two\n");
    let changes = folder.rx.as_mut().unwrap().recv().await.unwrap();
    assert_eq!(changes.mesh_config.unwrap().trust_domain, "two");
    assert_eq!(changes.diagnostics, []);
}

#[tokio::test]
async fn a_file_nobody_may_read_is_said_and_read_when_allowed() {
    let mut folder = Folder::start(&[("a.yaml", &service("a", 1))]);
    let restricted = folder.path("a.yaml");
    fs::set_permissions(&restricted, PermissionsExt::from_mode(0o000)).unwrap();
    if File::open(&restricted).is_ok() {
        return; // Nothing is forbidden to root.
    }
    folder.until_said("stays in force").await;
    fs::set_permissions(&restricted, PermissionsExt::from_mode(0o644)).unwrap();
    folder.until_quiet().await;
    assert_eq!(folder.state(), ["a:1"]);
}

#[tokio::test]
async fn files_are_called_as_they_are_in_the_folder() {
    let mut folder = Folder::new(&[("team/a.yaml", "kind: ["), ("b.yaml", "kind: [")]);
    folder.watch(vec![folder.path("")]);
    let names: Vec<_> = folder.diagnostics.iter().map(|said| &said[..20]).collect();
    assert_eq!(names, ["error: b.yaml:1: cann", "error: team/a.yaml:1"].map(|it| &it[..20]));

    let mut folder = Folder::new(&[("a/a.yaml", "kind: ["), ("b/b.yaml", "kind: [")]);
    folder.watch(vec![folder.path("a"), folder.path("b")]);
    assert!(folder.diagnostics[0].contains(&folder.path("a/a.yaml").display().to_string()));
}

#[test]
fn a_path_that_is_not_there_at_the_start_is_an_error() {
    let options = Options { paths: vec!["/nonexistent/conf".into()], ..Options::default() };
    let error = FileSource::load(options).unwrap_err();
    assert_eq!(error.to_string(), "read the configuration at /nonexistent/conf");
}

#[tokio::test]
async fn nothing_is_told_where_nothing_changed() {
    let mut folder = Folder::start(&[("a.yaml", &service("a", 1))]);
    folder.write("a.yaml", &service("a", 1));
    fs::set_permissions(folder.path("a.yaml"), PermissionsExt::from_mode(0o600)).unwrap();
    folder.write("b.yaml", &service("b", 1));
    folder.until(&["a:1", "b:1"]).await;
    assert_eq!(folder.history.len(), 2, "{:?}", folder.history);
}
