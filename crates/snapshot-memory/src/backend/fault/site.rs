//! Where in the source a call was made.

use std::backtrace::Backtrace;

/// How many places tell a call from others: what writes a file is called from many.
const DEPTH: usize = 3;

/// The way to the call: file, line and function of the innermost callers outside of the backends.
/// Empty where the build has no debug information.
pub(super) fn caller() -> String {
    let trace = Backtrace::force_capture().to_string();
    let mut symbol = "";
    let mut places: Vec<String> = Vec::new();
    for line in trace.lines().map(str::trim) {
        // A frame is `N: symbol`, then `at file:line:column`. Frames that are inlined have a
        // symbol without its module, so only the file tells whose they are.
        match line.strip_prefix("at ") {
            Some(place) if is_outside(place) => places.push(format!("{place} {symbol}")),
            Some(_) => {}
            None => symbol = line.split_once(": ").map_or(line, |(_, symbol)| symbol),
        }
        if places.len() == DEPTH {
            break;
        }
    }
    places.join(" < ")
}

fn is_outside(place: &str) -> bool {
    // The trace names files relative to the working directory: of this package, or of another.
    let in_backend =
        place.starts_with("./src/backend/") || place.contains("snapshot-memory/src/backend/");
    let is_backend = in_backend && !place.contains("/tests.rs:");
    let is_std = place.starts_with("/rustc/") || place.contains("/rustlib/src/");
    !is_backend && !is_std
}
