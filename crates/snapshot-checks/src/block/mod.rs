//! `crash --block`: the real command on real file systems, with the power cut.
//!
//! A disk is an image file, mounted through a loop device that reaches it past the page cache, so
//! that the file holds what the disk was told to keep and nothing else. The file lies on XFS and is
//! copied by sharing its blocks: at one instant, in milliseconds. The command runs unmodified and
//! is stopped by its tracer on both sides of every sync and every change of a name. There the image
//! is copied: as it is, after the log of the file system was committed, or after all was written
//! back, which are states that a crash at that place may leave. Each copy is mounted, which replays
//! its log, and must hold the old set of snapshots or the new one, byte for byte, and take the
//! interrupted command again. A command that ended with success must be there for good.
//!
//! Besides, each sync is once made to fail with an I/O error and to write nothing.

use std::process::ExitCode;

use snapshot_memory::skip::skip;

mod campaign;
mod error;
mod options;
pub(crate) mod oracle;
mod point;
mod registers;
mod rig;
pub(crate) mod script;
mod spawn;
mod tracee;

pub use error::BlockError;
pub use options::Options;

use crate::mount::{self, FileSystem};

/// Violations that are printed of each file system.
const SHOWN: usize = 20;

/// Runs the check; it prints what it found, and last `crash points: N, violations: V`.
pub fn run(options: &Options) -> Result<ExitCode, BlockError> {
    let (mut points, mut violations) = (0, 0);
    let mut is_alone = false;
    for &fs in &options.fs {
        if let Some(reason) = lacking(fs) {
            skip(fs.name(), &reason);
            continue;
        }
        if !is_alone {
            mount::leave_shared_mounts()?;
            is_alone = true;
        }
        let findings = campaign::run(fs, options)?;
        for violation in findings.violations.iter().take(SHOWN) {
            println!("VIOLATION {violation}");
        }
        let (found, distinct) = (findings.violations.len(), findings.distinct.len());
        println!(
            "{}: {} points, {distinct} distinct, {found} violations",
            fs.name(),
            findings.points
        );
        points += findings.points;
        violations += found;
    }
    println!("crash points: {points}, violations: {violations}");
    Ok(if violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What this host lacks to cut on `fs`; `None` if nothing. The copies lie on XFS.
fn lacking(fs: FileSystem) -> Option<String> {
    let copying = mount::find("cp")
        .is_none()
        .then(|| "cp is not installed".to_owned());
    fs.lacking()
        .or_else(|| FileSystem::Xfs.lacking())
        .or(copying)
}
