use super::*;

// spec: STO-26
#[test]
fn a_part_of_all_crash_points_holds_the_old_set_or_the_new_one() {
    let report = enumerate(Effort::Reduced).unwrap();
    assert_eq!(report.violations, 0, "{:#?}", report.examples);
    assert!(report.points >= 300, "{} points", report.points);
    assert!(report.sites.len() >= 20, "{:#?}", report.sites);
}
