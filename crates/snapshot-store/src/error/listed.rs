//! Several values in one sentence.

use std::fmt;

/// Process numbers in a sentence.
pub(super) struct Holders<'a>(pub(super) &'a [u32]);

impl fmt::Display for Holders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("held by a process that the system does not name"),
            [one] => write!(f, "held by process {one}"),
            several => write!(f, "held by processes {}", Listed(several)),
        }
    }
}

/// Values with commas between them.
pub(super) struct Listed<'a, T>(pub(super) &'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, value) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{value}")?;
        }
        Ok(())
    }
}
