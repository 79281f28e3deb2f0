//! Why a command failed, in the words of its user: what, where, why, and what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use snapshot_store::with_causes;

use crate::exit::Exit;

/// The schema of the document that a failed command prints.
pub(crate) const SCHEMA: &str = "vmsnap.error.v1";

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the run ends.
    pub(crate) exit: Exit,
    message: String,
    path: Option<PathBuf>,
    path_is_told: bool,
    offset: Option<u64>,
    hint: Option<String>,
}

/// The JSON form.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    kind: &'static str,
    exit_code: u8,
    message: &'a str,
    path: Option<String>,
    offset: Option<u64>,
    hint: Option<&'a str>,
}

impl Failure {
    /// A failure with a message: a lower-case fragment without a trailing dot.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            path: None,
            path_is_told: false,
            offset: None,
            hint: None,
        }
    }

    /// A command line that cannot be used.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A failure told by `error` and the errors that caused it.
    pub(crate) fn because(exit: Exit, error: &dyn Error) -> Self {
        Self::new(exit, with_causes(error))
    }

    /// A failed call on the file or directory `path`, where `what` names the call.
    pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(exit_of_io(error.kind()), format!("{what}: {error}")).at(path)
    }

    /// Says which file or directory it is about.
    pub(crate) fn at(mut self, path: &Path) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Says which file or directory it is about, where the message does so already.
    pub(crate) fn concerning(mut self, path: &Path) -> Self {
        self.path = Some(path.to_owned());
        self.path_is_told = true;
        self
    }

    /// Says at which byte of the file.
    pub(crate) fn at_offset(mut self, offset: Option<u64>) -> Self {
        self.offset = offset;
        self
    }

    /// Says what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The one document that stands on standard output with `--json`.
    pub(crate) fn to_json(&self) -> String {
        let document = Document {
            schema: SCHEMA,
            error: Body {
                kind: self.exit.name(),
                exit_code: self.exit.code(),
                message: &self.message,
                path: self.path.as_deref().map(|path| path.display().to_string()),
                offset: self.offset,
                hint: self.hint.as_deref(),
            },
        };
        serde_json::to_string(&document).unwrap_or_else(|error| error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path.as_ref().filter(|_| !self.path_is_told) {
            write!(f, "{}: ", printable(&path.display().to_string()))?;
        }
        f.write_str(&printable(&self.message))?;
        f.write_str(&place(&self.message, self.offset))?;
        match &self.hint {
            Some(hint) => write!(f, "; {}", printable(hint)),
            None => Ok(()),
        }
    }
}

/// How a run ends that an I/O error of this kind stopped.
pub(crate) fn exit_of_io(kind: io::ErrorKind) -> Exit {
    match kind {
        io::ErrorKind::NotFound => Exit::NotFound,
        io::ErrorKind::AlreadyExists => Exit::Exists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Exit::NoSpace,
        io::ErrorKind::Interrupted => Exit::Interrupted,
        io::ErrorKind::WouldBlock => Exit::Busy,
        _ => Exit::Failed,
    }
}

/// Where in a file, to stand behind `message`; empty where that says it already.
pub(crate) fn place(message: &str, offset: Option<u64>) -> String {
    match offset {
        Some(offset) if !message.contains("at offset") => format!(" (at byte {offset})"),
        _ => String::new(),
    }
}

/// The text on one line, with nothing in it that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_that_a_terminal_can_show() {
        let failure = Failure::usage("no such\nthing \x1b[2J")
            .at(Path::new("/a\nb"))
            .at_offset(Some(7))
            .hint("look again");
        let line = failure.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.starts_with("/a") && line.ends_with("(at byte 7); look again"));
    }

    #[test]
    fn the_causes_are_told_once_each() {
        let inner = io::Error::other("disk gone");
        let failure = Failure::because(Exit::Failed, &io::Error::other(inner));
        assert_eq!(failure.to_string().matches("disk gone").count(), 1);
    }

    // spec: CLI-05
    #[test]
    fn the_document_has_every_key_even_where_there_is_nothing_to_say() {
        let json: serde_json::Value = serde_json::from_str(&Failure::usage("x").to_json()).unwrap();
        assert_eq!(json["schema"], SCHEMA);
        for key in ["kind", "exit_code", "message", "path", "offset", "hint"] {
            assert!(json["error"].get(key).is_some(), "{key} is missing");
        }
    }
}
