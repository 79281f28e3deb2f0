//! Space given back: deleted snapshots collected, and policies applied.

use std::num::NonZeroU32;

use snapshot_format::VmName;
use snapshot_store::GarbageOptions;
use snapshot_store::retention::{KeepRule, RetentionPolicy};

use super::model::{Model, VMS};
use super::plan::Plan;
use crate::random::Random;

/// What was deleted and nobody needs goes for good, and files that newer placements superseded.
pub(super) fn collect(model: &Model, _: &mut Random) -> Option<Plan> {
    model.trash().next()?;
    let mut after = model.clone();
    after.snapshots.retain(|_, kept| kept.is_live);
    let plan = Plan::new("gc", after, |hands| {
        let report = hands.store.collect(&GarbageOptions::default())?;
        if !report.is_complete() {
            hands.violation = Some(format!("gc is not complete: {:?}", report.problems));
        }
        Ok(())
    });
    // What is still needed stays.
    Some(plan.may_do_a_part())
}

/// The newest of a machine are kept; of the others, whatever nothing holds goes to the trash.
pub(super) fn prune(model: &Model, random: &mut Random) -> Option<Plan> {
    let vm = *random.pick(&VMS)?;
    let count = NonZeroU32::new(1 + u32::try_from(random.below(4)).ok()?)?;
    let mut after = model.clone();
    let own = model.live().filter(|(_, kept)| kept.vm == vm);
    let own: Vec<_> = own.collect();
    let old = own.len().saturating_sub(usize::try_from(count.get()).ok()?);
    for (key, kept) in own.iter().take(old) {
        let is_held = kept.is_protected || model.held.contains(key);
        after
            .snapshots
            .entry(*key)
            .and_modify(|kept| kept.is_live = is_held);
    }
    let vm = VmName::new(vm).ok()?;
    let what = format!("prune {vm} but for {count}");
    let plan = Plan::new(what, after, move |hands| {
        let policy = RetentionPolicy::default().keep(KeepRule::Last { count });
        let plan = hands.store.plan_prune(&vm, &policy, u64::MAX)?;
        hands.store.prune(&plan).map(drop)
    });
    // Heads of branches and what is needed by a reader stay.
    Some(plan.may_do_a_part())
}
