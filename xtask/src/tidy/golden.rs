//! Golden files never change: each is listed with its SHA-256.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Violation;
use crate::failure::Failure;

/// Finds golden files that changed, are missing, or are not listed.
pub(super) fn check(root: &Path) -> Result<Vec<Violation>, Failure> {
    let mut violations = Vec::new();
    for folder in golden_folders(root)? {
        let mut files = BTreeMap::new();
        hash_all(&folder, &folder, &mut files)?;
        let list = folder.join(LIST);
        let text = fs::read_to_string(&list).unwrap_or_default();
        let path = list.strip_prefix(root).unwrap_or(&list).to_string_lossy();
        violations.extend(compare(&path, &text, &files));
    }
    Ok(violations)
}

/// Compares the lines `hash  path` of a list with the files that are there.
fn compare(list: &str, text: &str, files: &BTreeMap<String, String>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut listed = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let broken = |message| Violation::new(list, index + 1, "golden", message);
        let Some((hash, path)) = line.split_once("  ") else {
            violations.push(broken("no `hash  path`".to_owned()));
            continue;
        };
        match files.get(path) {
            None => violations.push(broken(format!("{path} is gone"))),
            Some(found) if found != hash => violations.push(broken(format!("{path} changed"))),
            Some(_) => {}
        }
        listed.insert(path, hash);
    }
    for path in files
        .keys()
        .filter(|path| !listed.contains_key(path.as_str()))
    {
        violations.push(Violation::new(
            list,
            1,
            "golden",
            format!("{path} is not listed"),
        ));
    }
    violations
}

/// Every `tests/golden/<version>` folder of a crate.
fn golden_folders(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut folders = Vec::new();
    for package in subfolders(&root.join("crates"))? {
        let golden = package.join("tests/golden");
        if golden.is_dir() {
            folders.extend(subfolders(&golden)?);
        }
    }
    folders.sort();
    Ok(folders)
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error| Failure::failed(format!("read {}: {error}", folder.display()));
    let entries = fs::read_dir(folder).map_err(failed)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths: Result<Vec<PathBuf>, _> = paths.collect();
    Ok(paths
        .map_err(failed)?
        .into_iter()
        .filter(|path| path.is_dir())
        .collect())
}

fn hash_all(
    root: &Path,
    folder: &Path,
    files: &mut BTreeMap<String, String>,
) -> Result<(), Failure> {
    let failed = |error| Failure::failed(format!("read {}: {error}", folder.display()));
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            hash_all(root, &path, files)?;
        } else if path.file_name().is_some_and(|name| name != LIST) {
            let relative = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            files.insert(relative, hash(&fs::read(&path).map_err(failed)?));
        }
    }
    Ok(())
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

const LIST: &str = "SHA256SUMS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_a_lost_and_an_unlisted_file_are_found() {
        let files = [("same", "aa"), ("changed", "bb"), ("new", "cc")];
        let files = files
            .iter()
            .map(|(p, h)| ((*p).to_owned(), (*h).to_owned()))
            .collect();
        let list = "aa  same\nb0  changed\ndd  lost\nnonsense\n";
        let found = compare("SHA256SUMS", list, &files);
        let messages: Vec<&str> = found.iter().map(|v| v.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "changed changed",
                "lost is gone",
                "no `hash  path`",
                "new is not listed"
            ]
        );
        assert!(compare("SHA256SUMS", "", &BTreeMap::new()).is_empty());
    }

    #[test]
    fn the_hash_is_sha256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hash(b""), empty);
    }
}
