//! Programs of the host: making and attaching file systems has no other stable interface.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::MountError;

/// Where programs of the administrator lie, which a user's `PATH` may lack.
const ADMIN_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where `program` is; `None` if the host lacks it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ADMIN_DIRS.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// Runs `program` to its end; what it printed, or an error if it failed.
pub(crate) fn run<I>(program: &str, arguments: I) -> Result<String, MountError>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let path = find(program).unwrap_or_else(|| Path::new(program).to_owned());
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().map_err(|source| MountError::Start {
        program: program.to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(MountError::Command {
        command: format!("{command:?}"),
        status: output.status.to_string(),
        stderr: one_line(&output.stderr),
    })
}

/// Text of a program on one line.
pub(crate) fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_run_and_their_failures_told() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-here"), None);
        assert_eq!(run("sh", ["-c", "echo done"]).unwrap(), "done");
        let failed = run("sh", ["-c", "echo why >&2; exit 3"]).unwrap_err();
        let text = failed.to_string();
        assert!(text.contains('3') && text.ends_with("why"), "{text}");
    }
}
