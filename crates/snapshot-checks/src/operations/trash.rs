//! Deleted, brought back, and what may not be deleted.

use snapshot_format::Description;

use super::model::Model;
use super::plan::{End, Plan};
use crate::random::Random;

/// To the trash, unless it is protected or in use.
pub(super) fn delete(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, kept) = model.pick_live(random)?;
    let end = if kept.is_protected || model.held.contains(&key) {
        End::Refused
    } else if model.is_below_held(key) || model.is_current_head(key, kept) {
        End::MaybeRefused
    } else {
        End::Done
    };
    let after = model.with(key, |kept| kept.is_live = false);
    let plan = Plan::new(format!("delete {key}"), after, move |hands| {
        let plan = hands.store.plan_delete(hands.id(key)?)?;
        hands.store.delete(&plan)
    });
    Some(plan.ends(end))
}

/// Back from the trash.
pub(super) fn undelete(model: &Model, random: &mut Random) -> Option<Plan> {
    let all: Vec<_> = model.trash().map(|(key, _)| key).collect();
    let key = *random.pick(&all)?;
    let after = model.with(key, |kept| kept.is_live = true);
    Some(Plan::new(format!("undelete {key}"), after, move |hands| {
        hands.store.undelete(hands.id_in_trash(key)?)
    }))
}

/// Protected, or not any more.
pub(super) fn protect(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, kept) = model.pick_live(random)?;
    let is_protected = !kept.is_protected;
    let after = model.with(key, |kept| kept.is_protected = is_protected);
    let what = format!("protect {key}: {is_protected}");
    Some(Plan::new(what, after, move |hands| {
        let id = hands.id(key)?;
        let change = hands
            .store
            .change_metadata(id, |metadata| metadata.protected = is_protected);
        change.map(drop)
    }))
}

/// Another description.
pub(super) fn describe(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, _) = model.pick_live(random)?;
    let text = format!("about {}", random.next());
    let description = Description::new(&text).ok()?;
    let after = model.with(key, |kept| kept.description = text);
    Some(Plan::new(format!("describe {key}"), after, move |hands| {
        let id = hands.id(key)?;
        let change = hands
            .store
            .change_metadata(id, |metadata| metadata.description = description);
        change.map(drop)
    }))
}
