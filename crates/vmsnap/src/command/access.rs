//! `vmsnap access`.

use clap::Args;
use nix::unistd::{Group, User};
use serde::Serialize;
use snapshot_store::ReadAccess;

use crate::answer::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// Shows or says who may read what the store publishes.
#[derive(Args, Debug)]
pub(crate) struct AccessCommand {
    /// Whose it is to be, by name or number: the owner of the store's directory
    #[arg(long, value_name = "USER")]
    owner: Option<String>,

    /// Which group it is to have, by name or number
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// The permissions of a published file, in octal: 0400, 0440 or 0444
    #[arg(long, value_name = "MODE", value_parser = octal)]
    mode: Option<u32>,

    /// Apply it to what is published already, too
    #[arg(long)]
    apply: bool,
}

#[derive(Serialize)]
struct Told {
    owner: Option<u32>,
    group: Option<u32>,
    mode: String,
}

impl AccessCommand {
    /// Whether the store is changed.
    pub(crate) fn changes(&self) -> bool {
        self.owner.is_some() || self.group.is_some() || self.mode.is_some() || self.apply
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open_to(self.changes())?;
        let failed = |error| context.failure(&error);
        let mut access = store.read_access();
        if self.changes() {
            let owner = self.owner.as_deref().map(user).transpose()?;
            let group = self.group.as_deref().map(group).transpose()?;
            let mode = self.mode.unwrap_or(access.mode);
            access = ReadAccess::new(owner.or(access.owner), group.or(access.group), mode)
                .map_err(failed)?;
            store.set_read_access(access, self.apply).map_err(failed)?;
        }
        let told = Told {
            owner: access.owner,
            group: access.group,
            mode: format!("{:04o}", access.mode),
        };
        context.answer("vmsnap.access.v1", &told, |told| {
            let number = |id: Option<u32>, whose: &str| {
                id.map_or_else(
                    || format!("that of who publishes ({whose})"),
                    |id| id.to_string(),
                )
            };
            format!(
                "owner {}, group {}, mode {}",
                number(told.owner, "user"),
                number(told.group, "group"),
                told.mode
            )
        })
    }
}

/// The number of a user.
fn user(text: &str) -> Result<u32, Failure> {
    let known = || User::from_name(text).map(|found| found.map(|user| user.uid.as_raw()));
    number(text, "user", known)
}

/// The number of a group.
fn group(text: &str) -> Result<u32, Failure> {
    let known = || Group::from_name(text).map(|found| found.map(|group| group.gid.as_raw()));
    number(text, "group", known)
}

fn number(
    text: &str,
    what: &str,
    known: impl FnOnce() -> nix::Result<Option<u32>>,
) -> Result<u32, Failure> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match known() {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(Failure::usage(format!("there is no {what} {text:?} here"))),
        Err(error) => Err(Failure::because(Exit::Failed, &error)),
    }
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .map_err(|_| format!("{text:?} is no mode: write 0400, 0440 or 0444"))
}
