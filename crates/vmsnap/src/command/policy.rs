//! `vmsnap policy show|set|clear|simulate`.

use clap::{Args, Subcommand};
use jiff::civil::DateTime;
use serde::Serialize;
use snapshot_format::VmName;
use snapshot_store::retention::{Age, RetentionPolicy, Schedule, simulate};
use snapshot_store::{Access, VmPolicy};

use crate::answer::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::quantity::{parse_bytes, show_bytes};
use crate::retention_rules::RetentionRules;
use crate::retention_view::{show_calendar, show_policy};

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

    /// Bytes that its snapshots may take, deleted ones included
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    quota: Option<u64>,
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
    policy: VmPolicy,
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
        let retention = self.rules.policy();
        if retention.is_none() && self.quota.is_none() {
            return Err(Failure::usage("the policy says nothing")
                .hint("give what to keep, as --keep-last 7, a cap or --quota"));
        }
        let policy = VmPolicy::default()
            .retention(retention)
            .quota_bytes(self.quota);
        store_policy(context, &self.vm, policy)
    }
}

impl Clear {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        store_policy(context, &self.vm, VmPolicy::default())
    }
}

impl Simulate {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let policy = self.policy(context)?;
        let schedule = Schedule::new(self.from, self.every, self.to);
        let found = simulate(&policy, &schedule);
        let found = found.map_err(|error| Failure::because(Exit::Usage, &error))?;
        context.answer("vmsnap.policy-simulate.v1", &found, show_calendar)
    }

    fn policy(&self, context: &Context) -> Result<RetentionPolicy, Failure> {
        if let Some(policy) = self.rules.policy() {
            return Ok(policy);
        }
        let Some(vm) = &self.vm else {
            return Err(Failure::usage("there is no policy to try")
                .hint("name a VM that has one, or give what to keep"));
        };
        let stored = context.open(Access::ReadOnly)?.policy(vm);
        let stored = stored.map_err(|error| context.failure(&error))?;
        stored
            .retention
            .ok_or_else(|| Failure::usage(format!("VM {vm} has no policy")))
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
        policy,
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
    format!("{}: {retention}; {quota}\n", shown.vm)
}
