//! On what the figures were measured.

use std::fmt;
use std::fs;
use std::path::Path;

use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

/// The machine, as far as the figures depend on it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    kernel: String,
    cpu: String,
    cpus: usize,
    mem_bytes: u64,
    /// Type, device and options of the file system that is written to.
    file_system: String,
    /// Processes that wanted to run in the minute before: 0 on a quiet machine.
    load_before: String,
}

impl Machine {
    /// Looks at the machine and at the file system that `dir` is on.
    pub(crate) fn look(dir: &Path) -> Self {
        let unknown = || "unknown".to_owned();
        let proc = |file: &str| fs::read_to_string(Path::new("/proc").join(file)).ok();
        Self {
            kernel: uname().map_or_else(|_| unknown(), |name| name.release().display().to_string()),
            cpu: proc("cpuinfo")
                .and_then(|text| value(&text, "model name").map(str::to_owned))
                .unwrap_or_else(unknown),
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            mem_bytes: proc("meminfo")
                .and_then(|text| value(&text, "MemTotal")?.strip_suffix(" kB")?.parse().ok())
                .map_or(0, |kib: u64| kib * 1024),
            file_system: proc("self/mounts")
                .and_then(|text| file_system(&text, &dir.canonicalize().ok()?))
                .unwrap_or_else(unknown),
            load_before: proc("loadavg")
                .and_then(|text| text.split(' ').next().map(str::to_owned))
                .unwrap_or_else(unknown),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel,
            cpu,
            cpus,
            mem_bytes,
            file_system,
            load_before,
        } = self;
        let gib = mem_bytes >> 30;
        write!(
            f,
            "machine: Linux {kernel}, {cpus} x {cpu}, {gib} GiB, {file_system}, load {load_before}"
        )
    }
}

/// The value of the first line `name : value`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// The mount with the longest path that holds `dir`.
fn file_system(mounts: &str, dir: &Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (device, at) = (words.next()?, words.next()?);
            let (kind, options) = (words.next()?, words.next()?);
            dir.starts_with(at)
                .then(|| (at.len(), format!("{kind} ({options}) on {device}")))
        })
        .max_by_key(|(len, _)| *len)
        .map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_is_named() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw,size=1g 0 0\n";
        let of = |dir: &str| file_system(mounts, Path::new(dir));
        assert_eq!(of("/tmp/x").unwrap(), "tmpfs (rw,size=1g) on tmpfs");
        assert_eq!(of("/tmpfoo").unwrap(), "ext4 (rw) on /dev/vda");
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::look(&std::env::temp_dir());
        assert!(machine.mem_bytes > 0 && machine.cpus > 0);
        assert_ne!(machine.file_system, "unknown");
        assert!(machine.to_string().starts_with("machine: Linux "));
    }
}
