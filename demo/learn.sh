#!/usr/bin/env bash
# Demonstrates training on the device. The daemon runs at a dim door, where its verdicts
# are often wrong. It collects labeled face pictures, trains a new model, and uses it.
# Then, the script compares both models on nights that were not used for training. The
# demo needs only Rust, and removes its files at the end. It takes about one minute
# after the first build.
#
# The door is simulated. tools/simulate_camera.rs degrades the photographs in
# assets/frames as a poor camera would. Each seed represents one night. There are only
# a few photographs, so the results do not predict the results at a real door.
set -euo pipefail
cd "$(dirname "$0")/.."

# Ten photographs are used for training. In each of them, either all faces are masked or
# all are unmasked, because an enrollment gives all faces the same label. Five photographs
# of other people are used for testing.
masked=(10 18 39 117 120 188 195)
unmasked=(128 161 218)
strangers=(5 211 224 225 249)
nights=12 # Nights for training (seeds 1 to 12).
later=8   # Nights for testing (seeds 101 to 108).

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

# FOLDER FIRST-SEED LAST-SEED PHOTOGRAPH…: simulates one picture for each combination of a
# photograph and a seed.
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

# FOLDER [--state DIR]: evaluates the built-in model or, with --state, the trained model.
evaluate() {
    target/release/maskd eval --frames "$work/$1" "${@:2}" | grep -E 'end to end|_mask|right$'
}

# FOLDER: shows the people in this folder to the camera.
show() {
    ln -sfn "$work/$1" "$work/new" && mv -T "$work/new" "$work/door"
}

say "build"
cargo build --release --locked --bin maskd --example simulate_camera

say "simulate the door on $nights nights for training and on $later later nights for testing"
simulate masked 1 "$nights" "${masked[@]}"
simulate unmasked 1 "$nights" "${unmasked[@]}"
simulate regulars 101 $((100 + later)) "${masked[@]}" "${unmasked[@]}"
simulate strangers 101 $((100 + later)) "${strangers[@]}"

# The script camera.sh acts as the daemon's camera. It repeats the pictures in the
# folder that the link `door` points to.
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
# With these settings, every picture starts a new track, and training starts only when
# the command `maskd refit` runs.
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

say "the daemon's first decisions while people with masks pass by"
sleep 6
head -n 8 "$work/decisions"

# LABEL COUNT SECONDS: captures face pictures and assigns the label to them. The daemon
# may capture fewer than COUNT pictures (exit code 75), because it does not keep
# near-duplicates. This is not a failure.
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
