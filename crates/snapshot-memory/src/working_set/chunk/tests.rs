use proptest::prelude::*;
use snapshot_format::{Digest, WorkingSetOrigin, WorkingSetRun};

use super::*;

fn index(runs: &[(u64, bool)]) -> WorkingSetIndex {
    let mut start = 0;
    let runs = runs.iter().map(|&(count, is_zero)| {
        let pages = PageRange::new(start, count);
        start += count + 1;
        WorkingSetRun { pages, is_zero }
    });
    let mut index = WorkingSetIndex {
        manifest: Digest([0; 32]),
        page_count: 1 << 30,
        origin: WorkingSetOrigin::Named,
        runs: runs.collect(),
        digests: Vec::new(),
    };
    let bytes = vec![0; usize::try_from(index.data_len()).unwrap()];
    let units = bytes.chunks(WORKING_SET_UNIT_BYTES);
    index.digests = units.map(Digest::of).collect();
    index
}

/// Keeps what was put, in order.
#[derive(Default)]
struct Kept(std::sync::Mutex<Vec<(PageRange, bool)>>);

impl PageTarget for Kept {
    fn page_count(&self) -> u64 {
        1 << 30
    }

    fn put(
        &self,
        pages: PageRange,
        bytes: &[u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        assert_eq!(pages.len_bytes(), Some(bytes.len() as u64));
        self.0.lock().unwrap().push((pages, false));
        Ok(())
    }

    fn put_zero(&self, pages: PageRange) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.lock().unwrap().push((pages, true));
        Ok(())
    }
}

proptest! {
    // spec: WS-11
    #[test]
    fn chunks_put_every_run_once_and_in_order(
        runs in prop::collection::vec((1..400_u64, any::<bool>()), 1..40),
    ) {
        let index = index(&runs);
        let kept = Kept::default();
        let bytes = vec![0; CHUNK_BYTES];
        let (mut start, mut counts) = (0, (0, 0));
        for chunk in chunks(&index) {
            prop_assert_eq!(chunk.start, start);
            start += chunk.len_bytes as u64;
            let bytes = &bytes[..chunk.len_bytes];
            chunk.check(&index, "file", bytes).unwrap();
            let (data, zero) = chunk.put(&index, &kept, bytes).unwrap();
            prop_assert_eq!(data * PAGE_BYTES, chunk.len_bytes as u64);
            counts = (counts.0 + data, counts.1 + zero);
        }
        prop_assert_eq!(start, index.data_len());
        prop_assert_eq!(counts, (index.data_pages(), index.zero_pages()));
        let pages = |run: &(PageRange, bool)| {
            let is_zero = run.1;
            (run.0.start.0..run.0.end().0).map(move |page| (page, is_zero))
        };
        let found: Vec<_> = kept.0.into_inner().unwrap().iter().flat_map(pages).collect();
        let expected = index.runs.iter().map(|run| (run.pages, run.is_zero));
        let expected: Vec<_> = expected.collect::<Vec<_>>().iter().flat_map(pages).collect();
        prop_assert_eq!(found, expected);
    }
}
