// Four hardware breakpoints, one of them on at a time: it must be hit, and no other.

    .globl tinyvm_proof_breakpoints
tinyvm_proof_breakpoints:
    test ebp, ebp
    jnz 4f
    gate 1, breakpoints_hit
    call start_all
4:  lea rax, [rip + breakpoints_0]
    mov dr0, rax
    lea rax, [rip + breakpoints_1]
    mov dr1, rax
    lea rax, [rip + breakpoints_2]
    mov dr2, rax
    lea rax, [rip + breakpoints_3]
    mov dr3, rax
5:  lea ecx, [rbp + r12]            // which one
    and ecx, 3
    shl ecx, 1
    mov eax, 1
    shl eax, cl
    or eax, 0x400
    mov dr7, rax
breakpoints_0:
    nop
breakpoints_1:
    nop
breakpoints_2:
    nop
breakpoints_3:
    nop
    inc r12
    test ebp, ebp
    jnz 6f
    report r12d
6:  cmp r12, qword ptr [r8 + STEPS]
    jb 5b
    mov eax, 0x400
    mov dr7, rax
    mov rax, r13                    // hits in all
    fold
    jmp finish

breakpoints_hit:
    push rax
    mov rax, dr6
    and eax, 15
    fold
    inc r13
    mov eax, 0xffff0ff0
    mov dr6, rax
    pop rax
    or dword ptr [rsp + 16], 0x10000 // the resume flag: go on past the breakpoint
    iretq
