//! The first failure of a queue.

use std::io;

/// The first failure, given by every call from then on.
#[derive(Debug, Default)]
pub(super) struct Failure(Option<Kept>);

#[derive(Debug)]
struct Kept {
    kind: io::ErrorKind,
    errno: Option<i32>,
    text: String,
}

/// What a call after a failure says, where there is no `errno` to say it by.
#[derive(Debug, thiserror::Error)]
#[error("an earlier write failed: {0}")]
struct Earlier(String);

impl Failure {
    pub(super) fn check(&self) -> io::Result<()> {
        let Some(kept) = &self.0 else {
            return Ok(());
        };
        Err(match kept.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(kept.kind, Earlier(kept.text.clone())),
        })
    }

    /// Keeps `error` and gives it.
    pub(super) fn keep<T>(&mut self, error: io::Error) -> io::Result<T> {
        self.0.get_or_insert_with(|| Kept {
            kind: error.kind(),
            errno: error.raw_os_error(),
            text: error.to_string(),
        });
        Err(error)
    }
}
