//! The golden files of the format crate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One golden file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GoldenFile {
    /// Its version and name: `v0.1/state.vms`.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// Files that asked for a later version than that of their folder, which has come since: nothing
/// else is wrong with them.
const NO_LONGER_FROM_THE_FUTURE: [&str; 1] = ["v0.1/corrupt/future.vms"];

/// Every valid golden file, sorted by name.
pub fn valid() -> io::Result<Vec<GoldenFile>> {
    read("")
}

/// Every golden file that breaks a rule or comes from the future, sorted by name.
pub fn corrupt() -> io::Result<Vec<GoldenFile>> {
    let mut files = read("corrupt")?;
    files.retain(|file| !NO_LONGER_FROM_THE_FUTURE.contains(&file.name.as_str()));
    Ok(files)
}

fn read(folder: &str) -> io::Result<Vec<GoldenFile>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../snapshot-format/tests/golden");
    let mut files = Vec::new();
    for version in entries(&golden)? {
        for path in entries(&version.join(folder))? {
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_file() && matches!(extension, Some("vms" | "map")) {
                let name = path
                    .strip_prefix(&golden)
                    .unwrap_or(&path)
                    .to_string_lossy();
                files.push(GoldenFile {
                    name: name.into_owned(),
                    bytes: fs::read(&path)?,
                });
            }
        }
    }
    if files.is_empty() {
        let message = format!("no golden file in {}", golden.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    Ok(files)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut entries: Vec<PathBuf> = entries.collect::<Result<_, _>>()?;
    entries.sort();
    Ok(entries)
}
