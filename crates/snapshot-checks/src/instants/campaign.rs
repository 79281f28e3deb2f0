//! Which guests run, and the verdict on each.

use std::io;
use std::path::Path;

use serde_json::Value;
use snapshot_memory::skip::skip;
use tinyvm::Program;

use super::census::Census;
use super::options::Options;
use super::process::{self, NoReport};
use super::task::{Report, Taken, Task};
use crate::campaign::Tally;
use crate::random::Random;
use crate::stored_guest::Failure;

/// Snapshots that a run takes at most; each is a diff of the one before.
const MOST_SNAPSHOTS: u64 = 3;

/// One in so many restored guests is snapshotted again, and that restored as well.
const AGAIN: u64 = 3;

/// Runs guests until enough snapshots were restored.
pub(super) fn run(options: &Options) -> Result<Tally, Failure> {
    let tally = Tally::new("instants", "differences");
    if let Err(error) = tinyvm::kvm_available() {
        skip("kvm", &error.to_string());
        return Ok(tally);
    }
    let mut campaign = Campaign {
        options,
        random: options.common.random(),
        tally,
        census: Census::default(),
    };
    let mut programs = Vec::new();
    for program in options.programs() {
        let Some(expected) = campaign.undisturbed(program)? else {
            return Ok(campaign.tally);
        };
        programs.push((program, expected));
    }
    let mut rounds = programs.iter().cycle();
    while let Some((program, expected)) = rounds.next()
        && !campaign.is_over()
    {
        campaign.round(*program, expected)?;
    }
    println!("states of vCPUs: {}", campaign.census);
    Ok(campaign.tally)
}

struct Campaign<'o> {
    options: &'o Options,
    random: Random,
    tally: Tally,
    census: Census,
}

impl Campaign<'_> {
    fn is_over(&self) -> bool {
        self.tally.tried() >= self.options.count || self.options.common.is_enough(&self.tally)
    }

    /// How a guest ends that nobody stops; two must end alike.
    fn undisturbed(&mut self, program: Program) -> io::Result<Option<Value>> {
        let dir = self.options.common.place()?;
        let task = self.task(dir.path(), program, None, 0);
        let (once, again) = (self.start(&task), self.start(&task));
        match (&once, &again) {
            (Ok(once), Ok(again)) if once == again && once.repeated == 0 => {
                Ok(Some(once.outcome.clone()))
            }
            _ => {
                self.differs(program, "undisturbed", &format!("{once:?}, then {again:?}"));
                Ok(None)
            }
        }
    }

    /// One run with snapshots, and one from each of them.
    fn round(&mut self, program: Program, expected: &Value) -> io::Result<()> {
        let dir = self.options.common.place()?;
        let snapshots = 1 + self.random.below(MOST_SNAPSHOTS);
        let task = self.task(dir.path(), program, None, snapshots);
        let original = self.start(&task);
        let Some(original) = self.judge(program, "the original", 0, expected, original) else {
            return Ok(());
        };
        for taken in &original.taken {
            if self.is_over() {
                break;
            }
            self.instant(program, dir.path(), taken, expected);
        }
        Ok(())
    }

    /// Restores one snapshot, and now and then one of what was restored.
    fn instant(&mut self, program: Program, dir: &Path, taken: &Taken, expected: &Value) {
        let again = u64::from(self.random.below(AGAIN) == 0);
        let task = self.task(dir, program, Some(taken), again);
        let restored = self.start(&task);
        let what = format!("restored from {:?}", taken.moment);
        self.count(taken);
        let Some(restored) = self.judge(program, &what, 1, expected, restored) else {
            return;
        };
        for second in &restored.taken {
            let what = format!("{what}, and again from {:?}", second.moment);
            let task = self.task(dir, program, Some(second), 0);
            let last = self.start(&task);
            self.count(second);
            self.judge(program, &what, 2, expected, last);
        }
    }

    /// An instant after the end is no instant: it is tried, and not counted.
    fn count(&mut self, taken: &Taken) {
        if !taken.ended {
            self.tally.tries();
            self.census.add(&taken.census);
        }
    }

    fn judge(
        &mut self,
        program: Program,
        what: &str,
        restores: u32,
        expected: &Value,
        report: Result<Report, NoReport>,
    ) -> Option<Report> {
        let problem = match &report {
            Err(error) => error.to_string(),
            Ok(report) if report.outcome != *expected => difference(expected, &report.outcome),
            Ok(report) if report.repeated > restores => {
                format!("a timer's interrupt came {} times more", report.repeated)
            }
            Ok(_) => return report.ok(),
        };
        self.differs(program, what, &problem);
        None
    }

    fn differs(&mut self, program: Program, what: &str, problem: &str) {
        self.tally
            .differs(&format!("{}, {what}: {problem}", program.name()));
    }

    fn task(&mut self, dir: &Path, program: Program, from: Option<&Taken>, snapshots: u64) -> Task {
        Task {
            dir: dir.to_owned(),
            program,
            from: from.map(|taken| taken.id),
            snapshots,
            seed: self.random.next(),
        }
    }

    fn start(&self, task: &Task) -> Result<Report, NoReport> {
        process::run(
            task,
            self.options.common.sabotage(),
            self.options.common.timeout(),
        )
    }
}

/// The parts of two ends that are not alike.
fn difference(expected: &Value, found: &Value) -> String {
    let mut parts = Vec::new();
    compare("", expected, found, &mut parts);
    parts.join(", ")
}

fn compare(path: &str, expected: &Value, found: &Value, parts: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one
                .keys()
                .chain(other.keys().filter(|name| !one.contains_key(*name)));
            for name in names {
                let path = format!("{path}/{name}");
                let value = |of: &serde_json::Map<_, _>| of.get(name).cloned().unwrap_or_default();
                compare(&path, &value(one), &value(other), parts);
            }
        }
        (one, other) if one != other => parts.push(format!("{path}: {one} is {other}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_names_what_is_not_alike_and_no_more() {
        let one = json!({"a": 1, "b": {"c": 2, "d": 3}});
        let other = json!({"a": 1, "b": {"c": 4, "e": 5}});
        assert_eq!(
            difference(&one, &other),
            "/b/c: 2 is 4, /b/d: 3 is null, /b/e: null is 5"
        );
        assert_eq!(difference(&one, &one), "");
    }
}
