#!/bin/sh
# Builds the known-count programs and the ground truth's workloads: build.sh OUT_DIR
#
#   proof.img   a second disk for the guest (ext4, label LAVA-SCENARIO)
#
# Needs no root. When nothing changed it does nothing.
set -eu
[ $# -eq 1 ] || { echo "usage: build.sh OUT_DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
need javac jar cc mke2fs debugfs sha256sum
out=$(folder "$1")

stamp=$({ cc --version; javac -version; sources known-count; } 2>&1 | sha256sum)
[ "$(cat "$out/.proof-stamp" 2>/dev/null)" = "$stamp" ] && [ -f "$out/proof.img" ] && exit 0

scratch "$out/.proof"

disk=$work/disk
mkdir -p "$disk/bin" "$work/classes"
compile() { # PROGRAM [option...]
    program=$1
    shift
    cc -std=gnu11 -O2 -Wall -Wextra -Werror -static -s "$@" -o "$disk/bin/$program" "$here/$program.c"
}
compile known-count -pthread
compile stress -pthread
compile as-root
compile nothing -nostdlib -fno-stack-protector -fcf-protection=none
cp "$here/KNOWN-COUNT" "$disk/"
cp -r "$here/workloads" "$disk/"
javac --release 17 -proc:none -Xlint:all,-options -Werror -d "$work/classes" "$here/java/Work.java"
jar --create --file "$disk/workloads/work.jar" --main-class Work -C "$work/classes" .

disk_image "$work/proof.img" "$disk" 1a7a0000-0000-4000-8000-0000000000cc /bin/as-root
mv -f "$work/proof.img" "$out/proof.img"
echo "$stamp" >"$out/.proof-stamp"
