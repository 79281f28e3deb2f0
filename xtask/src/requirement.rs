//! `VMSNAP_REQUIRE`: what a host must have, so that its tests may not be skipped.

use std::collections::BTreeSet;
use std::env;

use crate::failure::Failure;

/// Every name that a test or a task may skip by.
const NAMES: [&str; 17] = [
    "btrfs",
    "clock",
    "deny",
    "direct-io",
    "ext4",
    "fuse",
    "fuzz",
    "huge-pages",
    "kvm",
    "process-vm",
    "root",
    "targets",
    "tmpfs",
    "tsc-offset",
    "uffd",
    "unprivileged",
    "xfs",
];

/// The names that `VMSNAP_REQUIRE` lists.
#[derive(Debug, Default)]
pub(crate) struct Required(BTreeSet<String>);

impl Required {
    /// Says that something was skipped; a failure where it is required.
    pub(crate) fn skip(&self, name: &str, reason: &str) -> Result<(), Failure> {
        if self.0.contains(name) {
            return Err(Failure::failed(format!(
                "VMSNAP_REQUIRE names {name}, but: {reason}"
            )));
        }
        eprintln!("SKIP {name}: {reason}");
        Ok(())
    }

    /// The required names among `skipped`.
    pub(crate) fn missed<'a>(&self, skipped: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        skipped.filter(|name| self.0.contains(*name)).collect()
    }
}

/// Reads `VMSNAP_REQUIRE`; an unknown name is a wrong command line.
pub(crate) fn from_environment() -> Result<Required, Failure> {
    parse(&env::var("VMSNAP_REQUIRE").unwrap_or_default())
}

fn parse(list: &str) -> Result<Required, Failure> {
    let names = list
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let mut required = BTreeSet::new();
    for name in names {
        if !NAMES.contains(&name) {
            let known = NAMES.join(", ");
            return Err(Failure::usage(format!(
                "VMSNAP_REQUIRE names {name:?}; known names are {known}"
            )));
        }
        required.insert(name.to_owned());
    }
    Ok(Required(required))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_tree;

    #[test]
    fn every_test_skips_by_a_known_name() {
        let mut count = 0;
        for file in source_tree::read(&source_tree::root().join("crates")).unwrap() {
            for call in file.text.split("skip(\"").skip(1) {
                let name = call.split('"').next().unwrap();
                assert!(NAMES.contains(&name), "{}: {name}", file.path);
                count += 1;
            }
        }
        assert!(count > 0, "no test was found that skips");
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(matches!(parse("kvm,zfs"), Err(Failure::Usage(text)) if text.contains("zfs")));
        assert!(parse("").unwrap().0.is_empty());
    }

    #[test]
    fn a_required_skip_is_a_failure() {
        let required = parse(" kvm , xfs,").unwrap();
        required.skip("kvm", "no device").unwrap_err();
        required.skip("uffd", "no kernel support").unwrap();
        assert_eq!(required.missed(["uffd", "xfs"].into_iter()), ["xfs"]);
    }
}
