//! From where a call is made. `#[track_caller]` does not reach through `dyn Backend`.

use std::backtrace::Backtrace;

/// The function, and its line where debug information has it, of the first caller outside of the
/// backends.
pub(super) fn caller() -> String {
    let trace = Backtrace::force_capture().to_string();
    let mut lines = trace.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let symbol = line.split_once(": ").map_or(line, |(_, symbol)| symbol);
        let place = lines.next_if(|next| next.starts_with("at "));
        if is_ours(symbol) {
            return format!("{symbol} {}", place.unwrap_or_default());
        }
    }
    String::new()
}

fn is_ours(symbol: &str) -> bool {
    let outside = [
        "std::",
        "core::",
        "alloc::",
        "<alloc",
        "<core",
        "<std",
        "backtrace",
    ];
    !symbol.contains("snapshot_memory::backend::")
        && !outside.iter().any(|start| symbol.starts_with(start))
}
