# Settings for building for aarch64 with Debian's cross compiler, without cross. By default,
# the build folder is in the cache, so that it survives if the clone is deleted. With
# MASKD_RIG_TARGET=target, the build shares build scripts and procedural macros with a
# native build.
export CARGO_TARGET_DIR=${MASKD_RIG_TARGET:-$cache/target}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
export AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu"
# A locally built standard library is in a copy of the toolchain.
if uses_copy; then
    copy=$(toolchain_copy)
    export PATH=$copy/bin:$PATH RUSTC=$copy/bin/rustc
    unset RUSTUP_TOOLCHAIN
fi
