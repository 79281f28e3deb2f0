//! Processes that play a part, each a test that does nothing otherwise.

use std::env;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// In the environment of a child: the part that it plays, and the socket.
const PART: &str = "VMSNAP_HANDLER_PART";

const SOCKET: &str = "VMSNAP_HANDLER_SOCKET";

/// A process that plays `part`, which is a test of this file that does nothing else.
pub(crate) fn child(part: &str, socket: &Path) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", part, "--nocapture", "--quiet"]);
    command.env(PART, part).env(SOCKET, socket);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// The socket, in a process that plays `part`.
pub(crate) fn plays(part: &str) -> Option<PathBuf> {
    let is_part = env::var_os(PART).is_some_and(|name| name == part);
    is_part.then(|| env::var_os(SOCKET).unwrap().into())
}

/// Says a line to whoever started this process.
pub(crate) fn say(word: &str) {
    let mut out = io::stdout();
    writeln!(out, "{word}").unwrap();
    out.flush().unwrap();
}

/// Waits until a child has said `word`.
pub(crate) fn await_word(child: &mut Child, word: &str) {
    let out = child.stdout.as_mut().unwrap();
    let mut said = Vec::new();
    while !said.ends_with(format!("{word}\n").as_bytes()) {
        let mut byte = [0];
        assert_eq!(out.read(&mut byte).unwrap(), 1, "it ended: {said:?}");
        said.push(byte[0]);
    }
}
