#!/usr/bin/env bash
# Shows training on the device. A daemon at a dim door is often wrong, gets labels,
# trains, and uses the new model. Then, both models are compared on nights that were
# not used for training. Needs only Rust, and leaves nothing behind. Takes about one
# minute after the first build.
#
# The door is simulated. tools/simulate_camera.rs degrades the photographs in
# assets/frames as a poor camera would. Every seed is another night. There are only a
# few photographs, so the results are an example and not what you can expect at your
# door.
set -euo pipefail
cd "$(dirname "$0")/.."

# Ten photographs are used for training. Each shows faces of only one kind, because
# enrollment gives all faces the same label. Five photographs of other people are used
# for testing.
masked=(10 18 39 117 120 188 195)
unmasked=(128 161 218)
strangers=(5 211 224 225 249)
nights=12 # to train on: seeds 1 to 12
later=8   # to test on: seeds 101 to 108

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

# FOLDER [--state DIR]: tests the built-in model or, with --state, the trained model.
evaluate() {
    target/release/maskd eval --frames "$work/$1" "${@:2}" | grep -E 'end to end|_mask|right$'
}

# FOLDER: shows the people of this folder to the camera.
show() {
    ln -sfn "$work/$1" "$work/new" && mv -T "$work/new" "$work/door"
}

say "build"
cargo build --release --locked --bin maskd --example simulate_camera

say "simulate the door on $nights nights to train on, and on $later later nights"
simulate masked 1 "$nights" "${masked[@]}"
simulate unmasked 1 "$nights" "${unmasked[@]}"
simulate regulars 101 $((100 + later)) "${masked[@]}" "${unmasked[@]}"
simulate strangers 101 $((100 + later)) "${strangers[@]}"

# This is the daemon's camera. It repeats the pictures of the people who pass by.
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
# With these settings, every picture is a separate track, and training waits for the
# command.
cat >"$work/maskd.toml" <<'CONFIG'
[track]
max-lost-ms = 0
[refit]
enabled = false
CONFIG

say "before: the built-in model on the later nights (same people, then other people)"
evaluate regulars
echo
evaluate strangers

say "start the daemon"
show masked
target/release/maskd run --config "$work/maskd.toml" --state "$work/state" \
    --source "exec:bash $work/camera.sh $work/door" >"$work/decisions" 2>"$work/log" &
daemon=$!
for ((i = 0; i < 300; i++)); do
    target/release/maskd status --state "$work/state" >/dev/null 2>&1 && break
    kill -0 "$daemon" || { cat "$work/log"; exit 1; }
    sleep 0.1
done

say "its first decisions while people with masks pass by"
sleep 6
head -n 8 "$work/decisions"

# LABEL COUNT SECONDS: the daemon labels the face pictures that it captures. It may
# capture fewer than COUNT (exit code 75), which is not a failure, because
# near-duplicates are not kept.
enroll() {
    target/release/maskd enroll "$1" --count "$2" --seconds "$3" --state "$work/state" >"$work/enrolled" 2>&1 ||
        [ $? -eq 75 ]
    tail -n 1 "$work/enrolled"
}
say "maskd enroll labels who stands there"
enroll with_mask 40 15
show unmasked
sleep 2
enroll without_mask 36 15

say "maskd refit"
target/release/maskd refit --state "$work/state"

say "the running daemon uses the new model from the next frame on"
sleep 1
grep -E 'training|in use' "$work/log" | sed 's/\x1b\[[0-9;]*m//g' || true
target/release/maskd status --state "$work/state" | grep -E '^(camera|model|samples)'

say "after: the trained model on the later nights (same people, then other people)"
evaluate regulars --state "$work/state"
echo
evaluate strangers --state "$work/state"
