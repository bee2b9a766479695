# The tests that run in the machine from tests/rig/service. drive.py reads their
# output.
verdict() { # ok|bad WHAT
    echo "rig $1 $2"
    [ "$1" = ok ] || journalctl --no-pager -q -n 8 -o cat -u maskd
}
check() { # WHAT COMMAND…
    what=$1
    shift
    if "$@"; then verdict ok "$what"; else verdict bad "$what"; fi
}
# The timeout is long because emulation is slow. A real Pi is much faster.
until_so() { # COMMAND…
    for _ in $(seq 480); do
        "$@" && return 0
        sleep 0.5
    done
    return 1
}
dmesg -n 1
while read -r module; do
    insmod "/modules/$module" || echo "cannot load $module"
done < /modules/order
machine=$(cat /rig/machine)

# The GPIO lines of the LEDs and the buzzer, on a Pi and on other machines.
if [ "$machine" = pi3 ]; then
    green=17 red=27 buzzer=22 label=pinctrl-bcm2835
else
    green=0 red=1 buzzer=2 label=door
    mountpoint -q /sys/kernel/config || mount -t configfs config /sys/kernel/config
    door=/sys/kernel/config/gpio-sim/door
    mkdir -p $door/bank0
    echo 8 > $door/bank0/num_lines
    echo door > $door/bank0/label
    echo 1 > $door/live
    lines=/sys/devices/platform/$(cat $door/dev_name)/$(cat $door/bank0/chip_name)
fi
udevadm settle

config() { # SOURCE
    cat > /etc/maskd/maskd.toml << TOML
[camera]
source = "$1"
stall-ms = 15000
playback-fps = 2.0
[decide]
confirm-ms = 100
hold-ms = 100
stale-ms = 60000
[indicate]
backend = "gpiocdev"
gpio-chip = "$label"
green-pin = $green
red-pin = $red
buzzer-pin = $buzzer
TOML
}
level() { cat "$lines/sim_gpio$1/value"; }
shows() { [ "$(level $green)$(level $red)$(level $buzzer)" = "$1$2$3" ]; }
status() { maskd status --json > /tmp/status 2> /dev/null; }
is() { status && grep -q "\"$1\": *$2" /tmp/status; }
check_pins() { # GREEN RED BUZZER DECISION|- WHAT
    if [ "$machine" = pi3 ]; then
        # The guest cannot read the pins. It waits for the decision, and then the host reads
        # the pins.
        [ "$4" = - ] || until_so is decision "\"$4\""
        sleep 2
        mask=$(((1 << green) | (1 << red) | (1 << buzzer)))
        echo "rig pins $mask $((($1 << green) | ($2 << red) | ($3 << buzzer))) $5"
        sleep 5
    else
        check "$5" until_so shows "$1" "$2" "$3"
    fi
}
main_pid() { systemctl show -P MainPID maskd; }
restarts() { systemctl show -P NRestarts maskd; }

echo "$(systemd-analyze security maskd.service --no-pager | tail -n 1)"
check "the pins belong to the group gpio" [ "$(stat -c %G /dev/gpiochip0)" = gpio ]
config /rig/mask
asked=$(cut -d ' ' -f 1 /proc/uptime)
check "the service starts" systemctl start maskd
check "the service is active after the daemon reported that it is ready" systemctl -q is-active maskd
check "the service runs as its own user" [ "$(stat -c %U "/proc/$(main_pid)")" = maskd ]
check "only its user can access the state" [ "$(stat -c %U:%a /var/lib/maskd)" = maskd:700 ]
check "maskd status reaches the daemon, which makes decisions in its sandbox" until_so is decision '"mask"'
echo "first decision $(cut -d ' ' -f 1 /proc/uptime) s after the boot (the service was started at $asked s); $(grep VmRSS "/proc/$(main_pid)/status" | tr -s '[:space:]' ' ')"
check_pins 1 0 0 mask "only the green LED is on"

before=$(restarts)
kill -KILL "$(main_pid)"
# systemd waits for five seconds before it restarts the service.
if [ "$machine" = pi3 ]; then
    until_so [ "$(systemctl show -P ActiveState maskd)" != active ]
    sleep 3
    check_pins 0 0 0 - "ExecStopPost= leaves the pins of a killed service low"
else
    check_pins 0 0 0 - "ExecStopPost= leaves the pins of a killed service low"
fi
again() { [ "$(restarts)" -gt "$before" ] && systemctl -q is-active maskd; }
check "systemd restarts a killed service" until_so again
check_pins 1 0 0 mask "only the green LED is on after the restart"

before=$(restarts)
kill -STOP "$(main_pid)"
check "the watchdog kills and restarts a service that hangs" until_so again
check_pins 1 0 0 mask "only the green LED is on after the watchdog's restart"
check "the service stops" systemctl stop maskd
check_pins 0 0 0 - "the pins are low afterward"

config /rig/bare
check "the service starts with a bare face" systemctl start maskd
check_pins 0 1 0 no_mask "only the red LED is on after the chirps"
systemctl stop maskd

# Setup, while the service uses the pins.
drop_in=/etc/systemd/system/maskd.service.d/network.conf
page_opens() { bash -c 'exec 3<> /dev/tcp/127.0.0.1/8080' 2> /dev/null; }
config /rig/mask
systemctl start maskd
check "the service has no drop-in before the setup" [ ! -e $drop_in ]
echo "green door handle" | maskd setup --camera /rig/bare --green-pin $green --red-pin $red \
    --page 0.0.0.0:8080 --password-stdin > /tmp/setup 2>&1
check "setup succeeds while the service runs" [ $? = 0 ]
sed 's/^/setup: /' /tmp/setup
check "setup gives the service the network" [ -e $drop_in ]
check "the service runs after the setup" systemctl -q is-active maskd
check "the page can be opened" until_so page_opens
check_pins 0 1 0 no_mask "the service uses the camera of the setup"
before=$(main_pid)
cp /etc/maskd/maskd.toml /tmp/before.toml
maskd setup --camera "exec:sleep 600" > /tmp/setup 2>&1 &
setup=$!
is_stopped() { ! systemctl -q is-active maskd; }
check "setup stops the service while it tests the camera" until_so is_stopped
kill -INT $setup
wait $setup
check "an interrupted setup has the exit code 130" [ $? = 130 ]
check "an interrupted setup starts the service again" systemctl -q is-active maskd
check "an interrupted setup leaves the config" cmp -s /etc/maskd/maskd.toml /tmp/before.toml
check "the service was stopped for the setup" [ "$(main_pid)" != "$before" ]
systemctl stop maskd
rm -r /etc/systemd/system/maskd.service.d
systemctl daemon-reload

echo 'camera = 3' >> /etc/maskd/maskd.toml
systemctl start maskd
sleep 7
check "systemd does not keep restarting a service with an invalid config" [ "$(systemctl show -P Result maskd)" = exit-code -a "$(systemctl is-active maskd)" = failed ]

camera=/sys/bus/platform/drivers/vivid
config webcam
if systemctl start maskd; then
    seen() { status && [ "$(sed -n 's/.*"frames": *\([0-9]*\).*/\1/p' /tmp/status | head -n 1)" -gt 3 ]; }
    check "frames arrive from the camera in the sandbox" until_so seen
    echo vivid.0 > $camera/unbind
    check "the decision after the camera is unplugged is fault" until_so is decision '"fault"'
    check "the service keeps running without the camera" systemctl -q is-active maskd
    echo vivid.0 > $camera/bind
    check "the service recovers when the camera is back" until_so is camera_lost false
    journalctl -q -b -o cat -u maskd | grep -E 'camera' | tail -n 3
elif journalctl -q -b -n 20 -o cat -u maskd | grep -q 'no webcam support'; then
    echo "rig skip webcams: the package was built without them"
else
    verdict bad "the service starts with a webcam"
fi
systemctl stop maskd
echo "rig done"
systemctl poweroff -f -f
