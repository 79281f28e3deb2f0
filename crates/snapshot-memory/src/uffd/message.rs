//! What a userfaultfd tells whoever serves it.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

/// Bytes of a `struct uffd_msg`.
const MESSAGE_BYTES: usize = 32;

/// Messages that one read takes at most.
pub(crate) const MESSAGES_A_READ: usize = 32;

/// `UFFD_PAGEFAULT_FLAG_WP`: of a page that is there and protected.
const FAULT_PROTECTED: u64 = 1 << 1;

/// A message of the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    /// A thread waits for the page at this address.
    Fault {
        /// Somewhere in the page.
        address: u64,
        /// Whether the page is there, and only protected against writing.
        is_protected: bool,
    },
    /// The pages of the range are about to be given back: they read as zero from then on.
    Removed(Range<u64>),
    /// The range is about to be unmapped.
    Unmapped(Range<u64>),
    /// Pages were moved to another address, which is not served.
    Remapped {
        /// From where.
        from: Range<u64>,
    },
    /// The process forked, and the child's memory has a descriptor of its own, of this number.
    Forked {
        /// The number in this process.
        descriptor: i32,
    },
    /// Something that this version does not know.
    Unknown(u8),
}

/// Reads the messages that are there, at most [`MESSAGES_A_READ`], and appends them to `into`.
///
/// Gives how many; 0: none are there.
pub(super) fn read(uffd: BorrowedFd<'_>, into: &mut Vec<Message>) -> Result<usize, Errno> {
    let mut bytes = [0; MESSAGE_BYTES * MESSAGES_A_READ];
    let len = loop {
        match nix::unistd::read(uffd, &mut bytes) {
            Err(Errno::EINTR) => {}
            // No message, or those that there were are gone again.
            Err(Errno::EAGAIN) => return Ok(0),
            Err(errno) => return Err(errno),
            Ok(len) => break len,
        }
    };
    let (messages, _) = bytes.get(..len).unwrap_or_default().as_chunks();
    into.extend(messages.iter().map(Message::parse));
    Ok(messages.len())
}

impl Message {
    /// `struct uffd_msg`: the event in the first byte, its arguments from the ninth on, in the
    /// host's byte order.
    fn parse(bytes: &[u8; MESSAGE_BYTES]) -> Self {
        let [event, ..] = *bytes;
        let (words, _) = bytes.as_chunks::<8>();
        let word = |at: usize| {
            let bytes = words.get(at).copied().unwrap_or_default();
            #[expect(clippy::host_endian_bytes, reason = "a structure of the kernel's")]
            u64::from_ne_bytes(bytes)
        };
        match event {
            0x12 => Self::Fault {
                address: word(2),
                is_protected: word(1) & FAULT_PROTECTED != 0,
            },
            0x13 => Self::Forked {
                #[expect(clippy::cast_possible_truncation, reason = "the low half is the field")]
                descriptor: word(1) as i32,
            },
            0x14 => Self::Remapped {
                from: word(1)..word(1).saturating_add(word(3)),
            },
            0x15 => Self::Removed(word(1)..word(2)),
            0x16 => Self::Unmapped(word(1)..word(2)),
            other => Self::Unknown(other),
        }
    }
}
