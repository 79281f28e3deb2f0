//! Store after store, and the verdict.

use std::collections::BTreeMap;

use super::life::live;
use super::options::Options;
use crate::campaign::Tally;
use crate::stored_guest::Failure;

/// Makes the steps that were asked for.
pub(super) fn run(options: &Options) -> Result<Tally, Failure> {
    let mut random = options.common.random();
    let mut tally = Tally::new("steps", "violations");
    let watchdog = tally.watch(options.common.timeout())?;
    let mut done = BTreeMap::new();
    while tally.tried() < options.steps && !options.common.is_enough(&tally) {
        let left = options.steps - tally.tried();
        let number = tally.tried();
        let mut begins = || watchdog.begins(format!("the life that began at step {number}"));
        let life = live(left.min(options.life), &mut random, &mut done, &mut begins)?;
        (0..life.steps).for_each(|_| tally.tries());
        if let Some(failed) = life.failure {
            tally.differs(&failed.problem);
            for (number, step) in (1..).zip(&failed.story) {
                println!("  step {number}: {step}");
            }
        }
    }
    let done = done.iter().map(|(what, count)| format!("{what} {count}"));
    println!("done: {}", done.collect::<Vec<_>>().join(", "));
    Ok(tally)
}
