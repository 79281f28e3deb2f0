//! What a command has to say when it is done.

use crate::exit::Exit;

/// The whole of standard output, and how the run ends.
#[derive(Debug)]
pub(crate) struct Answer {
    /// For people, or one JSON document; ends with a newline unless it is empty.
    pub(crate) text: String,
    /// How the run ends.
    pub(crate) exit: Exit,
}

impl Answer {
    /// The same answer, and another end of the run.
    pub(crate) fn ending(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}
