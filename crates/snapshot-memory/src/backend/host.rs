//! Which machine this process runs on, and what kind of file system a backend lies on.

use std::io;

/// A host and one boot of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostIdentity {
    /// The host's name, as `uname` gives it.
    pub host: String,
    /// The `boot_id` of Linux, `kern.bootsessionuuid` of macOS: another one after each boot.
    pub boot_id: [u8; 16],
}

/// The file system below a backend's root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSystem {
    /// Its name, or its magic number in hexadecimal.
    pub name: String,
    /// Whether other hosts may write to it, out of reach of this host's advisory locks.
    pub is_network: bool,
    /// Whether it is mounted for reading only, or this process may not write to the root.
    pub is_read_only: bool,
}

impl HostIdentity {
    /// Asks the kernel.
    pub fn current() -> io::Result<Self> {
        let boot = boot_id()?;
        let digits: String = boot.chars().filter(|c| *c != '-').collect();
        let mut boot_id = u128::from_str_radix(&digits, 16)
            .map_err(|_| io::Error::other(format!("boot_id is {boot:?}")))?
            .to_le_bytes();
        // The bytes in the order in which the kernel prints them.
        boot_id.reverse();
        Ok(Self {
            host: host_name()?,
            boot_id,
        })
    }
}

#[cfg(target_os = "linux")]
fn host_name() -> io::Result<String> {
    line_of("/proc/sys/kernel/hostname")
}

#[cfg(target_os = "linux")]
fn boot_id() -> io::Result<String> {
    line_of("/proc/sys/kernel/random/boot_id")
}

#[cfg(target_os = "linux")]
fn line_of(path: &str) -> io::Result<String> {
    std::fs::read_to_string(path).map(|text| text.trim_end().to_owned())
}

#[cfg(target_os = "macos")]
fn host_name() -> io::Result<String> {
    super::sysctl::text(c"kern.hostname")
}

#[cfg(target_os = "macos")]
fn boot_id() -> io::Result<String> {
    super::sysctl::text(c"kern.bootsessionuuid")
}

impl FileSystem {
    /// Names a file system by the magic number of `statfs` (linux/magic.h and the kernel's
    /// file systems that define theirs apart).
    #[must_use]
    pub fn from_magic(magic: u64, is_read_only: bool) -> Self {
        let known = KNOWN.iter().find(|(number, ..)| *number == magic);
        Self {
            name: known.map_or_else(|| format!("{magic:#x}"), |(_, name, _)| (*name).to_owned()),
            is_network: known.is_some_and(|(.., network)| *network),
            is_read_only,
        }
    }
}

/// Magic number, name, and whether it is a network file system.
const KNOWN: [(u64, &str, bool); 17] = [
    (0xef53, "ext4", false),
    (0x5846_5342, "xfs", false),
    (0x9123_683e, "btrfs", false),
    (0x0102_1994, "tmpfs", false),
    (0x794c_7630, "overlayfs", false),
    (0xf2f5_2010, "f2fs", false),
    (0x2fc1_2fc1, "zfs", false),
    (0x6573_5546, "fuse", true),
    (0x6969, "nfs", true),
    (0xff53_4d42, "cifs", true),
    (0xfe53_4d42, "smb2", true),
    (0x517b, "smb", true),
    (0x00c3_6400, "ceph", true),
    (0x0102_1997, "9p", true),
    (0x7461_636f, "ocfs2", true),
    (0x0116_1970, "gfs2", true),
    (0x0bd0_0bd0, "lustre", true),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_name_and_a_boot() {
        let here = HostIdentity::current().unwrap();
        assert!(!here.host.is_empty());
        assert_ne!(here.boot_id, [0; 16]);
        assert_eq!(here, HostIdentity::current().unwrap());
    }

    #[test]
    fn network_file_systems_are_told_apart() {
        assert!(FileSystem::from_magic(0x6969, false).is_network);
        assert!(!FileSystem::from_magic(0xef53, false).is_network);
        assert_eq!(FileSystem::from_magic(0x1234, false).name, "0x1234");
    }
}
