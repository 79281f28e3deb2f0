//! `vmsnap restore REF --memory OUT`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use snapshot_format::{SnapshotId, StateFile};
use snapshot_store::{Access, Reference, Store};

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
        let store = context.open(Access::Auto)?;
        let id = context.resolve(&store, &self.reference)?;
        let state = self
            .state
            .as_deref()
            .map(|path| {
                let bytes = state_bytes(context, &store, id)?;
                let mut output = OutputFile::create(path, context.store_path()?)?;
                let written = output.file().write_all_at(0, &bytes);
                written.map_err(|error| Failure::io("write the state", path, &error))?;
                Ok::<_, Failure>(output)
            })
            .transpose()?;
        let mut memory = OutputFile::create(&self.memory, context.store_path()?)?;
        let memory_bytes = self.write_memory(context, &store, id, &mut memory)?;
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
    let Some(bytes) = bytes else {
        return Err(Failure::new(
            Exit::NotFound,
            format!("snapshot {id} has no machine state"),
        )
        .hint("leave --state out"));
    };
    let kept = StateFile::parse(&bytes).and_then(|file| kept(&file.sections));
    let kept = kept.map_err(|error| Failure::because(Exit::Corrupt, &error))?;
    Ok(kept.unwrap_or(bytes))
}
