# Functions that the scripts in this folder share. The scripts run on Debian. They
# keep downloads and builds in one cache, because a run with an empty cache takes
# many minutes.
set -euo pipefail

rig=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$rig/../.." && pwd)
cache=${MASKD_RIG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/maskd-rig}
triple=aarch64-unknown-linux-gnu
mkdir -p "$cache/debs"

say() { echo "rig: $*" >&2; }

# Installs the packages for missing programs and files. A name with a slash is the path
# of a file, or a pattern that must match a file.
need() { # PROGRAM:PACKAGE | FILE:PACKAGE …
    local missing=() pair
    for pair in "$@"; do
        case $pair in
            */*:*) compgen -G "${pair%%:*}" >/dev/null || missing+=("${pair#*:}") ;;
            *) command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}") ;;
        esac
    done
    [ "${#missing[@]}" -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ]; then
        say "missing: ${missing[*]}; install them, or run this as root"
        return 1
    fi
    # A fresh machine has no package lists.
    apt-get update -qq >&2
    apt-get install -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null
}

# Returns whether the current Rust toolchain can build for the target.
has_target() {
    compgen -G "$(rustc --print target-libdir --target "$triple")/libstd-*.rlib" >/dev/null
}

# Prints the path where tests/rig/toolchain keeps a copy of the toolchain with a
# locally built standard library, for machines where rustup cannot fetch the library.
toolchain_copy() {
    echo "$cache/rust-$(rustc --version | cut -d ' ' -f 2)"
}

# Returns whether builds should use the copy.
uses_copy() {
    [ -n "${MASKD_RIG_BUILD_STD:-}" ] || ! has_target
}

# Prints the mirror from which this machine installs Debian packages.
mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 -v security
}

# Runs apt with separate package lists, so that backports do not affect this machine.
rig_apt() { # PROGRAM ARGUMENT …
    local program=$1
    shift
    "$program" -o Dir::Etc::sourcelist="$cache/apt/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$cache/apt/lists" -o Dir::Cache="$cache/apt/cache" \
        -o APT::Architecture=amd64 -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 \
        -o APT::Get::AllowUnauthenticated=false -o APT::Sandbox::User=root "$@"
}

# Refreshes the package lists of rig_apt if they are old.
rig_lists() {
    local list=$cache/apt/sources.list
    mkdir -p "$cache/apt/lists/partial" "$cache/apt/cache/archives/partial"
    for known in bookworm bookworm-backports trixie-backports; do
        echo "deb $(mirror) $known main"
    done > "$list.$$"
    if ! cmp -s "$list" "$list.$$" || [ -z "$(find "$cache/apt/lists" -name '*Packages*' -mmin -600)" ]; then
        mv "$list.$$" "$list"
        rig_apt apt-get update -qq >&2
    else
        rm "$list.$$"
    fi
}

# Puts a package into the cache, and prints its path. Debian removes backports at some
# point, but the package stays in the cache.
deb() { # SUITE PACKAGE ARCHITECTURE
    local suite=$1 package=$2 architecture=$3 found
    kept() { find "$cache/debs" -name "${package}_*" \( -name "*_$architecture.deb" -o -name '*_all.deb' \) | sort | tail -n 1; }
    found=$(kept)
    if [ -z "$found" ]; then
        rig_lists
        (cd "$cache/debs" && rig_apt apt-get download -qq "$package:$architecture/$suite" >&2)
        found=$(kept)
    fi
    [ -n "$found" ] || { say "there is no package $package"; return 1; }
    echo "$found"
}

# Sets up the kernel's binfmt_misc and qemu-user, so that aarch64 programs run like
# native programs.
runs_foreign() {
    [ "$(uname -m)" != aarch64 ] || return 0
    local binfmt=/proc/sys/fs/binfmt_misc
    [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt 2>/dev/null || return 1
    [ -e $binfmt/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf > $binfmt/register
}
