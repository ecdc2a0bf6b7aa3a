#!/bin/sh
# Builds the known-count programs and the ground truth's workloads: build.sh OUT_DIR
#
#   proof.img   a second disk for the guest (ext4, label LAVA-SCENARIO)
#
# Needs no root. When nothing changed it does nothing.
set -eu
umask 022
export LC_ALL=C TZ=UTC0

[ $# -eq 1 ] || { echo "usage: build.sh OUT_DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
PATH=$PATH:/usr/sbin:/sbin

for tool in javac jar cc mke2fs debugfs sha256sum; do
    command -v "$tool" >/dev/null || { echo "build.sh: $tool is missing; run: cargo xtask setup" >&2; exit 1; }
done

export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1780000000}"
stamp=$({ cc --version; javac -version; cd "$here" && find . -type f | sort | xargs -d '\n' sha256sum; } 2>&1 | sha256sum)
[ "$(cat "$out/.proof-stamp" 2>/dev/null)" = "$stamp" ] && [ -f "$out/proof.img" ] && exit 0

work=$(mktemp -d "$out/.proof.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

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

# No journal: nothing on this disk is worth one. Owner and setuid bit are set in the image: no root is needed for that, and
# no setuid file ever exists on the host.
truncate -s 16M "$work/proof.img"
mke2fs -q -F -t ext4 -b 4096 -O ^has_journal,^metadata_csum -L LAVA-SCENARIO -m 0 -E root_owner=0:0,lazy_itable_init=0,nodiscard \
    -d "$disk" "$work/proof.img"
for field in "uid 0" "gid 0" "mode 0104755"; do
    echo "set_inode_field /bin/as-root $field"
done >"$work/commands"
debugfs -w -f "$work/commands" "$work/proof.img" >"$work/debugfs.log" 2>&1
debugfs -R "stat /bin/as-root" "$work/proof.img" 2>/dev/null | tr -s ' ' | grep -q "Mode: 04755" ||
    { cat "$work/debugfs.log" >&2; echo "build.sh: as-root did not become setuid in the image" >&2; exit 1; }
mv -f "$work/proof.img" "$out/proof.img"
echo "$stamp" >"$out/.proof-stamp"
