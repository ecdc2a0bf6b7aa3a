#!/bin/sh
# Tests what needs no guest image: outside the guest every piece refuses, and the boot sector starts the original.
# Usage: test.sh [OUT_DIR of build.sh]; builds into a temporary directory without it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
qemu=
trap '[ -z "$qemu" ] || kill "$qemu" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
failed=0

check() { # WHAT EXPECTED ACTUAL
    if [ "$2" = "$3" ]; then echo "ok      $1"; else echo "FAILED  $1: expected '$2', got '$3'"; failed=1; fi
}
refuses() { # WHAT COMMAND...
    what=$1
    shift
    code=0
    "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
    check "$what: exit code" 64 "$code"
    check "$what: message" "refused: not in a LAVA micro-VM" "$(grep '^refused' "$work/stderr" || true)"
}

if [ -e /opt/scenario/MARKER ] || [ -e /tmp/.cache-drive-by ]; then
    echo "test.sh: there is a scenario marker or a dropped file on this machine; remove it first" >&2
    exit 1
fi
out=${1:-$work/out}
"$here/build.sh" "$out"
out=$(cd "$out" && pwd)

cd "$work"
for file in MARKER host.jar bin/weak-helper; do
    debugfs -R "dump /$file $work/$(basename "$file")" "$out/scenario.img" 2>/dev/null
done
check "the marker's text" "$(cat "$here/MARKER")" "$(cat MARKER)"
check "the helper in the image is root's and setuid" "04755 0 0" \
    "$(debugfs -R 'stat /bin/weak-helper' "$out/scenario.img" 2>/dev/null | tr -s ' ' |
        sed -n 's/.*Mode: \([0-7]*\).*/\1/p; s/.*User: \([0-9]*\) Group: \([0-9]*\).*/\1 \2/p' | paste -sd' ')"
jar xf "$out/applet.jar" driveby/slides.bin
chmod 755 weak-helper driveby/slides.bin

refuses "the dropper" driveby/slides.bin
refuses "the dropper's second stage" driveby/slides.bin --stage2
refuses "the helper" ./weak-helper /bin/touch "$work/touched"
check "the helper ran nothing" no "$([ -e touched ] && echo yes || echo no)"
refuses "the applet host" java -Djava.security.manager=allow -cp host.jar lava.applet.AppletHost "$out/applet.jar"
# The applet asks for itself too, whoever runs it.
cat >Alone.java <<'END'
public class Alone {
    public static void main(String[] arguments) throws Exception {
        System.exit(new driveby.Slideshow().run());
    }
}
END
refuses "the applet without its host" java -cp "host.jar:$out/applet.jar" Alone.java
check "the applet dropped nothing" no "$([ -e /tmp/.cache-drive-by ] && echo yes || echo no)"
check "the harmless jar" 0 "$(java -jar "$out/hello.jar" >/dev/null 2>&1; echo $?)"
mkdir home
check "the harmless script" 0 "$(HOME=$work/home python3 "$out/notes.py" >/dev/null 2>&1; echo $?)"

# A disk with our boot sector in LBA 0, and in LBA 2 one that tells the drive it was given and the address it runs at.
cat >original.S <<'END'
        .code16
        .globl _start
_start: pushw %dx
        movw $text, %si
1:      lodsb
        testb %al, %al
        jz 2f
        movw $0x3f8, %dx
        outb %al, %dx
        jmp 1b
2:      popw %dx
        cmpb $0x80, %dl
        jne 3f
        movw $0x3f8, %dx
        movb $'+', %al
        outb %al, %dx
3:      hlt
        jmp 3b
text:   .asciz "the original ran "
        .org 510
        .word 0xaa55
END
assemble() { # SOURCE ADDRESS BINARY
    as --32 -o object.o "$1"
    ld -m elf_i386 -Ttext "$2" --oformat binary -o "$3" object.o
}
assemble "$here/boot/boot.S" 0x600 boot.bin
assemble original.S 0x7c00 original.bin
boots() { # WHAT EXPECTED-LAST-LINE
    : >serial
    qemu-system-x86_64 -accel tcg -machine pc -m 32 -display none -monitor none -net none -serial file:serial \
        -drive file=disk,format=raw,if=virtio 2>qemu.log &
    qemu=$!
    tries=0
    until grep -q "$2" serial || [ $tries -ge 100 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill "$qemu"
    wait "$qemu" 2>/dev/null || true
    qemu=
    check "$1" "$(printf 'LAVA drive-by: planted boot sector ran|%s' "$2")" "$(tr -d '\r' <serial | paste -sd'|')"
}
truncate -s 1M disk
dd if=boot.bin of=disk conv=notrunc status=none
printf '\125\252' | dd of=disk bs=1 seek=510 conv=notrunc status=none
boots "without a saved sector the boot sector says so" "LAVA drive-by: cannot read the original boot sector"
dd if=original.bin of=disk bs=512 seek=2 conv=notrunc status=none
boots "the boot sector starts the original" "the original ran +"

[ $failed = 0 ] && echo "all passed"
exit $failed
