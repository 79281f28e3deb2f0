//! `vmsnap prune [VM]`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;
use snapshot_format::{SnapshotId, VmName};
use snapshot_store::retention::RetentionPolicy;
use snapshot_store::{PrunePlan, RefusedRemoval, Store};

use crate::answer::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::quantity::counted;
use crate::retention_rules::RetentionRules;
use crate::retention_view::{hold, show_plan};
use crate::view::short;

/// Moves the snapshots to the trash that a policy does not keep.
#[derive(Args, Debug)]
pub(crate) struct Prune {
    /// The virtual machine; without it, all that have snapshots
    vm: Option<VmName>,

    #[command(flatten)]
    rules: RetentionRules,

    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Pruned {
    dry_run: bool,
    machines: Vec<PrunePlan>,
    removed: Vec<SnapshotId>,
    refused: Vec<RefusedRemoval>,
}

impl Prune {
    /// Whether it changes the store.
    pub(crate) fn changes(&self) -> bool {
        !self.dry_run
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open_to(self.changes())?;
        let now = now_unix_ms();
        let mut pruned = Pruned {
            dry_run: self.dry_run,
            machines: Vec::new(),
            removed: Vec::new(),
            refused: Vec::new(),
        };
        // All plans before the first deed: a policy that cannot be used stops everything.
        for (vm, policy) in self.policies(context, &store)? {
            let plan = store.plan_prune(&vm, &policy, now);
            pruned
                .machines
                .push(plan.map_err(|error| context.failure(&error))?);
        }
        for plan in &pruned.machines {
            if self.dry_run {
                let removals = plan.plan.removals().map(|decision| decision.id);
                pruned.removed.extend(removals);
                continue;
            }
            context.check_interrupt()?;
            let report = store.prune(plan);
            let report = report.map_err(|error| context.failure(&error))?;
            pruned.removed.extend(report.removed);
            pruned.refused.extend(report.refused);
        }
        let is_unmet = |plan: &PrunePlan| !plan.plan.unmet.is_empty();
        let exit = if pruned.machines.iter().any(is_unmet) {
            Exit::Failed
        } else if pruned.refused.is_empty() {
            Exit::Done
        } else {
            Exit::PartlyDone
        };
        let answer = context.answer("vmsnap.prune.v1", &pruned, tell)?;
        Ok(answer.ending(exit))
    }

    /// The machines that are pruned, each with its policy.
    fn policies(
        &self,
        context: &Context,
        store: &Store,
    ) -> Result<Vec<(VmName, RetentionPolicy)>, Failure> {
        let given = self.rules.policy();
        let mut chosen = Vec::new();
        for vm in self.machines(context, store)? {
            let policy = if given.is_some() {
                given.clone()
            } else {
                let stored = store.policy(&vm);
                stored.map_err(|error| context.failure(&error))?.retention
            };
            match policy {
                Some(policy) => chosen.push((vm, policy)),
                None if self.vm.is_none() => {}
                None => {
                    return Err(Failure::usage(format!("VM {vm} has no policy"))
                        .hint("give what to keep, as --keep-last 7, or see `vmsnap policy set`"));
                }
            }
        }
        Ok(chosen)
    }

    fn machines(&self, context: &Context, store: &Store) -> Result<Vec<VmName>, Failure> {
        let listing = store.list(self.vm.as_ref());
        let listing = listing.map_err(|error| context.failure(&error))?;
        let records = listing.snapshots.into_iter();
        let machines: BTreeMap<String, VmName> =
            records.map(|record| (record.vm.key(), record.vm)).collect();
        match &self.vm {
            Some(vm) if machines.is_empty() => Err(Failure::new(
                Exit::NotFound,
                format!("VM {vm} has no snapshot"),
            )
            .hint("see `vmsnap list`")),
            _ => Ok(machines.into_values().collect()),
        }
    }
}

/// The time now: which snapshots are in the future.
pub(super) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn tell(pruned: &Pruned) -> String {
    let mut text = String::new();
    for plan in &pruned.machines {
        let _ = writeln!(text, "{}, by the time of {}:", plan.vm, plan.plan.zone);
        text.push_str(&show_plan(&plan.plan));
        let damaged = plan.damaged.len() as u64;
        if damaged > 0 {
            let line = format!("{} cannot be read and stay\n", counted(damaged, "snapshot"));
            text.push_str(&line);
        }
    }
    for refused in &pruned.refused {
        let (id, why) = (short(refused.id), hold(&refused.hold));
        let _ = writeln!(text, "{id} stays: {why}");
    }
    let moved = if pruned.dry_run {
        "would move"
    } else {
        "moved"
    };
    let count = counted(pruned.removed.len() as u64, "snapshot");
    text + &format!("{moved} {count} to the trash\n")
}
