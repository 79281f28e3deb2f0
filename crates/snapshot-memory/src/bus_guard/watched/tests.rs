use super::*;
use crate::restore::MemoryEvents;

fn run(start: u64, pages: u64, first: u64, offset: u64) -> MappedRun {
    MappedRun {
        addresses: start..start + pages * PAGE_BYTES,
        first: PageIndex(first),
        file: "memory.img".into(),
        offset,
    }
}

fn watched(runs: Vec<MappedRun>) -> Result<Watched, BusGuardError> {
    let (_, reporter) = MemoryEvents::new().unwrap();
    Watched::new(runs, reporter)
}

#[test]
fn a_noted_address_is_told_as_page_file_and_offset() {
    let runs = vec![
        run(0x9000_0000, 16, 40, 0x7000),
        run(0x1000_0000, 4, 10, 0x3000),
    ];
    let watched = watched(runs).unwrap();
    watched.note(0x9000_0000 + 3 * PAGE_BYTES + 77);
    watched.note(0x1000_0000);
    let mut told = Vec::new();
    watched.drain(&mut told);
    let told: Vec<_> = told
        .iter()
        .map(|failure| (failure.pages, cause(failure)))
        .collect();
    let expected = [
        (PageRange::new(43, 1), ("memory.img".to_owned(), 0xa000)),
        (PageRange::new(10, 1), ("memory.img".to_owned(), 0x3000)),
    ];
    assert_eq!(told, expected);
    let mut again = Vec::new();
    watched.drain(&mut again);
    assert!(again.is_empty());
}

#[test]
fn addresses_beside_the_runs_belong_to_nobody() {
    let watched = watched(vec![run(0x2000_0000, 2, 0, 0), run(0x3000_0000, 2, 2, 0)]).unwrap();
    for address in [
        0,
        0x1fff_ffff,
        0x2000_2000,
        0x2fff_ffff,
        0x3000_2000,
        u64::MAX,
    ] {
        assert_eq!(watched.run_at(address), None, "{address:#x}");
    }
    assert_eq!(watched.run_at(0x2000_1fff).unwrap().first, PageIndex(0));
    assert_eq!(watched.run_at(0x3000_0000).unwrap().first, PageIndex(2));
}

#[test]
fn more_losses_than_places_are_told_as_many_as_there_are_places() {
    let watched = watched(vec![run(0x2000_0000, 1000, 0, 0)]).unwrap();
    for page in 0..1000 {
        watched.note(0x2000_0000 + page * PAGE_BYTES);
    }
    let mut told = Vec::new();
    watched.drain(&mut told);
    assert_eq!(told.len(), NOTED);
}

#[test]
fn runs_that_are_none_are_refused() {
    let twice = vec![run(0x2000_0000, 2, 0, 0), run(0x2000_1000, 2, 2, 0)];
    let empty = vec![run(0x2000_0000, 0, 0, 0)];
    let crooked = vec![run(0x2000_0800, 1, 0, 0)];
    let nowhere = vec![run(0, 1, 0, 0)];
    for runs in [twice, empty, crooked, nowhere] {
        let refused = watched(runs.clone());
        assert!(matches!(refused, Err(BusGuardError::NoRun(_))), "{runs:?}");
    }
}

fn cause(failure: &MemoryFailure) -> (String, u64) {
    let FailureCause::Mapping { file, offset } = &failure.cause else {
        unreachable!("a mapping was watched: {failure:?}");
    };
    (file.clone(), *offset)
}
