# Shared by the scripts of this folder. They run on Debian; what they download or
# build is kept in one cache, since a cold start takes many minutes.
set -euo pipefail

rig=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$rig/../.." && pwd)
cache=${MASKD_RIG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/maskd-rig}
triple=aarch64-unknown-linux-gnu
mkdir -p "$cache/debs"

say() { echo "rig: $*" >&2; }

# Installs the packages of the programs and files that are missing. A name with a
# slash is a file, or a pattern that has to match one.
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
    # A fresh machine has no lists of packages.
    apt-get update -qq >&2
    apt-get install -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null
}

# Whether the Rust toolchain in use can build for the target.
has_target() {
    compgen -G "$(rustc --print target-libdir --target "$triple")/libstd-*.rlib" >/dev/null
}

# Where tests/rig/toolchain keeps a copy of the toolchain with a standard library that
# was built here, for machines where rustup cannot fetch one.
toolchain_copy() {
    echo "$cache/rust-$(rustc --version | cut -d ' ' -f 2)"
}

# Whether the copy is to be used.
uses_copy() {
    [ -n "${MASKD_RIG_BUILD_STD:-}" ] || ! has_target
}

# The mirror that this machine installs Debian's packages from.
mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 -v security
}

# apt with lists of its own, so that backports do not come near the machine's.
rig_apt() { # PROGRAM ARGUMENT …
    local program=$1
    shift
    "$program" -o Dir::Etc::sourcelist="$cache/apt/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$cache/apt/lists" -o Dir::Cache="$cache/apt/cache" \
        -o APT::Architecture=amd64 -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 \
        -o APT::Get::AllowUnauthenticated=false -o APT::Sandbox::User=root "$@"
}

# Refreshes the lists of packages that rig_apt reads, when they are old.
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

# Puts a package into the cache, and prints its path. Backports leave Debian's
# pools some day; what is in the cache stays.
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

# Sees to it that programs for aarch64 run here like any other, by the kernel's
# binfmt_misc and qemu-user.
runs_foreign() {
    [ "$(uname -m)" != aarch64 ] || return 0
    local binfmt=/proc/sys/fs/binfmt_misc
    [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt 2>/dev/null || return 1
    [ -e $binfmt/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf > $binfmt/register
}
