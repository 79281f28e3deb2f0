use std::os::fd::AsFd;

use super::*;

#[test]
fn structures_have_the_sizes_that_the_kernel_numbers_carry() {
    // As `strace` prints them for x86-64.
    #[cfg(target_arch = "x86_64")]
    {
        assert_eq!(request::KVM_GET_REGS.number, 0x8090_ae81);
        assert_eq!(request::KVM_GET_SREGS2.number, 0x8140_aecc);
        assert_eq!(request::KVM_SET_MSRS.number, 0x4008_ae89);
        assert_eq!(request::KVM_GET_IRQCHIP.number, 0xc208_ae62);
        assert_eq!(request::KVM_GET_NESTED_STATE.number, 0xc080_aebe);
        assert_eq!(request::KVM_GET_MSR_INDEX_LIST.number, 0xc004_ae02);
    }
    assert_eq!(request::KVM_GET_DIRTY_LOG.number, 0x4010_ae42);
    assert_eq!(request::KVM_CLEAR_DIRTY_LOG.number, 0xc018_aec0);
}

/// Descriptors that are not KVM's: only arguments that never reach the kernel are tried on them.
fn no_kvm(file: &std::fs::File) -> Handles<'_> {
    // SAFETY: every call in these tests fails before it reaches the kernel.
    unsafe { Handles::new(file.as_fd(), file.as_fd(), vec![file.as_fd()]) }
}

#[test]
fn arguments_that_do_not_cover_what_the_kernel_touches_are_refused() {
    let file = some_file();
    let mut handles = no_kvm(&file);
    let mut short = [0; 8];
    let refused = [
        handles.call(
            Target::Vm,
            request::KVM_GET_DIRTY_LOG,
            Arg::Bytes(&mut short),
        ),
        handles.call(Target::Vm, request::KVM_GET_DIRTY_LOG, Arg::Value(0)),
        handles.call(
            Target::Vm,
            request::KVM_CHECK_EXTENSION,
            Arg::Bytes(&mut short),
        ),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    let mut one = [0_u64; 1];
    let mut machine = OwnedVm::new(file.try_clone().unwrap().into());
    let refused = machine.clear_dirty_log(0, 0, 65, &mut one);
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_register_that_is_longer_than_its_value_is_refused() {
    let file = some_file();
    let mut handles = no_kvm(&file);
    // Sizes are binary logarithms: 32 bytes here.
    let id = 5 << 52;
    let mut short = [0; 31];
    let refused = handles.register(Target::Vcpu(0), request::KVM_GET_ONE_REG, id, &mut short);
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_count_beyond_its_list_is_refused() {
    let file = some_file();
    let mut handles = no_kvm(&file);
    let mut bytes = crate::lists::encode_list(8, &[kvm::kvm_msr_entry::default()]);
    crate::lists::write(&mut bytes, 0, &2_u32);
    let refused = handles.call(
        Target::Vcpu(0),
        request::KVM_SET_MSRS,
        Arg::Bytes(&mut bytes),
    );
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_vcpu_that_is_not_there_is_an_error() {
    let file = some_file();
    let mut handles = no_kvm(&file);
    let missing = handles.call(Target::Vcpu(1), request::KVM_GET_API_VERSION, Arg::Value(0));
    assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
}

fn some_file() -> std::fs::File {
    std::fs::File::open("/dev/null").unwrap()
}
