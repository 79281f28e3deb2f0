//! `vmsnap prune [VM]`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;
use snapshot_format::{SnapshotId, VmName};
use snapshot_store::{
    ConsolidationPlan, ConsolidationReport, FailedConsolidation, PrunePlan, RefusedRemoval, Store,
    VmPolicy,
};

use crate::answer::Answer;
use crate::chain_rules::{ChainRules, show_chains};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::pacing::Pacing;
use crate::quantity::counted;
use crate::retention_rules::RetentionRules;
use crate::retention_view::{hold, show_plan};
use crate::view::short;

/// Moves the snapshots to the trash that a policy does not keep, and makes long chains shorter.
#[derive(Args, Debug)]
pub(crate) struct Prune {
    /// The virtual machine; without it, all that have snapshots
    vm: Option<VmName>,

    #[command(flatten)]
    rules: RetentionRules,

    #[command(flatten)]
    chains: ChainRules,

    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    pacing: Pacing,
}

#[derive(Default, Serialize)]
struct Pruned {
    dry_run: bool,
    machines: Vec<PrunePlan>,
    removed: Vec<SnapshotId>,
    refused: Vec<RefusedRemoval>,
    chains: Vec<ConsolidationPlan>,
    consolidated: Vec<ConsolidationReport>,
    failed: Vec<FailedConsolidation>,
}

impl Prune {
    /// Whether it changes the store.
    pub(crate) fn changes(&self) -> bool {
        !self.dry_run
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        self.pacing.begin()?;
        let store = context.open_to(self.changes())?;
        let now = now_unix_ms();
        let mut pruned = Pruned {
            dry_run: self.dry_run,
            ..Pruned::default()
        };
        // All plans before the first deed: a policy that cannot be used stops everything.
        for (vm, policy) in self.policies(context, &store)? {
            let mut removed = BTreeSet::new();
            if let Some(retention) = &policy.retention {
                let plan = store.plan_prune(&vm, retention, now);
                let plan = plan.map_err(|error| context.failure(&error))?;
                removed.extend(plan.plan.removals().map(|decision| decision.id));
                pruned.machines.push(plan);
            }
            if let Some(chains) = &policy.consolidation {
                let plan = store.plan_consolidation(&vm, chains, &removed);
                let plan = plan.map_err(|error| context.failure(&error))?;
                pruned.chains.push(plan);
            }
        }
        self.apply(context, &store, &mut pruned)?;
        let is_unmet = |plan: &PrunePlan| !plan.plan.unmet.is_empty();
        let exit = if pruned.machines.iter().any(is_unmet) {
            Exit::Failed
        } else if pruned.refused.is_empty() && pruned.failed.is_empty() {
            Exit::Done
        } else {
            Exit::PartlyDone
        };
        let answer = context.answer("vmsnap.prune.v1", &pruned, tell)?;
        Ok(answer.ending(exit))
    }

    /// Does what was planned, unless it is only to be shown.
    fn apply(&self, context: &Context, store: &Store, pruned: &mut Pruned) -> Result<(), Failure> {
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
        for plan in pruned.chains.iter().filter(|_| !self.dry_run) {
            context.check_interrupt()?;
            let control = self.pacing.control(context.progress("consolidate", 0));
            let control = control.cancel(context.interrupt.cancel());
            let done = store.consolidate_planned(plan, &control);
            let done = done.map_err(|error| context.failure(&error))?;
            pruned.consolidated.extend(done.consolidated);
            pruned.failed.extend(done.failed);
        }
        Ok(())
    }

    /// The machines that are pruned, each with its policy.
    fn policies(
        &self,
        context: &Context,
        store: &Store,
    ) -> Result<Vec<(VmName, VmPolicy)>, Failure> {
        let given = VmPolicy::default()
            .retention(self.rules.policy())
            .consolidation(self.chains.policy());
        let says_nothing =
            |policy: &VmPolicy| policy.retention.is_none() && policy.consolidation.is_none();
        let mut chosen = Vec::new();
        for vm in self.machines(context, store)? {
            let policy = if says_nothing(&given) {
                let stored = store.policy(&vm);
                stored.map_err(|error| context.failure(&error))?
            } else {
                given.clone()
            };
            if !says_nothing(&policy) {
                chosen.push((vm, policy));
            } else if self.vm.is_some() {
                return Err(Failure::usage(format!("VM {vm} has no policy"))
                    .hint("give what to keep, as --keep-last 7, or see `vmsnap policy set`"));
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
    for plan in &pruned.chains {
        text.push_str(&show_chains(plan));
    }
    for report in &pruned.consolidated {
        let (id, files) = (short(report.id), report.files_before);
        let copied = counted(report.copied_pages, "page");
        let _ = writeln!(
            text,
            "{id} needed {files} data files, and needs {}: {copied} copied",
            report.files_after
        );
    }
    for failed in &pruned.failed {
        let _ = writeln!(
            text,
            "{} keeps its chain: {}",
            short(failed.id),
            failed.problem
        );
    }
    let moved = if pruned.dry_run {
        "would move"
    } else {
        "moved"
    };
    let count = counted(pruned.removed.len() as u64, "snapshot");
    text + &format!("{moved} {count} to the trash\n")
}
