//! `lint`: everything that judges the source without running it.

use crate::cargo;
use crate::failure::Failure;
use crate::requirement::Required;
use crate::{spec, tidy};

type Step = (&'static str, fn(&Required) -> Result<(), Failure>);

/// Runs every step, and names all that failed.
pub(crate) fn run(required: &Required) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        println!("== {name}");
        if let Err(Failure::Failed(message) | Failure::Usage(message)) = step(required) {
            println!("{name}: {message}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("lint: {} steps passed", STEPS.len());
        Ok(())
    } else {
        Err(Failure::failed(format!(
            "lint failed: {}",
            failed.join(", ")
        )))
    }
}

const STEPS: [Step; 7] = [
    ("fmt", |_| fmt()),
    ("tidy", |_| tidy::run()),
    ("spec", |_| spec::run()),
    ("clippy", |_| clippy(&[])),
    ("clippy with all features", |_| clippy(&["--all-features"])),
    ("rustdoc", |_| rustdoc()),
    ("deny", deny),
];

fn fmt() -> Result<(), Failure> {
    cargo::run(cargo::command(["fmt", "--all", "--check"]))?;
    cargo::run(cargo::command([
        "fmt",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--check",
    ]))
}

fn clippy(features: &[&str]) -> Result<(), Failure> {
    let mut command = cargo::command(["clippy", "--quiet", "--workspace", "--all-targets"]);
    command.args(features).args(["--", "-D", "warnings"]);
    cargo::run(command)
}

fn rustdoc() -> Result<(), Failure> {
    let mut command = cargo::command(["doc", "--quiet", "--workspace", "--no-deps"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    cargo::run(command)
}

fn deny(required: &Required) -> Result<(), Failure> {
    if !cargo::answers(cargo::command(["deny", "--version"])) {
        return required.skip("deny", "cargo-deny is not installed");
    }
    let mut command = cargo::command(["deny", "--offline", "--all-features"]);
    command.args([
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    cargo::run(command)
}
