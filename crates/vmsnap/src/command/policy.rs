//! `vmsnap policy show|set|clear|simulate`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::civil::DateTime;
use serde::Serialize;
use snapshot_format::VmName;
use snapshot_store::retention::{Age, RetentionPolicy, Schedule, Simulation, simulate};
use snapshot_store::{Access, ArchivePlace, ChainSimulation, ConsolidationPolicy, VmPolicy};
use snapshot_vault::ScopeName;

use crate::answer::Answer;
use crate::chain_rules::{ChainRules, show_chain_policy};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, printable};
use crate::quantity::{counted, parse_bytes, show_bytes};
use crate::retention_rules::RetentionRules;
use crate::retention_view::{show_calendar, show_policy};
use crate::vault::scope;

/// What is kept of the snapshots of a virtual machine.
#[derive(Subcommand, Debug)]
pub(crate) enum PolicyCommand {
    /// Show the policy of a VM
    Show(Show),
    /// Put a policy in the place of that of a VM
    Set(Set),
    /// Take the policy of a VM away
    Clear(Clear),
    /// Show what a policy keeps of snapshots that are taken by a schedule
    Simulate(Simulate),
}

/// Shows the policy of a VM.
#[derive(Args, Debug)]
pub(crate) struct Show {
    /// The virtual machine
    vm: VmName,
}

/// Sets the policy of a VM, all of it.
#[derive(Args, Debug)]
pub(crate) struct Set {
    /// The virtual machine
    vm: VmName,

    #[command(flatten)]
    rules: RetentionRules,

    #[command(flatten)]
    chains: ChainRules,

    /// Bytes that its snapshots may take, deleted ones included
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    quota: Option<u64>,

    /// The vault that its snapshots are archived in
    #[arg(long, value_name = "PATH")]
    archive: Option<PathBuf>,

    /// The scope of that vault
    #[arg(long, value_name = "SCOPE", requires = "archive", value_parser = scope)]
    archive_scope: Option<ScopeName>,
}

/// Takes the policy of a VM away.
#[derive(Args, Debug)]
pub(crate) struct Clear {
    /// The virtual machine
    vm: VmName,
}

/// Tries a policy over a calendar.
#[derive(Args, Debug)]
pub(crate) struct Simulate {
    /// Whose policy, where no rules are given
    vm: Option<VmName>,

    #[command(flatten)]
    rules: RetentionRules,

    #[command(flatten)]
    chains: ChainRules,

    /// From one snapshot to the next: 1h, 1d
    #[arg(long, value_name = "AGE")]
    every: Age,

    /// The first snapshot: 2026-01-31, or 2026-01-31T12:00
    #[arg(long, value_name = "TIME")]
    from: DateTime,

    /// The end, which has no snapshot
    #[arg(long, value_name = "TIME")]
    to: DateTime,
}

#[derive(Serialize)]
struct Shown {
    vm: VmName,
    policy: ShownPolicy,
}

/// What is set, and nulls for what is not.
#[derive(Serialize)]
struct ShownPolicy {
    retention: Option<RetentionPolicy>,
    quota_bytes: Option<u64>,
    consolidation: Option<ConsolidationPolicy>,
    archive: Option<ArchivePlace>,
}

#[derive(Serialize)]
struct Simulated {
    #[serde(flatten)]
    calendar: Simulation,
    chains: Option<ChainSimulation>,
}

impl PolicyCommand {
    /// Whether it changes the store.
    pub(crate) fn changes(&self) -> bool {
        matches!(self, Self::Set(_) | Self::Clear(_))
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        match self {
            Self::Show(command) => command.run(context),
            Self::Set(command) => command.run(context),
            Self::Clear(command) => command.run(context),
            Self::Simulate(command) => command.run(context),
        }
    }
}

impl Show {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadOnly)?;
        let policy = store.policy(&self.vm);
        let policy = policy.map_err(|error| context.failure(&error))?;
        answer(context, &self.vm, policy)
    }
}

impl Set {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let (retention, chains) = (self.rules.policy(), self.chains.policy());
        let archive = self.archive()?;
        let has_place = self.quota.is_some() || archive.is_some();
        if retention.is_none() && chains.is_none() && !has_place {
            return Err(Failure::usage("the policy says nothing").hint(
                "give what to keep, as --keep-last 7, a cap, --max-files, --quota or --archive",
            ));
        }
        let policy = VmPolicy::default()
            .retention(retention)
            .consolidation(chains)
            .quota_bytes(self.quota)
            .archive(archive);
        store_policy(context, &self.vm, policy)
    }

    fn archive(&self) -> Result<Option<ArchivePlace>, Failure> {
        let Some(path) = &self.archive else {
            return Ok(None);
        };
        // The same wherever a command is run.
        let absolute = std::path::absolute(path)
            .map_err(|error| Failure::io("find the folder of the vault", path, &error))?;
        let vault = absolute.into_os_string().into_string();
        let vault =
            vault.map_err(|_| Failure::usage("the path of the vault is no text").at(path))?;
        let scope = self.archive_scope.as_ref().map(ToString::to_string);
        Ok(Some(ArchivePlace::new(vault, scope)))
    }
}

impl Clear {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        store_policy(context, &self.vm, VmPolicy::default())
    }
}

impl Simulate {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let (policy, chains) = self.policies(context)?;
        let schedule = Schedule::new(self.from, self.every, self.to);
        let found = simulate(&policy, &schedule);
        let calendar = found.map_err(|error| Failure::because(Exit::Usage, &error))?;
        let chains = chains.map(|chains| chains.simulate(calendar.taken));
        let chains = chains.transpose();
        let simulated = Simulated {
            calendar,
            chains: chains.map_err(|error| Failure::because(Exit::Usage, &error))?,
        };
        context.answer("vmsnap.policy-simulate.v1", &simulated, |simulated| {
            let mut text = show_calendar(&simulated.calendar);
            if let Some(chains) = &simulated.chains {
                let cut = counted(chains.cut, "snapshot");
                let longest = counted(chains.longest as u64, "data file");
                let _ = writeln!(text, "chains of {longest} at most; {cut} consolidated");
            }
            text
        })
    }

    fn policies(
        &self,
        context: &Context,
    ) -> Result<(RetentionPolicy, Option<ConsolidationPolicy>), Failure> {
        let chains = self.chains.policy();
        if let Some(policy) = self.rules.policy() {
            return Ok((policy, chains));
        }
        let Some(vm) = &self.vm else {
            return Err(Failure::usage("there is no policy to try")
                .hint("name a VM that has one, or give what to keep"));
        };
        let stored = context.open(Access::ReadOnly)?.policy(vm);
        let stored = stored.map_err(|error| context.failure(&error))?;
        let policy = stored
            .retention
            .ok_or_else(|| Failure::usage(format!("VM {vm} has no policy on what is kept")))?;
        Ok((policy, chains.or(stored.consolidation)))
    }
}

fn store_policy(context: &Context, vm: &VmName, policy: VmPolicy) -> Result<Answer, Failure> {
    let store = context.open(Access::ReadWrite)?;
    let stored = store.set_policy(vm, &policy);
    stored.map_err(|error| context.failure(&error))?;
    answer(context, vm, policy)
}

fn answer(context: &Context, vm: &VmName, policy: VmPolicy) -> Result<Answer, Failure> {
    let shown = Shown {
        vm: vm.clone(),
        policy: ShownPolicy {
            retention: policy.retention,
            quota_bytes: policy.quota_bytes,
            consolidation: policy.consolidation,
            archive: policy.archive,
        },
    };
    context.answer("vmsnap.policy.v1", &shown, tell)
}

fn tell(shown: &Shown) -> String {
    let policy = &shown.policy;
    let retention = policy
        .retention
        .as_ref()
        .map_or_else(|| "everything is kept".to_owned(), show_policy);
    let quota = policy.quota_bytes.map_or_else(
        || "no quota".to_owned(),
        |bytes| format!("at most {}", show_bytes(bytes)),
    );
    let chains = policy
        .consolidation
        .as_ref()
        .map_or_else(|| "chains as they are".to_owned(), show_chain_policy);
    let archive = policy.archive.as_ref().map_or_else(String::new, |place| {
        let scope = place.scope.as_ref();
        let scope = scope.map_or_else(String::new, |scope| format!(", scope {scope}"));
        printable(&format!("; archived in {}{scope}", place.vault))
    });
    format!("{}: {retention}; {chains}; {quota}{archive}\n", shown.vm)
}
