//! What is the same for every machine of this host.

use snapshot_format::limits;

/// The size of a page of the host in bytes.
pub(crate) fn page_bytes() -> u32 {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let bytes = bytes.ok().flatten().unwrap_or(0);
    u32::try_from(bytes).unwrap_or(0)
}

/// The release of the kernel, cut to what a fingerprint holds.
pub(crate) fn kernel_release() -> String {
    let name = nix::sys::utsname::uname();
    let release = name
        .ok()
        .map(|name| name.release().to_string_lossy().into_owned());
    let mut release = release.unwrap_or_default();
    let cap = release.floor_char_boundary(limits::MAX_HOST_TEXT_BYTES);
    release.truncate(cap);
    release
}
