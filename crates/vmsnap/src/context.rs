//! What every command needs: the store, the form of the answer, progress and interrupts.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_memory::backend::FsBackend;
use snapshot_memory::{CompareError, MemoryError, SinkError};
use snapshot_store::{Access, ErrorKind, OpenOptions, Reference, Store, StoreError};

use crate::answer::Answer;
use crate::exit::Exit;
use crate::failure::{Failure, exit_of_io};
use crate::index_place;
use crate::interrupt::Interrupt;
use crate::progress::{Progress, ProgressMode};

/// The options that every command shares.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The directory of the store, if one was named.
    pub(crate) store: Option<PathBuf>,
    /// Whether no other host uses the store, wherever it lies.
    pub(crate) single_host: bool,
    /// Whether the answer is a JSON document.
    pub(crate) json: bool,
    /// Whether notes are left out.
    pub(crate) quiet: bool,
    /// How progress is told.
    pub(crate) progress: ProgressMode,
    /// Whether the user asked to stop.
    pub(crate) interrupt: Interrupt,
}

/// A JSON document: its schema, and the fields of the answer.
#[derive(Serialize)]
struct Document<'a, T> {
    schema: &'static str,
    #[serde(flatten)]
    answer: &'a T,
}

impl Context {
    /// The directory of the store; a usage error where none was named.
    pub(crate) fn store_path(&self) -> Result<&Path, Failure> {
        self.store.as_deref().ok_or_else(|| {
            Failure::usage("no store is named").hint("give --store PATH, or set VMSNAP_STORE")
        })
    }

    /// Opens the store.
    pub(crate) fn open(&self, access: Access) -> Result<Store, Failure> {
        let path = self.store_path()?;
        let backend =
            FsBackend::open(path).map_err(|error| Failure::io("open the store", path, &error))?;
        Store::open(Arc::new(backend), &self.opening(access)).map_err(|error| self.failure(&error))
    }

    /// Opens the store: to be changed, or, for those who only look, without a right to.
    pub(crate) fn open_to(&self, changes: bool) -> Result<Store, Failure> {
        self.open(if changes {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        })
    }

    /// Opens the store to list what is in it: what writers that died left stays where it is.
    pub(crate) fn open_to_list(&self) -> Result<Store, Failure> {
        let path = self.store_path()?;
        let backend =
            FsBackend::open(path).map_err(|error| Failure::io("open the store", path, &error))?;
        Store::open(Arc::new(backend), &OpenOptions::default().clean_up(false))
            .map_err(|error| self.failure(&error))
    }

    /// Where the index of `store` lies, if there is a place for one.
    pub(crate) fn index_place(&self, store: &Store) -> Result<Option<PathBuf>, Failure> {
        let path = self.store_path()?;
        index_place::of(path, store.header().id, store.is_writable())
            .map_err(|error| Failure::io("look at the store", path, &error))
    }

    /// Opens the store, or makes one.
    pub(crate) fn open_or_create(&self) -> Result<Store, Failure> {
        let path = self.store_path()?;
        let backend =
            FsBackend::create(path).map_err(|error| Failure::io("make the store", path, &error))?;
        let options = self.opening(Access::ReadWrite);
        Store::open_or_create(Arc::new(backend), &options).map_err(|error| self.failure(&error))
    }

    /// How stores are opened.
    fn opening(&self, access: Access) -> OpenOptions {
        OpenOptions::default()
            .access(access)
            .single_host(self.single_host)
    }

    /// Which snapshot `text` means.
    pub(crate) fn resolve(&self, store: &Store, text: &Reference) -> Result<SnapshotId, Failure> {
        store.resolve(text).map_err(|error| self.failure(&error))
    }

    /// An error of the store, in the words of the command line.
    pub(crate) fn failure(&self, error: &StoreError) -> Failure {
        let told = Failure::because(exit_of(error.kind()), error).at_offset(error.offset());
        let told = match (error.path(), self.store.as_deref()) {
            (Some(path), Some(store)) => told.concerning(&store.join(path)),
            (None, Some(store)) => told.concerning(store),
            (_, None) => told,
        };
        match error.hint() {
            "" => told,
            hint => told.hint(hint),
        }
    }

    /// An error of taking a snapshot of the file `memory`, in the words of the command line.
    pub(crate) fn import_failure(&self, error: &StoreError, memory: &Path) -> Failure {
        if let StoreError::Sink { source } = error
            && let SinkError::Memory(error) = source.as_ref()
        {
            return memory_failure(error, memory);
        }
        self.failure(error)
    }

    /// An error of comparing `memory` with a snapshot, in the words of the command line.
    pub(crate) fn compare_failure(&self, error: CompareError, memory: &Path) -> Failure {
        match error {
            CompareError::Memory(error) => memory_failure(&error, memory),
            CompareError::Image(source) => self.failure(&source.into()),
            error => Failure::because(Exit::Failed, &error).at(memory),
        }
    }

    /// A failure if the user asked to stop.
    pub(crate) fn check_interrupt(&self) -> Result<(), Failure> {
        self.interrupt
            .check()
            .map_err(|error| Failure::because(Exit::Interrupted, &error))
    }

    /// The answer `value`: as a JSON document, or in the words of `tell`.
    pub(crate) fn answer<T: Serialize>(
        &self,
        schema: &'static str,
        value: &T,
        tell: impl FnOnce(&T) -> String,
    ) -> Result<Answer, Failure> {
        let mut text = if self.json {
            let document = Document {
                schema,
                answer: value,
            };
            serde_json::to_string(&document)
                .map_err(|error| Failure::because(Exit::Failed, &error))?
        } else {
            tell(value)
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(Answer {
            text,
            exit: Exit::Done,
        })
    }

    /// Progress of `phase` towards `total_bytes`.
    pub(crate) fn progress(&self, phase: &'static str, total_bytes: u64) -> Progress {
        Progress::new(self.progress, phase, total_bytes)
    }

    /// Tells people something that is no part of the answer.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(
                std::io::stderr(),
                "vmsnap: {}",
                crate::failure::printable(text)
            );
        }
    }
}

/// An error of reading the memory file at `path`.
pub(crate) fn memory_failure(error: &MemoryError, path: &Path) -> Failure {
    let exit = match error {
        MemoryError::Read { source, .. } => exit_of_io(source.kind()),
        _ => Exit::Failed,
    };
    Failure::because(exit, error).at(path)
}

/// How a run ends that an error of this kind stopped.
pub(crate) fn exit_of(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::Usage => Exit::Usage,
        ErrorKind::NotFound => Exit::NotFound,
        ErrorKind::Corrupt => Exit::Corrupt,
        ErrorKind::Incompatible => Exit::Incompatible,
        ErrorKind::Busy => Exit::Busy,
        ErrorKind::NoSpace => Exit::NoSpace,
        ErrorKind::DurabilityUncertain => Exit::DurabilityUncertain,
        ErrorKind::TooNew => Exit::TooNew,
        ErrorKind::Exists => Exit::Exists,
        ErrorKind::Refused => Exit::Refused,
        ErrorKind::Interrupted => Exit::Interrupted,
        _ => Exit::Failed,
    }
}
