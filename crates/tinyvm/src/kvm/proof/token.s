// Two tokens go round, one up and one down, by interrupts between the vCPUs. Each vCPU that gets a
// token computes its next value. A lost interrupt leaves everybody asleep; one that comes twice
// makes a token a second time.

    .equ VECTOR_A, 0x40
    .equ VECTOR_B, 0x50

    .globl tinyvm_proof_token
tinyvm_proof_token:
    test ebp, ebp
    jnz 4f
    gate VECTOR_A, token_interrupt_a
    gate VECTOR_B, token_interrupt_b
    call start_all
    xor edx, edx                    // both begin here
    interrupt VECTOR_A
    interrupt VECTOR_B
4:
    xor r11d, r11d                  // the checksum of the second token
token_next:
    cli
    cmp qword ptr [r14 + COUNT], r12
    ja token_take_a
    cmp qword ptr [r14 + COUNT_B], r13
    ja token_take_b
    cmp r12, qword ptr [r8 + STEPS]
    jb 5f
    cmp r13, qword ptr [r8 + STEPS]
    jae 6f
5:  sti
    hlt
    jmp token_next
6:  mov rax, r11
    fold
    jmp finish

token_take_a:
    sti
    inc r12
    mov rax, qword ptr [r8 + TOKEN_A]
    imul rax, r9
    add rax, r10
    add rax, rbp
    mov qword ptr [r8 + TOKEN_A], rax
    fold
    lea edx, [rbp + 1]              // up
    cmp rdx, qword ptr [r8 + CPUS]
    jb 7f
    xor edx, edx
    cmp r12, qword ptr [r8 + STEPS] // the last one keeps it
    jae token_next
7:  interrupt VECTOR_A
    test ebp, ebp
    jnz token_next
    report r12d
    jmp token_next

token_take_b:
    sti
    inc r13
    mov rax, qword ptr [r8 + TOKEN_B]
    imul rax, r9
    add rax, r10
    sub rax, rbp
    mov qword ptr [r8 + TOKEN_B], rax
    imul r11, r9
    add r11, rax
    mov edx, ebp                    // down
    test edx, edx
    jnz 8f
    mov edx, dword ptr [r8 + CPUS]
8:  dec edx
    cmp ebp, 1
    jne 9f
    cmp r13, qword ptr [r8 + STEPS] // the last one keeps it
    jae token_next
9:  interrupt VECTOR_B
    jmp token_next

    counting_handler token_interrupt_a, COUNT
    counting_handler token_interrupt_b, COUNT_B
