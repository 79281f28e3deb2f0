// vCPUs in pairs: the even one sends non-maskable interrupts, the odd one acknowledges each at the
// start of a long handler. So the next one waits while the last is handled: it must neither be
// lost, which leaves the sender asleep, nor come before the handler ends.

    .equ VECTOR_NMI, 2
    .equ VECTOR_ACKNOWLEDGE, 0x40

    .globl tinyvm_proof_nmi
tinyvm_proof_nmi:
    test ebp, ebp
    jnz 4f
    gate VECTOR_NMI, nmi_taken
    gate VECTOR_ACKNOWLEDGE, nmi_acknowledged
    call start_all
4:  pause                           // not before the other one is up
    mov rax, qword ptr [r8 + UP]
    inc eax
    cmp rax, qword ptr [r8 + CPUS]
    jb 4b
    test ebp, 1
    jnz 7f
5:  mov edx, ebp
    xor edx, 1
    command 0x4400
    sleep_until_more_than r12, COUNT
    sti
    inc r12
    test ebp, ebp
    jnz 6f
    report r12d
6:  cmp r12, qword ptr [r8 + STEPS]
    jb 5b
    mov rax, r12
    fold
    jmp finish

7:  pause
    mov rax, qword ptr [r14 + COUNT_B]
    cmp rax, qword ptr [r8 + STEPS]
    jb 7b
    fold
    jmp finish

nmi_taken:
    push rax
    push rcx
    push rdx
    cmp qword ptr [r14 + ARMED], 0
    je 8f
    inc qword ptr [r8 + ERRORS]     // the last one is being handled
8:  inc qword ptr [r14 + ARMED]
    inc qword ptr [r14 + COUNT_B]
    mov edx, ebp
    xor edx, 1
    interrupt VECTOR_ACKNOWLEDGE
    mov ecx, 100
9:  dec ecx
    jnz 9b
    dec qword ptr [r14 + ARMED]
    pop rdx
    pop rcx
    pop rax
    iretq

    counting_handler nmi_acknowledged, COUNT
