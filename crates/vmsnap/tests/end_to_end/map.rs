//! Where memory lies, and how it would be brought back.

use crate::sandbox::{Sandbox, id, page, pattern};

/// A full snapshot of 400 pages, and a diff of two of them; how many pages are zero after it.
fn chain(sandbox: &Sandbox) -> (String, u64) {
    let mut memory = pattern(400, 1);
    (100..300).for_each(|at| page(&mut memory, at).fill(0));
    sandbox.import("vm", &memory, &["--name", "base", "--layout", "sparse"]);
    page(&mut memory, 7).fill(3);
    page(&mut memory, 350).fill(0);
    let zero = memory
        .chunks(4096)
        .filter(|page| page.iter().all(|byte| *byte == 0));
    let zero = zero.count() as u64;
    let line = ["--parent", "vm/base", "--layout", "packed"];
    (id(&sandbox.import("vm", &memory, &line)), zero)
}

// spec: CLI-60
#[test]
fn every_page_is_counted_by_region_and_by_file() {
    let sandbox = Sandbox::new();
    let (diff, zero) = chain(&sandbox);
    let map = sandbox.json(&["map", &diff]);
    assert_eq!(
        (&map["pages"], &map["zero_pages"]),
        (&400.into(), &zero.into())
    );
    let counts = |file: usize| {
        let file = &map["files"][file];
        (file["layout"].clone(), file["pages"].clone())
    };
    assert_eq!(counts(0), ("sparse".into(), (399 - zero).into()), "{map}");
    assert_eq!(counts(1), ("packed".into(), 1.into()), "{map}");
    assert_eq!(map["regions"][0]["zero_pages"], zero);
    assert_eq!(map["mappings"]["is"], "counted");
    let text = sandbox.run(&["map", &diff]);
    assert!(
        text.stdout
            .contains(&format!("400 pages, {zero} zero; can be mapped in ")),
        "{}",
        text.stdout
    );
}

// spec: CLI-61
#[test]
fn a_plan_names_its_policy_and_why_no_other_way() {
    let sandbox = Sandbox::new();
    let (diff, _) = chain(&sandbox);
    let plan = |options: &[&str]| sandbox.json(&[&["map", &diff, "--plan"], options].concat());

    let lax = plan(&["--verify", "trusted"]);
    assert_eq!(lax["plan"]["method"]["name"], "mapped", "{lax}");
    assert_eq!(lax["plan"]["verification"], "trusted");
    assert_eq!(lax["plan"]["checked_by"], "nobody");
    assert_eq!(lax["plan"]["refused"].as_array().unwrap().len(), 4);

    // Nothing is implied: without a policy no byte is unchecked.
    let open = plan(&[]);
    let policy = open["plan"]["verification"].as_str().unwrap();
    assert!(["on-fault", "eager"].contains(&policy), "{open}");
    assert_eq!(open["plan"]["checked_by"], "digests");
    assert_eq!(open["memory"]["mappings"]["is"], "not-counted");

    let huge = plan(&["--huge-pages", "--threads", "2"]);
    assert_eq!(huge["plan"]["method"]["name"], "eager", "{huge}");
    assert_eq!(huge["plan"]["verification"], "eager");
    assert_eq!(huge["plan"]["threads"], 2);

    let text = sandbox.run(&["map", &diff, "--plan", "--verify", "eager"]);
    assert!(
        text.stdout
            .contains("verification: eager (as named), by the digests"),
        "{}",
        text.stdout
    );
    assert!(
        text.stdout
            .contains("not served: it cannot check pages as eager does")
    );
}

// spec: CLI-62
#[test]
fn a_method_that_cannot_be_is_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    let (diff, _) = chain(&sandbox);
    let line = [
        "map", &diff, "--plan", "--method", "mapped", "--target", "memfd",
    ];
    let refused = sandbox.run(&line);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("the target keeps its own mapping"),
        "{}",
        refused.stderr
    );
    assert_eq!(sandbox.run(&["map", &diff, "--verify", "eager"]).code, 2);
    assert_eq!(sandbox.run(&["map", "vm/none"]).code, 3);
}

// spec: CLI-61
#[test]
fn a_warm_snapshot_is_mapped_as_one_file() {
    let sandbox = Sandbox::new();
    let (diff, _) = chain(&sandbox);
    sandbox.json(&["warm", &diff]);
    let warm = sandbox.json(&["map", &diff, "--plan", "--verify", "trusted"]);
    assert_eq!(warm["plan"]["method"]["from"], "raw-image", "{warm}");
    assert_eq!(warm["plan"]["method"]["mappings"], 1);
}
