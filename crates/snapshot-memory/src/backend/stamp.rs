//! What tells two states of a file apart without reading it.

/// What a file system says of a file that changes whenever its bytes are changed, or another file
/// takes its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStamp {
    /// The device that it lies on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// When its bytes were changed, in nanoseconds since 1970. Anybody can set it.
    pub modified_ns: i64,
    /// When anything of it was changed, in nanoseconds since 1970. Nobody can set it but the system.
    pub changed_ns: i64,
}

/// Nanoseconds of a time that a file system gives as seconds and a rest.
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(super) const fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
