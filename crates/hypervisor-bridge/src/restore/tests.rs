#![expect(clippy::panic, reason = "an unexpected variant fails the test")]

use snapshot_format::SectionPayload;
use snapshot_format::state::{Capability, VcpuX86, VmX86};

#[cfg(target_os = "linux")]
use snapshot_format::{Arch, MemoryLayout, PAGE_BYTES, VmName};
#[cfg(target_os = "linux")]
use snapshot_memory::backend::MemBackend;
#[cfg(target_os = "linux")]
use snapshot_memory::{
    Change, CheckedBy, DirectorySink, KernelFacts, MappedFrom, MappedMemory, MappingOptions,
    MemoryFacts, MemoryImage, Observed, PublishedSnapshot, Refreshed, RestoreCosts, RestoreFrom,
    RestoreMethod, RestorePlan, RestoredMemory, Seen, SnapshotSink, Stability, TargetFacts,
    TargetKind, Verdict, Verification, Wanted, WorkingSet, WorkingSetError, WorkingSetKeeper,
    WorkingSetOptions,
};
#[cfg(target_os = "linux")]
use std::sync::Arc;

use super::*;
#[cfg(target_os = "linux")]
use crate::planned::PlannedMemory;
mod clone;

use crate::testing::{Break, FakeDevices, FakeState, Script};

fn sections(fingerprint: &Fingerprint) -> Vec<SectionPayload> {
    vec![
        SectionPayload::of(0, &VcpuX86::default()),
        SectionPayload::of(1, &VcpuX86::default()),
        SectionPayload::of(0, &VmX86::default()),
        SectionPayload::of(0, fingerprint),
        SectionPayload::of(0, &DeviceState::default()),
        SectionPayload::of(1, &DeviceState::default()),
    ]
}

fn needy() -> Fingerprint {
    Fingerprint {
        vendor: "AuthenticAMD".into(),
        page_bytes: 16384,
        capabilities: vec![Capability {
            number: 7,
            value: 1,
        }],
        ..Fingerprint::default()
    }
}

fn run(
    script: &Script,
    sections: Vec<SectionPayload>,
    overrides: &Overrides,
) -> Result<RestoreOutcome, RestoreError> {
    run_as(
        Restore::resume(ClockPolicy::Frozen),
        script,
        sections,
        overrides,
    )
}

fn run_as(
    restore: Restore<'_>,
    script: &Script,
    sections: Vec<SectionPayload>,
    overrides: &Overrides,
) -> Result<RestoreOutcome, RestoreError> {
    let target = RestoreTarget {
        memory: &mut FakeDevices(script.clone()),
        state: &mut FakeState {
            script: script.clone(),
            ..FakeState::default()
        },
        devices: &mut FakeDevices(script.clone()),
    };
    restore
        .overriding(overrides.clone())
        .run(target, SectionOffers::new(sections))
}

const ORDER: [&str; 8] = [
    "host",
    "take",
    "restore memory",
    "prepare",
    "restore vcpu 0",
    "restore vcpu 1",
    "restore vm",
    "restore devices 2",
];

// spec: RES-04
#[test]
fn a_restore_goes_through_its_steps_in_the_one_order() {
    let script = Script::default();
    let outcome = run(
        &script,
        sections(&Fingerprint::default()),
        &Overrides::default(),
    )
    .unwrap();
    assert_eq!(script.reached(), ORDER);
    assert!(outcome.time.total_ns() > 0);
    assert_eq!(outcome.metrics.restore, Some(outcome.time));
    assert_eq!((outcome.metrics.vcpus, outcome.metrics.pause), (2, None));
    assert_eq!(outcome.clock, ClockPolicy::Frozen);
    assert_eq!((outcome.overridden, outcome.checklist), (vec![], None));
}

/// The memory of a snapshot of four pages, the second of which is not zero.
#[cfg(target_os = "linux")]
fn image() -> MemoryImage {
    let layout = MemoryLayout::single(4 * PAGE_BYTES).unwrap();
    let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
    memory.write(PAGE_BYTES, b"guest").unwrap();
    let disk = Arc::new(MemBackend::new());
    let mut sink = DirectorySink::new(disk.clone(), VmName::new("vm").unwrap(), Arch::host());
    let mut staged = sink.begin().unwrap();
    let pages = snapshot_memory::Pages::Full;
    staged.memory(&memory, pages, Stability::Paused).unwrap();
    let published = staged.seal().unwrap().publish().unwrap().snapshot;
    let snapshot = PublishedSnapshot::open(&*disk, published.id).unwrap();
    snapshot.image(&*disk).unwrap()
}

/// Resumes a guest whose memory comes as planned.
#[cfg(target_os = "linux")]
fn resume(
    plan: &RestorePlan,
    from: &RestoreFrom,
    memory: &Arc<MappedMemory>,
) -> (Result<RestoreOutcome, RestoreError>, Option<RestoredMemory>) {
    let script = Script::default();
    let mut planned = PlannedMemory::new(plan, from, Arc::clone(memory));
    let target = RestoreTarget {
        memory: &mut planned,
        state: &mut FakeState {
            script: script.clone(),
            ..FakeState::default()
        },
        devices: &mut FakeDevices(script),
    };
    let offers = SectionOffers::new(sections(&Fingerprint::default()));
    let outcome = Restore::resume(ClockPolicy::Frozen).run(target, offers);
    (outcome, planned.into_restored())
}

// spec: RES-21
#[test]
#[cfg(target_os = "linux")]
fn the_outcome_says_whether_and_when_pages_are_checked() {
    let from = RestoreFrom::new(Arc::new(image()));
    let target = TargetFacts::new(TargetKind::Anonymous, KernelFacts::default());
    let wanted = Wanted::default();
    let facts = MemoryFacts::of(&from.image, wanted).unwrap();
    let plan = RestorePlan::choose(&facts, &target, wanted, &RestoreCosts::default()).unwrap();
    let fresh = || MappedMemory::new(from.image.layout().clone(), MappingOptions::default());
    let memory = Arc::new(fresh().unwrap());
    let run = |plan: &RestorePlan, memory: &Arc<MappedMemory>| resume(plan, &from, memory);
    let (outcome, restored) = run(&plan, &memory);
    let outcome = outcome.unwrap();
    assert_eq!(outcome.memory.verification, Verification::Eager);
    assert_eq!(outcome.memory.checked_by, CheckedBy::Digests);
    assert_eq!(outcome.memory.copied_bytes, PAGE_BYTES);
    assert_eq!(restored.unwrap().report, outcome.memory);
    let told = serde_json::to_value(&outcome.metrics).unwrap();
    assert_eq!(told["restored_memory"]["verification"], "eager");
    assert_eq!(told["restored_memory"]["method"]["name"], "eager");
    let mut seen = [0; 5];
    memory.read(PAGE_BYTES, &mut seen).unwrap();
    assert_eq!(&seen, b"guest");

    // A plan that cannot be followed ends the restore; nothing else is done instead.
    let other = RestorePlan {
        method: RestoreMethod::Mapped {
            from: MappedFrom::RawImage,
            mappings: 1,
        },
        ..plan
    };
    let (outcome, restored) = run(&other, &Arc::new(fresh().unwrap()));
    let error = outcome.unwrap_err();
    assert!(
        matches!(
            error,
            RestoreError::Step {
                step: Step::RestoreMemory,
                ..
            }
        ),
        "{error}"
    );
    assert!(restored.is_none());
}

/// Has no working set, and takes what a guest touched.
#[cfg(target_os = "linux")]
#[derive(Debug, Default)]
struct Taken(std::sync::Mutex<Vec<(u64, Seen)>>);

#[cfg(target_os = "linux")]
impl WorkingSetKeeper for Taken {
    fn open(&self) -> Result<Option<WorkingSet>, WorkingSetError> {
        Ok(None)
    }

    fn refresh(&self, observed: &Observed) -> Result<Refreshed, WorkingSetError> {
        let touched = observed.touched.pages();
        self.0.lock().unwrap().push((touched, observed.seen));
        let options = WorkingSetOptions::default();
        Ok(Refreshed::kept(Change::of(None, observed, &options)))
    }
}

// spec: WS-18
#[test]
#[cfg(target_os = "linux")]
fn a_restored_guest_hands_on_what_it_touched() {
    let taken = Arc::new(Taken::default());
    let from = RestoreFrom::new(Arc::new(image())).working_set(taken.clone());
    let kernel = KernelFacts::of_host(snapshot_memory::UffdOptions::default());
    let target = TargetFacts::new(TargetKind::Anonymous, kernel);
    let wanted = Wanted::default().method(snapshot_memory::MethodKind::Served);
    let facts = MemoryFacts::of(&from.image, wanted).unwrap();
    let plan = RestorePlan::choose(
        &facts.working_set(1 << 20),
        &target,
        wanted,
        &RestoreCosts::default(),
    );
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return snapshot_memory::skip::skip("uffd", &error.to_string()),
    };
    let memory = MappedMemory::new(from.image.layout().clone(), MappingOptions::default());
    let memory = Arc::new(memory.unwrap());
    let (outcome, restored) = resume(&plan, &from, &memory);
    let told = serde_json::to_value(&outcome.unwrap().metrics).unwrap();
    let set = &told["restored_memory"]["working_set"];
    assert_eq!(
        (&set["fault"], &set["data_pages"]),
        (&"missing".into(), &0.into())
    );
    let mut seen = [0; 5];
    memory.read(PAGE_BYTES, &mut seen).unwrap();
    assert_eq!(&seen, b"guest");
    let refreshed = restored.unwrap().refresh_working_set();
    let refreshed = refreshed.unwrap().unwrap();
    assert_eq!(refreshed.change.verdict, Verdict::First);
    let taken = taken.0.lock().unwrap();
    assert!(matches!(taken[..], [(1..=4, Seen::All)]), "{taken:?}");
}

// spec: RES-01
#[test]
fn an_error_at_any_step_ends_the_restore_there() {
    for (number, step) in ORDER.iter().enumerate() {
        let script = Script::breaking(step, Break::Error);
        let result = run(
            &script,
            sections(&Fingerprint::default()),
            &Overrides::default(),
        );
        assert!(result.is_err(), "{step}");
        assert_eq!(script.reached(), ORDER[..=number]);
    }
}

#[test]
fn an_incompatible_host_is_refused_with_every_reason_before_the_target_is_touched() {
    let script = Script::default();
    let refused = run(&script, sections(&needy()), &Overrides::default()).unwrap_err();
    let RestoreError::Incompatible { reasons } = refused else {
        panic!("{refused}");
    };
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert_eq!(script.reached(), ["host", "take"]);
}

// spec: RES-03
#[test]
fn overrides_cover_what_they_name_and_never_the_architecture() {
    let all = Overrides::default()
        .allow(ReasonKind::PageSize)
        .allow(ReasonKind::Vendor)
        .allow(ReasonKind::Capability)
        .allow(ReasonKind::Architecture);
    let outcome = run(&Script::default(), sections(&needy()), &all).unwrap();
    // What was taken upon oneself is said.
    let overridden: Vec<_> = outcome.overridden.iter().map(Reason::kind).collect();
    let expected = [
        ReasonKind::PageSize,
        ReasonKind::Vendor,
        ReasonKind::Capability,
    ];
    assert_eq!(overridden, expected);
    let mut foreign = needy();
    foreign.arch = 2;
    let refused = run(&Script::default(), sections(&foreign), &all);
    assert!(matches!(refused, Err(RestoreError::Incompatible { .. })));
}

fn reasons_of(script: &Script, sections: Vec<SectionPayload>) -> Vec<Reason> {
    match run(script, sections, &Overrides::default()) {
        Err(RestoreError::Incompatible { reasons }) => reasons,
        other => panic!("{other:?}"),
    }
}

// spec: STA-06
#[test]
fn a_section_that_nobody_takes_stops_the_restore_before_the_target_is_touched() {
    let script = Script::default();
    let mut sections = sections(&Fingerprint::default());
    let section = SectionKind(0x1ff);
    sections.push(SectionPayload::raw(section, 3, 1, vec![1]));
    let instance = 3;
    let surplus = Reason::SurplusSection { section, instance };
    assert_eq!(reasons_of(&script, sections), [surplus]);
    assert_eq!(script.reached(), ["host", "take"]);
}

// spec: RES-02
#[test]
fn all_that_does_not_fit_is_said_at_once() {
    let script = Script::default();
    let mut sections = sections(&needy());
    let unknown = SectionKind(0x1ff);
    sections.push(SectionPayload::raw(unknown, 0, 1, vec![1]));
    sections.push(SectionPayload::of(2, &VcpuX86::default()));
    sections.retain(|section| section.kind != VmX86::KIND);
    let reasons = reasons_of(&script, sections);
    let kinds: Vec<ReasonKind> = reasons.iter().map(Reason::kind).collect();
    let expected = [
        ReasonKind::PageSize,
        ReasonKind::Vendor,
        ReasonKind::Capability,
        ReasonKind::Machine,
        ReasonKind::State,
        ReasonKind::State,
    ];
    assert_eq!(kinds, expected);
    assert_eq!(script.reached(), ["host", "take"]);
}

#[test]
fn what_the_target_does_not_take_cannot_be_overridden() {
    let all = Overrides::default()
        .allow(ReasonKind::Machine)
        .allow(ReasonKind::State);
    let mut sections = sections(&Fingerprint::default());
    sections.remove(1);
    let refused = run(&Script::default(), sections, &all);
    assert!(matches!(refused, Err(RestoreError::Incompatible { .. })));
}

#[test]
fn state_without_a_fingerprint_is_refused() {
    let script = Script::default();
    let mut sections = sections(&Fingerprint::default());
    sections.remove(3);
    assert_eq!(reasons_of(&script, sections), no_fingerprint());
    assert_eq!(script.reached(), ["host", "take"]);
}

#[test]
fn a_reason_that_two_give_is_said_once() {
    let one = Reason::Capability { number: 1 };
    let other = Reason::Capability { number: 2 };
    let mut reasons = vec![one.clone()];
    add_new(
        &mut reasons,
        vec![one.clone(), other.clone(), other.clone()],
    );
    assert_eq!(reasons, [one, other]);
}
