//! `vmsnap vault verify`.

use std::num::NonZeroUsize;

use clap::Args;
use serde::Serialize;
use snapshot_vault::VaultReport;

use crate::answer::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pacing::Pacing;
use crate::quantity::{counted, show_bytes};
use crate::vault::{OpenVault, Use, VaultOptions, exit_of};

/// Reads and checks every byte of a scope, and that no archive lacks a chunk.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    #[command(flatten)]
    vault: VaultOptions,

    #[command(flatten)]
    pacing: Pacing,
}

#[derive(Serialize, Default)]
struct Verified {
    ok: bool,
    vault: String,
    scope: String,
    packs: u64,
    records: u64,
    bytes: u64,
    recipes: u64,
    incomplete: Vec<Incomplete>,
    errors: Vec<Problem>,
}

#[derive(Serialize)]
struct Incomplete {
    archive: String,
    chunk: String,
}

#[derive(Serialize)]
struct Problem {
    kind: &'static str,
    problem: String,
}

impl Verify {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        self.pacing.begin()?;
        let vault = self.vault.open(context, Use::Reads)?;
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let mut verified = Verified {
            vault: vault.path.display().to_string(),
            scope: vault.scope.to_string(),
            ..Verified::default()
        };
        let mut exit = Exit::Done;
        for domain in vault.domains()? {
            let report = domain.verify(threads.saturating_sub(1));
            let report = report.map_err(|error| vault.failure(&error))?;
            for error in &report.problems {
                // What is damaged comes before what is too new, and that before all else.
                exit = match (exit, exit_of(error.kind())) {
                    (Exit::Corrupt, _) | (_, Exit::Corrupt) => Exit::Corrupt,
                    (Exit::TooNew, _) | (_, Exit::TooNew) => Exit::TooNew,
                    (_, other) => other,
                };
            }
            if !report.incomplete.is_empty() {
                exit = Exit::Corrupt;
            }
            verified.add(&report, &vault);
        }
        verified.ok = exit == Exit::Done;
        let answer = context.answer("vmsnap.vault-verify.v1", &verified, tell)?;
        Ok(answer.ending(exit))
    }
}

impl Verified {
    fn add(&mut self, report: &VaultReport, vault: &OpenVault) {
        self.packs += report.packs;
        self.records += report.records;
        self.bytes += report.bytes;
        self.recipes += report.recipes;
        let incomplete = report.incomplete.iter();
        self.incomplete
            .extend(incomplete.map(|(archive, chunk)| Incomplete {
                archive: archive.to_string(),
                chunk: chunk.to_string(),
            }));
        let problems = report.problems.iter();
        self.errors.extend(problems.map(|error| Problem {
            kind: exit_of(error.kind()).name(),
            problem: vault.failure(error).to_string(),
        }));
    }
}

fn tell(verified: &Verified) -> String {
    let first = format!(
        "checked {} in {}: {} and {}, {}",
        show_bytes(verified.bytes),
        counted(verified.packs, "pack"),
        counted(verified.records, "record"),
        counted(verified.recipes, "recipe"),
        if verified.ok {
            "all right"
        } else {
            "damage was found"
        },
    );
    let incomplete = verified.incomplete.iter();
    let incomplete = incomplete
        .map(|lacking| format!("archive {} lacks chunk {}", lacking.archive, lacking.chunk));
    let errors = verified.errors.iter().map(|error| error.problem.clone());
    let lines: Vec<String> = std::iter::once(first)
        .chain(incomplete)
        .chain(errors)
        .collect();
    lines.join("\n")
}
