//! A file that the user names to be written: complete under its name, or not there at all.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{RenameFlags, renameat, renameat2};
use snapshot_memory::backend::{Backend, FsBackend, RelPath, WriteFile};

use crate::exit::Exit;
use crate::failure::Failure;

/// A file being written under a temporary name beside its own; it is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct OutputFile {
    directory: FsBackend,
    temporary: RelPath,
    name: OsString,
    path: PathBuf,
    file: Box<dyn WriteFile>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Temporary,
    Named,
    Kept,
}

impl OutputFile {
    /// Makes the temporary file for `path`, exclusively and with mode 0600.
    ///
    /// Refused: a `path` that exists, or that lies in the store at `store`.
    pub(crate) fn create(path: &Path, store: &Path) -> Result<Self, Failure> {
        Self::begin(path, store, false)
    }

    /// The same; with `replaces` `path` may exist.
    fn begin(path: &Path, store: &Path, replaces: bool) -> Result<Self, Failure> {
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return Err(Failure::usage("the output names no file").at(path));
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let failed = |error: io::Error| Failure::io("write the output", path, &error);
        if lies_in(parent, store).map_err(failed)? {
            return Err(Failure::new(Exit::Refused, "the output lies in the store")
                .at(path)
                .hint("write it somewhere else"));
        }
        if !replaces && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let directory = FsBackend::open(parent).map_err(failed)?;
        let (temporary, file) = create_temporary(&directory).map_err(failed)?;
        Ok(Self {
            directory,
            temporary,
            name,
            path: path.to_owned(),
            file,
            stage: Stage::Temporary,
        })
    }

    /// The file, to be written to.
    pub(crate) fn file(&mut self) -> &mut dyn WriteFile {
        self.file.as_mut()
    }

    /// The name that it will have.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the bytes durable and gives the file its name, replacing nothing.
    pub(crate) fn publish(&mut self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::io("write the output", &self.path, &error);
        self.file.sync().map_err(failed)?;
        let root = self.directory.root_fd();
        let flags = RenameFlags::RENAME_NOREPLACE;
        renameat2(
            root,
            self.temporary.as_str(),
            root,
            self.name.as_os_str(),
            flags,
        )
        .map_err(|error| match io::Error::from(error) {
            error if error.kind() == io::ErrorKind::AlreadyExists => exists(&self.path),
            error => Failure::io("name the output", &self.path, &error),
        })?;
        self.stage = Stage::Named;
        self.directory.sync_dir(&RelPath::root()).map_err(|error| {
            Failure::new(
                Exit::DurabilityUncertain,
                format!("sync the directory of the output: {error}"),
            )
            .at(&self.path)
        })
    }

    /// Lets the file stay.
    pub(crate) fn keep(mut self) {
        self.stage = Stage::Kept;
    }
}

/// Writes a whole output, which must not exist.
pub(crate) fn write(path: &Path, store: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut output = OutputFile::create(path, store)?;
    let written = output.file().write_all_at(0, bytes);
    written.map_err(|error| Failure::io("write the output", path, &error))?;
    output.publish()?;
    output.keep();
    Ok(())
}

/// Writes a whole output in the place of what is there: whoever reads it finds the old one or the
/// new one.
pub(crate) fn replace(path: &Path, store: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut output = OutputFile::begin(path, store, true)?;
    let failed = |error: io::Error| Failure::io("write the output", path, &error);
    output.file.write_all_at(0, bytes).map_err(failed)?;
    output.file.sync().map_err(failed)?;
    let root = output.directory.root_fd();
    renameat(
        root,
        output.temporary.as_str(),
        root,
        output.name.as_os_str(),
    )
    .map_err(|error| failed(error.into()))?;
    // It has its name: what fails from here on must not take it away.
    output.stage = Stage::Kept;
    output.directory.sync_dir(&RelPath::root()).map_err(failed)
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        // An error is already on its way to the user; a second one would hide it.
        let _ = match self.stage {
            Stage::Temporary => self.directory.remove_file(&self.temporary),
            Stage::Named => fs::remove_file(&self.path),
            Stage::Kept => Ok(()),
        };
    }
}

fn exists(path: &Path) -> Failure {
    Failure::new(Exit::Exists, "the output exists already")
        .at(path)
        .hint("remove it, or name another file")
}

fn create_temporary(directory: &FsBackend) -> io::Result<(RelPath, Box<dyn WriteFile>)> {
    for attempt in 0..1000_u32 {
        let name = format!(".vmsnap-{}-{attempt}.tmp", std::process::id());
        let path = RelPath::root()
            .join(&name)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        match directory.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|file| (path, file)),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

/// Whether the directory `inner` is `outer` or lies below it, by whichever way it was named.
pub(crate) fn lies_in(inner: &Path, outer: &Path) -> io::Result<bool> {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let outer = identity(outer)?;
    for ancestor in inner.canonicalize()?.ancestors() {
        if identity(ancestor)? == outer {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn entries(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    // spec: CLI-20
    #[test]
    fn an_output_is_complete_or_absent() {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        fs::create_dir(&store).unwrap();
        let path = root.path().join("memory image");

        let mut output = OutputFile::create(&path, &store).unwrap();
        output.file().write_all_at(0, b"half").unwrap();
        drop(output);
        assert_eq!(entries(root.path()), ["store"]);

        let mut output = OutputFile::create(&path, &store).unwrap();
        output.file().write_all_at(0, b"whole").unwrap();
        output.publish().unwrap();
        output.keep();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(entries(root.path()), ["memory image", "store"]);

        let error = OutputFile::create(&path, &store).unwrap_err();
        assert_eq!(error.exit, Exit::Exists);
    }

    // spec: CLI-21
    #[test]
    fn an_output_in_the_store_is_refused_by_every_way_there() {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        fs::create_dir_all(store.join("cache")).unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(store.join("cache"), &link).unwrap();
        for path in [store.join("a"), store.join("cache/a"), link.join("a")] {
            let error = OutputFile::create(&path, &store).unwrap_err();
            assert_eq!(error.exit, Exit::Refused, "{}", path.display());
        }
    }
}
