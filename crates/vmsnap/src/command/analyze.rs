//! `vmsnap analyze`, `chain-info` and `diagnose`.

use std::path::PathBuf;

use clap::Args;
use snapshot_memory::{MAX_MAPPINGS, MappingCount};
use snapshot_store::{
    Access, ChainReport, Diagnosis, Location, Reference, SpaceReport, open_metrics,
};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::output_file;
use crate::quantity::{counted, show_bytes};
use crate::table::{draw, table};
use crate::view::short;

/// Shows what takes space, for whom, and what deleting would free.
#[derive(Args, Debug)]
pub(crate) struct Analyze {
    /// Write the figures for a collector to this file, in the place of what is there
    #[arg(long, value_name = "FILE")]
    open_metrics: Option<PathBuf>,
}

/// Shows the data files that the memory of a snapshot lies in.
#[derive(Args, Debug)]
pub(crate) struct ChainInfo {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,
}

/// Looks for what is worth doing something about.
#[derive(Args, Debug)]
pub(crate) struct Diagnose {
    /// The snapshot whose chain is looked at: the heads of all branches unless said
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Option<Reference>,

    /// Read up to 64 MiB of data as well, to see how fast that is
    #[arg(long)]
    disk: bool,
}

impl Analyze {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadOnly)?;
        let failed = |error| context.failure(&error);
        let space = store.space().map_err(failed)?;
        if let Some(path) = &self.open_metrics {
            let text = open_metrics(&space, &store.list(None).map_err(failed)?);
            output_file::replace(path, context.store_path()?, text.as_bytes())?;
        }
        context.answer("vmsnap.analyze.v1", &space, tell_space)
    }
}

impl ChainInfo {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::Auto)?;
        let id = context.resolve(&store, &self.reference)?;
        let chain = store.chain(id).map_err(|error| context.failure(&error))?;
        context.answer("vmsnap.chain-info.v1", &chain, tell_chain)
    }
}

impl Diagnose {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::Auto)?;
        let id = self.reference.as_ref();
        let id = id.map(|text| context.resolve(&store, text)).transpose()?;
        let found = store.diagnose(id, self.disk);
        let found = found.map_err(|error| context.failure(&error))?;
        context.answer("vmsnap.diagnose.v1", &found, tell_findings)
    }
}

fn tell_space(space: &SpaceReport) -> String {
    let mut rows = table(&[
        "ID",
        "VM",
        "STATE",
        ">ON DISK",
        ">FREED",
        ">NEEDED BY",
        ">FILES",
    ]);
    let unknown = || "?".to_owned();
    for one in &space.snapshots {
        let vm = one.vm.as_ref();
        rows.add_row([
            short(one.id),
            vm.map_or_else(unknown, ToString::to_string),
            word(one.location).to_owned(),
            show_bytes(one.allocated_bytes),
            show_bytes(one.exclusive_bytes),
            one.needed_by.to_string(),
            one.chain_files.to_string(),
        ]);
    }
    let mut machines = table(&["VM", ">SNAPSHOTS", ">LIVE", ">TRASH", ">LONGEST CHAIN"]);
    for one in &space.machines {
        machines.add_row([
            one.vm.as_ref().map_or_else(unknown, ToString::to_string),
            one.snapshots.to_string(),
            show_bytes(one.live_bytes),
            show_bytes(one.trash_bytes),
            one.chain_files.to_string(),
        ]);
    }
    format!(
        "{}\n{}\nlive {}, trash {} (of which {} needed by none), cache {}, free {}\n",
        draw(&rows),
        draw(&machines),
        show_bytes(space.live_bytes),
        show_bytes(space.trash_bytes),
        show_bytes(space.trash_unneeded_bytes),
        show_bytes(space.cache_bytes),
        show_bytes(space.free_bytes)
    )
}

fn tell_chain(chain: &ChainReport) -> String {
    let mut rows = table(&[
        "SNAPSHOT",
        "VM",
        "STATE",
        ">GENERATION",
        "LAYOUT",
        ">STORED",
        ">USED",
        ">RUNS",
        ">ON DISK",
    ]);
    for one in &chain.layers {
        rows.add_row([
            short(one.snapshot),
            one.vm
                .as_ref()
                .map_or_else(|| "?".to_owned(), ToString::to_string),
            one.location.map_or("gone", word).to_owned(),
            one.generation.to_string(),
            one.layout.to_owned(),
            one.stored_pages.to_string(),
            one.used_pages.to_string(),
            one.runs.to_string(),
            show_bytes(one.allocated_bytes),
        ]);
    }
    let mappings = match chain.mappings {
        MappingCount::Counted { mappings } => counted(mappings, "mapping"),
        MappingCount::TooMany => format!("more than {MAX_MAPPINGS} mappings"),
        _ => "no mapping".to_owned(),
    };
    format!(
        "{}{}: {} its own, {} inherited, {} zero; {} of the chain unused; {}, {mappings}; \
         consolidating it would write about {}\n",
        draw(&rows),
        counted(chain.pages, "page"),
        chain.own_pages,
        chain.inherited_pages,
        chain.zero_pages,
        chain.waste_pages,
        counted(chain.runs, "run"),
        show_bytes(chain.consolidation_bytes)
    )
}

fn tell_findings(found: &Diagnosis) -> String {
    if found.findings.is_empty() {
        return format!(
            "nothing to do; looked at {}\n",
            counted(found.snapshots, "snapshot")
        );
    }
    let lines = found.findings.iter().map(|one| {
        let what = one.snapshot.map_or_else(|| "the store".to_owned(), short);
        printable(&format!("{what}: {}: {}", one.message, one.advice)) + "\n"
    });
    lines.collect()
}

const fn word(location: Location) -> &'static str {
    match location {
        Location::Live => "live",
        Location::Trash => "trash",
    }
}
