//! Building beside a machine that runs: told how far it is, stopped, and heard of when it ends.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::*;
use crate::WarmEnd;

/// Waits until the end of a job is told, by reading what makes it readable.
fn wait(end: WarmEnd) {
    let mut told = [0; 1];
    let mut pipe = std::fs::File::from(OwnedFd::from(end));
    assert_eq!(pipe.read(&mut told).unwrap(), 1);
}

// spec: CAC-08
#[test]
fn the_end_of_a_job_is_a_descriptor_that_becomes_readable() {
    let (_, store, _, b) = chain();
    let (pause, paused) = channel();
    let paused = Mutex::new(paused);
    let control = CaptureControl::default().progress(move |_| {
        // Until the test lets it go on, and from then on at once.
        let _ = paused.lock().unwrap().recv();
    });
    let mut job = store.warm_job(b.id, control);
    let ends = [job.end().unwrap(), job.end().unwrap()];
    let running = thread::spawn(move || job.run());
    pause.send(()).unwrap();
    assert!(!running.is_finished());
    drop(pause);
    ends.into_iter().for_each(wait);
    assert!(running.join().unwrap().unwrap().built);
    assert_eq!(cached(&store, b), Some(image(&B)));
}

// spec: CAC-08
#[test]
fn a_job_that_fails_or_panics_or_is_never_run_ends_too() {
    let (tree, store, _, b) = chain();
    let mut dropped = store.warm_job(b.id, CaptureControl::default());
    let end = dropped.end().unwrap();
    drop(dropped);
    wait(end);
    let mut nobody = store.warm_job(SnapshotId([9; 16]), CaptureControl::default());
    let end = nobody.end().unwrap();
    assert_eq!(kind(nobody.run()), Some(ErrorKind::NotFound));
    wait(end);
    let control =
        CaptureControl::default().progress(|_| panic::resume_unwind(Box::new("on purpose")));
    let mut panics = store.warm_job(b.id, control);
    let end = panics.end().unwrap();
    let ended = thread::spawn(move || panics.run()).join();
    assert!(matches!(ended, Err(why) if why.is::<&str>()));
    wait(end);
    // What it left is removed by the next build.
    assert_eq!(cached(&store, b), None);
    assert!(warm(&store, b).unwrap().built);
    assert_eq!(in_cache(&tree).len(), 1);
    // Nobody need listen.
    let mut job = store.warm_job(b.id, CaptureControl::default());
    drop(job.end().unwrap());
    assert!(!job.run().unwrap().built);
}

// spec: CAC-08
#[test]
fn progress_grows_to_the_whole_and_a_job_is_stopped_in_the_middle() {
    let (tree, store, _, b) = chain();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let control = CaptureControl::default().progress(move |progress| {
        let told = (progress.taken_bytes, progress.total_bytes);
        listener.lock().unwrap().push(told);
    });
    store.warm_job(b.id, control).run().unwrap();
    let told = std::mem::take(&mut *told.lock().unwrap());
    let total = 8 * PAGE as u64;
    assert!(told.is_sorted() && told.len() > 3, "{told:?}");
    assert!(told.iter().all(|(_, all)| *all == total), "{told:?}");
    assert_eq!(told.last(), Some(&(total, total)));
    store.drop_cached(b.id).unwrap();
    for last in 0..told.len() {
        let cancel = Cancel::default();
        let asked = cancel.clone();
        let left = Mutex::new(last);
        let control = CaptureControl::default().cancel(cancel).progress(move |_| {
            let mut left = left.lock().unwrap();
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => asked.ask(),
            }
        });
        let stopped = store.warm_job(b.id, control).run();
        assert_eq!(kind(stopped), Some(ErrorKind::Interrupted), "{last}");
        assert!(in_cache(&tree).is_empty(), "{last}");
    }
}
