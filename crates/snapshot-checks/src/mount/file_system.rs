//! The file systems that the command is cut on.

use std::fs::File;
use std::path::Path;

use clap::ValueEnum;

use super::MountError;
use super::tool;

/// A journaled or copy-on-write file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FileSystem {
    /// Ordered data, one log.
    Ext4,
    /// A log of metadata, delayed allocation.
    Xfs,
    /// Copy on write, a log of its own for syncs.
    Btrfs,
}

/// Bytes of a sector: what XFS gives direct I/O on a reflinked file.
pub(crate) const SECTOR_BYTES: u32 = 4096;

impl FileSystem {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// The name that `mount` knows, and that `VMSNAP_REQUIRE` uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            // Nothing is left to be done later: background work would blur the cuts.
            Self::Ext4 => (
                "mkfs.ext4",
                &[
                    "-q",
                    "-b",
                    "4096",
                    // Nothing is kept back for root, who may use it: a full disk is full.
                    "-m",
                    "0",
                    "-E",
                    "lazy_itable_init=0,lazy_journal_init=0",
                ],
            ),
            Self::Xfs => ("mkfs.xfs", &["-q", "-s", "size=4096"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q"]),
        }
    }

    /// What this host lacks to make and mount one; `None` if nothing.
    #[must_use]
    pub fn lacking(self) -> Option<String> {
        if !nix::unistd::geteuid().is_root() {
            return Some("loop devices and mounts are for root only".to_owned());
        }
        let mut tools = ["losetup"].iter().chain(self.tools());
        if let Some(tool) = tools.find(|tool| tool::find(tool).is_none()) {
            return Some(format!("{tool} is not installed"));
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("the kernel has no loop devices".to_owned());
        }
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let is_known = known.lines().any(|line| line.trim_start() == self.name());
        (!is_known).then(|| format!("the kernel has no {}", self.name()))
    }

    /// The programs that it cannot be made and worked with without.
    fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["mkfs.ext4"],
            Self::Xfs => &["mkfs.xfs"],
            Self::Btrfs => &["mkfs.btrfs", "btrfs"],
        }
    }

    /// Options of a mount: a log that is committed by a sync or by us, not by a timer, and a
    /// copy that may be mounted although its twin was.
    pub(crate) fn mount_options(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Btrfs => "commit=300",
            Self::Xfs => "nouuid",
        }
    }

    /// Makes an empty one in the file `image`.
    pub fn make(self, image: &Path) -> Result<(), MountError> {
        let (program, options) = self.mkfs();
        let options = options.iter().map(AsRef::as_ref);
        tool::run(program, options.chain([image.as_os_str()])).map(drop)
    }

    /// Commits the log of the one that is mounted at `root`, without writing file data back: what
    /// the kernel does on its own every few seconds.
    pub(crate) fn commit_log(self, root: &Path) -> Result<(), MountError> {
        let mark = root.join("log-mark");
        if self == Self::Btrfs {
            // A sync of a file writes that file's log only; this waits for the whole transaction.
            tool::run(
                "btrfs",
                ["subvolume".as_ref(), "create".as_ref(), mark.as_os_str()],
            )?;
            let arguments = ["subvolume", "delete", "--commit-each"].map(AsRef::as_ref);
            return tool::run("btrfs", arguments.into_iter().chain([mark.as_os_str()])).map(drop);
        }
        let file = File::create(&mark).map_err(MountError::at("create", &mark))?;
        file.sync_all().map_err(MountError::at("sync", &mark))?;
        std::fs::remove_file(&mark).map_err(MountError::at("remove", &mark))
    }

    /// Writes back everything of the one that is mounted at `root`.
    pub(crate) fn flush(root: &Path) -> Result<(), MountError> {
        let dir = File::open(root).map_err(MountError::at("open", root))?;
        nix::unistd::syncfs(&dir).map_err(MountError::at("sync", root))
    }

    /// Lets the kernel forget devices that are gone: btrfs refuses a copy that is older than what
    /// it has seen of the same identity.
    pub(crate) fn forget_stale_devices(self) -> Result<(), MountError> {
        match self {
            Self::Btrfs => tool::run("btrfs", ["device", "scan", "--forget"]).map(drop),
            Self::Ext4 | Self::Xfs => Ok(()),
        }
    }
}
