// What all proof programs share: how a vCPU starts and ends, and macros.
//
// The image lies at CODE. Registers that keep their meaning throughout a program:
//   rbp  the number of the vCPU         r8   SHARED, what all vCPUs share
//   r14  the line of the vCPU           r15  its checksum
//   r9   multiplier and
//   r10  increment of the generator

    .pushsection .rodata.tinyvm_proof, "a", @progbits
    .p2align 4

    .equ CODE, {CODE}
    .equ GDT_POINTER, {GDT_POINTER}
    .equ IDT_POINTER, {IDT_POINTER}
    .equ IDT, {IDT}
    .equ SHARED, {SHARED}
    .equ LINES, {LINES}
    .equ STACKS, {STACKS}
    .equ HEAP, {HEAP}
    .equ DEVICE, {DEVICE}
    .equ PORT_PROGRESS, {PORT_PROGRESS}
    .equ PORT_ANSWER, {PORT_ANSWER}
    .equ PORT_DONE, {PORT_DONE}
    .equ PORT_REPEATED, {PORT_REPEATED}
    .equ PORT_STREAM, {PORT_STREAM}

    // In SHARED: set by the loader,
    .equ ENTRY, {ENTRY}             // where a vCPU goes once it runs in long mode
    .equ CPUS, {CPUS}               // how many vCPUs there are
    .equ STEPS, {STEPS}             // how many steps the program has
    // and by the guest.
    .equ UP, 0x40                   // how often a vCPU but the first came up
    .equ TOKEN_A, 0x48
    .equ TOKEN_B, 0x50
    .equ LAST, 0x58                 // the last time stamp seen by any vCPU
    .equ ERRORS, 0x60               // time stamps before the last one
    .equ STARTS, 0x68               // how often the sleeper was started

    // In the line of a vCPU:
    .equ COUNT, 0                   // interrupts taken
    .equ COUNT_B, 8                 // of the second kind
    .equ ARMED, 16                  // whether a timer is awaited
    .equ REPEATED, 24               // timer interrupts that nobody awaited

    // x2APIC
    .equ APIC_ID, 0x802
    .equ APIC_EOI, 0x80b
    .equ APIC_SPURIOUS, 0x80f
    .equ APIC_COMMAND, 0x830
    .equ APIC_LVT_TIMER, 0x832
    .equ APIC_LVT_LINT0, 0x835
    .equ APIC_TIMER_COUNT, 0x838
    .equ APIC_TIMER_DIVIDE, 0x83e
    .equ TSC_DEADLINE, 0x6e0
    .equ MASKED, 0x10000

    .macro write_msr msr, low
    mov ecx, \msr
    mov eax, \low
    xor edx, edx
    wrmsr
    .endm

    // Sends a command to the vCPU in edx.
    .macro command low
    mov ecx, APIC_COMMAND
    mov eax, \low
    wrmsr
    .endm

    // Interrupts the vCPU in edx.
    .macro interrupt vector
    command 0x4000+\vector
    .endm

    .macro init_vcpu number
    mov edx, \number
    command 0x4500
    .endm

    .macro start_vcpu number
    mov edx, \number
    command 0x4600+(CODE>>12)
    .endm

    .macro write_port port, value
    mov al, \value
    out \port, al
    .endm

    // An interrupt gate.
    .macro gate vector, handler
    lea rax, [rip + \handler]
    mov edi, IDT+\vector*16
    call set_gate
    .endm

    .macro end_of_interrupt
    write_msr APIC_EOI, 0
    .endm

    // A handler that counts.
    .macro counting_handler name, count
\name:
    push rax
    push rcx
    push rdx
    inc qword ptr [r14 + \count]
    end_of_interrupt
    pop rdx
    pop rcx
    pop rax
    iretq
    .endm

    // Sleeps until more than `seen` interrupts were counted at `count`; they are off then.
    .macro sleep_until_more_than seen, count
2:  cli
    cmp qword ptr [r14 + \count], \seen
    ja 3f
    sti
    hlt
    jmp 2b
3:
    .endm

    // Folds rax into the checksum.
    .macro fold
    imul r15, r9
    add r15, rax
    .endm

    // Says how far the program is.
    .macro report value
    mov eax, \value
    mov edx, PORT_PROGRESS
    out dx, eax
    .endm

    .globl tinyvm_proof_image
tinyvm_proof_image:

// A vCPU that was started by an interrupt begins here, in real mode.
    .code16
    cli
    xor eax, eax
    mov ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16    // lgdt [GDT_POINTER]
    .word GDT_POINTER
    .byte 0x66, 0x0f, 0x01, 0x1e    // lidt [IDT_POINTER]
    .word IDT_POINTER
    mov eax, {CR4}
    mov cr4, eax
    mov eax, {PML4}
    mov cr3, eax
    mov ecx, 0xc0000080             // EFER: long mode enabled
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, {CR0}
    mov cr0, eax
    .byte 0x66, 0xea                // jmp 8:from_real_mode
    .long from_real_mode - tinyvm_proof_image + CODE
    .word 8
    .code64
from_real_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax

// The first vCPU begins here, in long mode.
    .globl tinyvm_proof_start
tinyvm_proof_start:
    mov ecx, APIC_ID
    rdmsr
    mov ebp, eax
    lea esp, [rax + 1]
    shl esp, 12
    add esp, STACKS
    mov r14d, ebp
    shl r14d, 6
    add r14d, LINES
    mov r8d, SHARED
    movabs r9, {MULTIPLIER}
    movabs r10, {INCREMENT}
    xor r12d, r12d
    xor r13d, r13d
    xor r15d, r15d
    xor ebx, ebx
    write_msr APIC_SPURIOUS, 0x1ff
    write_msr APIC_LVT_LINT0, MASKED
    test ebp, ebp
    jz 2f
    lock inc qword ptr [r8 + UP]    // not before its APIC is on and takes interrupts
2:  jmp qword ptr [r8 + ENTRY]

// Ends the vCPU: what depends on the moment is wiped out, the checksum is said.
finish:
    cli
    mov edi, ebp
    shl edi, 12
    add edi, STACKS
    mov ecx, 512
    xor eax, eax
    cld
    rep stosq
    mov eax, dword ptr [r14 + REPEATED]
    mov dword ptr [r14 + REPEATED], 0
    mov edx, PORT_REPEATED
    out dx, eax
    mov eax, r15d
    mov edx, PORT_DONE
    xor ebx, ebx
    xor esi, esi
    xor edi, edi
    xor r11d, r11d
    xor r12d, r12d
    xor r13d, r13d
    out dx, eax
2:  hlt
    jmp 2b

// Writes the gate at edi for the handler at rax.
set_gate:
    mov word ptr [rdi], ax
    mov word ptr [rdi + 2], 8
    mov word ptr [rdi + 4], 0x8e00
    shr rax, 16
    mov word ptr [rdi + 6], ax
    shr rax, 16
    mov dword ptr [rdi + 8], eax
    mov dword ptr [rdi + 12], 0
    ret

// Starts all other vCPUs, and waits until they are up.
start_all:
    mov ebx, 1
2:  init_vcpu ebx
    start_vcpu ebx
    start_vcpu ebx
    inc ebx
    cmp rbx, qword ptr [r8 + CPUS]
    jb 2b
    dec ebx
3:  pause
    cmp qword ptr [r8 + UP], rbx
    jb 3b
    ret
