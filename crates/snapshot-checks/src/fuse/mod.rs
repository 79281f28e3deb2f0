//! The real command on a file system that holds back what was not synced, and loses it at a cut.
//!
//! The file system is a tree in memory that counts every change, served to the kernel by FUSE. The
//! command runs unmodified on it. The power is cut at a change of it, or a change fails for want of
//! space or for a fault of the disk; then a tree that the machine may find afterwards is mounted
//! (what was synced is there, of the rest some, torn or not, names without bytes, bytes without
//! names), and must hold the old set of snapshots or the new one, byte for byte. What the command
//! said was done must be there for good.
//!
//! - `file_system`: a tree, as the kernel asks for it
//! - `mounted`: one that is mounted, until its value is dropped
//! - `options`: the command line
//! - `script`: what the command is made to do
//! - `campaign`: the steps, their cuts, and the verdict

mod campaign;
mod file_system;
mod mounted;
mod options;
mod script;

pub use mounted::Mounted;
pub use options::Options;

/// What this host lacks for it; `None` if nothing.
#[must_use]
pub fn lacking() -> Option<String> {
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    match device {
        Err(error) => Some(format!("/dev/fuse cannot be opened: {error}")),
        Ok(_) if !nix::unistd::geteuid().is_root() => Some("only root may mount".to_owned()),
        Ok(_) => None,
    }
}
