#!/bin/busybox sh
# The first program that runs in an emulated machine (tests/rig/mini). drive.py
# reads its output on the console.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
# Turn off kernel messages on the console, because they would interrupt this script's
# lines.
dmesg -n 1
while read -r module; do
    insmod "/modules/$module" || echo "cannot load $module"
done < /modules/order
# Mount configfs after loading the modules, because configfs may be one of the modules.
mount -t configfs config /config
machine=$(cat /etc/machine)

verdict() { # ok|bad WHAT
    echo "rig $1 $2"
    [ "$1" = ok ] || tail -n 5 /tmp/log
}
check() { # WHAT COMMAND…
    what=$1
    shift
    if "$@"; then verdict ok "$what"; else verdict bad "$what"; fi
}
quietly() { "$@" > /tmp/log 2>&1; }
# The timeout is long because emulation is slow. A real Pi is much faster.
until_so() { # COMMAND…
    for _ in $(seq 120); do
        "$@" && return 0
        sleep 0.25
    done
    return 1
}

# The GPIO lines of the LEDs, the buzzer, and a button, on a Pi and on other machines.
if [ "$machine" = pi3 ]; then
    green=17 red=27 buzzer=22 button=5
    backend='backend = "rppal"'
else
    green=0 red=1 buzzer=2 button=5
    backend='backend = "gpiocdev"
gpio-chip = "door"'
    mkdir -p /config/gpio-sim/door/bank0
    echo 8 > /config/gpio-sim/door/bank0/num_lines
    echo door > /config/gpio-sim/door/bank0/label
    echo 1 > /config/gpio-sim/door/live
    chip=$(cat /config/gpio-sim/door/bank0/chip_name)
    device=$(cat /config/gpio-sim/door/dev_name)
    lines=/sys/devices/platform/$device/$chip
    echo pull-up > "$lines/sim_gpio$button/pull"
fi
config() { # SOURCE
    cat << TOML
[camera]
source = "$1"
playback-fps = 2.0
[decide]
confirm-ms = 100
hold-ms = 100
stale-ms = 60000
[indicate]
$backend
green-pin = $green
red-pin = $red
buzzer-pin = $buzzer
with-mask-button-pin = $button
TOML
}

level() { cat "$lines/sim_gpio$1/value" 2> /dev/null; }
leds() { echo "$(level $green)$(level $red)"; }
shows() { [ "$(leds)" = "$1" ]; }
# Checks the LEDs. On a Pi, the host reads the pins, because the machine cannot
# read them itself.
check_leds() { # GREEN RED WHAT
    if [ "$machine" = pi3 ]; then
        mask=$(((1 << green) | (1 << red)))
        echo "rig pins $mask $((($1 << green) | ($2 << red))) $3"
        # The host needs time to read the pins.
        sleep 5
    else
        check "$3" until_so shows "$1$2"
    fi
}
all_low() { [ "$(level $green)$(level $red)$(level $buzzer)" = 000 ]; }
check_all_low() { # WHAT
    if [ "$machine" = pi3 ]; then
        echo "rig pins $(((1 << green) | (1 << red) | (1 << buzzer))) 0 $1"
        sleep 5
    else
        check "$1" all_low
    fi
}

start() { # SOURCE
    config "$1" > /tmp/maskd.toml
    run
}
run() {
    rm -rf /tmp/state
    maskd run --json --config /tmp/maskd.toml --state /tmp/state > /tmp/out 2> /tmp/log &
    maskd=$!
}
decided() { grep -q "\"decision\":\"$1\"" /tmp/out; }
last_decided() { tail -n 1 /tmp/out | grep -q "\"decision\":\"$1\""; }
status() { maskd status --json --state /tmp/state --config /tmp/maskd.toml > /tmp/status 2> /dev/null; }
# Prints the value of the first occurrence of a key in the status.
of_status() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",]*\).*/\1/p" /tmp/status | head -n 1; }

config /pictures/mask > /tmp/maskd.toml
check "maskd check succeeds" quietly maskd check --config /tmp/maskd.toml --state /tmp/state
grep -E 'pins|GPIO|board' /tmp/log

start /pictures/mask
check "the decision for the masked face is mask" until_so decided mask
check_leds 1 0 "only the green LED is on"
seconds=$(awk -v now="$(awk '{print $1}' /proc/uptime)" -v begun="$(awk -v hz=100 '{print $22 / hz}' /proc/$maskd/stat)" 'BEGIN { print now - begun }')
echo "first decision, including its check, after $seconds s of emulation; $(grep VmRSS /proc/$maskd/status)"
if [ "$machine" != pi3 ]; then
    echo pull-down > "$lines/sim_gpio$button/pull"
    enrolled() { status && grep -q '"enrollment": *{[^}]*"label": *"with_mask", *"wanted": *3' /tmp/status; }
    check "pressing the button labels the person at the door" until_so enrolled
    echo pull-up > "$lines/sim_gpio$button/pull"
fi
kill -TERM $maskd
wait $maskd
check "SIGTERM stops the daemon cleanly" [ $? -eq 0 ]
check_all_low "the pins are low afterward"

start /pictures/bare
check "the decision for the bare face is no_mask" until_so decided no_mask
check_leds 0 1 "only the red LED is on"
kill -KILL $maskd
wait $maskd 2> /dev/null
check "maskd pins-off succeeds" quietly maskd pins-off --config /tmp/maskd.toml
check_all_low "maskd pins-off leaves the pins of a killed daemon low"

if [ "$machine" != pi3 ]; then
    relay=3 exit=4 release=6 contact=7
    # A wire that is closed connects its line to ground.
    wire() { # open|closed LINE
        case $1 in
            open) echo pull-up > "$lines/sim_gpio$2/pull" ;;
            closed) echo pull-down > "$lines/sim_gpio$2/pull" ;;
        esac
    }
    bounce() { # open|closed LINE
        for _ in 1 2 3; do
            wire open "$2"
            wire closed "$2"
        done
        wire "$1" "$2"
    }
    relay_is() { [ "$(level $relay)" = "$1" ]; }
    config /pictures/bare > /tmp/maskd.toml
    cat >> /tmp/maskd.toml << TOML
relay-pin = $relay
relay-hold-ms = 1000
exit-button-pin = $exit
release-pin = $release
door-contact-pin = $contact
held-open-ms = 2000
[[events.exec]]
name = "writer"
command = ["/bin/tee", "-a", "/tmp/events"]
TOML
    run
    told() { grep -q "\"kind\":\"$1\"" /tmp/events; }
    check "a release line without a wire unlocks the door" until_so relay_is 1
    bounce closed $contact
    bounce closed $release
    check "the door locks after the release" until_so relay_is 0
    check "the decision at the door is no_mask" until_so decided no_mask
    bounce closed $exit
    check "the exit button unlocks the door although the decision is no_mask" until_so relay_is 1
    bounce open $contact
    held_open() { status && [ "$(of_status held_open)" = true ]; }
    check "the status shows that the door is held open" until_so held_open
    bounce open $exit
    bounce closed $contact
    check "the door locks behind the person who left" until_so relay_is 0
    wire open $release
    check "a cut wire of the release line unlocks the door" until_so relay_is 1
    for kind in door_release door_exit_button door_held_open door_held_open_ended; do
        check "a program gets the event $kind" until_so told $kind
    done
    grep -E 'door|release' /tmp/log
    kill -KILL $maskd
    wait $maskd 2> /dev/null
    check "maskd pins-off succeeds with the inputs of a door" quietly maskd pins-off --config /tmp/maskd.toml
    check "the relay of a killed daemon is low" relay_is 0
fi

if [ "$machine" = virt ]; then
    camera=/sys/bus/platform/drivers/vivid
    config webcam:/dev/video0 > /tmp/maskd.toml
    check "the camera is listed" quietly maskd check --config /tmp/maskd.toml --state /tmp/state
    grep -i -A3 camera /tmp/log
    sed -i 's/stale-ms = 60000/stale-ms = 5000/; s/source = .*/&\nstall-ms = 5000/' /tmp/maskd.toml
    rm -rf /tmp/state
    maskd run --json --config /tmp/maskd.toml --state /tmp/state > /tmp/out 2> /tmp/log &
    maskd=$!
    frames() { status && [ "$(of_status frames)" -gt "$1" ]; }
    check "frames arrive from the camera" until_so frames 3
    echo vivid.0 > $camera/unbind
    check "the decision without the camera is fault" until_so last_decided fault
    echo vivid.0 > $camera/bind
    recovered() { status && [ "$(of_status camera_lost)" = false ] && ! last_decided fault; }
    check "the daemon recovers when the camera is back" until_so recovered
    grep -E 'lost|reconnected' /tmp/log | tail -n 3
    kill -TERM $maskd
    wait $maskd
    check "SIGTERM stops the daemon cleanly" [ $? -eq 0 ]
fi
echo "rig done"
sleep 1
poweroff -f
