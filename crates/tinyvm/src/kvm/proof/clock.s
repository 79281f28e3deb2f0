// The vCPUs read their time stamp counters in turns. None may be behind what any vCPU has seen.

    .equ VECTOR_TURN, 0x40

    .globl tinyvm_proof_clock
tinyvm_proof_clock:
    test ebp, ebp
    jnz 4f
    gate VECTOR_TURN, clock_turn
    call start_all
    xor edx, edx                    // the first turn
    interrupt VECTOR_TURN
4:  sleep_until_more_than r12, COUNT
    sti
    inc r12
    mov ebx, 16
5:  rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, qword ptr [r8 + LAST]
    jae 6f
    inc qword ptr [r8 + ERRORS]
6:  mov qword ptr [r8 + LAST], rax
    dec ebx
    jnz 5b
    mov rax, r12
    fold
    test ebp, ebp
    jnz 7f
    report r12d
7:  lea edx, [rbp + 1]
    cmp rdx, qword ptr [r8 + CPUS]
    jb 8f
    xor edx, edx
    cmp r12, qword ptr [r8 + STEPS]
    jb 8f
    mov qword ptr [r8 + LAST], 0    // the end: it depends on the moment
    jmp finish
8:  interrupt VECTOR_TURN
    cmp r12, qword ptr [r8 + STEPS]
    jb 4b
    jmp finish

    counting_handler clock_turn, COUNT

    .globl tinyvm_proof_end
tinyvm_proof_end:
    .popsection
