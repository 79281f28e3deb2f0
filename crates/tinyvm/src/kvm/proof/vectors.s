// Values move through the SSE registers, which the loader has filled, and into the first x87
// register. What is lost or mixed up with another vCPU's changes all that follows. The upper
// halves of the AVX registers stay as they are: the host compares them at the end.

    .globl tinyvm_proof_vectors
tinyvm_proof_vectors:
    test ebp, ebp
    jnz 4f
    call start_all
4:  mov r13d, ebp                   // a buffer of its own
    shl r13d, 14
    add r13d, HEAP
5:  movdqu xmmword ptr [r13], xmm0
    movdqa xmm0, xmm1
    movdqa xmm1, xmm2
    movdqa xmm2, xmm3
    movdqa xmm3, xmm4
    movdqa xmm4, xmm5
    movdqa xmm5, xmm6
    movdqa xmm6, xmm7
    movdqa xmm7, xmm8
    movdqa xmm8, xmm9
    movdqa xmm9, xmm10
    movdqa xmm10, xmm11
    movdqa xmm11, xmm12
    movdqa xmm12, xmm13
    movdqa xmm13, xmm14
    movdqa xmm14, xmm15
    mov rax, qword ptr [r13 + 8]
    fold
    mov rax, qword ptr [r13]
    fold
    mov qword ptr [r13], r15
    movdqu xmm15, xmmword ptr [r13]
    inc r12
    test r12d, 7
    jnz 6f
    fxsave [r13 + 0x200]
    mov rax, qword ptr [r13 + 0x218] // MXCSR and its mask
    fold
    mov rax, qword ptr [r13 + 0x230] // the second register goes to the first
    mov qword ptr [r13 + 0x220], rax
    fold
    mov qword ptr [r13 + 0x230], r15
    fxrstor [r13 + 0x200]
    test ebp, ebp
    jnz 6f
    report r12d
6:  cmp r12, qword ptr [r8 + STEPS]
    jb 5b
    fxsave [r13 + 0x200]
    jmp finish
