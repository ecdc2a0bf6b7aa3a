#!/bin/sh
# Builds the drive-by scenario and the harmless tasks: build.sh OUT_DIR
#
#   applet.jar    the task: an untrusted applet, with the native program inside
#   scenario.img  the second disk (ext4, label LAVA-SCENARIO): the marker, the applet host, the setuid helper
#   hello.jar, notes.py   harmless tasks
#
# Needs no root. The same inputs and tools give the same bytes; when nothing changed it does nothing.
set -eu
[ $# -eq 1 ] || { echo "usage: build.sh OUT_DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../lib.sh"
need javac jar cargo cc as ld mke2fs debugfs sha256sum
out=$(folder "$1")

date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
target=x86_64-unknown-linux-gnu

stamp=$(
    {
        echo "$SOURCE_DATE_EPOCH"
        javac -version 2>&1
        (cd "$here/native" && rustc --version)
        mke2fs -V 2>&1
        sources benign drive-by
    } | sha256sum
)
if [ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ] && [ -f "$out/applet.jar" ] && [ -f "$out/scenario.img" ] &&
    [ -f "$out/hello.jar" ] && [ -f "$out/notes.py" ]; then
    exit 0
fi

scratch "$out/.build"

# Static, so that they run in any guest; without the builder's paths, so that everybody's are the same.
native=${CARGO_TARGET_DIR:-$out/.cargo}
case $native in /*) ;; *) native=$PWD/$native ;; esac
(
    cd "$here/native"
    unset CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
    CARGO_TARGET_DIR=$native \
    RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$here=/scenario --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$native=/target" \
        cargo build --quiet --locked --release --target "$target"
)
native=$native/$target/release

compile() { # CLASSES [javac argument...]
    classes=$1
    shift
    mkdir -p "$classes"
    javac --release 17 -g:source,lines -proc:none -Xlint:all,-removal,-options -Werror -d "$classes" "$@"
}

pack() { # JAR CLASSES MANIFEST
    (cd "$2" && find . -type f | sed 's|^\./||' | sort >"$work/list")
    (cd "$2" && jar --create --file "$1" --manifest "$3" --date "$date" "@$work/list")
}

compile "$work/host" "$here"/java/host/lava/applet/*.java
echo "Main-Class: lava.applet.AppletHost" >"$work/host.mf"
pack "$work/host.jar" "$work/host" "$work/host.mf"

compile "$work/applet" -cp "$work/host" "$here"/java/applet/driveby/*.java
cp "$native/dropper" "$work/applet/driveby/slides.bin"
chmod 644 "$work/applet/driveby/slides.bin"
mkdir -p "$work/applet/META-INF"
echo "LAVA's drive-by scenario: a simulated attack, see scenarios/drive-by/README.md" >"$work/applet/META-INF/LAVA-APPLET"
echo "Applet-Class: driveby.Slideshow" >"$work/applet.mf"
pack "$work/applet.jar" "$work/applet" "$work/applet.mf"

compile "$work/hello" "$here/../benign/Hello.java"
echo "Main-Class: Hello" >"$work/hello.mf"
pack "$work/hello.jar" "$work/hello" "$work/hello.mf"

disk=$work/disk
mkdir -p "$disk/bin"
cp "$here/MARKER" "$work/host.jar" "$disk/"
cp "$native/weak-helper" "$disk/bin/weak-helper"
find "$disk" -type f -exec chmod 644 {} +
disk_image "$work/scenario.img" "$disk" 1a7a0000-0000-4000-8000-0000000000db /bin/weak-helper

cp "$here/../benign/notes.py" "$work/notes.py"
chmod 644 "$work/notes.py"
for file in applet.jar scenario.img hello.jar notes.py; do
    mv -f "$work/$file" "$out/$file"
done
echo "$stamp" >"$out/.stamp"
