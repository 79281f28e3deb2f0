use super::*;

/// Fills a structure with bytes that are all different from their neighbours.
fn filled<T: crate::ioctl::KernelStruct>() -> T {
    let mut value = T::default();
    for (byte, number) in crate::ioctl::bytes_of_mut(&mut value)
        .iter_mut()
        .zip((1..=251).cycle())
    {
        *byte = number;
    }
    value
}

#[test]
fn registers_survive_the_format() {
    let regs: kvm::kvm_regs = filled();
    assert_eq!(to_regs(&from_regs(&regs)), regs);
}

#[test]
fn system_registers_survive_the_format() {
    let mut sregs: kvm::kvm_sregs2 = filled();
    let segments = [
        &mut sregs.cs,
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
        &mut sregs.tr,
        &mut sregs.ldt,
    ];
    for segment in segments {
        segment.padding = 0;
    }
    sregs.gdt.padding = [0; 3];
    sregs.idt.padding = [0; 3];
    sregs.flags = PDPTRS_VALID;
    assert_eq!(to_sregs2(&from_sregs2(&sregs)), sregs);
    sregs.flags = 0;
    assert_eq!(from_sregs2(&sregs).pdptrs, None);
}

#[test]
fn an_injected_interrupt_of_the_old_interface_survives() {
    for vector in [0, 31, 63, 64, 255] {
        let special = SpecialRegisters {
            injected_interrupt: Some(vector),
            ..SpecialRegisters::default()
        };
        assert_eq!(from_sregs(&to_sregs(&special)), special);
    }
    assert_eq!(
        from_sregs(&kvm::kvm_sregs::default()).injected_interrupt,
        None
    );
}

#[test]
fn events_survive_the_format() {
    let mut events: kvm::kvm_vcpu_events = filled();
    events.nmi.pad = 0;
    events.reserved = [0; 26];
    assert_eq!(to_events(&from_events(&events)), events);
}

#[test]
fn timer_and_controllers_survive_the_format() {
    let mut pit: kvm::kvm_pit_state2 = filled();
    pit.reserved = [0; 9];
    assert_eq!(to_pit(&from_pit(&pit)), pit);
    let pic: kvm::kvm_pic_state = filled();
    assert_eq!(to_pic(&from_pic(&pic)), pic);
}

#[test]
fn extended_control_registers_survive_the_format() {
    let saved = vec![Xcr { index: 0, value: 7 }, Xcr { index: 1, value: 9 }];
    assert_eq!(from_xcrs(&to_xcrs(&saved)), saved);
}
