// vCPU 1 sleeps until it is woken, again and again. vCPU 2 is initialized at a quarter of the
// steps and started at half of them; then it sleeps for good, until it is initialized and started
// anew. vCPU 3 waits for its start for ever.

    .equ VECTOR_WAKE, 0x40

    .globl tinyvm_proof_parked
tinyvm_proof_parked:
    cmp ebp, 1
    je parked_worker
    ja parked_sleeper
    gate VECTOR_WAKE, parked_wake
    init_vcpu 1
    start_vcpu 1
4:  pause
    cmp qword ptr [r8 + UP], 1
    jb 4b
    mov r13, qword ptr [r8 + STEPS]
    shr r13, 2
5:  mov edx, 1
    interrupt VECTOR_WAKE
    sleep_until_more_than r12, COUNT
    sti
    inc r12
    mov rax, qword ptr [r8 + TOKEN_A]
    fold
    report r12d
    cmp r12, r13
    je parked_init
    lea rax, [r13 * 2]
    cmp r12, rax
    je parked_start
    add rax, r13
    cmp r12, rax
    je parked_again
6:  cmp r12, qword ptr [r8 + STEPS]
    jb 5b
    jmp finish

parked_init:
    init_vcpu 2
    jmp 6b

parked_start:
    start_vcpu 2
7:  pause
    cmp qword ptr [r8 + STARTS], 1
    jb 7b
    jmp 6b

parked_again:
    init_vcpu 2
    start_vcpu 2
8:  pause
    cmp qword ptr [r8 + STARTS], 2
    jb 8b
    jmp 6b

parked_worker:
    sleep_until_more_than r12, COUNT
    sti
    inc r12
    mov rax, qword ptr [r8 + TOKEN_A]
    imul rax, r9
    add rax, r12
    mov qword ptr [r8 + TOKEN_A], rax
    fold
    xor edx, edx
    interrupt VECTOR_WAKE
    cmp r12, qword ptr [r8 + STEPS]
    jb parked_worker
    jmp finish

parked_sleeper:
    mov eax, 1
    lock xadd qword ptr [r8 + STARTS], rax
    test eax, eax
    jnz finish
    cli
9:  hlt
    jmp 9b

    counting_handler parked_wake, COUNT
