#!/usr/bin/env bash
# See maskd learn: a daemon at a dim door that is often wrong, labels, a refit,
# another head in the running daemon, and what it is worth on nights that it has
# not learned from. Needs Rust and nothing else; leaves nothing behind. About
# one minute, without the first build.
#
# The door is simulated: examples/simulate_camera.rs turns the photographs of
# assets/frames into what a poor camera would have taken; every seed is another
# night. The photographs are few, so read the figures as an example, not as
# what to expect at your door.
set -euo pipefail
cd "$(dirname "$0")/.."

# Ten photographs to learn from, of one kind each, for only one label can be
# told at a time; five others, with other people, to judge by.
masked=(10 18 39 117 120 188 195)
bare=(128 161 218)
strangers=(5 211 224 225 249)
nights=12 # to learn from: seeds 1 to 12
later=8   # to judge by: seeds 101 to 108

work=$(mktemp -d)
daemon=
clean_up() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say() { printf '\n== %s\n' "$*"; }

# FOLDER FIRST-SEED LAST-SEED PHOTOGRAPH…
simulate() {
    local folder=$1 first=$2 last=$3 seed file
    shift 3
    mkdir -p "$work/originals" "$work/$folder"
    for file in "$@"; do
        cp assets/frames/maksssksksss"$file".{jpg,xml} "$work/originals"
    done
    for ((seed = first; seed <= last; seed++)); do
        target/release/examples/simulate_camera --preset dim --seed "$seed" \
            "$work/originals" "$work/night" >/dev/null
        for file in "$work"/night/*; do
            mv "$file" "$work/$folder/$seed-${file##*/}"
        done
    done
    rm -r "$work/originals" "$work/night"
}

# FOLDER, and --state for the learned head.
judge() {
    target/release/maskd eval --frames "$work/$1" "${@:2}" | grep -E 'end to end|_mask|right$'
}

# FOLDER: who passes by now.
step_before() {
    ln -sfn "$work/$1" "$work/new" && mv -T "$work/new" "$work/door"
}

say "build"
cargo build --release --locked --bin maskd --example simulate_camera

say "the same door on $nights nights to learn from, and on $later later ones"
simulate masked 1 "$nights" "${masked[@]}"
simulate bare 1 "$nights" "${bare[@]}"
simulate regulars 101 $((100 + later)) "${masked[@]}" "${bare[@]}"
simulate strangers 101 $((100 + later)) "${strangers[@]}"

# What the daemon takes for a camera: the pictures of whoever passes by.
cat >"$work/camera.sh" <<'CAMERA'
while :; do
    folder=$(readlink -f "$1")
    for picture in "$folder"/*.jpg; do
        [ "$(readlink -f "$1")" = "$folder" ] || break
        cat "$picture"
        sleep 0.1
    done
done
CAMERA
# Every picture is a visit of its own; the refit waits until it is asked for.
cat >"$work/maskd.toml" <<'CONFIG'
[track]
max-lost-ms = 0
[refit]
enabled = false
CONFIG

say "before: the shipped head on the later nights (same people, then other people)"
judge regulars
echo
judge strangers

say "the daemon starts"
step_before masked
target/release/maskd run --config "$work/maskd.toml" --state "$work/state" \
    --source "exec:bash $work/camera.sh $work/door" >"$work/decisions" 2>"$work/log" &
daemon=$!
for ((i = 0; i < 300; i++)); do
    target/release/maskd status --state "$work/state" >/dev/null 2>&1 && break
    kill -0 "$daemon" || { cat "$work/log"; exit 1; }
    sleep 0.1
done

say "its decisions while people with masks pass by (first lines)"
sleep 6
head -n 8 "$work/decisions"

# Fewer than asked for are no failure: what shows nothing new is not kept.
# LABEL COUNT SECONDS. The daemon labels what it sees as it captures it.
enroll() {
    target/release/maskd enroll "$1" --count "$2" --seconds "$3" --state "$work/state" >"$work/enrolled" 2>&1 ||
        [ $? -eq 75 ]
    tail -n 1 "$work/enrolled"
}
say "somebody says who stands there: maskd enroll"
enroll with_mask 40 15
step_before bare
sleep 2
enroll without_mask 36 15

say "maskd refit"
target/release/maskd refit --state "$work/state"

say "what the running daemon says of it: the next frame is judged by the head that came of it"
sleep 1
grep -E 'refit|head in use' "$work/log" | sed 's/\x1b\[[0-9;]*m//g' || true
target/release/maskd status --state "$work/state" | grep -E '^(camera|head|samples)'

say "after: the head in use now, on the later nights (same people, then other people)"
judge regulars --state "$work/state"
echo
judge strangers --state "$work/state"
