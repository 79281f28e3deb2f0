//! The same memory in other files: laid out anew, merged, with a working set, as a raw image.

use std::collections::BTreeSet;

use snapshot_format::{DataLayout, PageRange, SnapshotId, VmName, WorkingSetOrigin};
use snapshot_memory::{
    CaptureControl, ChainLimits, ConsolidateOptions, FrameCodec, PageSource, RelayoutOptions,
    TouchedPages, WorkingSetOptions, write_working_set,
};
use snapshot_store::{ConsolidationPolicy, KeptFiles, Store, StoreError};

use super::model::{Model, PAGES, VMS};
use super::plan::Plan;
use crate::random::Random;

/// Another layout, or the one that it has.
pub(super) fn relayout(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, _) = model.pick_live(random)?;
    let options = match random.below(3) {
        0 => RelayoutOptions::of(DataLayout::Sparse),
        1 => RelayoutOptions::of(DataLayout::Packed),
        _ => RelayoutOptions::compressed(FrameCodec::Lz4),
    };
    let what = format!("relayout {key}: {options:?}");
    Some(Plan::new(what, model.clone(), move |hands| {
        let id = hands.id(key)?;
        hands.store.relayout(id, &options).map(drop)
    }))
}

/// All of the chain in one file, or what is beyond a few files of it.
pub(super) fn consolidate(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, _) = model.pick_live(random)?;
    let max_files = usize::try_from(random.below(6)).ok()?;
    let kept = match max_files {
        0 => KeptFiles::None,
        _ => KeptFiles::ByLimits,
    };
    let limits = ChainLimits::default().max_files(max_files.max(1));
    let layout = *random.pick(&[DataLayout::Sparse, DataLayout::Packed])?;
    let options = ConsolidateOptions::default()
        .limits(limits)
        .relayout(RelayoutOptions::of(layout));
    let what = format!("consolidate {key}: {kept:?}, {max_files}, {layout:?}");
    Some(Plan::new(what, model.clone(), move |hands| {
        let id = hands.id(key)?;
        hands.store.consolidate(id, kept, &options).map(drop)
    }))
}

/// The chains of a machine, as a policy would have them.
pub(super) fn shorten(model: &Model, random: &mut Random) -> Option<Plan> {
    let vm = VmName::new(*random.pick(&VMS)?).ok()?;
    let max_files = 1 + u16::try_from(random.below(5)).ok()?;
    let percent = u8::try_from(random.below(101)).ok()?;
    let policy = ConsolidationPolicy::default()
        .max_files(Some(max_files))
        .max_wasted_percent(Some(percent));
    let what = format!("shorten the chains of {vm}: {max_files} files, {percent} % wasted");
    let plan = Plan::new(what, model.clone(), move |hands| {
        let none = BTreeSet::new();
        let plan = hands.store.plan_consolidation(&vm, &policy, &none)?;
        let control = CaptureControl::default();
        let done = hands.store.consolidate_planned(&plan, &control)?;
        match done.failed.first() {
            None if hands
                .store
                .plan_consolidation(&vm, &policy, &none)?
                .due()
                .next()
                .is_none() => {}
            None => hands.violation = Some("a chain that was shortened is due again".to_owned()),
            Some(failed) => hands.violation = Some(format!("a chain stays: {failed:?}")),
        }
        Ok(())
    });
    Some(plan.may_do_a_part())
}

/// A working set, or none any more.
pub(super) fn working_set(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, _) = model.pick_live(random)?;
    let pages = PageRange::new(random.below(PAGES - 4), random.below(4));
    let what = format!("working set of {key}: {pages:?}");
    Some(Plan::new(what, model.clone(), move |hands| {
        let id = hands.id(key)?;
        if pages.count == 0 {
            hands.store.drop_working_set(id).map(drop)
        } else {
            give_working_set(hands.store, id, pages)
        }
    }))
}

fn give_working_set(store: &Store, id: SnapshotId, pages: PageRange) -> Result<(), StoreError> {
    let image = store.image(id)?;
    let reference = store.snapshot(id)?.reference();
    let mut touched = TouchedPages::new(image.layout().page_count(), WorkingSetOrigin::Named);
    touched.add(pages);
    let mut stage = store.stage_working_set(id)?;
    let options = WorkingSetOptions::default();
    write_working_set(&image, reference, &touched, &options, stage.file())?;
    stage.publish().map(drop)
}

/// A materialised image.
pub(super) fn warm(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, _) = model.pick_live(random)?;
    Some(Plan::new(
        format!("warm {key}"),
        model.clone(),
        move |hands| {
            let id = hands.id(key)?;
            hands.store.warm(id, &CaptureControl::default()).map(drop)
        },
    ))
}

/// No materialised image any more.
pub(super) fn cool(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, _) = model.pick_live(random)?;
    Some(Plan::new(
        format!("cool {key}"),
        model.clone(),
        move |hands| {
            let id = hands.id(key)?;
            hands.store.drop_cached(id).map(drop)
        },
    ))
}
