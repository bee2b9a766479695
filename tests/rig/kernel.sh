# Unpacks a Debian kernel with the modules gpio-sim and vivid, unless it is
# already unpacked.

unpack_kernel() { # VERSION ARCHITECTURE; sets `system` and `modules`
    release=$1-$2
    system=$cache/kernel-$release
    modules=$system/usr/lib/modules/$release
    [ ! -e "$system/done" ] || return 0
    rm -rf "$system"
    local part
    for part in modules binary base; do
        dpkg-deb -x "$(deb trixie-backports "linux-$part-$release" "$2")" "$system"
    done
    depmod -b "$system/usr" "$release"
    touch "$system/done"
}

# Copies modules and their dependencies into TREE/modules, and writes the order
# in which to load them.
copy_modules() { # TREE MODULE …
    local tree=$1 module file name
    shift
    mkdir -p "$tree/modules"
    for module in "$@"; do
        # Modules that are compiled into the kernel have no file.
        modprobe -d "$system/usr" -S "$release" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++' | while read -r file; do
        name=$(basename "${file%.xz}")
        case $file in
            *.xz) xz -dc "$file" > "$tree/modules/$name" ;;
            *) cp "$file" "$tree/modules/$name" ;;
        esac
        echo "$name" >> "$tree/modules/order"
    done
}
