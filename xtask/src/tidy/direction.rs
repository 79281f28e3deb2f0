//! The one direction of dependency between the crates of this project.

use super::Violation;
use super::manifest::Package;

/// Finds dependencies that point the wrong way.
///
/// A dev-dependency of a crate on itself is how its tests turn features on, and is allowed.
pub(super) fn check(packages: &[Package]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for package in packages {
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == package.name) else {
            let message = format!(
                "{} has no place in the direction of dependency",
                package.name
            );
            violations.push(Violation::new(&package.manifest, 1, "direction", message));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.is_own)
        {
            let is_self = dependency.is_dev && dependency.name == package.name;
            if !is_self && !allowed.contains(&dependency.name.as_str()) {
                let message = format!("{} may not depend on {}", package.name, dependency.name);
                violations.push(Violation::new(
                    &package.manifest,
                    dependency.line,
                    "direction",
                    message,
                ));
            }
        }
    }
    violations
}

/// What each crate may use of this project, dev-dependencies included.
const MAY_USE: [(&str, &[&str]); 12] = [
    ("snapshot-format", &[]),
    ("snapshot-memory", &["snapshot-format"]),
    ("snapshot-store", &["snapshot-format", "snapshot-memory"]),
    (
        "snapshot-vault",
        &["snapshot-format", "snapshot-memory", "snapshot-store"],
    ),
    ("hypervisor-bridge", &["snapshot-format", "snapshot-memory"]),
    (
        "hypervisor-hvf",
        &["hypervisor-bridge", "snapshot-format", "snapshot-memory"],
    ),
    (
        "hypervisor-kvm",
        &["hypervisor-bridge", "snapshot-format", "snapshot-memory"],
    ),
    (
        "tinyvm",
        &[
            "hypervisor-bridge",
            "hypervisor-kvm",
            "snapshot-format",
            "snapshot-memory",
        ],
    ),
    (
        "vmsnap",
        &[
            "hypervisor-bridge",
            "hypervisor-kvm",
            "snapshot-format",
            "snapshot-memory",
            "snapshot-store",
            "snapshot-vault",
            "tinyvm",
        ],
    ),
    (
        "snapshot-checks",
        &[
            "hypervisor-bridge",
            "snapshot-format",
            "snapshot-memory",
            "snapshot-store",
            "snapshot-vault",
            "tinyvm",
        ],
    ),
    (
        "benches",
        &[
            "hypervisor-bridge",
            "hypervisor-kvm",
            "snapshot-format",
            "snapshot-memory",
            "snapshot-store",
            "snapshot-vault",
        ],
    ),
    ("xtask", &[]),
];

#[cfg(test)]
mod tests {
    use super::super::manifest::Dependency;
    use super::*;

    fn package(name: &str, dependency: &str, is_dev: bool) -> Package {
        let is_own = dependency != "serde";
        let dependency = Dependency {
            name: dependency.to_owned(),
            line: 7,
            is_dev,
            is_own,
        };
        Package {
            name: name.to_owned(),
            manifest: format!("crates/{name}/Cargo.toml"),
            dependencies: vec![dependency],
        }
    }

    #[test]
    fn a_dependency_against_the_direction_is_found() {
        for (from, to) in [
            ("snapshot-format", "snapshot-memory"),
            ("snapshot-store", "hypervisor-kvm"),
            ("hypervisor-kvm", "snapshot-store"),
            ("xtask", "snapshot-format"),
        ] {
            for is_dev in [false, true] {
                let found = check(&[package(from, to, is_dev)]);
                assert_eq!(found.len(), 1, "{from} on {to}");
                assert_eq!(found[0].line, 7);
            }
        }
    }

    #[test]
    fn an_unknown_crate_is_found() {
        assert_eq!(check(&[package("snapshot-extra", "serde", false)]).len(), 1);
    }

    #[test]
    fn the_direction_itself_is_allowed() {
        assert!(check(&[package("snapshot-store", "snapshot-memory", false)]).is_empty());
        assert!(check(&[package("snapshot-memory", "snapshot-memory", true)]).is_empty());
        assert_eq!(
            check(&[package("snapshot-memory", "snapshot-memory", false)]).len(),
            1
        );
    }
}
