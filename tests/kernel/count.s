# The guest of the kernel tests, a boot sector. A number, one more each time: into a sector of its own of each disk, then,
# once all have it, onto the console. tests/tests/kernel/guest.rs has the bytes:
#   as --32 -o count.o count.s && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o count count.o && xxd -p -c 32 count
        .code16
        .globl _start
_start: jmp     begin
        .org    4
disks:  .byte   2
        .org    8
packet: .byte   16, 0
        .word   1                       # sectors
        .word   0x8000, 0               # the buffer
sector: .long   0, 0
number: .long   0

begin:  cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        sti
        cld
        mov     $0x8000, %di
        mov     $256, %cx
        rep stosw
next:   incl    number
        movl    number, %eax
        movl    %eax, 0x8000
        addl    $2047, %eax
        movl    %eax, sector
        mov     $0x80, %dl
1:      mov     $0x4300, %ax
        mov     $packet, %si
        push    %dx
        int     $0x13
        pop     %dx
        jc      failed
        inc     %dx
        mov     %dl, %al
        sub     $0x80, %al
        cmp     disks, %al
        jb      1b
        mov     $'W', %al
        call    put
        movl    number, %ebx
        mov     $8, %cx
2:      roll    $4, %ebx
        mov     %bl, %al
        and     $15, %al
        cmp     $10, %al
        jb      3f
        add     $39, %al
3:      add     $48, %al
        call    put
        loop    2b
end:    mov     $10, %al
        call    put
        mov     $8, %cx
5:      hlt
        loop    5b
        jmp     next
# The same number again would hide that it was refused.
failed: mov     $'F', %al
        call    put
        jmp     end

put:    push    %ax
        mov     $0x3fd, %dx
4:      in      %dx, %al
        test    $32, %al
        jz      4b
        pop     %ax
        mov     $0x3f8, %dx
        out     %al, %dx
        ret
