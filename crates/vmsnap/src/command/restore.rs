//! `vmsnap restore REF --memory OUT`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use snapshot_format::{FileKind, SnapshotId, StateFile};
use snapshot_store::{Access, Reference, Store};
use snapshot_vault::ArchivedKind;

use crate::answer::Answer;
use crate::command::import::kept;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output_file::OutputFile;
use crate::paced_file::PacedFile;
use crate::pacing::Pacing;
use crate::quantity::show_bytes;
use crate::vault::{Use, VaultOptions};

/// Writes the whole memory of a snapshot, merged with all that it stands on.
#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// The raw image to write; it must not exist
    #[arg(long, value_name = "OUT")]
    memory: PathBuf,

    /// The machine state to write; it must not exist
    #[arg(long, value_name = "OUT")]
    state: Option<PathBuf>,

    /// The one in the vault, read straight from there
    #[arg(long)]
    archived: bool,

    #[command(flatten)]
    vault: VaultOptions,

    #[command(flatten)]
    pacing: Pacing,
}

#[derive(Serialize)]
struct Restored {
    id: SnapshotId,
    memory: String,
    memory_bytes: u64,
    allocated_bytes: u64,
    state: Option<String>,
}

impl Restore {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        self.pacing.begin()?;
        if self.archived {
            return self.run_archived(context);
        }
        let store = context.open(Access::Auto)?;
        let id = context.resolve(&store, &self.reference)?;
        let state = self
            .state
            .as_deref()
            .map(|path| {
                let bytes = state_bytes(context, &store, id)?;
                state_output(path, context.store_path()?, &bytes)
            })
            .transpose()?;
        let mut memory = OutputFile::create(&self.memory, context.store_path()?)?;
        let memory_bytes = self.write_memory(context, &store, id, &mut memory)?;
        self.finish(context, id, state, memory, memory_bytes)
    }

    /// Restores from the vault. The store is not opened, and need not be there.
    fn run_archived(&self, context: &Context) -> Result<Answer, Failure> {
        let vault = self.vault.open(context, Use::Reads)?;
        let (domain, found) = vault.find(&self.reference)?;
        let failed = |error| vault.failure(&error);
        let cold = domain.open_archive(found.archive).map_err(failed)?;
        let id = found.manifest.id;
        let state = match self.state.as_deref() {
            None => None,
            Some(path) => {
                let kind = ArchivedKind::Snapshot(FileKind::State);
                let bytes = cold.file(kind, 0).map_err(failed)?;
                let bytes = bytes.ok_or_else(|| no_state(id))?;
                Some(state_output(path, &vault.path, &imported_or_whole(bytes)?)?)
            }
        };
        let Some(image) = cold.memory() else {
            let missing = format!("snapshot {id} has no memory");
            return Err(Failure::new(Exit::NotFound, missing));
        };
        let mut memory = OutputFile::create(&self.memory, &vault.path)?;
        let total = found.manifest.layout.len_bytes();
        {
            let progress = context.progress("restore", total);
            let mut tell = |done: u64| {
                progress.set(done, total);
                context.interrupt.flow()
            };
            let mut file = PacedFile::new(memory.file(), self.pacing.start(context));
            let written = image.write_raw(&mut file, threads(), &mut tell);
            written.map_err(failed)?;
        }
        self.finish(context, id, state, memory, total)
    }

    /// Gives all outputs their names, or none, and says so.
    fn finish(
        &self,
        context: &Context,
        id: SnapshotId,
        state: Option<OutputFile>,
        mut memory: OutputFile,
        memory_bytes: u64,
    ) -> Result<Answer, Failure> {
        let allocated = memory.file().allocated_bytes();
        let restored = Restored {
            id,
            memory: self.memory.display().to_string(),
            memory_bytes,
            allocated_bytes: allocated
                .map_err(|error| Failure::io("measure the output", &self.memory, &error))?,
            state: self.state.as_ref().map(|path| path.display().to_string()),
        };
        let mut outputs: Vec<OutputFile> = state.into_iter().chain([memory]).collect();
        for output in &mut outputs {
            output.publish()?;
        }
        // All of them, or none: an error above removes those that have their names already.
        outputs.into_iter().for_each(OutputFile::keep);
        context.answer("vmsnap.restore.v1", &restored, |restored| {
            format!(
                "wrote {} of memory to {}, {} on disk, every byte verified",
                show_bytes(restored.memory_bytes),
                restored.memory,
                show_bytes(restored.allocated_bytes)
            )
        })
    }

    /// Writes the memory of a snapshot, verified, and gives its length in bytes.
    fn write_memory(
        &self,
        context: &Context,
        store: &Store,
        id: SnapshotId,
        output: &mut OutputFile,
    ) -> Result<u64, Failure> {
        let record = store
            .snapshot(id)
            .map_err(|error| context.failure(&error))?;
        let total = record.layout.len_bytes();
        let progress = context.progress("restore", total);
        // Absolute, as errors take any other path for one below the store.
        let name = std::path::absolute(output.path())
            .map_err(|error| Failure::io("name the output", output.path(), &error))?;
        let name = name.display().to_string();
        let mut tell = |done: u64| {
            progress.set(done, total);
            context.interrupt.flow()
        };
        let mut file = PacedFile::new(output.file(), self.pacing.start(context));
        store
            .restore(id, &mut file, &name, &mut tell)
            .map_err(|error| context.failure(&error))?;
        Ok(total)
    }
}

/// What `--state` writes: the file that was imported, or all sections in a file of their own.
fn state_bytes(context: &Context, store: &Store, id: SnapshotId) -> Result<Vec<u8>, Failure> {
    let bytes = store
        .state_bytes(id)
        .map_err(|error| context.failure(&error))?;
    imported_or_whole(bytes.ok_or_else(|| no_state(id))?)
}

fn no_state(id: SnapshotId) -> Failure {
    let missing = format!("snapshot {id} has no machine state");
    Failure::new(Exit::NotFound, missing).hint("leave --state out")
}

/// The state file that was imported, or the whole `state.vms`.
fn imported_or_whole(bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let kept = StateFile::parse(&bytes).and_then(|file| kept(&file.sections));
    let kept = kept.map_err(|error| Failure::because(Exit::Corrupt, &error))?;
    Ok(kept.unwrap_or(bytes))
}

/// A file with the machine state, under a temporary name; `near` is where it may not lie.
fn state_output(path: &Path, near: &Path, bytes: &[u8]) -> Result<OutputFile, Failure> {
    let mut output = OutputFile::create(path, near)?;
    let written = output.file().write_all_at(0, bytes);
    written.map_err(|error| Failure::io("write the state", path, &error))?;
    Ok(output)
}

/// Threads that decode, beside the one that writes.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
