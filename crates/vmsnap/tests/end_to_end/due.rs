//! Checks by age and by budget.

use std::fs;

use crate::sandbox::{Sandbox, id, pattern};

// spec: VFY-05
#[test]
fn checks_go_by_age_and_budget_and_leave_the_rest_for_the_next_time() {
    let sandbox = Sandbox::new();
    let memory = pattern(40, 1);
    let all = ["one", "two"].map(|vm| id(&sandbox.import(vm, &memory, &["--verify"])));
    // The check on creation is remembered.
    let due = sandbox.json(&["verify", "--older-than", "1d"]);
    assert_eq!((&due["snapshots"], &due["left"]), (&0.into(), &0.into()));
    let budget = ["verify", "--max-bytes", "1", "--bytes-per-second", "1G"];
    let first = sandbox.json(&budget);
    assert_eq!(
        (&first["snapshots"], &first["left"]),
        (&1.into(), &1.into())
    );
    // Damage in either is found within two runs, whichever is first.
    let data = sandbox.path(&format!("store/snapshots/{}/memory.img", all[0]));
    let mut bytes = fs::read(&data).unwrap();
    bytes[5000] ^= 1;
    fs::remove_file(&data).unwrap();
    fs::write(&data, bytes).unwrap();
    let mut codes = [(); 2].map(|()| sandbox.run(&budget).code);
    codes.sort_unstable();
    assert_eq!(codes, [0, 4]);
    // It stays due, whatever its age.
    let run = sandbox.run(&["--json", "verify", "--older-than", "2w"]);
    let found = run.document();
    assert_eq!((run.code, &found["snapshots"]), (4, &1.into()));
    assert_eq!(found["errors"][0]["snapshot"], all[0]);
    let told = sandbox.run(&budget).stdout;
    assert!(told.contains("1 snapshot left for the next time"), "{told}");
    for wrong in [
        ["verify", "--older-than", "1y"],
        ["verify", "--older-than", "-1d"],
        ["verify", "--max-bytes", "0"],
    ] {
        sandbox.refused(&wrong, 2);
    }
    sandbox.refused(&["verify", "one@latest", "--max-bytes", "1"], 2);
}
