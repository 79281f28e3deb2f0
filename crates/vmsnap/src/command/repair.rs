//! `vmsnap repair REF [--vault PATH] [--dry-run]`.

use std::ops::ControlFlow;

use clap::Args;
use serde::Serialize;
use snapshot_store::{Access, LostRange, Reference, RepairOutcome, RepairReport, RepairSource};
use snapshot_vault::ArchivedCopies;

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, printable};
use crate::pacing::Pacing;
use crate::quantity::{counted, show_bytes};
use crate::table::{draw, table};
use crate::vault::{OpenVault, VaultOptions};
use crate::view::short;

/// Mends a snapshot, and all that it needs, from copies whose digests prove them.
///
/// Copies lie in the store, and in a vault: the one that is named, or the one in the folder of the
/// store, if there is one that can be opened.
#[derive(Args, Debug)]
pub(crate) struct Repair {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Say what would be done, and what is lost, and change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    vault: VaultOptions,

    #[command(flatten)]
    pacing: Pacing,
}

/// A report, and what may still be done where something is lost.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    report: RepairReport,
    vault: Option<String>,
    hint: Option<&'static str>,
}

impl Repair {
    /// Whether it may change the store.
    pub(crate) fn changes(&self) -> bool {
        !self.dry_run
    }

    /// The archives of the vault. Those of the vault that lies in the folder of the store may need a
    /// key that was not given: then there are none.
    fn copies(&self, vault: Option<&OpenVault>) -> Result<Option<ArchivedCopies>, Failure> {
        match vault.map(OpenVault::copies) {
            Some(Err(failure)) if self.vault.is_named() => Err(failure),
            copies => Ok(copies.and_then(Result::ok)),
        }
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        self.pacing.begin()?;
        let access = if self.dry_run {
            Access::Auto
        } else {
            Access::ReadWrite
        };
        let store = context.open(access)?;
        let id = context.resolve(&store, &self.reference)?;
        let vault = self.vault.open_if_there(context)?;
        let mut copies = self.copies(vault.as_ref())?;
        let mut source = copies
            .as_mut()
            .map(|copies| copies as &mut dyn RepairSource);
        let progress = context.progress("repair", 0);
        let mut pace = self.pacing.start(context);
        let mut done = 0;
        let mut tell = |bytes| {
            done += bytes;
            progress.set(done, done);
            match pace.spend(bytes) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let report = if self.dry_run {
            store.plan_repair(id, source.take(), &mut tell)
        } else {
            store.repair(id, source.take(), &mut tell)
        };
        drop(progress);
        let report = report.map_err(|error| context.failure(&error))?;
        let exit = match report.outcome {
            RepairOutcome::Sound | RepairOutcome::Mended => Exit::Done,
            RepairOutcome::Partly => Exit::PartlyDone,
            RepairOutcome::Lost => Exit::Corrupt,
        };
        let is_lost = matches!(report.outcome, RepairOutcome::Partly | RepairOutcome::Lost);
        let asked = copies.is_some();
        let document = Document {
            hint: is_lost.then_some(if asked {
                ARCHIVE_ELSEWHERE
            } else {
                NAME_A_VAULT
            }),
            vault: vault
                .filter(|_| asked)
                .map(|vault| vault.path.display().to_string()),
            report,
        };
        let answer = context.answer("vmsnap.repair.v1", &document, tell_document)?;
        Ok(answer.ending(exit))
    }
}

const NAME_A_VAULT: &str =
    "where it was archived, name the vault with --vault, and its scope and keys";

const ARCHIVE_ELSEWHERE: &str = "no archive of this scope has it: another --vault or --scope may, \
    and so may a copy of the store, imported into this one as another machine";

fn tell_document(document: &Document) -> String {
    let mut text = tell_report(&document.report);
    if let Some(hint) = document.hint {
        text += hint;
        text.push('\n');
    }
    text
}

fn tell_report(report: &RepairReport) -> String {
    let mut text = String::new();
    for file in &report.files {
        let units = match file.damaged_units {
            0 => String::new(),
            all => format!(" ({} of {})", file.mended_units, counted(all, "unit")),
        };
        let verb = match (file.outcome, report.dry_run) {
            (RepairOutcome::Lost, _) => "cannot be mended",
            (RepairOutcome::Partly, true) => "could be mended in part",
            (RepairOutcome::Partly, false) => "mended in part",
            (_, true) => "could be mended",
            (_, false) => "mended",
        };
        let from = match file.from.as_slice() {
            [] => String::new(),
            from => format!(", from {}", from.join(", ")),
        };
        let aside = file.quarantined.as_ref();
        let aside = aside.map_or_else(String::new, |path| format!("; what was there is {path}"));
        let problem = &file.problem;
        text += &printable(&format!("{problem}: {verb}{units}{from}{aside}"));
        text.push('\n');
    }
    let mut rows = table(&["LOST IN", "VM", "REGION", "ADDRESS", ">LENGTH"]);
    for hurt in &report.hurt {
        for range in &hurt.lost {
            let (region, address) = place(range);
            rows.add_row([
                short(hurt.id),
                hurt.vm.to_string(),
                region,
                address,
                show_bytes(range.len_bytes),
            ]);
        }
    }
    if !report.hurt.is_empty() {
        text += &draw(&rows);
    }
    let verdict = match (report.outcome, report.dry_run) {
        (RepairOutcome::Sound, _) => "nothing is wrong",
        (RepairOutcome::Mended, false) => "all is mended",
        (RepairOutcome::Mended, true) => "all of it could be mended",
        (RepairOutcome::Partly, false) => "a part of it is mended",
        (RepairOutcome::Partly, true) => "a part of it could be mended",
        (RepairOutcome::Lost, _) => "no copy is left",
    };
    format!("{text}snapshot {}: {verdict}\n", short(report.id))
}

/// The region and the addresses of a range, for people.
fn place(range: &LostRange) -> (String, String) {
    let region = format!("{} at {:#x}", range.region, range.region_start);
    let last = range.start + (range.len_bytes.max(1) - 1);
    (region, format!("{:#x}-{last:#x}", range.start))
}
