//! `targets`: type-checks the library crates for systems that nobody here runs.
//!
//! The standard library is built from Debian's `rust-web-src` by Debian's `rustc-web`, and only as
//! far as its types. C code of dependencies is passed by: nothing is linked.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cargo;
use crate::failure::Failure;
use crate::requirement::Required;
use crate::source_tree;

/// Debian's compiler, whatever toolchain this task itself was built with.
const RUSTC: &str = "/usr/bin/rustc";

/// What is checked for each target.
const TARGETS: [(&str, &[&str]); 2] = [
    (
        "aarch64-unknown-linux-gnu",
        &[
            "snapshot-format",
            "snapshot-memory",
            "snapshot-store",
            "snapshot-vault",
            "hypervisor-bridge",
            "hypervisor-hvf",
            "hypervisor-kvm",
            "tinyvm",
        ],
    ),
    (
        "aarch64-apple-darwin",
        &[
            "snapshot-format",
            "snapshot-memory",
            "snapshot-store",
            "snapshot-vault",
            "hypervisor-bridge",
            "hypervisor-hvf",
        ],
    ),
];

/// Checks every crate for every target, with its default features and with all of them.
pub(crate) fn run(required: &Required) -> Result<(), Failure> {
    if let Some(missing) = missing() {
        return required.skip("targets", missing);
    }
    let (mut passed, mut wrong) = (0, Vec::new());
    for (target, crates) in TARGETS {
        let found = check(target, crates)?;
        for name in crates {
            if found.is_sound(name) {
                println!("targets: {name} {target} ok");
                passed += 1;
            } else {
                wrong.push(format!("{name} {target}"));
            }
        }
    }
    println!("targets: {passed} passed, {} failed", wrong.len());
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(format!("not sound: {}", wrong.join(", "))))
    }
}

/// Why nothing can be checked here; `None` where it can.
fn missing() -> Option<&'static str> {
    let mut sysroot = Command::new(RUSTC);
    sysroot.args(["--print", "sysroot"]);
    let Ok(output) = sysroot.output() else {
        return Some("no /usr/bin/rustc; Debian's package rustc-web has it");
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std/Cargo.toml");
    (!source.exists()).then_some("no source of std; Debian's package rust-web-src has it")
}

/// What cargo said of the crates of this project.
#[derive(Debug, Default)]
struct Found {
    /// Checked to the end: once for each run.
    checked: Vec<String>,
    /// With errors or warnings.
    complained: Vec<String>,
}

impl Found {
    /// Whether a crate was checked with both sets of features, and nothing was said of it.
    fn is_sound(&self, name: &str) -> bool {
        let checked = self.checked.iter().filter(|checked| *checked == name);
        checked.count() >= FEATURES.len() && !self.complained.iter().any(|it| it == name)
    }

    /// Takes in one message of cargo; what it shows to people, if anything.
    fn take(&mut self, message: &Value) -> Option<String> {
        let name = message.pointer("/target/name")?.as_str()?.replace('_', "-");
        match message.get("reason")?.as_str()? {
            "compiler-artifact" => {
                self.checked.push(name);
                None
            }
            "compiler-message" => {
                let level = message.pointer("/message/level")?.as_str()?;
                if matches!(level, "warning" | "error") {
                    self.complained.push(name);
                }
                message
                    .pointer("/message/rendered")?
                    .as_str()
                    .map(str::to_owned)
            }
            _ => None,
        }
    }
}

/// The sets of features that must compile.
const FEATURES: [&[&str]; 2] = [&[], &["--all-features"]];

fn check(target: &str, crates: &[&str]) -> Result<Found, Failure> {
    let mut found = Found::default();
    for features in FEATURES {
        let mut command = command(target);
        command.args(crates.iter().flat_map(|name| ["--package", name]));
        command.args(features);
        listen(command, &mut found)?;
    }
    Ok(found)
}

fn command(target: &str) -> Command {
    let mut command = cargo::command(["check", "--quiet", "--keep-going", "--lib"]);
    command.args([
        "--message-format=json",
        "-Zbuild-std=std,panic_abort",
        "--target",
        target,
    ]);
    let suffix = target.replace('-', "_");
    command
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        // Debian's compiler stands for itself, whatever wraps that of the toolchain.
        .env_remove("RUSTC_WRAPPER")
        .env(
            "CARGO_TARGET_DIR",
            source_tree::root().join("target/targets"),
        )
        .env(format!("CC_{suffix}"), "/bin/true")
        .env(format!("AR_{suffix}"), "/bin/true");
    command
}

/// Runs cargo, and takes in what it says; that it fails is said by a crate without an artifact.
fn listen(mut command: Command, found: &mut Found) -> Result<(), Failure> {
    let cannot = |error| Failure::failed(format!("cannot run cargo check: {error}"));
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(cannot)?;
    let lines = child.stdout.take().map(BufReader::new);
    for line in lines.into_iter().flat_map(BufRead::lines) {
        let Ok(message) = serde_json::from_str::<Value>(&line.map_err(cannot)?) else {
            continue;
        };
        if let Some(text) = found.take(&message) {
            eprint!("{text}");
        }
    }
    child.wait().map_err(cannot)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn artifact(name: &str) -> Value {
        json!({"reason": "compiler-artifact", "target": {"name": name}})
    }

    #[test]
    fn a_crate_is_sound_when_both_runs_end_without_a_word() {
        let mut found = Found::default();
        found.take(&artifact("snapshot_memory"));
        assert!(!found.is_sound("snapshot-memory"), "one run only");
        found.take(&artifact("snapshot_memory"));
        assert!(found.is_sound("snapshot-memory"));
        let text = found.take(&json!({
            "reason": "compiler-message",
            "target": {"name": "snapshot_memory"},
            "message": {"level": "warning", "rendered": "unused"},
        }));
        assert_eq!(text.as_deref(), Some("unused"));
        assert!(!found.is_sound("snapshot-memory"), "a warning");
    }

    #[test]
    fn every_library_crate_is_checked_for_some_target() {
        let crates = source_tree::root().join("crates");
        for entry in std::fs::read_dir(crates).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_library = !["snapshot-checks", "vmsnap"].contains(&name.as_str());
            let is_checked = TARGETS
                .iter()
                .any(|(_, crates)| crates.contains(&name.as_str()));
            assert_eq!(is_checked, is_library, "{name}");
        }
    }
}
