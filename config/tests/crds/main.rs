//! The CustomResourceDefinitions of `charts/base`, made from the types in `src/api`.
//!
//! ```text
//! src/api/**.rs --source--> types with their documentation --schema--> OpenAPI --kinds--> charts/base/files
//! ```
//!
//! It is the sources that are read, as the generators of other projects read theirs: they hold the
//! documentation, and no derive in every proxy is needed for what is only printed here. `make crds`
//! writes the files; without it they are compared.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod kinds;
mod schema;
mod source;

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use source::Types;

/// Set by `make crds`.
const WRITE: &str = "WEIR_WRITE_CRDS";

#[test]
fn the_base_chart_installs_what_the_types_say() {
    let types = Types::read();
    let generated: BTreeMap<String, String> =
        kinds::KINDS.iter().map(|kind| (kind.file(), kind.definition(&types))).collect();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/base/files");
    if env::var_os(WRITE).is_some() {
        for (file, text) in &generated {
            fs::write(folder.join(file), text).unwrap();
        }
    }
    let mut installed = BTreeMap::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        installed.insert(file, fs::read_to_string(&path).unwrap());
    }
    let files = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(files(&installed), files(&generated), "files in {}", folder.display());
    for (file, text) in &generated {
        assert!(installed[file] == *text, "{file} is not what the types say; run `make crds`");
    }
}
