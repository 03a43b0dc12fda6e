//! A configuration folder with the test's ports filled in.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::ports;

/// A folder of YAML files. `${PORT_name}` becomes a free port, the same for every use of the name;
/// `${name}` becomes what [`Config::set`] gave.
#[derive(Debug)]
pub struct Config {
    dir: TempDir,
    variables: BTreeMap<String, String>,
    files: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// An empty folder.
    #[must_use]
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("weir-tests-").expect("create a temporary folder");
        fs::create_dir(dir.path().join("config")).expect("create the configuration folder");
        Self { dir, variables: BTreeMap::new(), files: 0 }
    }

    /// With one more file, named by its position.
    #[must_use]
    pub fn with(mut self, yaml: impl AsRef<str>) -> Self {
        self.files += 1;
        let name = format!("{:02}.yaml", self.files);
        self.write(&name, yaml);
        self
    }

    /// With a file of that name.
    #[must_use]
    pub fn file(mut self, name: &str, yaml: impl AsRef<str>) -> Self {
        self.write(name, yaml);
        self
    }

    /// Gives a variable its value; before the files that use it.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.insert(name.to_owned(), value.to_string());
        self
    }

    /// Writes a file the way careful tools do: complete, then renamed into place.
    pub fn write(&mut self, name: &str, yaml: impl AsRef<str>) {
        let yaml = self.fill(yaml.as_ref());
        self.write_bytes(name, yaml.as_bytes());
    }

    /// Writes bytes as they are.
    pub fn write_bytes(&self, name: &str, bytes: &[u8]) {
        let staged = self.dir.path().join("staged");
        fs::write(&staged, bytes).expect("write a configuration file");
        fs::rename(&staged, self.path().join(name)).expect("move a configuration file into place");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).expect("remove a configuration file");
    }

    /// The folder the gateway reads.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    /// A folder beside it, for files the gateway does not watch.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The port `${PORT_name}` stands for.
    #[must_use]
    pub fn port(&mut self, name: &str) -> u16 {
        let variable = format!("PORT_{name}");
        self.variables
            .entry(variable)
            .or_insert_with(|| ports::free().to_string())
            .parse()
            .expect("ports are numbers")
    }

    /// Replaces the variables of a text.
    #[must_use]
    pub fn fill(&mut self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').expect("a variable is closed by }");
            filled.push_str(before);
            if let Some(port) = name.strip_prefix("PORT_") {
                filled.push_str(&self.port(port).to_string());
            } else {
                let value = self.variables.get(name);
                filled.push_str(value.unwrap_or_else(|| panic!("variable {name} is not set")));
            }
            rest = after;
        }
        filled + rest
    }
}
