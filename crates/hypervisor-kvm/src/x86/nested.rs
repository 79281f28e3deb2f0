//! What a blob of nested state says of itself (`struct kvm_nested_state`).

use crate::lists::read;

/// Bytes of the header, which is all there is without a nested guest.
pub(super) const HEADER_BYTES: usize = 128;
/// Where the header keeps the length of the whole.
pub(super) const SIZE_AT: usize = 4;
/// Where it keeps whose format it has.
const FORMAT_AT: usize = 2;
/// Where the VMX header keeps the address of the VMXON region.
const VMXON_AT: usize = 8;

/// `KVM_STATE_NESTED_GUEST_MODE`
const GUEST_MODE: u16 = 1;
/// `KVM_STATE_NESTED_GIF_SET`
const GIF_SET: u16 = 1 << 8;
/// `KVM_STATE_NESTED_FORMAT_VMX`
const VMX: u16 = 0;

/// Whether a nested guest runs.
pub(super) fn is_in_guest(blob: &[u8]) -> bool {
    read::<u16>(blob, 0) & GUEST_MODE != 0
}

/// Whether a vCPU without the blob would be another one: it is inside a nested guest, has entered
/// VMX operation, or holds back interrupts for SVM.
pub(super) fn is_in_use(blob: &[u8]) -> bool {
    if blob.is_empty() {
        return false;
    }
    let flags: u16 = read(blob, 0);
    if read::<u16>(blob, FORMAT_AT) == VMX {
        flags != 0 || read::<u64>(blob, VMXON_AT) != u64::MAX
    } else {
        flags != GIF_SET
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists::write;

    fn header(flags: u16, format: u16, vmxon: u64) -> Vec<u8> {
        let mut blob = vec![0; HEADER_BYTES];
        write(&mut blob, 0, &flags);
        write(&mut blob, FORMAT_AT, &format);
        write(&mut blob, VMXON_AT, &vmxon);
        blob
    }

    #[test]
    fn a_vcpu_that_never_used_it_can_do_without() {
        assert!(!is_in_use(&[]));
        assert!(!is_in_use(&header(0, VMX, u64::MAX)));
        assert!(!is_in_use(&header(GIF_SET, 1, 0)));
    }

    #[test]
    fn vmx_operation_a_nested_guest_and_a_cleared_gif_are_state() {
        assert!(is_in_use(&header(0, VMX, 0x1000)));
        assert!(is_in_use(&header(0, 1, 0)));
        let guest = header(GUEST_MODE | GIF_SET, 1, 0);
        assert!(is_in_use(&guest) && is_in_guest(&guest));
    }
}
