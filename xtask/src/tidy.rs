//! `tidy`: the rules of this project that no other tool knows. One rule a file.

mod codec;
mod dependencies;
mod direction;
mod files;
mod golden;
mod length;
mod manifest;
mod safety;
mod syscalls;
mod words;

use std::fmt;

use crate::failure::Failure;
use crate::source_tree::{self, SourceFile};

/// One place that breaks a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    rule: &'static str,
    message: String,
}

impl Violation {
    /// `rule` is broken in `path` at `line`, counted from 1.
    pub(crate) fn new(
        path: &str,
        line: usize,
        rule: &'static str,
        message: impl fmt::Display,
    ) -> Self {
        Self {
            path: path.to_owned(),
            line,
            rule,
            message: message.to_string(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            rule,
            message,
        } = self;
        write!(f, "{path}:{line}: {rule}: {message}")
    }
}

/// Checks every file of the project.
pub(crate) fn run() -> Result<(), Failure> {
    let root = source_tree::root();
    let files = source_tree::read(&root)?;
    let packages = manifest::packages(&files)?;
    let mut violations = Vec::new();
    for file in &files {
        violations.extend(check_file(file));
    }
    violations.extend(safety::check_lists(&files));
    violations.extend(files::check_list(&files));
    violations.extend(direction::check(&packages));
    violations.extend(dependencies::check(&packages, &files));
    violations.extend(syscalls::check(&files));
    violations.extend(golden::check(&root)?);
    report("tidy", files.len(), violations)
}

fn check_file(file: &SourceFile) -> Vec<Violation> {
    let mut violations = words::check(file);
    if !file.is_rust() {
        return violations;
    }
    if file.syntax().is_none() {
        violations.push(Violation::new(
            &file.path,
            1,
            "syntax",
            "this is no valid Rust",
        ));
        return violations;
    }
    violations.extend(length::check(file));
    violations.extend(safety::check(file));
    violations.extend(files::check(file));
    violations.extend(codec::check(file));
    violations
}

/// Prints the violations, sorted, and how many there are.
pub(crate) fn report(
    task: &str,
    file_count: usize,
    mut violations: Vec<Violation>,
) -> Result<(), Failure> {
    violations.sort();
    violations.dedup();
    for violation in &violations {
        println!("{violation}");
    }
    println!(
        "{task}: {file_count} files, {} violations",
        violations.len()
    );
    if violations.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(format!(
            "{task} found {} violations",
            violations.len()
        )))
    }
}
