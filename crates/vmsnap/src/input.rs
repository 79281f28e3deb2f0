//! Files that the user names to be read. They lie outside the store and may be anything.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use snapshot_memory::backend::ReadFile;

use crate::exit::Exit;
use crate::failure::Failure;

/// A regular file that is open to be read.
#[derive(Debug)]
pub(crate) struct InputFile {
    /// The file.
    pub(crate) file: File,
    /// Its length in bytes when it was opened.
    pub(crate) len_bytes: u64,
}

impl InputFile {
    /// Opens the regular file `path`; `what` says what it is for.
    pub(crate) fn open(what: &str, path: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io(&format!("open the {what}"), path, &error);
        let file = OpenOptions::new()
            .read(true)
            // Opening a pipe must not wait for its other end.
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            let kind = if found.is_dir() {
                "a directory"
            } else {
                "no regular file"
            };
            return Err(Failure::usage(format!("the {what} is {kind}"))
                .at(path)
                .hint("name a regular file"));
        }
        Ok(Self {
            file,
            len_bytes: found.len(),
        })
    }
}

impl ReadFile for InputFile {
    fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|found| found.len())
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                // It was long enough when it was opened.
                let text = "the file became shorter while it was read";
                return io::Error::new(io::ErrorKind::UnexpectedEof, text);
            }
            error
        })
    }

    fn next_data(&self, _offset: u64) -> io::Result<Option<(u64, u64)>> {
        Ok(None)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.file
            .metadata()
            .map(|found| found.blocks().saturating_mul(512))
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

/// The bytes of the regular file `path`, at most `limit_bytes` of them.
pub(crate) fn read_file(what: &str, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, Failure> {
    let input = InputFile::open(what, path)?;
    let mut bytes = Vec::new();
    input
        .file
        .take(limit_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io(&format!("read the {what}"), path, &error))?;
    if bytes.len() as u64 > limit_bytes {
        return Err(Failure::new(
            Exit::Usage,
            format!("the {what} is longer than {limit_bytes} bytes"),
        )
        .at(path));
    }
    Ok(bytes)
}
