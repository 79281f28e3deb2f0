//! `vmsnap vault scopes`.

use clap::Args;
use serde::Serialize;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{draw, table};
use crate::vault::{Use, VaultOptions};

/// Lists the scopes of a vault, also those that there is no key to.
#[derive(Args, Debug)]
pub(crate) struct Scopes {
    #[command(flatten)]
    vault: VaultOptions,
}

#[derive(Serialize)]
struct Listed {
    vault: String,
    scopes: Vec<View>,
    damaged: Vec<String>,
}

#[derive(Serialize)]
struct View {
    scope: String,
    domain: String,
    sealed: bool,
    keys: u64,
}

impl Scopes {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let vault = self.vault.open(context, Use::Reads)?;
        let failed = |error| vault.failure(&error);
        let (domains, damaged) = vault.vault.domains().map_err(failed)?;
        let mut listed = Listed {
            vault: vault.path.display().to_string(),
            scopes: Vec::new(),
            damaged: damaged
                .iter()
                .map(|error| vault.failure(error).to_string())
                .collect(),
        };
        for domain in domains {
            let keys = vault.vault.keys(domain.id).map_err(failed)?;
            listed.scopes.push(View {
                scope: domain.scope.to_string(),
                domain: domain.id.to_string(),
                sealed: domain.is_sealed,
                keys: keys.len() as u64,
            });
        }
        listed.scopes.sort_by(|a, b| a.scope.cmp(&b.scope));
        context.answer("vmsnap.vault-scopes.v1", &listed, tell)
    }
}

fn tell(listed: &Listed) -> String {
    let mut rows = table(&["SCOPE", "DOMAIN", "SEALED", ">KEYS"]);
    for view in &listed.scopes {
        let sealed = if view.sealed { "yes" } else { "no" };
        let keys = view.keys.to_string();
        rows.add_row([&view.scope, &view.domain, sealed, &keys]);
    }
    let damaged = listed.damaged.iter().map(|problem| format!("{problem}\n"));
    draw(&rows) + &damaged.collect::<String>()
}
