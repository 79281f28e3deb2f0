//! `sabotage`: the deliberate defects, and the proof that each check can fail.

use crate::campaign;
use crate::checks;
use crate::failure::Failure;
use crate::test;

/// A check that a defect must fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// `cargo xtask crash`.
    Crash,
    /// `cargo xtask hostile`.
    Hostile,
    /// `cargo xtask instants`.
    Instants,
    /// `cargo xtask soak`.
    Soak,
    /// `cargo xtask soak --suite store`.
    StoreSoak,
    /// `cargo xtask kill`.
    Kill,
    /// The test `served_model` of `snapshot-memory`.
    Model,
}

impl Check {
    /// The name of the task and of the program, or of the test.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Hostile => "hostile",
            Self::Instants => "instants",
            Self::Soak => "soak",
            Self::StoreSoak => "store-soak",
            Self::Kill => "kill",
            Self::Model => "served_model",
        }
    }
}

/// Each defect of `snapshot_format::sabotage`, and the check that must fail under it.
const DEFECTS: [(&str, Check); 17] = [
    ("no-dir-fsync", Check::Crash),
    ("ignored-fsync-error", Check::Crash),
    ("rename-first", Check::Crash),
    ("early-epoch-commit", Check::Crash),
    ("unchecked-digest", Check::Hostile),
    ("trusted-length", Check::Hostile),
    ("unfinished-exit", Check::Instants),
    ("dropped-events", Check::Instants),
    ("msrs-before-lapic", Check::Instants),
    ("ignored-discard", Check::Soak),
    ("stale-aside", Check::Soak),
    ("skipped-gate", Check::Model),
    ("unstaged", Check::Kill),
    ("ignored-lease", Check::StoreSoak),
    ("unmarked-base", Check::StoreSoak),
    ("unchecked-merge", Check::StoreSoak),
    ("no-copy-aside", Check::StoreSoak),
];

/// Lists the defects, or proves that they are caught.
pub(crate) fn run(args: &[&str]) -> Result<(), Failure> {
    match args {
        ["--list"] => {
            for (name, check) in DEFECTS {
                println!("{name}\t{}", check.name());
            }
            Ok(())
        }
        ["--prove"] => prove(&DEFECTS),
        ["--prove", names @ ..] => {
            let known = |name: &&str| DEFECTS.iter().find(|(defect, _)| defect == name);
            let some = names.iter().map(|name| {
                let unknown = || Failure::usage(format!("{name:?} is no defect; see --list"));
                known(name).copied().ok_or_else(unknown)
            });
            prove(&some.collect::<Result<Vec<_>, _>>()?)
        }
        _ => Err(Failure::usage("sabotage needs --list or --prove [NAME...]")),
    }
}

/// Refuses a name that is no defect of `check`.
pub(crate) fn demand_known(name: &str, check: Check) -> Result<(), Failure> {
    if DEFECTS.contains(&(name, check)) {
        return Ok(());
    }
    let known = DEFECTS
        .iter()
        .filter(|(_, of)| *of == check)
        .map(|(name, _)| *name);
    Err(Failure::usage(format!(
        "{name:?} is no defect that {} looks for; there are {}",
        check.name(),
        known.collect::<Vec<_>>().join(", ")
    )))
}

fn prove(defects: &[(&'static str, Check)]) -> Result<(), Failure> {
    let mut missed = Vec::new();
    for &(name, check) in defects {
        println!("== {name}: {} must fail", check.name());
        let (shown, counts) = match check {
            Check::Crash | Check::Hostile => checks::run(check.name(), Some(name))?,
            Check::Instants | Check::Soak | Check::StoreSoak | Check::Kill => {
                campaign::under(check, name)?
            }
            Check::Model => test::under("snapshot-memory", check.name(), name)?,
        };
        // A program that does not build or dies early proves nothing: the counts must say it.
        let is_caught = !shown.status.success() && counts.is_some_and(|c| c.wrong() > 0);
        println!(
            "== {name}: {}",
            if is_caught { "caught" } else { "NOT CAUGHT" }
        );
        if !is_caught {
            missed.push(name);
        }
    }
    println!("sabotages: {}, not caught: {}", defects.len(), missed.len());
    if missed.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(format!(
            "not caught: {}",
            missed.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_tree;

    #[test]
    fn the_list_is_the_one_of_the_format_crate() {
        let path = source_tree::root().join("crates/snapshot-format/src/sabotage.rs");
        let text = std::fs::read_to_string(path).unwrap();
        let arms = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Self::"));
        let mut there: Vec<&str> = arms
            .filter_map(|arm| arm.split_once(" => \"")?.1.strip_suffix("\","))
            .collect();
        let mut here: Vec<&str> = DEFECTS.iter().map(|(name, _)| *name).collect();
        there.sort_unstable();
        here.sort_unstable();
        assert_eq!(here, there);
    }

    fn spec() -> String {
        let path = source_tree::root().join("specs/24-known-defects.md");
        std::fs::read_to_string(path).unwrap()
    }

    // spec: DEF-01
    #[test]
    fn every_known_defect_of_another_store_has_its_tests() {
        let text = spec();
        let rows = text.split("## Deliberate").next().unwrap().lines();
        let named = rows.filter_map(|row| row.rsplit('|').nth(1)?.contains('`').then_some(row));
        let named: Vec<&str> = named
            .flat_map(|row| row.split('`').skip(1).step_by(2))
            .collect();
        assert!(named.len() > 12, "{named:?}");
        let files = source_tree::read(&source_tree::root().join("crates")).unwrap();
        for name in named {
            let test = format!("#[test]\nfn {name}() {{");
            let is_there = files.iter().any(|file| file.text.contains(&test));
            assert!(is_there, "no test is called {name}");
        }
    }

    // spec: DEF-02
    #[test]
    fn the_table_of_the_spec_is_the_list() {
        let text = spec();
        let (_, table) = text.split_once("## Deliberate").unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| `"));
        let rows: Vec<(&str, &str)> = rows
            .map(|row| {
                let mut cells = row.split('|').skip(1).map(str::trim);
                (
                    cells.next().unwrap().trim_matches('`'),
                    cells.nth(1).unwrap(),
                )
            })
            .collect();
        assert_eq!(rows.len(), DEFECTS.len());
        for ((name, check), (listed, found_by)) in DEFECTS.into_iter().zip(rows) {
            assert_eq!(name, listed);
            let task = match check {
                Check::StoreSoak => "soak --suite store`".to_owned(),
                check => format!("{}`", check.name()),
            };
            assert!(found_by.contains(&task), "{name}: {found_by}");
        }
    }

    #[test]
    fn a_defect_belongs_to_one_check() {
        demand_known("rename-first", Check::Crash).unwrap();
        demand_known("rename-first", Check::Hostile).unwrap_err();
        demand_known("no-such", Check::Crash).unwrap_err();
    }

    #[test]
    fn only_what_is_listed_is_proved() {
        let refused = run(&["--prove", "rename-first", "no-such"]).unwrap_err();
        assert!(matches!(refused, Failure::Usage(_)));
    }
}
