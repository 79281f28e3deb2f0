//! Who holds a lock, as the kernel lists it.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use nix::libc::dev_t;
use nix::sys::stat::{major, minor};

/// The processes that hold a `flock` of the file, each once; those of other process namespaces are
/// left out.
pub(super) fn of(device: dev_t, inode: u64) -> io::Result<Vec<u32>> {
    let locks = fs::read_to_string("/proc/locks")?;
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    Ok(parse(&locks, &file))
}

/// The holders of `file`, written `major:minor:inode`, in the text of `/proc/locks`:
/// `1: FLOCK ADVISORY WRITE 321 fe:00:17 0 EOF`. Waiters have `->` after the number.
fn parse(locks: &str, file: &str) -> Vec<u32> {
    let lines = locks.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (kind, _, _) = (words.next()?, words.next()?, words.next()?);
        let (pid, name) = (words.next()?, words.next()?);
        (kind == "FLOCK" && name == file).then(|| pid.parse().ok())?
    });
    lines.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_told_from_waiters_and_from_other_files() {
        let locks = "\
            1: FLOCK  ADVISORY  WRITE 321 fe:00:17 0 EOF\n\
            1: -> FLOCK  ADVISORY  WRITE 322 fe:00:17 0 EOF\n\
            2: POSIX  ADVISORY  WRITE 323 fe:00:17 0 EOF\n\
            3: FLOCK  ADVISORY  READ 324 fe:00:18 0 EOF\n\
            4: FLOCK  ADVISORY  READ 325 fe:00:17 0 EOF\n\
            5: FLOCK  ADVISORY  READ 321 fe:00:17 0 EOF\n\
            6: FLOCK  ADVISORY  READ -1 fe:00:17 0 EOF\n";
        assert_eq!(parse(locks, "fe:00:17"), [321, 325]);
    }
}
