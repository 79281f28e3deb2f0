//! What a caller may choose about a live snapshot.

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};

/// How a live snapshot is taken. The default suits a guest that writes less than the disk takes,
/// starts no thread, and pauses longer where the guest is faster.
#[derive(Debug)]
#[non_exhaustive]
pub struct LiveOptions<'r> {
    /// Rounds of memory that are written while the machine runs, at most; at least one is. As many
    /// again where the guest is slowed down.
    pub max_rounds: u32,
    /// The machine is stopped after a round of at most so many pages, and of a few more rounds as
    /// long as they still become smaller.
    pub threshold_pages: u64,
    /// Bytes of pages that can be copied aside in the pause: memory that is got before it.
    pub aside_bytes: u64,
    /// At most so many bytes a second are written while the machine runs.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Threads that look for the last written pages in the pause, the caller's included, where the
    /// dirty source can share that. Those that are started end with the pause.
    pub scan_threads: NonZeroUsize,
    /// What to do where the guest writes faster than rounds do.
    pub when_behind: WhenBehind<'r>,
    /// What to do where the last pages turn out to be more than can be copied aside.
    pub overflow: Overflow,
}

/// What to do with a guest whose rounds do not become small: after
/// [`LiveOptions::max_rounds`], or once rounds have stopped shrinking.
#[derive(Default)]
#[non_exhaustive]
pub enum WhenBehind<'r> {
    /// Stop it all the same. What cannot be copied aside is written in the pause, which becomes
    /// as long as that takes.
    #[default]
    LongerPause,
    /// Have it slowed down, and write more rounds.
    Throttle(&'r mut dyn Throttle),
    /// Fail with [`SnapshotError::Behind`](crate::SnapshotError::Behind); it was never stopped.
    GiveUp,
}

/// What to do in the pause where the last pages are more than can be copied aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// Write them, with the machine waiting.
    #[default]
    Write,
    /// Let the machine go on, and write more rounds; as many pauses as there may be rounds. After
    /// that they are written with the machine waiting.
    Retry,
    /// Let the machine go on, and fail.
    GiveUp,
}

/// Slows the guest down: fewer vCPUs, sleeps between entries, a smaller share of the host.
pub trait Throttle: Send {
    /// Slows the vCPUs, further each time. Called between rounds, with the machine running.
    fn slow(&mut self, behind: &Behind) -> Slowed;

    /// Undoes it all. Called exactly once if `slow` was called, also after an error or a panic, as
    /// soon as no more rounds are written: with the machine running.
    fn lift(&mut self);
}

/// What a hook says to a guest that is too fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Slowed {
    /// The guest is slower now: write another round.
    Slower,
    /// As [`WhenBehind::LongerPause`].
    Pause,
    /// As [`WhenBehind::GiveUp`].
    GiveUp,
}

/// How far a snapshot is behind its guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Behind {
    /// Rounds written so far.
    pub rounds: u32,
    /// Pages that were written by the guest during the last of them.
    pub pages: u64,
    /// Bytes of pages a second that the guest made dirty meanwhile.
    pub dirtied_bytes_per_second: u64,
    /// Bytes of pages a second that the round took.
    pub taken_bytes_per_second: u64,
}

impl Default for LiveOptions<'_> {
    fn default() -> Self {
        Self {
            max_rounds: 8,
            threshold_pages: 512,
            aside_bytes: 16 << 20,
            bytes_per_second: None,
            scan_threads: NonZeroUsize::MIN,
            when_behind: WhenBehind::default(),
            overflow: Overflow::default(),
        }
    }
}

impl fmt::Debug for WhenBehind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LongerPause => "LongerPause",
            Self::Throttle(_) => "Throttle",
            Self::GiveUp => "GiveUp",
        })
    }
}
