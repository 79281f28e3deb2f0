//! A socket that VMMs find by its path.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::HandlerError;

/// Listens at a path, for its owner alone, and takes the path away in the end.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Listener {
    /// A socket at `path`. One that a handler left behind which has ended is replaced; nothing
    /// else is.
    pub(super) fn bind(path: &Path) -> Result<Self, HandlerError> {
        let failed = |call| {
            move |errno: Errno| HandlerError::Socket {
                path: path.to_owned(),
                call,
                source: errno.into(),
            }
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None);
        let fd = fd.map_err(failed("make a socket"))?;
        // What a socket is before it has a name, its file becomes: there is no time at which
        // others could connect.
        let owner = Mode::S_IRUSR | Mode::S_IWUSR;
        fchmod(&fd, owner).map_err(failed("keep others from the socket"))?;
        let address = UnixAddr::new(path).map_err(failed("name the socket"))?;
        match bind(fd.as_raw_fd(), &address) {
            Ok(()) => {}
            Err(Errno::EADDRINUSE) => {
                take_away_if_forsaken(path)?;
                bind(fd.as_raw_fd(), &address).map_err(failed("name the socket"))?;
            }
            Err(errno) => return Err(failed("name the socket")(errno)),
        }
        let identity = fs::symlink_metadata(path).ok().as_ref().map(identity_of);
        listen(&fd, Backlog::MAXCONN).map_err(failed("listen"))?;
        Ok(Self {
            socket: UnixListener::from(fd),
            path: path.to_owned(),
            identity,
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path).ok();
        // Another handler may have taken the path since.
        let is_ours = now.is_some() && now.as_ref().map(identity_of) == self.identity;
        if is_ours && let Err(error) = remove(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the socket stays behind");
        }
    }
}

fn identity_of(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn remove(path: &Path) -> Result<(), Errno> {
    unlinkat(AT_FDCWD, path, UnlinkatFlags::NoRemoveDir)
}

/// Removes a socket on which nobody listens.
fn take_away_if_forsaken(path: &Path) -> Result<(), HandlerError> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    let is_forsaken = is_socket && UnixStream::connect(path).is_err_and(refused);
    if !is_forsaken {
        return Err(HandlerError::InTheWay(path.to_owned()));
    }
    remove(path).map_err(|errno| HandlerError::Socket {
        path: path.to_owned(),
        call: "remove the socket that was left behind",
        source: errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // spec: HDL-05
    #[test]
    fn a_socket_is_for_its_owner_and_gone_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pages.sock");
        let listener = Listener::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = Listener::bind(&path);
        assert!(matches!(refused, Err(HandlerError::InTheWay(_))));
        drop(listener);
        assert!(!path.exists());
    }

    // spec: HDL-05
    #[test]
    fn only_a_forsaken_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pages.sock");
        // Dropped as a handler that was killed drops it: the file stays.
        drop(UnixListener::bind(&path).unwrap());
        let first = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists(), "it is the second's");
        drop(second);
        fs::write(&path, "a file").unwrap();
        let refused = Listener::bind(&path);
        assert!(matches!(refused, Err(HandlerError::InTheWay(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }
}
