//! `fuzz`: builds every fuzz target with the nightly toolchain and runs each for a while.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path};
use std::time::Duration;

use crate::cargo;
use crate::failure::Failure;
use crate::requirement::Required;
use crate::source_tree;

/// Runs every target for the given number of seconds.
pub(crate) fn run(args: &[&str], required: &Required) -> Result<(), Failure> {
    let ["--seconds", seconds] = args else {
        return Err(Failure::usage("fuzz needs --seconds S"));
    };
    let seconds = seconds.parse().ok().filter(|seconds| *seconds > 0);
    let seconds = seconds.ok_or_else(|| Failure::usage("--seconds needs a number above 0"))?;
    if !cargo::answers(cargo::nightly(["fuzz", "--version"])) {
        return required.skip(
            "fuzz",
            "a nightly toolchain with cargo-fuzz is not installed",
        );
    }
    cargo::run(cargo::nightly(["fuzz", "build"]))?;
    let targets = targets()?;
    let mut crashed = Vec::new();
    for target in &targets {
        println!("== {target}");
        seed(target)?;
        if !fuzz(target, Duration::from_secs(seconds)) {
            crashed.push(target.as_str());
        }
    }
    println!(
        "fuzz targets: {}, crashes: {}",
        targets.len(),
        crashed.len()
    );
    if crashed.is_empty() && !targets.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(format!("crashed: {}", crashed.join(", "))))
    }
}

/// The targets: one file each.
fn targets() -> Result<Vec<String>, Failure> {
    let folder = source_tree::root().join("fuzz/fuzz_targets");
    let files = source_tree::read(&folder)?;
    Ok(files.iter().map(|file| file.module().to_owned()).collect())
}

/// Copies the golden files, and what once crashed a target, to the inputs that it starts from.
fn seed(target: &str) -> Result<(), Failure> {
    let root = source_tree::root();
    let corpus = root.join("fuzz/corpus").join(target);
    let failed = |error| Failure::failed(format!("seed {}: {error}", corpus.display()));
    fs::create_dir_all(&corpus).map_err(failed)?;
    let golden = root.join("crates/snapshot-format/tests/golden");
    let regressions = root.join("fuzz/regressions").join(target);
    for folder in [golden, regressions]
        .iter()
        .filter(|folder| folder.is_dir())
    {
        copy_all(folder, &corpus).map_err(failed)?;
    }
    Ok(())
}

/// Copies every file below `from` to `to`, named for its folder so that none replaces another.
fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path.is_dir() {
            copy_all(&path, to)?;
        } else {
            let names = path.components().rev().take(2).map(Component::as_os_str);
            let names: Vec<_> = names.map(OsStr::to_string_lossy).collect();
            fs::copy(&path, to.join(format!("seed-{}", names.join("-"))))?;
        }
    }
    Ok(())
}

fn fuzz(target: &str, duration: Duration) -> bool {
    let mut command = cargo::nightly(["fuzz", "run", target]);
    command
        .arg("--")
        .arg(format!("-max_total_time={}", duration.as_secs()));
    command.args(["-rss_limit_mb=4096", "-timeout=20", "-print_final_stats=1"]);
    cargo::run(command).is_ok()
}
