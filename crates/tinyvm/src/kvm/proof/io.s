// Every way to leave the guest for a device with an answer to come: a snapshot between the exit
// and the next entry must complete it once. Strings and reads of device memory cross a page, and
// take several exits for one instruction.

    .globl tinyvm_proof_io
tinyvm_proof_io:
    test ebp, ebp
    jnz 4f
    call start_all
4:  mov r13d, ebp                   // a buffer of its own, near the end of a page
    shl r13d, 14
    add r13d, HEAP + 0xff4
    mov ebx, DEVICE
    cld
5:  mov edi, r13d                   // a string in
    mov ecx, 24
    mov edx, PORT_STREAM
    rep insb
    mov rax, qword ptr [r13]
    fold
    mov rax, qword ptr [r13 + 8]
    fold
    mov rax, qword ptr [r13 + 16]
    fold
    lea rax, [rdi + rcx]            // the registers that it moves
    fold
    mov eax, dword ptr [rbx]        // device memory
    fold
    mov rax, qword ptr [rbx + 0xffc]
    fold
    mov qword ptr [rbx + 0xffc], r15
    mov edx, PORT_ANSWER
    in eax, dx
    fold
    mov qword ptr [r13 + 5], r15    // a string out
    mov esi, r13d
    mov ecx, 14
    mov edx, PORT_STREAM
    rep outsb
    lea rax, [rsi + rcx]
    fold
    inc r12
    test ebp, ebp
    jnz 6f
    report r12d
6:  cmp r12, qword ptr [r8 + STEPS]
    jb 5b
    jmp finish
