//! A store that was copied: holes that appear or vanish change nothing.

use std::process::Command;

use crate::sandbox::{PAGE, Sandbox, page, pattern};

fn shell(sandbox: &Sandbox, line: &str) {
    let run = Command::new("sh")
        .args(["-ec", line])
        .current_dir(sandbox.root())
        .output()
        .unwrap();
    assert!(run.status.success(), "{line}: {run:?}");
}

// spec: CLI-15
// spec: CLI-22
#[test]
fn every_way_of_copying_a_store_keeps_every_byte() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(2000, 1);
    // Present pages whose bytes are almost zero, and a page that turns to zero.
    page(&mut memory, 5)[PAGE - 1] = 1;
    let mut images = vec![memory.clone()];
    sandbox.import("vm", &memory, &["--name", "n0"]);
    for round in 1..=3_u8 {
        for at in (usize::from(round)..2000).step_by(37) {
            page(&mut memory, at).fill(round);
        }
        page(&mut memory, 600 + usize::from(round)).fill(0);
        let name = format!("n{round}");
        sandbox.import("vm", &memory, &["--name", &name, "--parent", "vm@latest"]);
        images.push(memory.clone());
    }
    for copy in [
        "cp -a --sparse=always store copy",
        "cp -a --sparse=never store copy",
        "mkdir copy; tar -C store -cf - . | tar -C copy -xf -",
        "mkdir copy; tar -C store -Scf - . | tar -C copy -xf -",
    ] {
        shell(&sandbox, &format!("rm -rf copy; {copy}"));
        for (round, image) in images.iter().enumerate() {
            let reference = format!("vm/n{round}");
            shell(&sandbox, "rm -f restored");
            sandbox.json(&[
                "restore", &reference, "--memory", "restored", "--store", "copy",
            ]);
            assert!(sandbox.read("restored") == *image, "{copy}: {reference}");
        }
        let verified = sandbox.json(&["verify", "--all", "--store", "copy"]);
        assert_eq!(verified["ok"], true, "{copy}: {verified}");
    }
}
