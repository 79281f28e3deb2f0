//! Making and opening a store.

use std::io;
use std::sync::Arc;

use snapshot_format::{FileKind, Operation, limits};
use snapshot_memory::backend::{Backend, FileAccess, FileSystem, HostIdentity, LockMode, RelPath};

use crate::directory;
use crate::error::{ErrorKind, StoreError};
use crate::feature;
use crate::file;
use crate::header::StoreHeader;
use crate::identity;
use crate::lock;
use crate::options::{Access, OpenOptions};
use crate::recovery;
use crate::store::Store;

impl Store {
    /// Makes a store in the directory that `backend` is rooted at, which must be empty.
    pub fn create(backend: Arc<dyn Backend>, options: &OpenOptions) -> Result<Self, StoreError> {
        let file_system = check_file_system(backend.as_ref(), options.single_host)?;
        if options.access == Access::ReadOnly || file_system.is_read_only {
            return Err(StoreError::ReadOnly);
        }
        check_vacant(backend.as_ref())?;
        make_directory(backend.as_ref(), &directory::lock_directory())?;
        {
            let commit = directory::commit_lock();
            let wait = options.lock_wait;
            let _commit = lock::take(backend.as_ref(), &commit, LockMode::Exclusive, wait)?;
            if exists(backend.as_ref(), &directory::store_file())? {
                return Err(StoreError::Exists {
                    what: "the store".to_owned(),
                });
            }
            for path in directory::all() {
                make_directory(backend.as_ref(), &path)?;
            }
            // Before the header names them, so that no crash leaves a store without them.
            let root = RelPath::root();
            file::sync_dir(backend.as_ref(), &root)
                .map_err(|error| StoreError::io("sync", &root, error))?;
            let writer = this_host(options.host.as_ref())?;
            let header = StoreHeader::new(identity::new_id(), options.single_host, &writer);
            // Last, as it is what makes the directory a store.
            write_header(backend.as_ref(), &header, None)?;
        }
        Self::open(backend, options)
    }

    /// Opens a store, and removes what writers that died left in it, if it can be written to and
    /// [`OpenOptions::clean_up`] is not put off.
    pub fn open(backend: Arc<dyn Backend>, options: &OpenOptions) -> Result<Self, StoreError> {
        let header = read_header(backend.as_ref())?;
        let single_host = options.single_host || header.single_host;
        let file_system = check_file_system(backend.as_ref(), single_host)?;
        let writable = match options.access {
            Access::ReadOnly => false,
            Access::Auto => !file_system.is_read_only,
            Access::ReadWrite if file_system.is_read_only => return Err(StoreError::ReadOnly),
            Access::ReadWrite => true,
        };
        let store = Self::new(backend, header, writable, options);
        if writable && options.clean_up {
            recovery::remove_leftovers(&store);
        }
        Ok(store)
    }

    /// Opens the store, or makes one if the directory is empty.
    pub fn open_or_create(
        backend: Arc<dyn Backend>,
        options: &OpenOptions,
    ) -> Result<Self, StoreError> {
        if exists(backend.as_ref(), &directory::store_file())? {
            return Self::open(backend, options);
        }
        let created = Self::create(Arc::clone(&backend), options);
        let faster = matches!(&created, Err(error) if error.kind() == ErrorKind::Exists);
        // Another process may have made it in the meantime.
        if faster && exists(backend.as_ref(), &directory::store_file())? {
            return Self::open(backend, options);
        }
        created
    }

    /// Fails if the store cannot be written to, and keeps in it who wrote last.
    pub(crate) fn begin_write(&self) -> Result<(), StoreError> {
        if !self.is_writable() {
            return Err(StoreError::ReadOnly);
        }
        let writer = this_host(self.told_host())?;
        if self.header().is_last_writer(&writer) {
            return Ok(());
        }
        let _commit = self.lock_exclusively(&directory::commit_lock())?;
        let mut header = read_header(self.backend())?;
        if !header.is_last_writer(&writer) {
            feature::allow(
                &directory::store_file(),
                header.features,
                Operation::Rewrite,
            )?;
            header.set_last_writer(&writer);
            write_header(self.backend(), &header, self.own_file_access())?;
        }
        Ok(())
    }
}

fn read_header(backend: &dyn Backend) -> Result<StoreHeader, StoreError> {
    let path = directory::store_file();
    match file::read(backend, &path, limits::MAX_ENVELOPE_BYTES) {
        Ok(bytes) => StoreHeader::parse(&path, &bytes),
        Err(error) if error.is_missing_file() => Err(StoreError::NotFound {
            what: "a store (no store.vms in the directory)".to_owned(),
        }),
        Err(error) => Err(error),
    }
}

fn write_header(
    backend: &dyn Backend,
    header: &StoreHeader,
    access: Option<FileAccess>,
) -> Result<(), StoreError> {
    let name = FileKind::Store.file_name(0);
    file::replace(backend, &RelPath::root(), &name, &header.encode(), access)
}

fn this_host(told: Option<&HostIdentity>) -> Result<HostIdentity, StoreError> {
    told.cloned()
        .map_or_else(HostIdentity::current, Ok)
        .map_err(|error| StoreError::io("ask for the identity of", &RelPath::root(), error))
}

fn check_file_system(backend: &dyn Backend, single_host: bool) -> Result<FileSystem, StoreError> {
    let found = backend
        .file_system()
        .map_err(|error| StoreError::io("look at the file system of", &RelPath::root(), error))?;
    if found.is_network && !single_host {
        return Err(StoreError::NetworkFileSystem {
            file_system: found.name,
        });
    }
    Ok(found)
}

/// Fails unless the directory holds nothing but what a store begins with.
fn check_vacant(backend: &dyn Backend) -> Result<(), StoreError> {
    let root = RelPath::root();
    let entries = backend
        .list(&root)
        .map_err(|error| StoreError::io("list", &root, error))?;
    let store_file = FileKind::Store.file_name(0);
    let unfinished = directory::replacement_name(&store_file);
    for entry in entries {
        let name = entry.name.as_str();
        if name == store_file {
            return Err(StoreError::Exists {
                what: "the store".to_owned(),
            });
        }
        let ours = directory::DIRECTORIES.contains(&name) || name == unfinished;
        if !ours && name != "lost+found" {
            return Err(StoreError::Exists {
                what: format!("{name}, which belongs to no store,"),
            });
        }
    }
    Ok(())
}

fn make_directory(backend: &dyn Backend, path: &RelPath) -> Result<(), StoreError> {
    match backend.create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("create", path, error))
        }
        _ => Ok(()),
    }
}

fn exists(backend: &dyn Backend, path: &RelPath) -> Result<bool, StoreError> {
    match backend.metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("look at", path, error)),
    }
}

#[cfg(test)]
mod tests;
