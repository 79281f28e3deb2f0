//! Readers that hold an image open while other things go on. Every step reads all of it.

use super::model::Model;
use super::plan::Plan;
use crate::random::Random;

/// Images that are held at a time.
const MOST: usize = 4;

/// Opens an image and keeps it open.
pub(super) fn lease(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, _) = model.pick_live(random)?;
    if model.held.len() >= MOST || model.held.contains(&key) {
        return None;
    }
    let mut after = model.clone();
    after.held.insert(key);
    Some(Plan::new(format!("lease {key}"), after, move |hands| {
        let image = hands.store.image(hands.id(key)?)?;
        hands.images.push((key, image));
        Ok(())
    }))
}

/// Closes one.
pub(super) fn release(model: &Model, random: &mut Random) -> Option<Plan> {
    let held: Vec<_> = model.held.iter().copied().collect();
    let key = *random.pick(&held)?;
    let mut after = model.clone();
    after.held.remove(&key);
    Some(Plan::new(format!("release {key}"), after, move |hands| {
        hands.images.retain(|(held, _)| *held != key);
        Ok(())
    }))
}
