# What the scenarios' build scripts share. They source it with their own folder in $here.
umask 022
export LC_ALL=C TZ=UTC0
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1780000000}"
PATH=$PATH:/usr/sbin:/sbin

fail() { # WORDS
    echo "build.sh: $*" >&2
    exit 1
}

need() { # TOOL...
    for tool; do
        command -v "$tool" >/dev/null || fail "$tool is missing; run: cargo xtask setup"
    done
}

folder() { # DIR: made, as an absolute path
    mkdir -p "$1"
    (cd "$1" && pwd)
}

sources() { # FOLDER...: a hash of every file below, and of this one
    (cd "$here/.." && find lib.sh "$@" -type f ! -path '*/target/*' ! -path '*/__pycache__/*' | sort | xargs -d '\n' sha256sum)
}

scratch() { # PREFIX: a folder $work that goes when the script ends
    work=$(mktemp -d "$1.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
}

disk_image() { # IMAGE FOLDER UUID [SETUID-PATH]: an ext4 of 16 MiB, label LAVA-SCENARIO, all root's
    # No journal: nothing on this disk is worth one. The identifiers are fixed, for the same bytes each time.
    find "$2" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    truncate -s 16M "$1"
    E2FSPROGS_FAKE_TIME="$SOURCE_DATE_EPOCH" mke2fs -q -F -t ext4 -b 4096 -O ^has_journal,^metadata_csum -L LAVA-SCENARIO \
        -U "$3" -m 0 -E "hash_seed=$3,root_owner=0:0,lazy_itable_init=0,nodiscard" -d "$2" "$1"
    # Owner, mode and the times that a file system keeps by itself are set in the image: no root is needed for that, and no
    # setuid file ever exists on the host.
    (cd "$2" && find . -type d -printf '040755 /%P\n' -o -path ".${4:-}" -printf '0104755 /%P\n' \
        -o -perm /111 -printf '0100755 /%P\n' -o -printf '0100644 /%P\n') |
        while read -r mode path; do
            for field in "uid 0" "gid 0" "mode $mode"; do
                echo "set_inode_field $path $field"
            done
            for field in atime ctime mtime crtime; do
                echo "set_inode_field $path $field @$SOURCE_DATE_EPOCH"
                echo "set_inode_field $path ${field}_extra 0"
            done
        done >"$1.commands"
    E2FSPROGS_FAKE_TIME="$SOURCE_DATE_EPOCH" debugfs -w -f "$1.commands" "$1" >"$1.log" 2>&1
    [ -z "${4:-}" ] || debugfs -R "stat $4" "$1" 2>/dev/null | tr -s ' ' | grep -q "Mode: 04755" ||
        { cat "$1.log" >&2; fail "$4 did not become setuid in the image"; }
}
