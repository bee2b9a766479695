# The settings of a build for aarch64 with Debian's cross compiler, without cross.
# Its folder is in the cache by default, where it outlives a clone. MASKD_RIG_TARGET=target
# shares the build scripts and procedural macros of a native build.
export CARGO_TARGET_DIR=${MASKD_RIG_TARGET:-$cache/target}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
export AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu"
# A standard library that was built here is in a copy of the toolchain.
if uses_copy; then
    copy=$(toolchain_copy)
    export PATH=$copy/bin:$PATH RUSTC=$copy/bin/rustc
    unset RUSTUP_TOOLCHAIN
fi
