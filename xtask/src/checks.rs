//! The programs of `snapshot-checks`, which end with one line of counts.

use crate::cargo::{self, Shown};
use crate::failure::Failure;

/// What the last line of a check says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Counts(Vec<(String, u64)>);

impl Counts {
    /// Reads `name: N, name: N`; `None` where the line is anything else.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let pairs = line.split(", ").map(|pair| {
            let (name, number) = pair.split_once(": ")?;
            Some((name.to_owned(), number.parse().ok()?))
        });
        pairs
            .collect::<Option<Vec<_>>>()
            .filter(|pairs| pairs.len() > 1)
            .map(Self)
    }

    /// So many of `what`, and of those so many went wrong.
    pub(crate) fn of(what: &str, tried: u64, wrong: u64) -> Self {
        Self(vec![(what.to_owned(), tried), ("wrong".to_owned(), wrong)])
    }

    /// How many inputs or points there were: the first number.
    pub(crate) fn tried(&self) -> u64 {
        self.0.first().map_or(0, |(_, count)| *count)
    }

    /// How many of them went wrong: all the other numbers.
    pub(crate) fn wrong(&self) -> u64 {
        self.0.iter().skip(1).map(|(_, count)| count).sum()
    }
}

/// The value of `--sabotage`, and the other arguments.
pub(crate) fn parse_args<'a>(args: &[&'a str]) -> Result<(Option<&'a str>, Vec<&'a str>), Failure> {
    let (mut name, mut others) = (None, Vec::new());
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        if arg == "--sabotage" {
            name = Some(
                *args
                    .next()
                    .ok_or_else(|| Failure::usage("--sabotage needs a NAME"))?,
            );
        } else {
            others.push(arg);
        }
    }
    Ok((name, others))
}

/// Refuses arguments that nobody knows.
pub(crate) fn demand_none(args: &[&str]) -> Result<(), Failure> {
    match args.first() {
        None => Ok(()),
        Some(arg) => Err(Failure::usage(format!("unexpected argument {arg:?}"))),
    }
}

/// Runs a check and shows it; the defects are compiled in only when one is asked for.
pub(crate) fn run(bin: &str, sabotage: Option<&str>) -> Result<(Shown, Option<Counts>), Failure> {
    let mut command = cargo::command([
        "run",
        "--quiet",
        "--release",
        "--package",
        "snapshot-checks",
    ]);
    command.args(["--bin", bin]);
    if let Some(name) = sabotage {
        command.args(["--features", "sabotage", "--", "--sabotage", name]);
    }
    let shown = cargo::run_shown(command)?;
    let counts = shown.stdout.last().and_then(|line| Counts::parse(line));
    Ok((shown, counts))
}

/// Runs a check and passes if it ends well, says so in its last line, and tried something.
pub(crate) fn demand(bin: &str, sabotage: Option<&str>) -> Result<(), Failure> {
    let (shown, counts) = run(bin, sabotage)?;
    judge(bin, &shown, counts, false)
}

/// Passes where a program ended well, says so in its last line, and tried something, unless what it
/// needs is not here.
pub(crate) fn judge(
    bin: &str,
    shown: &Shown,
    counts: Option<Counts>,
    has_skipped: bool,
) -> Result<(), Failure> {
    let counts = counts.ok_or_else(|| {
        let status = shown.status;
        Failure::failed(format!("{bin} ended with {status} and no line of counts"))
    })?;
    if !shown.status.success() || counts.wrong() > 0 {
        let wrong = counts.wrong();
        return Err(Failure::failed(format!(
            "{bin} found {wrong} wrong outcomes"
        )));
    }
    if counts.tried() == 0 && !has_skipped {
        return Err(Failure::failed(format!("{bin} tried nothing")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_read_to_the_number() {
        let counts = Counts::parse("hostile inputs: 12, accepted wrong: 1, panics: 2").unwrap();
        assert_eq!((counts.tried(), counts.wrong()), (12, 3));
        for line in [
            "",
            "done",
            "crash points: 3",
            "crash points: many, violations: 0",
        ] {
            assert_eq!(Counts::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_defect_is_taken_out_of_the_arguments_and_the_rest_is_given_back() {
        let args = ["--block", "--sabotage", "x", "--quick"];
        let (name, rest) = parse_args(&args).unwrap();
        assert_eq!(
            (name, rest.as_slice()),
            (Some("x"), &["--block", "--quick"][..])
        );
        demand_none(&rest).unwrap_err();
        demand_none(&[]).unwrap();
        parse_args(&["--sabotage"]).unwrap_err();
    }
}
