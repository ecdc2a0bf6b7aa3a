# The planted boot sector: says one line on the serial console, then starts the original.
#
# It takes bytes 0-439 of the disk (disk signature and partition table behind it stay). The BIOS loads it to 0x7c00;
# it moves itself to 0x0600, for which it is linked, so that the original, saved in LBA 2, can be loaded where it
# expects to be. The original gets DL (the drive), ES:DI, DS:SI and the other registers as the BIOS gave them; only AX is lost.
#
# Limits: at most 440 bytes (native/build.rs checks); needs the BIOS's extended read (INT 13h, AH=42h), which every
# BIOS of an emulator has.

        .code16
        .set    LOADED, 0x7c00
        .set    SAVED_LBA, 2
        .set    COM1, 0x3f8
        .set    LINE_STATUS, COM1 + 5
        .set    CAN_SEND, 0x20

        .globl  _start
_start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ss
        movw    $LOADED, %sp
        pushw   %es
        pushw   %ds
        pushal
        movw    %ax, %ds
        movw    %ax, %es
        cld
        movw    $LOADED, %si
        movw    $_start, %di
        movw    $220, %cx
        rep movsw
        sti
        ljmp    $0, $moved

moved:
        movw    $planted, %si
        call    print
        movw    $request, %si
        movb    $0x42, %ah
        int     $0x13
        jc      failed
        cmpw    $0xaa55, LOADED + 510
        jne     failed
        popal
        popw    %ds
        popw    %es
        ljmp    $0, $LOADED

failed:
        movw    $unreadable, %si
        call    print
stop:
        hlt
        jmp     stop

# Prints the text at DS:SI up to its zero byte. Waits for the line at most 65536 polls, so that no line hangs the boot.
print:
        lodsb
        testb   %al, %al
        jz      3f
        pushw   %dx
        movb    %al, %ah
        xorw    %cx, %cx
        movw    $LINE_STATUS, %dx
2:      inb     %dx, %al
        testb   $CAN_SEND, %al
        loopz   2b
        movw    $COM1, %dx
        movb    %ah, %al
        outb    %al, %dx
        popw    %dx
        jmp     print
3:      ret

planted:
        .asciz  "LAVA drive-by: planted boot sector ran\r\n"
unreadable:
        .asciz  "LAVA drive-by: cannot read the original boot sector\r\n"

        .balign 4
request:
        .byte   16, 0
        .word   1
        .word   LOADED, 0
        .quad   SAVED_LBA
