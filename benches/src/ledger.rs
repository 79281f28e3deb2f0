//! Rows as they come in, kept in a file from the first on.

use std::path::PathBuf;

use crate::error::BenchError;
use crate::machine::Machine;
use crate::report::Report;
use crate::row::Row;

/// The rows of a run so far: a run that is killed keeps those of the cases that it had finished.
#[derive(Debug)]
pub(crate) struct Ledger {
    report: Report,
    /// Where they are kept as JSON, if anywhere.
    path: Option<PathBuf>,
}

impl Ledger {
    /// No rows, of a run on `machine`; kept in the file at `path`.
    pub(crate) fn new(machine: Machine, path: Option<PathBuf>) -> Self {
        let rows = Vec::new();
        Self {
            report: Report { machine, rows },
            path,
        }
    }

    /// Takes the rows of a case that is finished, and writes all that there are.
    pub(crate) fn add(&mut self, rows: Vec<Row>) -> Result<(), BenchError> {
        self.report.rows.extend(rows);
        match &self.path {
            Some(path) => self.report.write(path),
            None => Ok(()),
        }
    }

    /// All that was measured.
    pub(crate) fn into_report(self) -> Report {
        self.report
    }
}

#[cfg(test)]
impl Ledger {
    /// The rows that `run` adds.
    pub(crate) fn of(run: impl FnOnce(&mut Self) -> Result<(), BenchError>) -> Vec<Row> {
        let mut ledger = Self::new(Machine::look(&std::env::temp_dir()), None);
        run(&mut ledger).unwrap();
        ledger.report.rows
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn row(case: &str) -> Row {
        let mut row = Row::default();
        case.clone_into(&mut row.case);
        row
    }

    #[test]
    fn what_is_finished_is_in_the_file_before_the_next_case_begins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.json");
        let machine = Machine::look(dir.path());
        let mut ledger = Ledger::new(machine, Some(path.clone()));
        assert!(!path.exists());
        for (number, case) in (1..).zip(["one", "two", "three"]) {
            // Whoever reads the old file while a new one is written sees the old one.
            let old = fs::File::open(&path).ok();
            ledger.add(vec![row(case)]).unwrap();
            let kept = Report::read(&path).unwrap();
            assert_eq!(kept.rows.len(), number);
            assert_eq!(kept.rows.last(), Some(&row(case)));
            if let Some(old) = old {
                let old: Report = serde_json::from_reader(old).unwrap();
                assert_eq!(old.rows.len(), number - 1);
            }
            // Nothing else is left beside it.
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
        assert_eq!(Report::read(&path).unwrap(), ledger.into_report());
    }
}
