//! Inputs made to be believed: nothing wrong may be accepted, and nothing may panic.

mod cache;
mod flips;
mod frames;
mod lengths;
mod lies;
mod records;
mod store;
mod tally;
mod vault;
mod working_set;

use std::error::Error;

use crate::golden;

pub use tally::{Expected, Tally};

/// Runs every hostile input.
pub fn run() -> Result<Tally, Box<dyn Error>> {
    let files = golden::valid()?;
    let mut tally = Tally::default();
    for file in &files {
        tally.expect_valid(file);
        flips::run(file, &mut tally);
        lengths::run(file, &mut tally);
        lies::run(file, &mut tally);
    }
    for file in &golden::corrupt()? {
        tally.judge(
            &file.name,
            "corrupt golden file",
            &file.bytes,
            Expected::Refused,
        );
    }
    frames::run(&mut tally)?;
    store::run(&mut tally)?;
    cache::run(&mut tally)?;
    records::run(&mut tally)?;
    working_set::run(&mut tally)?;
    vault::run(&mut tally)?;
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: VLT-02, VLT-03, VLT-07
    #[test]
    fn vaults_that_lie_give_no_false_memory_and_are_found_out() {
        let mut tally = Tally::default();
        vault::run(&mut tally).unwrap();
        assert!(tally.is_clean(), "{tally}: {:?}", tally.examples());
        assert!(tally.inputs() > 3000, "{tally}");
    }

    // spec: CAC-02
    #[test]
    fn images_of_the_cache_that_lie_are_told_and_never_given_out_as_checked() {
        let mut tally = Tally::default();
        cache::run(&mut tally).unwrap();
        assert!(tally.is_clean(), "{tally}: {:?}", tally.examples());
        assert!(tally.inputs() > 1000, "{tally}");
    }

    // spec: ACC-03, AUD-05, AUD-07, TRE-09
    #[test]
    fn records_that_lie_hide_no_snapshot_and_open_none() {
        let mut tally = Tally::default();
        records::run(&mut tally).unwrap();
        assert!(tally.is_clean(), "{tally}: {:?}", tally.examples());
        assert!(tally.inputs() > 3000, "{tally}");
    }

    // spec: WS-02, WS-03, WS-05, WS-10, WS-12
    #[test]
    fn working_sets_that_lie_give_no_false_memory() {
        let mut tally = Tally::default();
        working_set::run(&mut tally).unwrap();
        assert!(tally.is_clean(), "{tally}: {:?}", tally.examples());
        assert!(tally.inputs() > 5000, "{tally}");
    }

    // spec: MAP-19, MAP-22
    #[test]
    fn frames_that_lie_give_no_false_page() {
        let mut tally = Tally::default();
        frames::run(&mut tally).unwrap();
        assert!(tally.is_clean(), "{tally}: {:?}", tally.examples());
        assert!(tally.inputs() > 1000, "{tally}");
    }
}
