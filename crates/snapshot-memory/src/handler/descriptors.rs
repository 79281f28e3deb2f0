//! Bytes and descriptors over a Unix socket.

// UNSAFETY: recvmsg, and taking the descriptors that the kernel puts into its control messages.
#![expect(unsafe_code, reason = "takes descriptors out of a message")]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::{mem, ptr};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Descriptors that one message can carry: `SCM_MAX_FD` of the kernel. With room for all of them,
/// none is ever lost in the kernel's hands or in ours.
const MAX_DESCRIPTORS: usize = 253;

/// Words of a buffer with room for one control message of as many descriptors.
const CONTROL_WORDS: usize = (MAX_DESCRIPTORS * size_of::<RawFd>() + 64) / size_of::<u64>();

/// Takes what is there of a stream, at most `into`, and appends the descriptors that came with it.
/// Does not wait: `EAGAIN`. Gives how many bytes; 0: the stream has ended.
pub(super) fn receive(
    stream: &UnixStream,
    into: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut bytes = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    // SAFETY: the structure is made of integers and pointers, for all of which zero is valid.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut bytes;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: `header` names `into` and `control`, which we hold exclusively, with their lengths.
    let outcome = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut header, flags) };
    let len = Errno::result(outcome)?;
    take_descriptors(&header, descriptors);
    usize::try_from(len).map_err(|_| Errno::EOVERFLOW.into())
}

/// Moves the descriptors in the control messages of a received `header` to `into`.
fn take_descriptors(header: &libc::msghdr, into: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel has filled the buffer that `header` names, and its length in.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: what is not null is a control message of the kernel in that buffer, which is aligned.
    while let Some(found) = unsafe { message.as_ref() } {
        if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: as above.
            let data = unsafe { libc::CMSG_DATA(found) };
            let before = data.addr() - ptr::from_ref(found).addr();
            let count = found.cmsg_len.saturating_sub(before) / size_of::<RawFd>();
            for index in 0..count {
                let place = data.wrapping_add(index * size_of::<RawFd>());
                // SAFETY: the message is as long as it says, so that `place` is in the buffer.
                let number =
                    unsafe { ptr::read_unaligned(place.cast::<[u8; size_of::<RawFd>()]>()) };
                #[expect(clippy::host_endian_bytes, reason = "a structure of the kernel's")]
                let number = RawFd::from_ne_bytes(number);
                // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
                into.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
        // SAFETY: `message` is a control message in the buffer that `header` names.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
}

/// Sends all of `bytes`, with `descriptor` beside the first of them.
pub(super) fn send(
    stream: &UnixStream,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> io::Result<()> {
    let numbers = [descriptor.as_raw_fd()];
    let mut rest = bytes;
    while !rest.is_empty() {
        let rights = [ControlMessage::ScmRights(&numbers)];
        let first = rest.len() == bytes.len();
        let control = if first { rights.as_slice() } else { &[] };
        let parts = [IoSlice::new(rest)];
        let socket = stream.as_raw_fd();
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(socket, &parts, control, flags, None) {
            Ok(len) => rest = rest.get(len..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
