use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::super::plan::{Plan, plans};
use super::*;

/// How a device answers one write.
#[derive(Clone, Copy, Debug)]
enum Answer {
    All,
    Short(usize),
    Errno(i32),
}

/// What a device did.
#[derive(Debug, Default)]
struct Seen {
    file: Vec<u8>,
    answers: VecDeque<Answer>,
    /// What completes first: the oldest write or the newest.
    newest_first: bool,
    most_under_way: usize,
    is_direct: bool,
    completed: usize,
}

/// A device that answers as it is told, and all the rest with all that was asked for.
#[derive(Debug)]
struct Scripted<'m> {
    seen: Arc<Mutex<Seen>>,
    held: VecDeque<Write<'m>>,
}

impl Seen {
    fn new(answers: &[Answer]) -> Arc<Mutex<Self>> {
        let seen = Self {
            answers: answers.to_vec().into(),
            is_direct: true,
            ..Self::default()
        };
        Arc::new(Mutex::new(seen))
    }

    fn carry_out(&mut self, write: &Write<'_>) -> io::Result<usize> {
        let run = write.run();
        let wanted = match self.answers.pop_front().unwrap_or(Answer::All) {
            Answer::All => run.len_bytes(),
            Answer::Short(bytes) => bytes.min(run.len_bytes()),
            Answer::Errno(errno) => return Err(io::Error::from_raw_os_error(errno)),
        };
        let start = write.offset() as usize;
        if self.file.len() < start + wanted {
            self.file.resize(start + wanted, 0);
        }
        run.copy_to(0, &mut self.file[start..start + wanted]);
        Ok(wanted)
    }
}

impl<'m> Device<'m> for Scripted<'m> {
    fn depth(&self) -> usize {
        6
    }

    fn start(&mut self, write: Write<'m>) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap();
        assert_eq!(write.is_direct, seen.is_direct);
        if seen.is_direct {
            let run = write.run();
            assert!(run.address().addr().is_multiple_of(4096));
            assert!(run.len_bytes().is_multiple_of(4096));
            assert!(write.offset().is_multiple_of(4096));
        }
        self.held.push_back(write);
        assert!(self.held.len() <= self.depth());
        seen.most_under_way = seen.most_under_way.max(self.held.len());
        Ok(())
    }

    fn wait(&mut self, at_least: usize, done: &mut Vec<Completion<'m>>) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap();
        for _ in 0..at_least {
            let write = if seen.newest_first {
                self.held.pop_back()
            } else {
                self.held.pop_front()
            };
            let Some(write) = write else {
                break;
            };
            let result = seen.carry_out(&write);
            seen.completed += 1;
            done.push(Completion { write, result });
        }
        Ok(())
    }

    fn set_direct(&mut self, is_direct: bool) -> io::Result<()> {
        assert!(self.held.is_empty(), "the way is changed under a write");
        self.seen.lock().unwrap().is_direct = is_direct;
        Ok(())
    }
}

fn queue(seen: &Arc<Mutex<Seen>>, buffers: usize) -> DirectQueue<'static, Scripted<'static>> {
    let device = Scripted {
        seen: Arc::clone(seen),
        held: VecDeque::new(),
    };
    DirectQueue::new(device, Engine::Direct, buffers)
}

/// Writes a buffer of `byte` to `offset`, as pieces of a page.
fn write_pages(
    queue: &mut dyn WriteQueue<'static>,
    byte: u8,
    pages: usize,
    offset: u64,
) -> io::Result<()> {
    let mut buffer = queue.buffer()?;
    buffer.fill(byte);
    let pieces: Vec<Piece> = (0..pages)
        .map(|page| Piece {
            start: page * 4096,
            len_bytes: 4096,
            offset: offset + (page * 4096) as u64,
        })
        .collect();
    queue.submit(buffer, &pieces)
}

// spec: MEM-21
#[test]
fn the_first_failure_is_given_by_every_later_call() {
    let answers = [
        Answer::All,
        Answer::Errno(libc::EIO),
        Answer::Errno(libc::ENOSPC),
    ];
    let seen = Seen::new(&answers);
    let mut queue = queue(&seen, 4);
    write_pages(&mut queue, 1, 3, 0).unwrap();
    for _ in 0..2 {
        let error = queue.finish().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    let error = queue.buffer().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let buffer = DirectBuffer::new().unwrap();
    let error = queue.submit(buffer, &[]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let run = HostRun::of_bytes(&[]);
    assert!(queue.submit_run(run, 0).is_err());
}

#[test]
fn an_error_without_a_number_is_told_again_in_words() {
    let mut failure = Failure::default();
    assert!(failure.check().is_ok());
    let first = io::Error::new(io::ErrorKind::TimedOut, "the array is gone");
    assert!(failure.keep::<()>(first).is_err());
    let _: io::Result<()> = failure.keep(io::ErrorKind::NotFound.into());
    let later = failure.check().unwrap_err();
    assert_eq!(later.kind(), io::ErrorKind::TimedOut);
    assert_eq!(
        later.to_string(),
        "an earlier write failed: the array is gone"
    );
}

// spec: MEM-20
#[test]
fn a_refused_write_goes_on_through_the_cache_with_all_that_follow() {
    let answers = [Answer::All, Answer::Errno(libc::EINVAL), Answer::Short(100)];
    let seen = Seen::new(&answers);
    let mut queue = queue(&seen, 4);
    assert_eq!(queue.engine(), Engine::Direct);
    write_pages(&mut queue, 1, 6, 0).unwrap();
    write_pages(&mut queue, 2, 2, 6 * 4096).unwrap();
    queue.finish().unwrap();
    assert_eq!(queue.engine(), Engine::Buffered);
    let seen = seen.lock().unwrap();
    let expected = [vec![1; 6 * 4096], vec![2; 2 * 4096]].concat();
    assert!(seen.file == expected);
    assert!(!seen.is_direct);
}

// spec: MEM-22
#[test]
fn a_queue_that_is_dropped_waits_and_starts_nothing_again() {
    let seen = Seen::new(&[Answer::Short(4096), Answer::Errno(libc::EINTR)]);
    let mut queue = queue(&seen, 1);
    let buffer = queue.buffer().unwrap();
    let pieces = [0, 1, 2].map(|piece| Piece {
        start: piece * 8192,
        len_bytes: 8192,
        offset: piece as u64 * 8192,
    });
    queue.submit(buffer, &pieces).unwrap();
    drop(queue);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.completed, pieces.len());
    assert!(!seen.is_direct);
}

// spec: MEM-23
#[test]
fn a_buffer_comes_back_when_its_last_piece_is_written() {
    let seen = Seen::new(&[]);
    let mut queue = queue(&seen, 1);
    write_pages(&mut queue, 1, 5, 0).unwrap();
    assert_eq!(seen.lock().unwrap().completed, 0);
    let buffer = queue.buffer().unwrap();
    assert_eq!(seen.lock().unwrap().completed, 5);
    // The only one is in our hands: waiting for another would last for ever.
    assert!(queue.buffer().is_err());
    drop(buffer);
}

#[test]
fn several_writes_are_under_way_and_no_more_than_the_device_takes() {
    let seen = Seen::new(&[]);
    let mut queue = queue(&seen, 2);
    write_pages(&mut queue, 1, 40, 0).unwrap();
    queue.finish().unwrap();
    assert_eq!(seen.lock().unwrap().most_under_way, 6);
}

#[test]
fn a_long_run_is_cut_and_bounded_in_bytes() {
    let memory = vec![5; 40 << 20].leak();
    let skew = memory.as_ptr().align_offset(4096);
    let run = HostRun::of_bytes(memory).part(skew, 39 << 20);
    let seen = Seen::new(&[]);
    let mut queue = queue(&seen, 1);
    queue.submit_run(run, 4096).unwrap();
    queue.finish().unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.completed, 10);
    assert!(seen.file[..4096].iter().all(|byte| *byte == 0));
    assert!(seen.file[4096..].iter().all(|byte| *byte == 5));
    assert_eq!(seen.file.len(), 4096 + (39 << 20));
}

#[test]
fn what_is_not_aligned_or_not_in_the_buffer_is_refused_and_the_queue_goes_on() {
    let seen = Seen::new(&[]);
    let mut queue = queue(&seen, 1);
    let odd = [
        (1, 4096, 0),
        (0, 4095, 0),
        (0, 4096, 512),
        (0, 0, 0),
        (DirectBuffer::LEN_BYTES, 4096, 0),
        (4096, usize::MAX - 4095, 0),
        (0, 4096, u64::MAX - 4095),
    ];
    for (start, len_bytes, offset) in odd {
        let piece = Piece {
            start,
            len_bytes,
            offset,
        };
        let buffer = DirectBuffer::new().unwrap();
        let error = queue.submit(buffer, &[piece]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{piece:?}");
    }
    let bytes = vec![0; 3 * 4096].leak();
    let skew = bytes.as_ptr().align_offset(4096);
    for (start, len_bytes, offset) in [(skew + 8, 4096, 0), (skew, 512, 0), (skew, 4096, 7)] {
        let run = HostRun::of_bytes(bytes).part(start, len_bytes);
        let error = queue.submit_run(run, offset).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    write_pages(&mut queue, 3, 1, 0).unwrap();
    queue.finish().unwrap();
    assert_eq!(seen.lock().unwrap().file, [3; 4096]);
}

fn answers() -> impl Strategy<Value = Vec<Answer>> {
    let answer = prop_oneof![
        6 => Just(Answer::All),
        3 => (1..6_usize).prop_map(|pages| Answer::Short(pages * 4096)),
        2 => Just(Answer::Errno(libc::EINTR)),
        2 => Just(Answer::Errno(libc::EAGAIN)),
        1 => Just(Answer::Short(1000)),
        1 => Just(Answer::Errno(libc::EOPNOTSUPP)),
    ];
    // After the first refusal EOPNOTSUPP is a failure like any other.
    prop::collection::vec(answer, 0..80).prop_map(|mut answers: Vec<Answer>| {
        let mut refused = false;
        answers.retain(|answer| {
            let refusal = matches!(
                answer,
                Answer::Errno(libc::EOPNOTSUPP) | Answer::Short(1000)
            );
            let keep = !(refused && matches!(answer, Answer::Errno(libc::EOPNOTSUPP)));
            refused |= refusal;
            keep
        });
        answers
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    // spec: MEM-19
    #[test]
    fn every_order_and_every_answer_gives_the_same_file(
        plan in plans(),
        answers in answers(),
        newest_first in any::<bool>(),
        buffers in 1..5_usize,
    ) {
        let seen = Seen::new(&answers);
        seen.lock().unwrap().newest_first = newest_first;
        let memory = Plan::memory();
        let device = Scripted { seen: Arc::clone(&seen), held: VecDeque::new() };
        let mut queue = DirectQueue::new(device, Engine::Direct, buffers);
        plan.submit(&mut queue, &memory).unwrap();
        queue.finish().unwrap();
        drop(queue);
        let seen = seen.lock().unwrap();
        prop_assert!(seen.file == plan.expected());
    }
}
