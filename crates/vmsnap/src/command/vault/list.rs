//! `vmsnap vault list`.

use clap::Args;
use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_vault::{ArchivedSnapshot, Domain, VaultError};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::quantity::show_bytes;
use crate::table::{draw, table};
use crate::vault::{OpenVault, Use, VaultOptions};
use crate::view::short;

/// Lists the archives of a scope, oldest first within each virtual machine.
#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    vault: VaultOptions,
}

#[derive(Serialize)]
struct Listed {
    vault: String,
    scope: String,
    archives: Vec<View>,
    /// Recipes of writers that go on or have died.
    unfinished: Vec<String>,
    leases: Vec<LeaseView>,
    damaged: Vec<Damaged>,
}

#[derive(Serialize)]
struct View {
    archive: String,
    domain: String,
    sealed: bool,
    id: SnapshotId,
    vm: String,
    seq: u64,
    name: Option<String>,
    branch: String,
    parent: Option<SnapshotId>,
    created_unix_ms: u64,
    memory_bytes: u64,
    state: &'static str,
}

#[derive(Serialize)]
struct LeaseView {
    lease: String,
    archive: String,
}

#[derive(Serialize)]
struct Damaged {
    archive: Option<String>,
    lease: Option<String>,
    problem: String,
}

impl List {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let vault = self.vault.open(context, Use::Reads)?;
        let mut listed = Listed {
            vault: vault.path.display().to_string(),
            scope: vault.scope.to_string(),
            archives: Vec::new(),
            unfinished: Vec::new(),
            leases: Vec::new(),
            damaged: Vec::new(),
        };
        for domain in vault.domains()? {
            listed
                .add(&domain, &vault)
                .map_err(|error| vault.failure(&error))?;
        }
        context.answer("vmsnap.vault-list.v1", &listed, tell)
    }
}

impl Listed {
    fn add(&mut self, domain: &Domain, vault: &OpenVault) -> Result<(), VaultError> {
        let catalog = domain.catalog()?;
        let views = catalog.archives.iter().map(|found| view(domain, found));
        self.archives.extend(views);
        let unfinished = catalog.unfinished.iter().map(ToString::to_string);
        self.unfinished.extend(unfinished);
        let leases = domain.leases()?;
        let views = leases.leases.iter();
        self.leases.extend(views.map(|(lease, archive)| LeaseView {
            lease: lease.to_string(),
            archive: archive.to_string(),
        }));
        let archives = catalog.damaged.iter();
        self.damaged
            .extend(archives.map(|(archive, error)| Damaged {
                archive: Some(archive.to_string()),
                lease: None,
                problem: vault.failure(error).to_string(),
            }));
        let leases = leases.damaged.iter();
        self.damaged.extend(leases.map(|(lease, error)| Damaged {
            archive: None,
            lease: Some(lease.to_string()),
            problem: vault.failure(error).to_string(),
        }));
        Ok(())
    }
}

fn view(domain: &Domain, found: &ArchivedSnapshot) -> View {
    let manifest = &found.manifest;
    let name = found
        .metadata
        .as_ref()
        .and_then(|known| known.name.as_ref());
    View {
        archive: found.archive.to_string(),
        domain: domain.id().to_string(),
        sealed: domain.is_sealed(),
        id: manifest.id,
        vm: manifest.vm.to_string(),
        seq: manifest.seq,
        name: name.map(ToString::to_string),
        branch: manifest.branch.to_string(),
        parent: manifest.parent.map(|parent| parent.id),
        created_unix_ms: manifest.created_unix_ms,
        memory_bytes: manifest.layout.len_bytes(),
        state: if found.is_deleted { "trash" } else { "live" },
    }
}

fn tell(listed: &Listed) -> String {
    let mut rows = table(&[
        "VM", ">SEQ", "NAME", "SNAPSHOT", ">MEMORY", "STATE", "ARCHIVE",
    ]);
    for view in &listed.archives {
        rows.add_row([
            view.vm.clone(),
            view.seq.to_string(),
            view.name.clone().unwrap_or_default(),
            short(view.id),
            show_bytes(view.memory_bytes),
            view.state.to_owned(),
            view.archive.clone(),
        ]);
    }
    let unfinished = listed.unfinished.iter();
    let unfinished = unfinished.map(|id| format!("not finished, or its writer died: {id}"));
    let leases = listed.leases.iter();
    let leases = leases.map(|one| format!("archive {} is leased by {}", one.archive, one.lease));
    let damaged = listed.damaged.iter();
    let damaged = damaged.map(|one| {
        let what = match (&one.archive, &one.lease) {
            (Some(archive), _) => format!("archive {archive}"),
            (None, lease) => format!("lease {}", lease.as_deref().unwrap_or_default()),
        };
        printable(&format!("{what}: {}", one.problem))
    });
    let notes: Vec<String> = unfinished.chain(leases).chain(damaged).collect();
    draw(&rows) + &notes.join("\n")
}
