//! The files of the project, as the tasks that read them see them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::failure::Failure;

/// One file of text.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Where it is, from the top folder, with `/`.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
    syntax: OnceLock<Option<syn::File>>,
}

impl SourceFile {
    /// A file with the given path and text.
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
            syntax: OnceLock::new(),
        }
    }

    /// Whether it is Rust.
    pub(crate) fn is_rust(&self) -> bool {
        extension(&self.path) == "rs"
    }

    /// Whether all of it is test code.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The name of the module: of the file, or of the folder for `mod.rs`.
    pub(crate) fn module(&self) -> &str {
        let stem = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let stem = stem.strip_suffix("/mod").unwrap_or(stem);
        stem.rsplit('/').next().unwrap_or(stem)
    }

    /// The parsed file; `None` where it is no valid Rust.
    pub(crate) fn syntax(&self) -> Option<&syn::File> {
        self.syntax
            .get_or_init(|| syn::parse_file(&self.text).ok())
            .as_ref()
    }

    /// The lines, numbered from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }
}

/// The top folder of the project.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Every text file of the project below `folder`, sorted by path.
pub(crate) fn read(folder: &Path) -> Result<Vec<SourceFile>, Failure> {
    let mut files = Vec::new();
    walk(folder, folder, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<SourceFile>) -> Result<(), Failure> {
    let failed = |error| Failure::failed(format!("read {}: {error}", folder.display()));
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if path.is_dir() {
            if !SKIPPED_FOLDERS.contains(&name) {
                walk(root, &path, files)?;
            }
        } else if is_text(name) {
            let relative = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            let text = fs::read_to_string(&path)
                .map_err(|error| Failure::failed(format!("read {relative}: {error}")))?;
            files.push(SourceFile::new(relative, text));
        }
    }
    Ok(())
}

/// What follows the last dot; nothing where there is none.
pub(crate) fn extension(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(_, extension)| extension)
}

fn is_text(name: &str) -> bool {
    matches!(
        extension(name),
        "rs" | "md" | "toml" | "sh" | "yml" | "json"
    ) || name == "run"
}

/// Folders that hold nothing written by hand.
const SKIPPED_FOLDERS: [&str; 6] = [
    ".git",
    "artifacts",
    "corpus",
    "golden",
    "regressions",
    "target",
];
