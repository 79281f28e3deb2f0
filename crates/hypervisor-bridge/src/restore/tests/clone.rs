//! Restores that make another machine.

use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion, PageRange};
use snapshot_memory::{
    DirtyBitmap, DirtySource, GuestMemorySource, MappedMemory, MappingOptions, VmmWrites,
    WriteMarker,
};

use super::*;
use crate::generation::{GenerationDevice, GenerationEvent, GenerationId};
use crate::identity::{Answer, CloneHook, CloneItem, NewGeneration, PatchMemory, RaiseEvent};

/// Records `change NAME` and `announce NAME`.
struct Hook(Script, &'static str);

impl CloneHook for Hook {
    fn change(&mut self) -> Result<String, StepError> {
        self.0.reach(&format!("change {}", self.1))?;
        Ok(format!("{} 7", self.1))
    }

    fn announce(&mut self) -> Result<(), StepError> {
        self.0.reach(&format!("announce {}", self.1))
    }
}

/// Records `raise`, and the event.
struct Line(Script);

impl RaiseEvent for Line {
    fn raise(&mut self, event: GenerationEvent) -> Result<(), StepError> {
        self.0.reach(&format!("raise {event}"))
    }
}

/// Records `write generation`, and does it.
struct Memory<'m>(Script, &'m MappedMemory);

impl PatchMemory for Memory<'_> {
    fn read(&self, start: GuestAddress, out: &mut [u8]) -> Result<(), StepError> {
        PatchMemory::read(self.1, start, out)
    }

    fn write(&self, start: GuestAddress, bytes: &[u8]) -> Result<(), StepError> {
        self.0.reach("write generation")?;
        PatchMemory::write(self.1, start, bytes)
    }
}

const ID: GenerationId = GenerationId([0xc1; 16]);
/// In the second page of the second region, page 3 of the image.
const ADDRESS: GuestAddress = GuestAddress(0x9ff0);

fn memory() -> MappedMemory {
    let region = |start, len_bytes| MemoryRegion {
        start: GuestAddress(start),
        len_bytes,
    };
    let layout = MemoryLayout::new(vec![region(0, 8192), region(0x8000, 8192)]).unwrap();
    MappedMemory::new(layout, MappingOptions::default()).unwrap()
}

fn clone(
    script: &Script,
    memory: &MappedMemory,
    marker: &WriteMarker,
    overrides: &Overrides,
    fingerprint: &Fingerprint,
) -> Result<RestoreOutcome, RestoreError> {
    let event = GenerationEvent::Interrupt(5);
    let hook = |name| Hook(script.clone(), name);
    let identity = CloneIdentity {
        clock: ClockPolicy::Advance,
        generation: Answer::By(NewGeneration {
            id: ID,
            device: GenerationDevice::new(ADDRESS, event).unwrap(),
            memory: &Memory(script.clone(), memory),
            dirty: Answer::By(marker),
            event: Answer::By(&mut Line(script.clone())),
        }),
        random: Answer::By(&mut hook("random")),
        network: Answer::By(&mut hook("network")),
        vsock: Answer::By(&mut hook("vsock")),
    };
    run_as(
        Restore::clone_of(identity),
        script,
        sections(fingerprint),
        overrides,
    )
}

const CLONE_ORDER: [&str; 16] = [
    "host",
    "take",
    "restore memory",
    "prepare",
    "restore vcpu 0",
    "restore vcpu 1",
    "restore vm",
    "restore devices 2",
    "write generation",
    "change random",
    "change network",
    "change vsock",
    "raise interrupt 5",
    "announce random",
    "announce network",
    "announce vsock",
];

// spec: RES-07
// spec: RES-08
// spec: RES-09
#[test]
fn a_clone_gets_its_identity_after_all_state_and_hears_of_it_last() {
    let (script, memory) = (Script::default(), memory());
    let (mut writes, marker) = VmmWrites::new(memory.layout().clone());
    let none = Overrides::default();
    let outcome = clone(&script, &memory, &marker, &none, &Fingerprint::default()).unwrap();
    assert_eq!(script.reached(), CLONE_ORDER);
    assert_eq!(outcome.clock, ClockPolicy::Advance);

    let mut found = [0; 16];
    PatchMemory::read(&memory, ADDRESS, &mut found).unwrap();
    assert_eq!(found, ID.0);
    let bits = DirtyBitmap::new(4);
    writes.harvest(&bits).unwrap();
    let dirty: Vec<_> = bits.iter_runs().collect();
    assert_eq!(dirty, [PageRange::new(3, 1)], "the next diff must have it");

    let entries = outcome.checklist.unwrap();
    let said: Vec<_> = entries
        .iter()
        .map(|entry| (entry.item, entry.done.clone()))
        .collect();
    let by = |text: &str| Answer::By(text.to_owned());
    let id = by("c1c1c1c1-c1c1-c1c1-c1c1-c1c1c1c1c1c1");
    assert_eq!(
        said,
        [
            (CloneItem::Generation, id),
            (CloneItem::DirtyPage, by("marked at 0x9ff0")),
            (CloneItem::Event, by("interrupt 5")),
            (CloneItem::Random, by("random 7")),
            (CloneItem::Network, by("network 7")),
            (CloneItem::Vsock, by("vsock 7")),
        ]
    );
}

// spec: RES-01
#[test]
fn an_error_at_any_step_of_a_clone_ends_the_restore_there() {
    for (number, step) in CLONE_ORDER.iter().enumerate() {
        let (script, memory) = (Script::breaking(step, Break::Error), memory());
        let (_, marker) = VmmWrites::new(memory.layout().clone());
        let none = Overrides::default();
        let result = clone(&script, &memory, &marker, &none, &Fingerprint::default());
        let failed = result.map(|_| ()).unwrap_err();
        assert_eq!(script.reached(), CLONE_ORDER[..=number], "{failed}");
        let at = match failed {
            RestoreError::Step { step, .. } => step,
            other => panic!("{other}"),
        };
        let item = number.checked_sub(8).map(|number| {
            let items = [
                CloneItem::Generation,
                CloneItem::Random,
                CloneItem::Network,
                CloneItem::Vsock,
            ];
            match (number / 4, items[number % 4]) {
                (0, item) => Step::Change(item),
                (_, CloneItem::Generation) => Step::Announce(CloneItem::Event),
                (_, item) => Step::Announce(item),
            }
        });
        assert!(item.is_none_or(|item| item == at), "{step}: {at}");
    }
}

// spec: RES-06
#[test]
fn what_is_left_out_stands_in_the_checklist_with_its_reason() {
    let script = Script::default();
    let identity = CloneIdentity {
        clock: ClockPolicy::Frozen,
        generation: Answer::waive("the guest was booted without the device"),
        random: Answer::waive("r"),
        network: Answer::waive("n"),
        vsock: Answer::waive("v"),
    };
    let restore = Restore::clone_of(identity);
    let sections = sections(&Fingerprint::default());
    let outcome = run_as(restore, &script, sections, &Overrides::default()).unwrap();
    assert_eq!(script.reached(), CLONE_ORDER[..8]);
    let entries = outcome.checklist.unwrap();
    let why: Vec<_> = entries
        .iter()
        .map(|entry| match &entry.done {
            Answer::Waived(why) => (entry.item, why.as_ref()),
            Answer::By(what) => panic!("{what} was done by nobody"),
        })
        .collect();
    assert_eq!(
        why,
        [
            (
                CloneItem::Generation,
                "the guest was booted without the device"
            ),
            (CloneItem::Random, "r"),
            (CloneItem::Network, "n"),
            (CloneItem::Vsock, "v"),
        ]
    );
}

// spec: RES-10
#[test]
fn the_generation_id_that_the_guest_has_is_refused_as_a_new_one() {
    let (script, memory) = (Script::default(), memory());
    PatchMemory::write(&memory, ADDRESS, &ID.0).unwrap();
    let (mut writes, marker) = VmmWrites::new(memory.layout().clone());
    let none = Overrides::default();
    let result = clone(&script, &memory, &marker, &none, &Fingerprint::default());
    let refused = result.map(|_| ()).unwrap_err();
    assert!(
        matches!(
            refused,
            RestoreError::Step {
                step: Step::Change(CloneItem::Generation),
                ..
            }
        ),
        "{refused}"
    );
    let bits = DirtyBitmap::new(4);
    writes.harvest(&bits).unwrap();
    assert_eq!(bits.count(), 0);
}

#[test]
fn a_clone_that_the_host_cannot_run_is_refused_before_it_is_touched() {
    let (script, memory) = (Script::default(), memory());
    let (_, marker) = VmmWrites::new(memory.layout().clone());
    let refused = clone(&script, &memory, &marker, &Overrides::default(), &needy());
    assert!(matches!(refused, Err(RestoreError::Incompatible { .. })));
    assert_eq!(script.reached(), ["host", "take"]);
}

#[test]
fn bytes_outside_memory_or_across_its_pages_are_refused() {
    let memory = memory();
    for start in [0x2000, 0x8ff8, 0xa000, u64::MAX - 7] {
        let start = GuestAddress(start);
        let mut out = [0; 16];
        assert!(
            PatchMemory::read(&memory, start, &mut out).is_err(),
            "{start}"
        );
        assert!(PatchMemory::write(&memory, start, &out).is_err(), "{start}");
    }
    PatchMemory::write(&memory, GuestAddress(0x8ff0), &[1; 16]).unwrap();
    let mut out = [0; 16];
    // The second region follows the first in the image.
    memory.read(0x2ff0, &mut out).unwrap();
    assert_eq!(out, [1; 16]);
}
