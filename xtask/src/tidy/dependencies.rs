//! Every crate from outside that a package names has its reason in `deny.toml`.

use std::collections::BTreeMap;

use super::Violation;
use super::manifest::Package;
use crate::source_tree::SourceFile;

/// Finds dependencies without a reason, and reasons without a dependency.
pub(super) fn check(packages: &[Package], files: &[SourceFile]) -> Vec<Violation> {
    let text = files
        .iter()
        .find(|file| file.path == LIST)
        .map_or("", |file| &file.text);
    let reasons = reasons(text);
    let mut violations = Vec::new();
    let mut used = BTreeMap::new();
    for package in packages {
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| !dependency.is_own)
        {
            let place = (&package.manifest, dependency.line);
            used.entry(dependency.name.as_str()).or_insert(place);
        }
    }
    for (name, (manifest, line)) in &used {
        if !reasons.contains_key(name) {
            let message = format!("{LIST} has no line `# {name}: reason`");
            violations.push(Violation::new(
                manifest,
                *line,
                "dependency-reason",
                message,
            ));
        }
    }
    for (name, line) in reasons {
        if !used.contains_key(name) {
            let message = format!("no package depends on {name} directly");
            violations.push(Violation::new(LIST, line, "dependency-reason", message));
        }
    }
    violations
}

/// The names in the block of comments under the heading, with their lines.
fn reasons(text: &str) -> BTreeMap<&str, usize> {
    let numbered = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    let block = numbered.skip_while(|(_, line)| *line != HEADING).skip(1);
    let lines = block.map_while(|(number, line)| Some((number, line.strip_prefix('#')?)));
    let entries = lines.filter_map(|(number, line)| {
        let (name, reason) = line.strip_prefix(' ')?.split_once(": ")?;
        let is_name = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        (is_name && !reason.is_empty()).then_some((name, number))
    });
    entries.collect()
}

const LIST: &str = "deny.toml";
const HEADING: &str = "# Every direct dependency, and why it is here:";

#[cfg(test)]
mod tests {
    use super::super::manifest::Dependency;
    use super::*;

    #[test]
    fn missing_and_stale_reasons_are_found() {
        let dependencies = ["serde", "libc"].map(|name| Dependency {
            name: name.to_owned(),
            line: 3,
            is_dev: false,
            is_own: false,
        });
        let package = Package {
            name: "a".to_owned(),
            manifest: "a/Cargo.toml".to_owned(),
            dependencies: dependencies.to_vec(),
        };
        let text = format!("{HEADING}\n#\n# serde: JSON\n# rayon: threads\n\n# libc: too late\n");
        let found = check(&[package], &[SourceFile::new(LIST, text)]);
        let places: Vec<_> = found.iter().map(|v| (v.path.as_str(), v.line)).collect();
        assert_eq!(places, [("a/Cargo.toml", 3), (LIST, 4)]);
    }
}
