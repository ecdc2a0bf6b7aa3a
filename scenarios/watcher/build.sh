#!/bin/sh
# Builds the watcher scenario: build.sh OUT_DIR RELEASE...
#
#   watcher.img   a second disk (ext4, label LAVA-SCENARIO): the marker, `load` (setuid root), and for each kernel release of the
#                 guest RELEASE/watcher.ko
#
# The modules are compiled in a Debian 12 of their own with the headers of exactly these kernels. It is made once with mmdebstrap and
# kept in the user's cache (lava/module-toolchain). Needs no root. When nothing changed it does nothing.
set -eu
[ $# -ge 2 ] || { echo "usage: build.sh OUT_DIR RELEASE..." >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
need cc mke2fs debugfs mmdebstrap sha256sum tar
out=$(folder "$1")
shift
for release; do
    case $release in *[!a-z0-9.+-]* | -*) echo "build.sh: $release is no kernel release" >&2; exit 2 ;; esac
done

stamp=$({ echo "$SOURCE_DATE_EPOCH" "$@"; sources watcher; } | sha256sum)
[ "$(cat "$out/.stamp-watcher" 2>/dev/null)" = "$stamp" ] && [ -f "$out/watcher.img" ] && exit 0

scratch "${TMPDIR:-/tmp}/watcher"
# The namespace's root must get in.
chmod 755 "$work"

# The host's own mirror of a suite, where its apt has one.
source_line() { # SUITE URL
    url=$(apt-get indextargets --format '$(RELEASE)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^$1|//p" | head -n 1)
    echo "deb ${url:-$2} $1 main"
}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/lava/module-toolchain
toolchain=$cache/$(echo "$@" | sha256sum | cut -c 1-32).tar
if [ ! -f "$toolchain" ]; then
    mkdir -p "$cache"
    packages=make,gcc-12
    for release; do packages=$packages,linux-headers-$release; done
    {
        for suite in bookworm bookworm-updates bookworm-backports; do
            source_line "$suite" http://deb.debian.org/debian
        done
        source_line bookworm-security http://deb.debian.org/debian-security
    } >"$work/sources.list"
    apt-config dump Acquire 2>/dev/null | grep -E '::Proxy|^Acquire::Check-(Valid-Until|Date) ' >"$work/apt.conf" || true
    echo "build.sh: making the kernel modules' toolchain (some minutes; kept in $cache)" >&2
    mode=unshare
    [ "$(id -u)" != 0 ] || mode=root
    mmdebstrap --quiet --mode=$mode --variant=apt --aptopt="$work/apt.conf" \
        --aptopt='Apt::Install-Recommends "false"' --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        '' "$work/toolchain.tar" "$work/sources.list"
    mv -f "$work/toolchain.tar" "$toolchain.new"
    mv -f "$toolchain.new" "$toolchain"
fi

# In a namespace where we are root; a real root needs none.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else mmdebstrap --unshare-helper "$@"; fi
}
disk=$work/disk
mkdir -p "$disk"
tar -C "$here" -cf "$work/module.tar" module
as_root sh -eu -c '
    work=$1 toolchain=$2
    shift 2
    # Device files of the tree cannot be made without privilege, and are not needed.
    mkdir "$work/root"
    trap "rm -rf \"$work/root\"" EXIT
    tar -C "$work/root" --exclude="./dev/*" -xf "$toolchain"
    mkdir "$work/root/build"
    # The compiler wants a /dev/null, of whatever kind.
    : >"$work/root/dev/null"
    for release; do
        tar -C "$work/root/build" -xf "$work/module.tar"
        chroot "$work/root" make -s -C "/usr/src/linux-headers-$release" M=/build/module modules >"$work/log" 2>&1 ||
            { cat "$work/log" >&2; exit 1; }
        cat "$work/root/build/module/watcher.ko" >"$work/watcher-$release.ko"
        rm -rf "$work/root/build/module"
    done
' sh "$work" "$toolchain" "$@"
for release; do
    mkdir "$disk/$release"
    cp "$work/watcher-$release.ko" "$disk/$release/watcher.ko"
done
cc -O2 -Wall -Wextra -Werror -static -s -o "$disk/load" "$here/load.c"
cp "$here/MARKER" "$disk/"
find "$disk" -type f -exec chmod 644 {} +
disk_image "$work/watcher.img" "$disk" 1a7a0000-0000-4000-8000-0000000000aa /load
mv -f "$work/watcher.img" "$out/watcher.img"
echo "$stamp" >"$out/.stamp-watcher"
