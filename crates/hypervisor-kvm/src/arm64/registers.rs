//! Reading and writing registers of a vCPU one by one, and the list of those it has.

use std::io;

use snapshot_format::limits;

use super::abi;
use crate::calls::{Arg, Calls, Target, refused};
use crate::error::KvmError;
use crate::lists::{read, write};
use crate::request::arm64 as req;

/// Bytes before the entries of `struct kvm_reg_list`.
const LIST_HEADER: usize = 8;

/// Registers to make room for at first: KVM has some 500, and twice that with vectors and a guest
/// hypervisor.
const LIST_ROOM: usize = 1024;

/// More registers than any kernel lists.
const LIST_LIMIT: usize = limits::MAX_SYSTEM_REGISTERS * 4;

/// The length of a register in bytes, which its number says.
pub(super) fn len_bytes(id: u64) -> usize {
    1 << (id >> abi::SIZE_SHIFT & 0xf)
}

/// Every register that the vCPU has, as the kernel lists them.
pub(super) fn list(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<Vec<u64>, KvmError> {
    let target = Target::Vcpu(vcpu);
    let mut room = LIST_ROOM;
    loop {
        let mut bytes = vec![0; LIST_HEADER + 8 * room];
        write(&mut bytes, 0, &(room as u64));
        let done = calls.call(target, req::KVM_GET_REG_LIST, Arg::Bytes(&mut bytes));
        let count = usize::try_from(read::<u64>(&bytes, 0)).unwrap_or(usize::MAX);
        match done {
            Ok(_) => {
                let entries = (0..count.min(room)).map(|n| read(&bytes, LIST_HEADER + 8 * n));
                return Ok(entries.collect());
            }
            // The kernel says how many there are.
            Err(error)
                if error.raw_os_error() == Some(libc::E2BIG)
                    && count > room
                    && count <= LIST_LIMIT =>
            {
                room = count;
            }
            Err(error) => return Err(refused(target, req::KVM_GET_REG_LIST, error)),
        }
    }
}

/// Reads a register of up to 64 bits; a shorter one is extended with zeros.
pub(super) fn get(calls: &mut (dyn Calls + '_), vcpu: usize, id: u64) -> Result<u64, KvmError> {
    let mut value = [0; 8];
    let bytes = value.get_mut(..len_bytes(id)).unwrap_or_default();
    get_bytes(calls, vcpu, id, bytes)?;
    Ok(u64::from_le_bytes(value))
}

/// Reads a register of any length.
pub(super) fn get_bytes(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    id: u64,
    value: &mut [u8],
) -> Result<(), KvmError> {
    let (target, request) = (Target::Vcpu(vcpu), crate::request::KVM_GET_ONE_REG);
    calls
        .register(target, request, id, value)
        .map_err(|source| refused(target, request, source))
}

/// Writes a register of up to 64 bits.
pub(super) fn set(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    id: u64,
    value: u64,
) -> Result<(), KvmError> {
    try_set(calls, vcpu, id, value)
        .map_err(|source| refused(Target::Vcpu(vcpu), crate::request::KVM_SET_ONE_REG, source))
}

/// As [`set`], with the kernel's own error.
pub(super) fn try_set(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    id: u64,
    value: u64,
) -> io::Result<()> {
    let mut value = value.to_le_bytes();
    let bytes = value.get_mut(..len_bytes(id)).unwrap_or_default();
    calls.register(
        Target::Vcpu(vcpu),
        crate::request::KVM_SET_ONE_REG,
        id,
        bytes,
    )
}

/// Writes a register of any length.
pub(super) fn set_bytes(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    id: u64,
    value: &[u8],
) -> Result<(), KvmError> {
    let (target, request) = (Target::Vcpu(vcpu), crate::request::KVM_SET_ONE_REG);
    calls
        .register(target, request, id, &mut value.to_vec())
        .map_err(|source| refused(target, request, source))
}
