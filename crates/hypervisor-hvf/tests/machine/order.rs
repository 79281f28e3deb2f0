//! What is called in which order.

use hypervisor_bridge::testing::fake_paused;

use super::rig::{Shape, Vmm, host, noon};
use super::round_trip::{fill, restore};

/// What a call is about, for the order; `None` for what may come anywhere.
fn group(call: &str) -> Option<&'static str> {
    let (verb, what) = call.split_once(' ')?;
    let system = |what: &str| {
        let Some(number) = what.strip_prefix("system register ") else {
            return "other";
        };
        match number {
            // SP_EL0, SP_EL1, ELR_EL1, SPSR_EL1 go with the general registers.
            "0xc208" | "0xe208" | "0xc201" | "0xc200" => "general",
            "0xdf19" | "0xdf1a" | "0xdf11" | "0xdf12" => "timers",
            _ => "system",
        }
    };
    let group = match what {
        "MPIDR_EL1" => "affinity",
        "PC" | "CPSR" => "general",
        "FPCR" | "FPSR" | "SME mode" | "Za" | "Zt0" => "vectors",
        "vtimer offset" => "timers",
        _ if what.starts_with("VtimerMask") => "timers",
        _ if what.starts_with("Pending") => "pending",
        _ if what.starts_with("TrapDebug") => "traps",
        _ if what.starts_with('X') => "general",
        _ if what.starts_with(['Q', 'Z', 'P']) => "vectors",
        _ if what.starts_with("ICC") => "icc",
        _ if what.starts_with("ICH") => "system",
        _ if what.starts_with("redistributor") => "redistributor",
        _ => system(what),
    };
    // To see whether the register is there at all: it is not a step of its own.
    (verb == "set" || group != "other").then_some(group)
}

/// The groups of calls with `verb`, each once where it follows itself.
fn groups(calls: &[String], verb: &str) -> Vec<&'static str> {
    let of_verb = calls.iter().filter(|call| call.starts_with(verb));
    let mut groups: Vec<_> = of_verb.filter_map(|call| group(call)).collect();
    groups.dedup();
    groups
}

// spec: HVF-02
#[test]
fn a_vcpu_is_read_registers_first_and_what_is_pending_last() {
    let mut vmm = Vmm::new(&host(noon()), &Shape::full(2));
    fill(&vmm, 1);
    vmm.hv.forget_calls();
    vmm.machine.save_vcpu(1, &fake_paused()).unwrap();
    let calls = vmm.calls_of(1);
    let order = [
        "general",
        "vectors",
        "affinity",
        "system",
        "icc",
        "timers",
        "pending",
        "traps",
        "redistributor",
    ];
    assert_eq!(groups(&calls, "get"), order);
    assert_eq!(groups(&calls, "set"), [""; 0]);
    // The running priority and the timer values are views of others.
    for view in ["ICC register 0xc65b", "system register 0xdf10"] {
        let read = format!("get {view}");
        assert!(!calls.contains(&read), "{read}");
    }
}

// spec: HVF-02
#[test]
fn the_opaque_state_is_made_after_every_vcpu_was_read() {
    let mut vmm = Vmm::new(&host(noon()), &Shape::full(2));
    vmm.hv.forget_calls();
    super::round_trip::sections(&mut vmm);
    let calls = vmm.hv.calls();
    let state = calls.iter().position(|call| call == "hv_gic_state_create");
    let state = state.unwrap();
    let is_of_vcpu = |call: &String| call.starts_with("get ");
    assert!(calls[..state].iter().any(is_of_vcpu));
    assert!(!calls[state..].iter().any(is_of_vcpu));
}

// spec: HVF-06
#[test]
fn a_machine_is_written_affinity_gic_interface_system_general_timers_pending() {
    let mut source = Vmm::new(&host(noon()), &Shape::full(2));
    fill(&source, 0);
    let mut target = Vmm::new(&host(noon()), &Shape::full(2));
    // Another affinity than the snapshot's: it is written before the state that goes by it.
    target.set_register(1, hypervisor_hvf::Register::MPIDR, 1 << 31 | 7);
    target.hv.forget_calls();
    restore(&mut source, &mut target);
    let order = [
        "icc", "system", "general", "vectors", "timers", "pending", "traps",
    ];
    assert_eq!(groups(&target.calls_of(0), "set"), order);
    let with_affinity: Vec<_> = ["affinity"].into_iter().chain(order).collect();
    assert_eq!(groups(&target.calls_of(1), "set"), with_affinity);

    let calls = target.hv.calls();
    let at = |wanted: &str| calls.iter().position(|call| call.starts_with(wanted));
    let (affinity, state) = (at("set 2 MPIDR_EL1"), at("hv_gic_set_state"));
    let first_write = at("set 1 ICC");
    assert!(
        affinity < state && state < first_write,
        "{affinity:?} {state:?}"
    );
    // The system-register interface comes before what is reached through it, and the mode of
    // vectors before them: changing it clears them.
    let of_first = target.calls_of(0);
    let place = |wanted: &str| of_first.iter().position(|call| call == wanted).unwrap();
    assert!(place("set ICC register 0xc665") < place("set ICC register 0xc230"));
    assert!(place("set SME mode") < place("set Q0") && place("set Q31") < place("set FPSR"));
    assert!(place("set system register 0xdf1a") < place("set system register 0xdf19"));
    assert!(!of_first.iter().any(|call| call.contains("0xdf10")), "TVAL");
}
