//! The steps of one store, and the fewest of them that still fail.

use std::collections::BTreeMap;

use super::step::Step;
use super::world::World;
use crate::random::Random;

/// How often the steps of a store that failed are tried again, with fewer of them.
const TRIES: usize = 400;

/// What became of a store.
pub(super) struct Life {
    /// How many steps were made.
    pub(super) steps: u64,
    /// What is wrong, with the steps that it takes.
    pub(super) failure: Option<Failed>,
}

/// Steps that end with something wrong.
pub(super) struct Failed {
    pub(super) problem: String,
    /// What each step did.
    pub(super) story: Vec<String>,
}

/// Makes so many steps with a new store, or until something is wrong. What was done is counted.
pub(super) fn live(
    steps: u64,
    random: &mut Random,
    done: &mut BTreeMap<String, u64>,
    begins: &mut dyn FnMut(),
) -> Result<Life, String> {
    let mut world = World::new()?;
    let mut made = Vec::new();
    for step in 1..=steps {
        begins();
        let Some(next) = Step::choose(&world, random) else {
            return Err("no step can be chosen".to_owned());
        };
        made.push(next);
        match next.run(&mut world) {
            Ok(Some(_)) => *done.entry(next.kind()).or_default() += 1,
            Ok(None) => {}
            Err(problem) => {
                let mut again = |steps: &[Step]| {
                    begins();
                    replay(steps)
                };
                let failure = shrink(made, &mut again).unwrap_or_else(|| Failed {
                    problem: format!("{problem} (it does not come again)"),
                    story: Vec::new(),
                });
                return Ok(Life {
                    steps: step,
                    failure: Some(failure),
                });
            }
        }
    }
    Ok(Life {
        steps,
        failure: None,
    })
}

/// Leaves steps out as long as what remains still fails. `replay` makes steps anew, and tells what
/// is wrong with the last of them.
pub(super) fn shrink<S: Clone>(
    mut steps: Vec<S>,
    replay: &mut dyn FnMut(&[S]) -> Option<Failed>,
) -> Option<Failed> {
    let mut failed = replay(&steps)?;
    let mut tries = 0;
    let mut length = steps.len() / 2;
    while length > 0 {
        let mut at = 0;
        while at < steps.len() && tries < TRIES {
            tries += 1;
            let end = steps.len().min(at + length);
            let (head, tail) = (steps.get(..at), steps.get(end..));
            let fewer = [head.unwrap_or_default(), tail.unwrap_or_default()].concat();
            match replay(&fewer) {
                Some(still) => {
                    steps = fewer;
                    // It may fail earlier now.
                    steps.truncate(still.story.len());
                    failed = still;
                }
                None => at = end,
            }
        }
        length /= 2;
    }
    Some(failed)
}

/// Makes these steps with a new store; `None` where nothing is wrong.
fn replay(steps: &[Step]) -> Option<Failed> {
    let mut world = World::new().ok()?;
    let mut story = Vec::new();
    for step in steps {
        match step.run(&mut world) {
            Ok(did) => story.push(did.unwrap_or_else(|| "nothing".to_owned())),
            Err(problem) => {
                story.push(format!("{step:?}"));
                return Some(Failed { problem, story });
            }
        }
    }
    None
}
