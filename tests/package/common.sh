# shellcheck shell=bash
# Functions that the scripts in this folder share.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

passed=0
failed=0
ok() { # WHAT COMMAND…
    if "${@:2}"; then
        passed=$((passed + 1))
        echo "ok   $1"
    else
        failed=$((failed + 1))
        echo "BAD  $1"
    fi
}
not() { # COMMAND…
    ! "$@"
}
finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}

# Prints the path of an archive of a minimal Debian, and creates the archive if it does not
# exist.
debian_root() { # [ROOT.tar]
    local cached=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/maskd/debian-root.tar}
    if [ ! -s "$cached" ]; then
        mkdir -p "$(dirname "$cached")"
        mmdebstrap --quiet --format=tar --variant=minbase --include=adduser,init-system-helpers bookworm "$cached.part" >&2
        mv "$cached.part" "$cached"
    fi
    echo "$cached"
}

# Unpacks a minimal Debian, and prints its folder.
unpacked_root() { # [ROOT.tar]
    local archive root
    archive=$(debian_root "$@")
    root=$(mktemp -d)
    tar -C "$root" -xf "$archive"
    mount --bind /proc "$root/proc"
    echo "$root"
}
remove_root() { # ROOT
    umount "$1/proc"
    rm -rf "$1"
}
