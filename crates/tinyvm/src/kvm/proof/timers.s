// Each vCPU waits for ticks of a timer of its own. One-shot timers are armed anew for each tick:
// a lost one leaves the vCPU asleep. A tick that nobody awaits is counted apart.

    .equ VECTOR_PIC, 0x20
    .equ VECTOR_PIC_SPURIOUS, 0x27
    .equ VECTOR_ONE_SHOT, 0x41
    .equ VECTOR_DEADLINE, 0x42
    .equ VECTOR_PERIODIC, 0x43
    .equ VECTOR_IOAPIC, 0x44

    .equ IOAPIC, 0xfec00000
    .equ PIT_COUNT, 600             // half a millisecond
    .equ APIC_COUNT, 400000         // at 1 GHz
    .equ DEADLINE_TICKS, 1000000

    .globl tinyvm_proof_timers
tinyvm_proof_timers:
    test ebp, ebp
    jnz 4f
    gate VECTOR_PIC, timers_pic
    gate VECTOR_PIC_SPURIOUS, timers_pic_spurious
    gate VECTOR_ONE_SHOT, timers_one_shot
    gate VECTOR_DEADLINE, timers_deadline
    gate VECTOR_PERIODIC, timers_periodic
    gate VECTOR_IOAPIC, timers_ioapic
    call start_all
    jmp timers_of_board
4:  write_msr APIC_TIMER_DIVIDE, 0xb    // by 1
    cmp ebp, 1
    je timers_wait_one_shot
    cmp ebp, 2
    je timers_wait_deadline
    jmp timers_wait_periodic

// The PIT: by the PICs first, and then by the IOAPIC.
timers_of_board:
    write_port 0x20, 0x11           // edge, cascaded, four words
    write_port 0x21, VECTOR_PIC
    write_port 0x21, 4
    write_port 0x21, 1
    write_port 0x21, 0xfe           // the timer alone
    write_msr APIC_LVT_LINT0, 0x700 // from the PICs
    write_port 0x43, 0x34           // channel 0, rate generator
    write_port 0x40, (PIT_COUNT&0xff)
    write_port 0x40, (PIT_COUNT>>8)
5:  sleep_until_more_than r12, COUNT
    sti
    mov r12, qword ptr [r14 + COUNT]
    report r12d
    cmp r12, qword ptr [r8 + STEPS]
    jb 5b
    write_port 0x21, 0xff
    write_msr APIC_LVT_LINT0, MASKED
    mov ebx, IOAPIC
    mov dword ptr [rbx], 0x10       // the first pin, to this vCPU
    mov dword ptr [rbx + 16], VECTOR_IOAPIC
    mov dword ptr [rbx], 0x11
    mov dword ptr [rbx + 16], 0
6:  sleep_until_more_than r13, COUNT_B
    sti
    mov r13, qword ptr [r14 + COUNT_B]
    report r13d
    cmp r13, qword ptr [r8 + STEPS]
    jb 6b
    cli
    mov dword ptr [rbx], 0x10
    mov dword ptr [rbx + 16], MASKED
    write_port 0x43, 0x3a           // a mode that never ticks
    write_port 0x40, 0
    write_port 0x40, 0
    // Ticks of a rate go on until they are turned off: those beyond the last do not count.
    mov rax, qword ptr [r8 + STEPS]
    mov qword ptr [r14 + COUNT], rax
    mov qword ptr [r14 + COUNT_B], rax
    fold
    mov r12, qword ptr [r8 + STEPS]
    report r12d
    jmp finish

timers_wait_one_shot:
    write_msr APIC_LVT_TIMER, VECTOR_ONE_SHOT
7:  mov qword ptr [r14 + ARMED], 1
    write_msr APIC_TIMER_COUNT, APIC_COUNT
    sleep_until_more_than r12, COUNT
    sti
    inc r12
    mov rax, r12
    fold
    cmp r12, qword ptr [r8 + STEPS]
    jb 7b
    cli
    write_msr APIC_LVT_TIMER, MASKED
    jmp finish

timers_wait_deadline:
    write_msr APIC_LVT_TIMER, 0x40000+VECTOR_DEADLINE
8:  mov qword ptr [r14 + ARMED], 1
    rdtsc
    add eax, DEADLINE_TICKS
    adc edx, 0
    mov ecx, TSC_DEADLINE
    wrmsr
    sleep_until_more_than r12, COUNT
    sti
    inc r12
    mov rax, r12
    fold
    cmp r12, qword ptr [r8 + STEPS]
    jb 8b
    cli
    write_msr APIC_LVT_TIMER, MASKED
    jmp finish

timers_wait_periodic:
    write_msr APIC_LVT_TIMER, 0x20000+VECTOR_PERIODIC
    write_msr APIC_TIMER_COUNT, APIC_COUNT
9:  sleep_until_more_than r12, COUNT
    sti
    mov r12, qword ptr [r14 + COUNT]
    cmp r12, qword ptr [r8 + STEPS]
    jb 9b
    cli
    write_msr APIC_TIMER_COUNT, 0
    write_msr APIC_LVT_TIMER, MASKED
    mov rax, qword ptr [r8 + STEPS]
    mov qword ptr [r14 + COUNT], rax
    fold
    jmp finish

    // A tick of a timer that is armed once, and disarmed by writing zero to `msr`.
    .macro once_handler name, msr
\name:
    push rax
    push rcx
    push rdx
    cmp qword ptr [r14 + ARMED], 0
    je 2f
    mov qword ptr [r14 + ARMED], 0
    inc qword ptr [r14 + COUNT]
    write_msr \msr, 0
    jmp 3f
2:  inc qword ptr [r14 + REPEATED]
3:  end_of_interrupt
    pop rdx
    pop rcx
    pop rax
    iretq
    .endm

    once_handler timers_one_shot, APIC_TIMER_COUNT
    once_handler timers_deadline, TSC_DEADLINE
    counting_handler timers_periodic, COUNT
    counting_handler timers_ioapic, COUNT_B

timers_pic:
    push rax
    inc qword ptr [r14 + COUNT]
    write_port 0x20, 0x20
    pop rax
timers_pic_spurious:
    iretq
