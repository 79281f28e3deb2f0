use proptest::prelude::*;
use snapshot_format::WorkingSetOrigin;

use super::*;
use crate::backend::{Backend, MemBackend};
use crate::working_set::rig::{self, Numbered, SNAPSHOT};

fn touched(pages: u64, runs: &[(u64, u64)]) -> TouchedPages {
    let mut touched = TouchedPages::new(pages, WorkingSetOrigin::Trace);
    touched.add_all(
        runs.iter()
            .map(|&(start, count)| PageRange::new(start, count)),
    );
    touched
}

/// Every byte of the file.
fn bytes(backend: &MemBackend) -> Vec<u8> {
    let file = backend.open(&rig::path()).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    // spec: WS-01, WS-09
    #[test]
    fn a_file_says_exactly_what_was_touched(
        runs in prop::collection::vec((0..4000_u64, 1..300_u64), 1..30),
    ) {
        let (source, backend) = (Numbered::new(4096), MemBackend::new());
        let touched = touched(4096, &runs);
        let options = WorkingSetOptions::default();
        let written = rig::write(&backend, &source, &touched, options).unwrap();
        let bytes = bytes(&backend);
        let index = WorkingSetIndex::read(&bytes).unwrap();
        prop_assert_eq!(written.len_bytes, bytes.len() as u64);
        prop_assert_eq!(written.data_pages + written.zero_pages, touched.pages());
        prop_assert_eq!(written.left_out_pages, 0);
        let mut at = usize::try_from(index.data_offset()).unwrap();
        let mut found = Vec::new();
        for run in &index.runs {
            for page in run.pages.start.0..run.pages.end().0 {
                found.push(page);
                prop_assert_eq!(run.is_zero, Numbered::is_zero(page));
                if !run.is_zero {
                    prop_assert_eq!(&bytes[at..at + 4096], &*Numbered::page(page));
                    at += 4096;
                }
            }
        }
        // Segment by segment the same pages, each sorted by address.
        let pages: Vec<u64> = touched
            .runs()
            .iter()
            .flat_map(|run| run.start.0..run.end().0)
            .collect();
        for (found, traced) in found.chunks(1024).zip(pages.chunks(1024)) {
            let mut sorted = traced.to_vec();
            sorted.sort_unstable();
            prop_assert_eq!(found, &*sorted);
        }
        prop_assert_eq!(found.len(), pages.len());
    }
}

// spec: WS-08
#[test]
fn what_a_working_set_may_not_hold_is_left_out_and_counted() {
    let (source, backend) = (Numbered::new(4096), MemBackend::new());
    let touched = touched(4096, &[(3000, 1000), (1, 2000)]);
    let options = WorkingSetOptions::default().max_bytes(1000 * PAGE_BYTES + 1);
    let written = rig::write(&backend, &source, &touched, options).unwrap();
    assert_eq!(written.data_pages, 1000);
    let kept = written.data_pages + written.zero_pages;
    assert_eq!(kept + written.left_out_pages, 3000);
    let index = WorkingSetIndex::read(&bytes(&backend)).unwrap();
    assert_eq!(index.manifest, SNAPSHOT.digest);
    let first: Vec<u64> = index.runs.iter().map(|run| run.pages.start.0).collect();
    assert!(first.contains(&3000), "what was touched first is kept");
}

// spec: WS-08
#[test]
fn where_a_segment_is_cut_its_first_touches_stay() {
    let (source, backend) = (Numbered::new(4096), MemBackend::new());
    // Eight of the first ten have bytes, and the tenth of those is page 2.
    let touched = touched(4096, &[(3001, 10), (1, 100)]);
    let options = WorkingSetOptions::default().max_bytes(10 * PAGE_BYTES);
    rig::write(&backend, &source, &touched, options).unwrap();
    let index = WorkingSetIndex::read(&bytes(&backend)).unwrap();
    let pages = index
        .runs
        .iter()
        .flat_map(|run| run.pages.start.0..run.pages.end().0);
    let pages: Vec<u64> = pages.collect();
    let expected: Vec<u64> = [1, 2].into_iter().chain(3001..3011).collect();
    assert_eq!(pages, expected);
}

#[test]
fn nothing_touched_and_another_image_are_refused() {
    let (source, backend) = (Numbered::new(4096), MemBackend::new());
    let none = TouchedPages::new(4096, WorkingSetOrigin::Named);
    let options = WorkingSetOptions::default();
    let result = rig::write(&MemBackend::new(), &source, &none, options);
    assert!(matches!(result, Err(WorkingSetError::Empty)), "{result:?}");
    let other = touched(4095, &[(1, 1)]);
    let result = rig::write(&backend, &source, &other, options);
    assert!(
        matches!(
            result,
            Err(WorkingSetError::PageCount {
                expected: 4096,
                found: 4095
            })
        ),
        "{result:?}"
    );
}
