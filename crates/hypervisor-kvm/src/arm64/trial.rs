//! What of a snapshot this host refuses: tried on a machine that is thrown away.

use std::collections::HashSet;

use snapshot_format::state::{Hypervisor, KvmInit, Reason, VcpuArm64};

use super::interface::{finalize_sve, has_feature, init, preferred, with_feature, with_gic_of};
use super::policy::{RegisterPolicy, is_refusal};
use super::{abi, registers, restore, save, vectors};
use crate::calls::Calls;
use crate::error::KvmError;

/// Every register and every feature of the vCPUs that the host does not take; `features` says what
/// the vCPUs are made with.
pub(super) fn refused(
    scratch: &mut (dyn Calls + '_),
    features: &KvmInit,
    vcpus: &[VcpuArm64],
    policy: &RegisterPolicy,
) -> Result<Vec<Reason>, KvmError> {
    let Some(first) = vcpus.first() else {
        return Ok(Vec::new());
    };
    if let Err(error) = init(scratch, 0, features) {
        return only_refusals(error).map(|()| {
            vec![Reason::Value {
                vcpu: 0,
                what: "the features of target",
                number: features.target.into(),
                value: features.features[0].into(),
            }]
        });
    }
    let mut reasons = Vec::new();
    if has_feature(features, abi::VCPU_SVE) {
        reasons.extend(try_lengths(scratch, first)?);
        finalize_sve(scratch, 0)?;
    }
    let known: HashSet<u64> = registers::list(scratch, 0)?.into_iter().collect();
    for vcpu in vcpus {
        reasons.extend(unknown(vcpu, &known, policy));
    }
    for (what, id, value) in fixed(first).filter(|(_, id, _)| known.contains(id)) {
        let found = registers::get(scratch, 0, id)?;
        // This machine has no controller, which one of these registers tells.
        let encoding = save::system_id(id).unwrap_or_default();
        let tried = with_gic_of(encoding, value, found);
        if found == tried || policy.drops(id) {
            continue;
        }
        match registers::try_set(scratch, 0, id, tried) {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => reasons.push(Reason::Value {
                vcpu: 0,
                what,
                number: id,
                value,
            }),
            Err(source) => {
                let request = crate::request::KVM_SET_ONE_REG;
                let target = crate::calls::Target::Vcpu(0);
                return Err(crate::calls::refused(target, request, source));
            }
        }
    }
    Ok(reasons)
}

/// What a vCPU is made with that another hypervisor saved: what the kernel prefers, with pointer
/// authentication where the guest has it.
pub(super) fn features_of_foreign(
    scratch: &mut (dyn Calls + '_),
    vcpu: &VcpuArm64,
) -> Result<KvmInit, KvmError> {
    use snapshot_format::state::{SystemRegisterId, register_value};

    let id = SystemRegisterId::ID_AA64ISAR1_EL1;
    let features = register_value(&vcpu.system, id).unwrap_or(0);
    // APA and API, GPA and GPI.
    let (address, generic) = (features & 0xff0 != 0, features & 0xff00_0000 != 0);
    let init = preferred(scratch)?;
    let init = with_feature(init, abi::VCPU_PTRAUTH_ADDRESS, address);
    Ok(with_feature(init, abi::VCPU_PTRAUTH_GENERIC, generic))
}

/// Registers that are fixed before the first run: of the firmware, and those that name features.
fn fixed(vcpu: &VcpuArm64) -> impl Iterator<Item = (&'static str, u64, u64)> + '_ {
    let firmware = restore::firmware(vcpu).map(|(id, value)| ("firmware register", id, value));
    let features = vcpu.system.iter().filter(|r| r.id.is_feature_id());
    firmware.chain(features.map(|r| ("ID register", abi::system(r.id), r.value)))
}

fn try_lengths(
    scratch: &mut (dyn Calls + '_),
    vcpu: &VcpuArm64,
) -> Result<Option<Reason>, KvmError> {
    let host = vectors::lengths(scratch, 0)?;
    let saved = vcpu.sve.as_ref().map_or(host, |sve| sve.lengths);
    match vectors::set_lengths(scratch, 0, &saved) {
        Ok(()) => Ok(None),
        Err(error) => only_refusals(error).map(|()| {
            Some(Reason::VectorLengths {
                what: "SVE",
                saved,
                host,
            })
        }),
    }
}

/// Registers that no vCPU with these features has on this host.
fn unknown<'a>(
    vcpu: &'a VcpuArm64,
    known: &'a HashSet<u64>,
    policy: &'a RegisterPolicy,
) -> impl Iterator<Item = Reason> + 'a {
    let system = vcpu.system.iter().map(|register| {
        let id = abi::system(register.id);
        (
            id,
            "system register",
            u64::from(register.id.0),
            register.value,
        )
    });
    let own = vcpu
        .extras
        .iter()
        .filter(|e| e.hypervisor == Hypervisor::KVM);
    let own = own.map(|extra| (extra.id, "register", extra.id, extra.value));
    let all = system.chain(own);
    let unknown = all.filter(|(id, ..)| !known.contains(id) && !policy.drops(*id));
    unknown.map(|(_, what, number, value)| Reason::Value {
        vcpu: vcpu.id,
        what,
        number,
        value,
    })
}

/// Passes on what is no refusal.
fn only_refusals(error: KvmError) -> Result<(), KvmError> {
    match error {
        KvmError::Ioctl { source, .. } if is_refusal(&source) => Ok(()),
        error => Err(error),
    }
}
