//! The figures of a store as OpenMetrics text.

use std::collections::BTreeMap;
use std::fmt::Write;

use snapshot_format::VmName;

use super::space::SpaceReport;
use crate::record::Listing;

/// A family of figures: its name, unit and help, and its samples.
struct Family {
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    samples: Vec<(String, String)>,
}

/// The figures of a store: one exposition, complete with its end.
#[must_use]
pub fn open_metrics(space: &SpaceReport, live: &Listing) -> String {
    let mut text = String::new();
    for family in families(space, live) {
        let Family {
            name, unit, help, ..
        } = family;
        // Writing to a string does not fail.
        let _ = writeln!(text, "# TYPE vmsnap_{name} gauge");
        if !unit.is_empty() {
            let _ = writeln!(text, "# UNIT vmsnap_{name} {unit}");
        }
        let _ = writeln!(text, "# HELP vmsnap_{name} {help}");
        for (labels, value) in family.samples {
            let _ = writeln!(text, "vmsnap_{name}{labels} {value}");
        }
    }
    text.push_str("# EOF\n");
    text
}

fn families(space: &SpaceReport, live: &Listing) -> Vec<Family> {
    let mut families = of_machines(space);
    families.push(newest(live));
    families.extend(of_store(space, live));
    families
}

fn of_machines(space: &SpaceReport) -> Vec<Family> {
    let family = |name, unit, help, value: &dyn Fn(&super::MachineSpace) -> u64| Family {
        name,
        unit,
        help,
        samples: space
            .machines
            .iter()
            .map(|machine| (labelled(machine.vm.as_ref()), value(machine).to_string()))
            .collect(),
    };
    let of_live = "Blocks of snapshots in use.";
    let of_trash = "Blocks of deleted snapshots.";
    let of_chain = "Data files of the longest chain.";
    vec![
        family("snapshots", "", "Snapshots in use.", &|one| one.snapshots),
        family("live_bytes", "bytes", of_live, &|one| one.live_bytes),
        family("trash_bytes", "bytes", of_trash, &|one| one.trash_bytes),
        family("chain_files", "", of_chain, &|one| one.chain_files as u64),
    ]
}

fn newest(live: &Listing) -> Family {
    let mut newest: BTreeMap<String, (&VmName, u64)> = BTreeMap::new();
    for record in &live.snapshots {
        // By ascending number: the last one of a machine stays.
        newest.insert(record.vm.key(), (&record.vm, record.created_unix_ms));
    }
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    Family {
        name: "newest_snapshot_timestamp_seconds",
        unit: "seconds",
        help: "When the newest snapshot was made, by the clock of its host.",
        samples: newest
            .into_values()
            .map(|(vm, ms)| (labelled(Some(vm)), seconds(ms)))
            .collect(),
    }
}

fn of_store(space: &SpaceReport, live: &Listing) -> [Family; 4] {
    let family = |name, unit, help, value: u64| Family {
        name,
        unit,
        help,
        samples: vec![(String::new(), value.to_string())],
    };
    let damaged = live.damaged.len() as u64;
    let of_unneeded = "Blocks of deleted snapshots that no snapshot in use needs.";
    [
        family(
            "damaged_snapshots",
            "",
            "Snapshots that cannot be read.",
            damaged,
        ),
        family(
            "trash_unneeded_bytes",
            "bytes",
            of_unneeded,
            space.trash_unneeded_bytes,
        ),
        family(
            "cache_bytes",
            "bytes",
            "Blocks of the cache.",
            space.cache_bytes,
        ),
        family(
            "free_bytes",
            "bytes",
            "Free on the file system.",
            space.free_bytes,
        ),
    ]
}

/// The label of a machine. Names of machines need no escape.
fn labelled(vm: Option<&VmName>) -> String {
    format!("{{vm=\"{}\"}}", vm.map_or("", VmName::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::MachineSpace;

    // spec: ANA-09
    #[test]
    fn an_exposition_has_every_family_once_and_an_end() {
        let machine = MachineSpace {
            vm: VmName::new("web").ok(),
            snapshots: 2,
            live_bytes: 4096,
            trash_bytes: 0,
            chain_files: 3,
        };
        let space = SpaceReport {
            snapshots: Vec::new(),
            machines: vec![MachineSpace::default(), machine],
            live_bytes: 4096,
            trash_bytes: 0,
            trash_unneeded_bytes: 0,
            cache_bytes: 1,
            free_bytes: 2,
        };
        let text = open_metrics(&space, &Listing::default());
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
        for line in [
            "# TYPE vmsnap_snapshots gauge",
            "vmsnap_snapshots{vm=\"web\"} 2",
            "vmsnap_snapshots{vm=\"\"} 0",
            "# UNIT vmsnap_live_bytes bytes",
            "vmsnap_chain_files{vm=\"web\"} 3",
            "vmsnap_damaged_snapshots 0",
            "vmsnap_free_bytes 2",
        ] {
            assert_eq!(
                text.lines().filter(|found| *found == line).count(),
                1,
                "{line}"
            );
        }
        for line in text.lines() {
            assert!(
                line.starts_with("# ") || line.starts_with("vmsnap_"),
                "{line}"
            );
        }
        // A unit ends the name of its family, or a collector refuses all of it.
        for line in text.lines().filter_map(|line| line.strip_prefix("# UNIT ")) {
            let (name, unit) = line.split_once(' ').unwrap();
            assert!(name.ends_with(&format!("_{unit}")), "{line}");
        }
    }
}
