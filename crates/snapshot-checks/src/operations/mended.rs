//! A bit of a file of a snapshot is flipped, and repaired: a copy of what was damaged is aside, and
//! nothing is ever worse.

use std::ops::ControlFlow;

use snapshot_memory::backend::RelPath;
use snapshot_store::{RepairOutcome, RepairedFile};

use super::damage::{Damage, contents, holds_memory};
use super::found::Allowed;
use super::plan::Plan;
use super::world::World;
use crate::random::Random;
use crate::stored_guest::tell;

/// What a repair makes again out of what is there: the memory and the placement.
fn is_mendable(path: &RelPath) -> bool {
    let is_placement = path.name().starts_with("place.");
    path.as_str().starts_with("snapshots/") && (holds_memory(path) || is_placement)
}

/// Flips a bit, has it repaired, and looks at everything; in words, what it was.
pub(super) fn repair(world: &mut World, random: &mut Random) -> Result<Option<String>, String> {
    world.release();
    let Some(damage) = Damage::choose(world, random, &is_mendable)? else {
        return Ok(None);
    };
    let Some(key) = damage.needed_by.first().copied() else {
        return Ok(None);
    };
    let what = format!("repair {key}");
    damage.put(world, &damage.bytes.0, &damage.bytes.1)?;
    let id = *world.ids.get(&key).ok_or("no identity")?;
    let report = world
        .store
        .repair(id, None, &mut |_| ControlFlow::Continue(()))
        .map_err(|error| damage.tell(&format!("{what}: {}", tell(&error))))?;
    let (sound, damaged) = (&damage.bytes.0, &damage.bytes.1);
    match report.outcome {
        RepairOutcome::Mended => {
            for file in report
                .files
                .iter()
                .filter(|file| file.file == damage.path.as_str())
            {
                is_aside(world, file, damaged)
                    .map_err(|problem| damage.tell(&format!("{what}: {problem}")))?;
            }
        }
        // Nothing that counts was damaged.
        RepairOutcome::Sound => damage.put(world, damaged, sound)?,
        // In a unit of several pages nobody looks for the bit, and no other snapshot may have them.
        RepairOutcome::Lost => {
            if contents(world, &damage.path)? != *damaged {
                let problem = format!("{what} is in vain, and changed it: {:?}", report.files);
                return Err(damage.tell(&problem));
            }
            damage.put(world, damaged, sound)?;
        }
        outcome @ RepairOutcome::Partly => {
            let problem = format!("{what} ends with {outcome:?}: {:?}", report.files);
            return Err(damage.tell(&problem));
        }
    }
    let plan = Plan::new(what.clone(), world.model.clone(), |_| Ok(()));
    world
        .settle(&plan, Allowed::After)
        .map_err(|problem| damage.tell(&format!("{what}, afterwards: {problem}")))?;
    Ok(Some(format!("{what}: {:?}", report.outcome)))
}

/// That what was damaged is aside, byte for byte.
fn is_aside(world: &World, file: &RepairedFile, damaged: &[u8]) -> Result<(), String> {
    let aside = file.quarantined.as_ref().ok_or("no copy is aside")?;
    let mut path = RelPath::root();
    for part in aside.split('/') {
        path = path.join(part).map_err(|error| tell(&error))?;
    }
    let copy = contents(world, &path)?;
    if copy == damaged {
        return Ok(());
    }
    Err(format!("{aside} is no copy of what was damaged"))
}
