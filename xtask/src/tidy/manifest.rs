//! What the `Cargo.toml` files say of dependencies.

use crate::cargo;
use crate::failure::Failure;
use crate::source_tree::SourceFile;

/// A package of the workspace.
#[derive(Clone, Debug)]
pub(super) struct Package {
    /// Its name.
    pub(super) name: String,
    /// Where its manifest is, from the top folder.
    pub(super) manifest: String,
    /// What it depends on.
    pub(super) dependencies: Vec<Dependency>,
}

/// A dependency of a package.
#[derive(Clone, Debug)]
pub(super) struct Dependency {
    /// The name of the crate.
    pub(super) name: String,
    /// Where the manifest names it, counted from 1.
    pub(super) line: usize,
    /// Whether only tests and benches of the package see it.
    pub(super) is_dev: bool,
    /// Whether it is a package of this project.
    pub(super) is_own: bool,
}

/// The packages of the workspace, as cargo reads them.
pub(super) fn packages(files: &[SourceFile]) -> Result<Vec<Package>, Failure> {
    let mut command = cargo::command(["metadata", "--no-deps", "--format-version", "1"]);
    let output = command
        .output()
        .map_err(|error| Failure::failed(format!("cannot run cargo metadata: {error}")))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::failed(format!("cargo metadata: {message}")));
    }
    parse(&output.stdout, files)
        .ok_or_else(|| Failure::failed("cargo metadata printed something else than expected"))
}

fn parse(json: &[u8], files: &[SourceFile]) -> Option<Vec<Package>> {
    let document: serde_json::Value = serde_json::from_slice(json).ok()?;
    let root = document.get("workspace_root")?.as_str()?;
    let mut packages = Vec::new();
    for package in document.get("packages")?.as_array()? {
        let manifest = package.get("manifest_path")?.as_str()?;
        let manifest = manifest
            .strip_prefix(root)?
            .trim_start_matches('/')
            .to_owned();
        let text = files
            .iter()
            .find(|file| file.path == manifest)
            .map_or("", |file| &file.text);
        let dependencies = package.get("dependencies")?.as_array()?.iter();
        packages.push(Package {
            name: package.get("name")?.as_str()?.to_owned(),
            dependencies: dependencies
                .map(|dependency| parse_dependency(dependency, text))
                .collect::<Option<_>>()?,
            manifest,
        });
    }
    Some(packages)
}

fn parse_dependency(dependency: &serde_json::Value, manifest: &str) -> Option<Dependency> {
    let name = dependency.get("name")?.as_str()?;
    Some(Dependency {
        name: name.to_owned(),
        line: line_of(manifest, name),
        is_dev: dependency.get("kind")?.as_str() == Some("dev"),
        is_own: dependency.get("path").is_some_and(|path| !path.is_null()),
    })
}

/// The line that begins with a key.
fn line_of(manifest: &str, key: &str) -> usize {
    let names = |line: &str| {
        line.strip_prefix(key)
            .is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
    };
    manifest
        .lines()
        .position(names)
        .map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_this_workspace_is_understood() {
        let packages = packages(&[]).unwrap();
        let format = packages
            .iter()
            .find(|package| package.name == "snapshot-format")
            .unwrap();
        assert_eq!(format.manifest, "crates/snapshot-format/Cargo.toml");
        assert!(
            format
                .dependencies
                .iter()
                .any(|d| d.name == "bitcode" && !d.is_own && !d.is_dev)
        );
        assert!(
            format
                .dependencies
                .iter()
                .any(|d| d.name == "proptest" && d.is_dev)
        );
    }

    #[test]
    fn the_line_is_the_one_of_the_key() {
        let manifest = "[dependencies]\nblake3-x = \"1\"\nblake3.workspace = true\n";
        assert_eq!(line_of(manifest, "blake3"), 3);
    }
}
