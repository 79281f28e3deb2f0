//! Work that several threads share, piece by piece.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does the pieces `0..count` on this thread and up to `threads` others, and gives what came of them in
/// their order. Whoever is free takes the next piece, as some take far longer than others. Each
/// thread has a `worker` of its own.
pub(crate) fn share<W, T: Send>(
    name: &str,
    threads: usize,
    count: usize,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut worker = worker();
        let mut done = Vec::new();
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= count {
                return done;
            }
            done.push((piece, work(&mut worker, piece)));
        }
    };
    let mut done = thread::scope(|scope| {
        let spawn = |_| {
            let thread = thread::Builder::new().name(name.to_owned());
            // Where there is no thread to be had, the others do its part.
            thread.spawn_scoped(scope, take).ok()
        };
        let others = 0..threads.min(count.saturating_sub(1));
        let spawned: Vec<_> = others.map_while(spawn).collect();
        let mut done = take();
        for thread in spawned {
            match thread.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(piece, _)| *piece);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn pieces_are_shared_and_come_in_their_order() {
        // Nobody ends a piece before the other has begun one, so each has every second.
        let both = Barrier::new(2);
        let work = |taken: &mut usize, piece| {
            both.wait();
            *taken += 1;
            (piece, *taken)
        };
        let done = share("test", 1, 6, || 0, work);
        let pieces: Vec<usize> = done.iter().map(|(piece, _)| *piece).collect();
        assert_eq!(pieces, [0, 1, 2, 3, 4, 5]);
        let mut taken: Vec<usize> = done.iter().map(|(_, taken)| *taken).collect();
        taken.sort_unstable();
        assert_eq!(taken, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn there_may_be_more_threads_than_pieces_and_no_pieces() {
        for count in 0..3 {
            let done = share("test", 5, count, || (), |(), piece| piece);
            assert_eq!(done, (0..count).collect::<Vec<_>>());
        }
    }
}
